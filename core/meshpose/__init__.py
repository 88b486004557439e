# SPDX-License-Identifier: Apache-2.0
"""From a clip of people to animated bodies: mesh, rig and visibility, on your own machine.

    import meshpose
    take = meshpose.convert("dancer.mp4", out="out")
    take.person(1).vertices(range(0, 10))          # (10, 13718, 3) metres, camera frame

The rooms are loaded when they are asked for: reading a Take needs numpy only.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .camera import Camera
    from .convert import convert
    from .errors import MeshPoseError
    from .take import Take

__version__ = "0.1.0"
__all__ = ["Camera", "MeshPoseError", "Take", "__version__", "convert"]

_ROOMS = {"Camera": "camera", "MeshPoseError": "errors", "Take": "take", "convert": "convert"}


def __getattr__(name: str) -> Any:
    if name not in _ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_ROOMS[name]}", __name__), name)
