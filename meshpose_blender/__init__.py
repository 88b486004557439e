# SPDX-License-Identifier: GPL-3.0-or-later
"""MeshPose for Blender: the extension, and its functions for scripts.

from bl_ext.user_default import meshpose          # the installed extension; in a checkout: import meshpose_blender
meshpose.convert("/clips/dancer.mp4")             # the Take and the scene; blocks until it is done
meshpose.build_scene("/clips/dancer.take")        # the scene alone
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import bpy

from meshpose import MeshPoseError

from . import command, operators, registration
from .job import Job, State, start

__all__ = ["build_scene", "convert", "register", "unregister"]

_commands: list[Any] = []  # what Blender wants back to take its command away


def build_scene(take: str | Path, **options: Any) -> Any:
    """Build the people of a Take in the current scene; see `scene.build_scene`, which is loaded when first used."""
    from .scene import build_scene as build

    return build(take, **options)


def convert(
    clip: str | Path, out: str | Path | None = None, report: Callable[[Job], None] | None = None, **settings: Any
) -> Any:
    """Convert a clip and build its people in the current scene; returns what `build_scene` returns.

    `out` is the folder of the Take (default: beside the clip), `settings` are the command line's options
    (`height=1.72`, `max_people=1`, `model="fast"`, `restart=True` ...), `report(job)` is called on every progress.

    Raises MeshPoseError with the job's own sentence when it fails or is stopped.
    """
    job = start(clip, out if out is not None else operators.result_folder(str(clip)), **settings).wait(report)
    if job.take is None or job.state is not State.DONE:
        raise MeshPoseError(job.error or f"{clip}: the conversion was stopped; the finished frames are kept")
    return build_scene(job.take)


def register() -> None:
    """Blender enables the extension."""
    registration.register()
    _commands.append(bpy.utils.register_cli_command("meshpose", command.main))


def unregister() -> None:
    """Blender disables the extension; a running conversion is ended, its finished frames stay in the Take."""
    while _commands:
        bpy.utils.unregister_cli_command(_commands.pop())
    registration.unregister()
