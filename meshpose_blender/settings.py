# SPDX-License-Identifier: GPL-3.0-or-later
"""What the panel edits, kept in the scene: how a clip is converted, and presets of that.

The names of the properties that a job or a re-fit takes are those of `meshpose.convert.Settings`.
"""

from __future__ import annotations

import math
import os
import zlib
from pathlib import Path
from typing import Any

import bpy
from bl_operators.presets import AddPresetBase
from bl_ui.utils import PresetPanel

from meshpose import MeshPoseError, rigs, weights

from . import compat

PRESETS: dict[str, tuple[str, dict[str, Any]]] = {
    "Balanced": ("Steady and still close to the picture: what is set at first", {}),
    "Faithful": (
        "Stays closest to the picture and keeps fast, small movements; trembles more than the others",
        {"smooth": 0.2, "fill_gaps": 4},
    ),
    "Steady": (
        "Calm movement for games and crowds: fast details are rounded off and longer gaps are filled",
        {"smooth": 0.85, "fill_gaps": 30},
    ),
    "Hand-Held Camera": (
        "The camera turns or shakes: its turns are taken out of the people's movement",
        {"camera": "moving"},
    ),
    "Raw": (
        "What was measured, frame by frame: nothing is smoothed, filled or put on the floor",
        {"smooth": 0.0, "lock_feet": False, "level": False, "fill_gaps": 0},
    ),
    "Many Small People": (
        "A street or a stage seen from afar: smaller people are looked for, and more often (slower)",
        {"min_size": 16.0, "detect_every": 5},
    ),
}
"""Name, what it does to the result, and what differs from the settings at first."""
DERIVED = ("smooth", "lock_feet", "level", "camera", "fill_gaps")
"""Settings that a re-fit can change as they are; lens, height and persons are told apart."""
PRESET_PROPERTIES = (
    *DERIVED, "detect_every", "min_size", "use_max_people", "max_people", "use_height", "height",
    "lens", "focal_mm", "fov", "model", "second_look", "preview", "rig", "reduce_keys",
)  # fmt: skip
"""What a preset holds: how people are found and moved, nothing of one clip."""


RIG_TITLES = {
    "default": ("Body's Own", "Every joint of the body's own anatomy: stays closest to what was seen"),
    "mixamo": ("Mixamo", "Mixamo's names and axes, for its animations and for what reads them"),
    "game_engine": ("Game Engine", "The bones that Unreal's and Unity's humanoids expect, with a root on the floor"),
    "rigify": ("Rigify", "Blender's own animator's rig with IK controls; needs the Rigify add-on"),
}
"""Name and result of the rigs that come with us; another file of weights/rigs goes by its own name."""
_rig_items: list[tuple[str, str, str]] = []  # Blender wants the texts of a changing list to stay alive


def _rigs(settings: MeshPoseProperties, context: bpy.types.Context | None) -> list[tuple[str, str, str]]:
    if not _rig_items:
        for name in rigs.names():
            title, text = RIG_TITLES.get(name, (name.replace("_", " ").title(), f"The rig of weights/rigs/{name}.npz"))
            _rig_items.append((name, title, text))
    return _rig_items


MODEL_TITLES = {
    "accurate": ("Accurate", "Arms and legs are placed most exactly; every person takes longer: for what you keep"),
    "fast": (
        "Fast",
        "The network takes little more than half the time, which tells most with several people; arms and legs are "
        "placed less exactly: for a first look and for crowds",
    ),
}
"""Name and effect of the networks that come with us; another one of weights/ goes by its own name."""
_model_items: list[tuple[str, str, str, str, int]] = []


def _models(
    settings: MeshPoseProperties | None, context: bpy.types.Context | None
) -> list[tuple[str, str, str, str, int]]:
    """Those that are here.  A .blend keeps an item's number, so a name has the same one whatever else is here."""
    if not _model_items:
        try:
            names = weights.models()
        except MeshPoseError:  # a broken installation: a drawn panel cannot say so, the conversion will
            names = [weights.DEFAULT]
        for name in names:
            title, text = MODEL_TITLES.get(name, (name.replace("_", " ").title(), f"The network weights/{name}.onnx"))
            number = weights.SIZES.index(name) if name in weights.SIZES else zlib.crc32(name.encode()) >> 8
            _model_items.append((name, title, text, "NONE", number))
    return _model_items


def model_is_a_choice() -> bool:
    """Whether there is more than one network to choose from."""
    return len(_models(None, None)) > 1


def _clip_changed(settings: MeshPoseProperties, context: bpy.types.Context) -> None:
    """Another clip: who was seen and which frames were asked for belong to the one before."""
    settings.candidates.clear()
    settings.use_range = False


class MeshPoseCandidate(bpy.types.PropertyGroup):
    """Somebody whom a look at one frame has found."""

    number: bpy.props.IntProperty()  # type: ignore[valid-type]
    box: bpy.props.FloatVectorProperty(size=4)  # type: ignore[valid-type]
    score: bpy.props.FloatProperty()  # type: ignore[valid-type]
    chosen: bpy.props.BoolProperty(  # type: ignore[valid-type]
        name="Convert This Person",
        description="Off: this person gets no body. With everybody on, those who come later are converted, too",
        default=True,
    )


class MeshPoseProperties(bpy.types.PropertyGroup):
    """What the panel edits; kept in the scene, and so in the file."""

    clip: bpy.props.StringProperty(  # type: ignore[valid-type]
        name="Clip",
        description="The video, picture or image sequence to convert",
        subtype="FILE_PATH",
        options=compat.path_options(),
        update=_clip_changed,
    )
    folder: bpy.props.StringProperty(  # type: ignore[valid-type]
        name="Folder",
        description="Where the Take and the preview go. Empty: beside the clip",
        subtype="DIR_PATH",
        options=compat.path_options(),
    )
    use_range: bpy.props.BoolProperty(  # type: ignore[valid-type]
        name="Range of Frames", description="Convert a part of the clip only; the other frames stay without bodies"
    )
    first: bpy.props.IntProperty(  # type: ignore[valid-type]
        name="First", description="First frame to convert, counted in the clip from 1", default=1, min=1
    )
    last: bpy.props.IntProperty(  # type: ignore[valid-type]
        name="Last", description="Last frame to convert, counted in the clip from 1", default=250, min=1
    )
    frame_start: bpy.props.IntProperty(  # type: ignore[valid-type]
        name="Start Frame",
        description="Scene frame on which the clip's first frame stands; footage, sound and bodies begin there",
        default=1,
    )
    lens: bpy.props.EnumProperty(  # type: ignore[valid-type]
        name="Lens",
        description="How wide the camera saw. It decides how far away people stand, and how deep their steps are",
        items=(
            ("AUTO", "From the Clip", "What the file says, else a usual phone's lens"),
            ("FOCAL", "Focal Length", "As written on a lens, for a full-frame sensor 36 mm wide"),
            ("FOV", "Field of View", "The angle along the picture's longer side"),
        ),
    )
    focal_mm: bpy.props.FloatProperty(  # type: ignore[valid-type]
        name="Focal Length",
        description="Full-frame equivalent. Longer: people stand farther away, with less perspective",
        default=28.0,
        min=5.0,
        max=1000.0,
        subtype="DISTANCE_CAMERA",
    )
    fov: bpy.props.FloatProperty(  # type: ignore[valid-type]
        name="Field of View",
        description="Along the longer side. Wider: people stand closer, with more perspective",
        default=math.radians(55.0),
        min=math.radians(2.0),
        max=math.radians(170.0),
        subtype="ANGLE",
    )
    model: bpy.props.EnumProperty(  # type: ignore[valid-type]
        name="Network",
        description=(
            "Which network the next conversion uses. A clip that was converted with the other one has to be converted "
            "anew; Re-fit goes on with what is there"
        ),
        items=_models,
    )
    second_look: bpy.props.BoolProperty(  # type: ignore[valid-type]
        name="Second Look",
        description=(
            "Every frame is also seen in a mirror, and what both looks say counts: the body trembles less. Off: the "
            "network takes half the time"
        ),
        default=True,
    )
    preview: bpy.props.BoolProperty(  # type: ignore[valid-type]
        name="Preview Video",
        description="Also write CLIP_preview.mp4, the clip with the mesh drawn on it; takes a while longer",
        default=True,
    )
    use_max_people: bpy.props.BoolProperty(  # type: ignore[valid-type]
        name="At Most", description="Follow only the largest people, at most so many at a time; others get no body"
    )
    max_people: bpy.props.IntProperty(  # type: ignore[valid-type]
        name="People", description="How many people are followed at a time", default=1, min=1, soft_max=20
    )
    use_height: bpy.props.BoolProperty(  # type: ignore[valid-type]
        name="Known Height",
        description="Scale everybody to a height that you know. Off: the height comes from the shape of the body",
    )
    height: bpy.props.FloatProperty(  # type: ignore[valid-type]
        name="Height",
        description="Height from sole to crown. Taller: the person is larger and stands farther away",
        default=1.75,
        min=0.4,
        max=2.6,
        unit="LENGTH",
    )
    min_size: bpy.props.FloatProperty(  # type: ignore[valid-type]
        name="Smallest Person",
        description="People whose longer side is fewer pixels are left out. Smaller: also people far away, less surely",
        default=32.0,
        min=8.0,
        soft_max=400.0,
        subtype="PIXEL",
    )
    detect_every: bpy.props.IntProperty(  # type: ignore[valid-type]
        name="Look Every",
        description="Frames between looks for new people. Fewer: whoever comes in is found sooner; slower",
        default=10,
        min=1,
        soft_max=60,
    )
    smooth: bpy.props.FloatProperty(  # type: ignore[valid-type]
        name="Steadiness",
        description="0 keeps every tremble that was measured; 1 moves calmly and rounds off fast gestures",
        default=0.5,
        min=0.0,
        max=1.0,
        subtype="FACTOR",
    )
    lock_feet: bpy.props.BoolProperty(  # type: ignore[valid-type]
        name="Lock Feet",
        description="A foot that stands on the floor stays where it is. Off: feet slide as they were measured",
        default=True,
    )
    level: bpy.props.BoolProperty(  # type: ignore[valid-type]
        name="Find the Floor",
        description="Tilt the camera until people stand upright on the floor. Off: the camera is taken for level",
        default=True,
    )
    camera: bpy.props.EnumProperty(  # type: ignore[valid-type]
        name="Camera",
        description="Whether the camera moved while it filmed",
        items=(
            ("static", "Stands Still", "On a tripod: everything that moves is a person"),
            ("moving", "Turns", "Panned or hand-held: its turns become keys of the camera, not of the people"),
        ),
    )
    fill_gaps: bpy.props.IntProperty(  # type: ignore[valid-type]
        name="Fill Gaps Up To",
        description="Frames without the person that are filled with movement between before and after. 0: none",
        default=12,
        min=0,
        soft_max=60,
    )
    rig: bpy.props.EnumProperty(  # type: ignore[valid-type]
        name="Rig",
        description="Which bones the next conversion or re-fit builds; the movement is the same",
        items=_rigs,
    )
    reduce_keys: bpy.props.BoolProperty(  # type: ignore[valid-type]
        name="Fewer Keys",
        description=(
            "Keep only the keys that are needed to stay within half a degree and a few millimetres: easier to edit by "
            "hand. Off: a key on every frame"
        ),
    )
    candidates: bpy.props.CollectionProperty(type=MeshPoseCandidate)  # type: ignore[valid-type]
    looked_at: bpy.props.IntProperty()  # type: ignore[valid-type]


def conversion(settings: MeshPoseProperties) -> dict[str, Any]:
    """The options of a conversion (`job.command_line`) that the panel shows; None is "not given"."""
    options: dict[str, Any] = {name: getattr(settings, name) for name in DERIVED}
    options |= _told(settings)
    options |= {name: getattr(settings, name) for name in ("min_size", "detect_every", "second_look", "preview")}
    options["model"] = settings.model or weights.DEFAULT  # empty: chosen where there was a network that is not here
    options["max_people"] = settings.max_people if settings.use_max_people else None
    options["only"] = chosen(settings)
    if settings.use_range:
        options |= {"start": settings.first - 1, "end": max(settings.last, settings.first)}
    return options


def changes(settings: MeshPoseProperties) -> dict[str, Any]:
    """The options of a re-fit (`job.refit_command`)."""
    return {name: getattr(settings, name) for name in DERIVED} | _told(settings)


def _told(settings: MeshPoseProperties) -> dict[str, Any]:
    """What the user knows of lens and people."""
    return {
        "height": round(settings.height, 4) if settings.use_height else None,
        "focal_mm": round(settings.focal_mm, 3) if settings.lens == "FOCAL" else None,
        "fov": round(math.degrees(settings.fov), 3) if settings.lens == "FOV" else None,
    }


def chosen(settings: MeshPoseProperties) -> list[tuple[float, ...]]:
    """Boxes (frame, x, y, w, h) of those to convert; none where everybody is wanted."""
    wanted = [person for person in settings.candidates if person.chosen]
    if len(wanted) == len(settings.candidates):
        return []
    return [(settings.looked_at, *person.box) for person in wanted]


def nobody_chosen(settings: MeshPoseProperties) -> bool:
    """Whether people were found and all of them were ticked off."""
    return len(settings.candidates) > 0 and not any(person.chosen for person in settings.candidates)


def take_look(settings: MeshPoseProperties, answer: dict[str, Any]) -> None:
    """Keep the people whom a look found."""
    settings.candidates.clear()
    settings.looked_at = int(answer["frame"])
    for person in answer["people"]:
        new = settings.candidates.add()
        new.number, new.box, new.score = person["number"], person["box"], person["score"]


def result_folder(clip: str, settings: MeshPoseProperties | None = None) -> Path:
    """The folder that was set; else beside the clip; where that cannot be written, beside the .blend."""
    if settings is not None and settings.folder:
        return Path(bpy.path.abspath(settings.folder))
    beside = Path(clip).absolute().parent
    if not os.access(beside, os.W_OK) and bpy.data.filepath:
        return Path(bpy.data.filepath).parent
    return beside


# -- presets ---------------------------------------------------------------------------------------------------------


class MESHPOSE_OT_use_preset(bpy.types.Operator):
    """Set the options of the conversion to suit a kind of clip"""

    bl_idname = "meshpose.use_preset"
    bl_label = "Use Preset"
    bl_options = {"INTERNAL", "UNDO"}

    name: bpy.props.StringProperty()  # type: ignore[valid-type]

    @classmethod
    def description(cls, context: bpy.types.Context, properties: Any) -> str:
        """What this preset does to the result."""
        return PRESETS.get(properties.name, ("", {}))[0]

    def execute(self, context: bpy.types.Context) -> set[str]:
        """Everything else goes back to what it is at first; the clip stays."""
        settings = context.scene.meshpose
        if self.name not in PRESETS:
            self.report({"ERROR"}, f"{self.name}: there is no such preset")
            return {"CANCELLED"}
        for name in PRESET_PROPERTIES:
            settings.property_unset(name)
        for name, value in PRESETS[self.name][1].items():
            setattr(settings, name, value)
        return {"FINISHED"}


class MESHPOSE_MT_presets(bpy.types.Menu):
    """Presets that were saved by the user."""

    bl_label = "Conversion Presets"
    preset_subdir = "meshpose"
    preset_operator = "script.execute_preset"
    draw = bpy.types.Menu.draw_preset


class MESHPOSE_OT_save_preset(AddPresetBase, bpy.types.Operator):
    """Save the options of the conversion under a name, or remove a saved preset"""

    bl_idname = "meshpose.save_preset"
    bl_label = "Save Preset"
    preset_menu = "MESHPOSE_MT_presets"
    preset_subdir = "meshpose"
    preset_defines = ("settings = bpy.context.scene.meshpose",)
    preset_values = tuple(f"settings.{name}" for name in PRESET_PROPERTIES)


class MESHPOSE_PT_presets(PresetPanel, bpy.types.Panel):
    """Presets in the panel's header: ours, then the user's."""

    bl_label = "Conversion Presets"
    preset_subdir = "meshpose"
    preset_operator = "script.execute_preset"
    preset_add_operator = "meshpose.save_preset"

    def draw(self, context: bpy.types.Context) -> None:
        """Ours on top; Blender's own list below, with a field to save another one."""
        column = self.layout.column(align=True)
        column.operator_context = "EXEC_DEFAULT"
        for name in PRESETS:
            column.operator("meshpose.use_preset", text=name).name = name
        self.layout.separator()
        if bpy.utils.preset_paths(self.preset_subdir):
            super().draw(context)
        else:  # nobody has saved one yet: Blender's list would only say that a folder is missing
            row = self.layout.row(align=True)
            name = context.window_manager
            row.prop(name, "preset_name", text="")
            row.operator(self.preset_add_operator, text="", icon="ADD").name = name.preset_name


CLASSES = (
    MeshPoseCandidate,
    MeshPoseProperties,
    MESHPOSE_OT_use_preset,
    MESHPOSE_MT_presets,
    MESHPOSE_OT_save_preset,
    MESHPOSE_PT_presets,
)
