# SPDX-License-Identifier: GPL-3.0-or-later
"""Export in the panel: which formats, for which program, and the button.

`bpy.ops.meshpose.export(formats={'FBX'}, preset='UNREAL', folder='//exports')` is the button for scripts; what is not
given is as in the panel.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import bpy

from meshpose.errors import InputError, MeshPoseError

from . import compat, exporting, formats, people
from .export import ExportSettings, export_people
from .presets import PRESETS
from .scene import BuiltTake

TOLD = {
    "fbx": ("FBX", "Skinned body and bones: Unreal, Unity, Maya, MotionBuilder"),
    "glb": ("glTF Binary", "Skinned body and bones in one file: Godot, web, most engines"),
    "gltf": ("glTF Separate", "The same as text with a .bin beside it"),
    "usd": ("USD", "The moving mesh exactly; in a second file the skinned body and bones: Houdini, Maya, Omniverse"),
    "abc": ("Alembic", "The moving mesh exactly as it falls on the pixels, every vertex on every frame"),
    "bvh": ("BVH", "Bones alone, one file each: MotionBuilder, retargeting tools"),
    "smplx": ("SMPL-X", "Parameters of the SMPL-X body, fitted to the Take; needs your own model file"),
}
"""Label of every format, and what it is good for."""


def _format_items() -> list[tuple[str, str, str, str, int]]:
    return [(name.upper(), *TOLD[name], "NONE", 1 << bit) for bit, name in enumerate(TOLD)]


def _preset_items() -> list[tuple[str, str, str]]:
    told = "Units, root bone, armature name and bones per vertex as {} wants them"
    items = [("ANY", PRESETS[""].label, "Meters, the format's own axes, every bone that moves a vertex")]
    return items + [(name.upper(), p.label, told.format(p.label)) for name, p in PRESETS.items() if name]


class MeshPoseExport(bpy.types.PropertyGroup):
    """What the panel edits; kept in the scene."""

    formats: bpy.props.EnumProperty(  # type: ignore[valid-type]
        name="Formats", items=_format_items(), options={"ENUM_FLAG"}, default={"FBX"}
    )
    preset: bpy.props.EnumProperty(  # type: ignore[valid-type]
        name="For", description="The program that opens the files", items=_preset_items()
    )
    one_file: bpy.props.BoolProperty(  # type: ignore[valid-type]
        name="All People in One File", description="Off: a file for each person. BVH always has one person in a file"
    )
    folder: bpy.props.StringProperty(  # type: ignore[valid-type]
        name="Folder",
        description="Where the files go. Empty: beside the .blend, or beside the Take as long as that is not saved",
        subtype="DIR_PATH",
        options=compat.path_options(),
    )
    smplx_model: bpy.props.StringProperty(  # type: ignore[valid-type]
        name="Model",
        description="Your own SMPLX_NEUTRAL.npz (or _MALE, _FEMALE), from its authors under their license",
        subtype="FILE_PATH",
        options=compat.path_options(),
    )


def missing(chosen: set[str]) -> str:
    """Why the chosen formats cannot be written here; empty where they can."""
    try:
        formats.require([name.lower() for name in chosen if name != "SMPLX"])
    except InputError as error:
        return str(error).removeprefix("--export ")
    return ""


def draw_export(layout: bpy.types.UILayout, context: bpy.types.Context) -> None:
    """The settings and the button; where something cannot be, the reason instead."""
    settings = context.scene.meshpose_export
    grid = layout.grid_flow(row_major=True, columns=2, even_columns=True, align=True)
    grid.prop(settings, "formats")
    column = layout.column()
    column.use_property_split, column.use_property_decorate = True, False
    column.prop(settings, "preset")
    column.prop(settings, "one_file")
    column.prop(settings, "folder")
    if "SMPLX" in settings.formats:
        column.prop(settings, "smplx_model")
    reason = missing(settings.formats)
    if not settings.formats:
        reason = "Choose a format first"
    elif "SMPLX" in settings.formats and not settings.smplx_model:
        reason = "SMPL-X: choose your model file first"
    if reason:
        layout.label(text=reason, icon="INFO")
    row = layout.row()
    row.enabled = not reason
    row.operator("meshpose.export", icon="EXPORT")


class MESHPOSE_OT_export(bpy.types.Operator):
    """Write the people of the take as files for other programs, as they stand in this scene now"""

    bl_idname = "meshpose.export"
    bl_label = "Export People"
    bl_options = {"REGISTER"}

    formats: bpy.props.EnumProperty(  # type: ignore[valid-type]
        name="Formats", items=_format_items(), options={"ENUM_FLAG", "SKIP_SAVE"}
    )
    preset: bpy.props.EnumProperty(name="For", items=_preset_items(), options={"SKIP_SAVE"})  # type: ignore[valid-type]
    one_file: bpy.props.BoolProperty(name="All People in One File", options={"SKIP_SAVE"})  # type: ignore[valid-type]
    folder: bpy.props.StringProperty(name="Folder", subtype="DIR_PATH", options={"SKIP_SAVE"})  # type: ignore[valid-type]
    smplx_model: bpy.props.StringProperty(  # type: ignore[valid-type]
        name="Model", subtype="FILE_PATH", options={"SKIP_SAVE"}
    )

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        """With a take in the scene, and while Blender does not render."""
        return people.can_write(cls, context)

    def execute(self, context: bpy.types.Context) -> set[str]:
        """Write the files; what is not given is as in the panel.  An error is one sentence, earlier files stay then."""
        built = people.active_take(context)
        if built is None:
            return {"CANCELLED"}
        for name in ("formats", "preset", "one_file", "folder", "smplx_model"):
            if not self.properties.is_property_set(name):
                setattr(self, name, getattr(context.scene.meshpose_export, name))
        window = context.window_manager
        window.progress_begin(0, 1)
        try:
            files = self._write(built)
        except MeshPoseError as error:
            self.report({"ERROR"}, str(error).removeprefix("--export "))
            return {"CANCELLED"}
        finally:
            window.progress_end()
        count = "1 file" if len(files) == 1 else f"{len(files)} files"
        self.report({"INFO"}, f"{count} in {files[0].parent}" if files else "Nothing was written")
        return {"FINISHED"}

    def _write(self, built: BuiltTake) -> list[Path]:
        take = people.take_path(built)
        names = tuple(name.lower() for name in sorted(self.formats))
        ours = tuple(name for name in names if name != exporting.SMPLX)
        program = "" if self.preset == "ANY" else self.preset.lower()
        also: Callable[[Path], None] | None = None
        if exporting.SMPLX in names:
            also = exporting.smplx_writer(take, take.stem, Path(bpy.path.abspath(self.smplx_model)))
        if not names:
            raise InputError("Choose a format first")
        home = Path(bpy.data.filepath or take).parent
        folder = Path(bpy.path.abspath(self.folder)) if self.folder else home
        settings = ExportSettings(ours, program, self.one_file) if ours else None
        return export_people(built, folder / take.stem, settings, also=also)


CLASSES = (MeshPoseExport, MESHPOSE_OT_export)
