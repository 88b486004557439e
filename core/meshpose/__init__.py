# SPDX-License-Identifier: Apache-2.0
"""From a clip of people to animated bodies: mesh, rig and visibility, on your own machine.

    import meshpose
    take = meshpose.convert("dancer.mp4", out="out")
    take.person(1).vertices(range(0, 10))          # (10, 13718, 3) metres, camera frame

This loads numpy only; the network and the video reader are loaded by the job that wants them.
"""

from __future__ import annotations

from .camera import Camera
from .convert import convert
from .errors import MeshPoseError
from .take import Take

__version__ = "0.1.0"
__all__ = ["Camera", "MeshPoseError", "Take", "__version__", "convert"]
