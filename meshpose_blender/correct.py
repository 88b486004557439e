# SPDX-License-Identifier: GPL-3.0-or-later
"""What is put right by hand: a joint dragged where it belongs, a range of frames, and who is who.

All of it is written into the Take (`Take.corrections`, `Take.edits`), where deleting it is the undo; a re-fit in the
background makes the rest follow.  To correct a joint an empty is made where it is now; the artist moves it, on as many
frames as she likes, and Apply takes the empties' places.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bpy
import numpy as np
from mathutils import Vector

from meshpose import MeshPoseError
from meshpose.body import Body
from meshpose.errors import InputError, TakeError
from meshpose.take import Take

from . import footage, people, scene, watching
from .operators import task_of
from .scene import BuiltPerson, BuiltTake
from .watching import Task, watch

TARGET = "meshpose_target"
"""On an empty: the bone whose head it is; with PERSON and FRAME."""
FRAME = "meshpose_frame"
"""The clip's frame that an empty is for."""
SIZE = 0.06
JOINTS = (
    ("hand.L", "Left Hand"), ("hand.R", "Right Hand"), ("elbow.L", "Left Elbow"), ("elbow.R", "Right Elbow"),
    ("shoulder.L", "Left Shoulder"), ("shoulder.R", "Right Shoulder"), ("ankle.L", "Left Ankle"),
    ("ankle.R", "Right Ankle"), ("knee.L", "Left Knee"), ("knee.R", "Right Knee"), ("hip.L", "Left Hip"),
    ("hip.R", "Right Hip"), ("toe2-1.L", "Left Toes"), ("toe2-1.R", "Right Toes"), ("pelvis", "Pelvis"),
    ("spine01", "Chest"), ("neck", "Neck"), ("head", "Head"),
)  # fmt: skip
"""Joints that the panel offers; a selected bone of the body's own rig can be any other."""

_lists: dict[Path, tuple[int, Any]] = {}
"""What a Take's lists hold, and its time of change: panels are drawn often."""
_items: list[tuple[str, str, str]] = []
"""Blender keeps only pointers to the texts of a list that a function gives."""


def _people_items(_: Any, context: bpy.types.Context) -> list[tuple[str, str, str]]:
    built = people.active_take(context)
    _items[:] = [(str(p.id), p.collection.name, "") for p in built.people] if built is not None else []
    return _items or [("0", "Nobody", "")]


class MeshPoseCorrect(bpy.types.PropertyGroup):
    """What the panel's corrections are set to; kept in the scene."""

    joint: bpy.props.EnumProperty(  # type: ignore[valid-type]
        name="Joint", description="Which joint is put right", items=[(*pair, "") for pair in JOINTS]
    )
    reach: bpy.props.IntProperty(  # type: ignore[valid-type]
        name="Fade Over", description="Frames on each side over which a correction fades out", default=8, min=1, max=250
    )
    first: bpy.props.IntProperty(name="First", description="First scene frame of the range", default=1)  # type: ignore[valid-type]
    last: bpy.props.IntProperty(name="Last", description="Last scene frame of the range", default=10)  # type: ignore[valid-type]
    part: bpy.props.EnumProperty(  # type: ignore[valid-type]
        name="Swap",
        description="What of left and right was taken for one another",
        items=[
            ("legs", "Legs", "The left leg was taken for the right one"),
            ("arms", "Arms", "The left arm was taken for the right one"),
            ("body", "Whole Body", "The person was taken for turned round"),
        ],
    )
    selected_only: bpy.props.BoolProperty(  # type: ignore[valid-type]
        name="Selected Bones Only", description="Freeze or blend only the selected bones and what hangs from them"
    )
    other: bpy.props.EnumProperty(  # type: ignore[valid-type]
        name="Other", description="Whom to merge or swap with", items=_people_items
    )
    swap_range: bpy.props.BoolProperty(  # type: ignore[valid-type]
        name="In the Range Only", description="Swap two people from First to Last only, not for the whole clip"
    )


# -- what is meant -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Meant:
    """What an operator works on."""

    built: BuiltTake
    person: BuiltPerson
    path: Path


def active_person(context: bpy.types.Context, built: BuiltTake | None) -> BuiltPerson | None:
    """The person that the active object belongs to; else the take's first."""
    if built is None or not built.people:
        return None
    active = context.view_layer.objects.active if context.view_layer is not None else None
    for person in built.people:
        if active is not None and person.collection.all_objects.get(active.name) == active:
            return person
    return built.people[0]


def _meant(context: bpy.types.Context) -> _Meant | None:
    built = people.active_take(context)
    person = active_person(context, built)
    if built is None or person is None:
        return None
    return _Meant(built, person, people.take_path(built))


def clip_frame(built: BuiltTake, take: Take, frame: int) -> int:
    """The clip's frame that Blender shows on a scene frame.  InputError before and after the clip."""
    rate = built.collection[scene.FORMAT][3] if scene.FORMAT in built.collection else take.clip.fps
    shown = footage.shown_pictures(scene.clip_times(take), float(rate))
    at = frame - people.first_frame(built)
    if not 0 <= at < len(shown) or shown[at] < 0:
        raise InputError(f"frame {frame} is outside of {take.clip.path.name}; go to a frame of the clip")
    return int(shown[at])


def joint_place(take: Take, person: int, frame: int, bone: int) -> np.ndarray:
    """Where the head of a bone is (3,), metres, world frame, on a frame of the clip.  InputError where nobody is."""
    motion = take.person(person).motion()
    if motion is None:
        raise TakeError(f"{take.path}: there is no motion yet; convert its clip to the end")
    row = int(np.searchsorted(motion.frames, frame))
    if row >= len(motion.frames) or motion.frames[row] != frame:
        raise InputError(f"person {person} is not there on this frame")
    body = Body.load()
    shape = body.shape(motion.phenotype)
    _, heads = body.transforms(shape, motion.rotations[[row]], np.zeros((1, 3)))
    place: np.ndarray = heads[0, bone].astype(np.float64) * motion.scale + motion.translation[row]
    return place


def targets(built: BuiltTake) -> list[bpy.types.Object]:
    """The empties of a take that wait to be applied."""
    return [target for target in built.collection.all_objects if TARGET in target]


def _base(person: BuiltPerson) -> Any:
    """From the world of the Take to that of the scene: where the user has moved the armature."""
    from mathutils import Matrix

    return Matrix.Identity(4) if person.armature is None else person.armature.matrix_world.copy()


# -- operators ---------------------------------------------------------------------------------------------------------


class _ByHand:
    """What all of these operators have in common."""

    bl_options = {"REGISTER", "UNDO"}

    refit: bpy.props.BoolProperty(  # type: ignore[valid-type]
        name="Re-fit", description="Make bodies and rigs follow at once, in the background", default=True
    )

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        """With a take whose file is there, and while no job writes it."""
        meant = _meant(context)
        if meant is None or not meant.path.is_file():
            cls.poll_message_set("Needs a person of a take whose file is there")  # type: ignore[attr-defined]
            return False
        if watch.job is not None:
            cls.poll_message_set("A conversion is running")  # type: ignore[attr-defined]
        return watch.job is None

    def write(self, context: bpy.types.Context, work: Callable[[Take, _Meant], Any]) -> set[str]:
        """Do something to the Take, then re-fit it; what cannot be is one line in the report."""
        meant = _meant(context)
        if meant is None:
            return {"CANCELLED"}
        try:
            with Take.resume(meant.path) as take:
                done = work(take, meant)
        except MeshPoseError as error:
            self.report({"ERROR"}, str(error))  # type: ignore[attr-defined]
            return {"CANCELLED"}
        self.report({"INFO"}, str(done))  # type: ignore[attr-defined]
        if self.refit:
            watching.begin(refit_task(context, meant.built))
        return {"FINISHED"}


def refit_task(context: bpy.types.Context, built: BuiltTake) -> Task:
    """A re-fit with the Take's own settings, built in the place of what is there."""
    return task_of(context, "refit", str(people.take_path(built)), frame_start=people.first_frame(built))


class MESHPOSE_OT_correct_joint(_ByHand, bpy.types.Operator):
    """Make an empty where this joint is now: move it where the joint belongs, then Apply"""

    bl_idname = "meshpose.correct_joint"
    bl_label = "Correct This Joint"

    joint: bpy.props.StringProperty(  # type: ignore[valid-type]
        name="Joint", description="Name of a joint; empty: the selected bone, else the one chosen in the panel"
    )

    def execute(self, context: bpy.types.Context) -> set[str]:
        """The empty is selected and active; the frame is its own."""
        from meshpose.corrections import bone_of

        meant = _meant(context)
        if meant is None:
            return {"CANCELLED"}
        body = Body.load()
        try:
            bone = bone_of(body, self.joint or _selected_bone(context) or context.scene.meshpose_correct.joint)
            with Take.open(meant.path) as take:
                frame = clip_frame(meant.built, take, context.scene.frame_current)
                place = joint_place(take, meant.person.id, frame, bone)
        except MeshPoseError as error:
            self.report({"ERROR"}, str(error))
            return {"CANCELLED"}
        name = body.bone_names[bone]
        wanted = (meant.person.id, frame, name)
        known = [t for t in targets(meant.built) if (t[scene.PERSON], t[FRAME], t[TARGET]) == wanted]
        target = known[0] if known else _new_target(meant, name, frame, context.scene.frame_current)
        if not known:
            target.location = _base(meant.person) @ Vector(place)
        if context.mode != "OBJECT":
            bpy.ops.object.mode_set(mode="OBJECT")
        for other in context.selected_objects:
            other.select_set(False)
        target.select_set(True)
        context.view_layer.objects.active = target
        return {"FINISHED"}


def _selected_bone(context: bpy.types.Context) -> str:
    """Name of the active bone of the body's own rig in pose mode; empty where there is none."""
    bone = context.active_pose_bone if context.mode == "POSE" else None
    return bone.name if bone is not None and bone.name in Body.load().bone_names else ""


def _new_target(meant: _Meant, name: str, frame: int, shown: int) -> bpy.types.Object:
    target = bpy.data.objects.new(f"{name} @ {shown}", None)
    target.empty_display_type, target.empty_display_size, target.show_in_front = "SPHERE", SIZE, True
    target.show_name = True
    target[TARGET], target[FRAME], target[scene.PERSON] = name, frame, meant.person.id
    meant.person.collection.objects.link(target)
    return target


class MESHPOSE_OT_apply_corrections(_ByHand, bpy.types.Operator):
    """Take the places of all empties as corrections of their joints; the empties go, the list keeps what was said"""

    bl_idname = "meshpose.apply_corrections"
    bl_label = "Apply"

    def execute(self, context: bpy.types.Context) -> set[str]:
        """Write them into the Take."""
        reach = context.scene.meshpose_correct.reach

        def work(take: Take, meant: _Meant) -> str:
            waiting, who = targets(meant.built), {person.id: person for person in meant.built.people}
            if not waiting:
                raise InputError("No joint is being corrected: Correct This Joint makes an empty to move")
            context.view_layer.update()  # the empties' places, however they were moved
            for target in waiting:
                place = _base(who[target[scene.PERSON]]).inverted() @ target.matrix_world.translation
                said = (int(target[scene.PERSON]), int(target[FRAME]), str(target[TARGET]), list(place))
                take.corrections.joint(*said, space="world", reach=reach)
            for target in waiting:
                bpy.data.objects.remove(target)
            return f"{len(waiting)} corrected"

        return self.write(context, work)


class MESHPOSE_OT_swap_sides(_ByHand, bpy.types.Operator):
    """Exchange left and right of this person from First to Last"""

    bl_idname = "meshpose.swap_sides"
    bl_label = "Swap Left and Right"

    def execute(self, context: bpy.types.Context) -> set[str]:
        """An edit of the Take: the mesh follows, too."""
        settings = context.scene.meshpose_correct

        def work(take: Take, meant: _Meant) -> Any:
            return take.edits.sides(meant.person.id, *_range(meant, take, settings), settings.part)

        return self.write(context, work)


class MESHPOSE_OT_hold_range(_ByHand, bpy.types.Operator):
    """Freeze the pose of First until Last, or blend from the pose of First straight to that of Last"""

    bl_idname = "meshpose.hold_range"
    bl_label = "Freeze or Blend"

    kind: bpy.props.EnumProperty(  # type: ignore[valid-type]
        items=[
            ("blend", "Blend Over", "From the pose of First straight to that of Last"),
            ("freeze", "Freeze", "The pose of First is held; the last frames lead back"),
        ]
    )

    @classmethod
    def description(cls, context: bpy.types.Context, properties: bpy.types.OperatorProperties) -> str:
        """What the button says under the mouse."""
        held = "Hold the pose of First until Last; its last frames lead back to what is there"
        return held if properties.kind == "freeze" else "Go from the pose of First straight to that of Last"

    def execute(self, context: bpy.types.Context) -> set[str]:
        """A correction of the Take."""
        settings = context.scene.meshpose_correct
        bones = _selected_bones(context) if settings.selected_only else []
        if settings.selected_only and not bones:
            self.report({"ERROR"}, "No bone of the body's own rig is selected in pose mode")
            return {"CANCELLED"}

        def work(take: Take, meant: _Meant) -> Any:
            first, last = _range(meant, take, settings)
            if self.kind == "freeze":
                return take.corrections.freeze(meant.person.id, first, last, bones, settings.reach)
            return take.corrections.blend(meant.person.id, first, last, bones)

        return self.write(context, work)


def _selected_bones(context: bpy.types.Context) -> list[str]:
    known = Body.load().bone_names
    return [bone.name for bone in context.selected_pose_bones or [] if bone.name in known]


def _range(meant: _Meant, take: Take, settings: MeshPoseCorrect) -> tuple[int, int]:
    """First and last of the panel, as frames of the clip."""
    return clip_frame(meant.built, take, settings.first), clip_frame(meant.built, take, settings.last)


class MESHPOSE_OT_range_here(bpy.types.Operator):
    """Take the scene's preview range, or the current frame and the next ten, as First and Last"""

    bl_idname = "meshpose.range_here"
    bl_label = "Range from Here"
    bl_options = {"REGISTER", "UNDO"}

    def execute(self, context: bpy.types.Context) -> set[str]:
        """Sets the panel's numbers."""
        now, settings = context.scene, context.scene.meshpose_correct
        if now.use_preview_range:
            settings.first, settings.last = now.frame_preview_start, now.frame_preview_end
        else:
            settings.first, settings.last = now.frame_current, now.frame_current + 10
        return {"FINISHED"}


class MESHPOSE_OT_undo_by_hand(_ByHand, bpy.types.Operator):
    """Take this back; everything else stays"""

    bl_idname = "meshpose.undo_by_hand"
    bl_label = "Take Back"

    number: bpy.props.IntProperty()  # type: ignore[valid-type]
    edit: bpy.props.BoolProperty()  # type: ignore[valid-type]

    def execute(self, context: bpy.types.Context) -> set[str]:
        """number: of a correction, or of an edit."""

        def work(take: Take, _: _Meant) -> str:
            return f"Taken back: {(take.edits if self.edit else take.corrections).undo(self.number)}"

        return self.write(context, work)


class MESHPOSE_OT_edit_people(_ByHand, bpy.types.Operator):
    """Merge, split, swap or delete people; what the network said stays in the Take, and the list takes it back"""

    bl_idname = "meshpose.edit_people"
    bl_label = "Edit People"

    kind: bpy.props.EnumProperty(  # type: ignore[valid-type]
        items=[
            ("merge", "Merge", "The other one is this person, too"),
            ("split", "Split Here", "From the current frame on this is somebody else"),
            ("swap", "Swap", "This person and the other one are exchanged"),
            ("delete", "Delete", "This is no person"),
        ]
    )

    @classmethod
    def description(cls, context: bpy.types.Context, properties: bpy.types.OperatorProperties) -> str:
        """What the button says under the mouse."""
        return {
            "merge": "The other one is this person, too: both become one",
            "split": "From the current frame on this is somebody else",
            "swap": "This person and the other one are exchanged, from the start to the end or in the range",
            "delete": "This is no person. What the network said stays in the Take",
        }[properties.kind]

    def execute(self, context: bpy.types.Context) -> set[str]:
        """An edit of the Take."""
        settings = context.scene.meshpose_correct

        def work(take: Take, meant: _Meant) -> Any:
            one = meant.person.id
            if self.kind == "delete":
                return take.edits.delete(one)
            if self.kind == "split":
                return take.edits.split(one, clip_frame(meant.built, take, context.scene.frame_current))
            other = int(settings.other or 0)
            if self.kind == "merge":
                return take.edits.merge(one, other)
            span = _range(meant, take, settings) if settings.swap_range else (None, None)
            return take.edits.swap(one, other, *span)

        return self.write(context, work)


# -- the panel's part --------------------------------------------------------------------------------------------------


def said(path: Path) -> tuple[list[tuple[int, str]], list[tuple[int, str, str]]]:
    """Corrections (number, sentence) and edits (number, kind, sentence) of a Take; empty while it cannot be read."""
    try:
        changed = path.stat().st_mtime_ns
        if path not in _lists or _lists[path][0] != changed:
            with Take.open(path) as take:
                corrections = [(c.id, str(c).partition(": ")[2]) for c in take.corrections.all()]
                edits = [(e.id, e.kind, str(e).partition(": ")[2]) for e in take.edits.all()]
            _lists[path] = (changed, (corrections, edits))
    except (MeshPoseError, OSError):  # it is being written, or gone: the panel says so elsewhere
        return [], []
    found: tuple[list[tuple[int, str]], list[tuple[int, str, str]]] = _lists[path][1]
    return found


def draw_correct(layout: bpy.types.UILayout, context: bpy.types.Context) -> None:
    """Joints, ranges, and the list of what was corrected."""
    meant = _meant(context)
    if meant is None or not meant.path.is_file():
        return
    settings = context.scene.meshpose_correct
    box = layout.box()
    box.label(text=f"Correct {meant.person.collection.name}", icon="EMPTY_AXIS")
    column = box.column(align=True)
    bone = _selected_bone(context)
    if bone:
        column.label(text=bone, icon="BONE_DATA")
    else:
        column.prop(settings, "joint", text="")
    column.operator("meshpose.correct_joint", icon="ADD")
    waiting = targets(meant.built)
    if waiting:
        column.prop(settings, "reach")
        column.operator("meshpose.apply_corrections", text=f"Apply ({len(waiting)})", icon="CHECKMARK")
    column = box.column(align=True)
    row = column.row(align=True)
    row.prop(settings, "first")
    row.prop(settings, "last")
    row.operator("meshpose.range_here", text="", icon="PREVIEW_RANGE")
    row = column.row(align=True)
    row.operator("meshpose.hold_range", text="Blend Over", icon="IPO_LINEAR").kind = "blend"
    row.operator("meshpose.hold_range", text="Freeze", icon="FREEZE").kind = "freeze"
    column.prop(settings, "selected_only")
    row = column.row(align=True)
    row.prop(settings, "part", text="")
    row.operator("meshpose.swap_sides", icon="MOD_MIRROR")
    corrections, edits = said(meant.path)
    for number, sentence in corrections:
        _draw_line(box, sentence, number, edit=False)
    for number, kind, sentence in edits:
        if kind == "sides":
            _draw_line(box, sentence, number, edit=True)


def draw_people_edits(layout: bpy.types.UILayout, context: bpy.types.Context) -> None:
    """Merge, split, swap, delete, and the list of what was edited."""
    meant = _meant(context)
    if meant is None or not meant.path.is_file():
        return
    settings = context.scene.meshpose_correct
    box = layout.box()
    box.label(text=f"Edit {meant.person.collection.name}", icon="USER")
    column = box.column(align=True)
    row = column.row(align=True)
    row.operator("meshpose.edit_people", text="Split Here", icon="MOD_EDGESPLIT").kind = "split"
    row.operator("meshpose.edit_people", text="Delete", icon="TRASH").kind = "delete"
    if len(meant.built.people) > 1:
        column.prop(settings, "other")
        row = column.row(align=True)
        row.operator("meshpose.edit_people", text="Merge", icon="AUTOMERGE_ON").kind = "merge"
        row.operator("meshpose.edit_people", text="Swap", icon="UV_SYNC_SELECT").kind = "swap"
        column.prop(settings, "swap_range")
        if settings.swap_range:
            row = column.row(align=True)
            row.prop(settings, "first")
            row.prop(settings, "last")
    for number, _, sentence in said(meant.path)[1]:
        _draw_line(box, sentence, number, edit=True)


def _draw_line(layout: bpy.types.UILayout, sentence: str, number: int, edit: bool) -> None:
    row = layout.row(align=True)
    row.label(text=sentence)
    taken = row.operator("meshpose.undo_by_hand", text="", icon="X")
    taken.number, taken.edit = number, edit


CLASSES = (
    MeshPoseCorrect,
    MESHPOSE_OT_correct_joint,
    MESHPOSE_OT_apply_corrections,
    MESHPOSE_OT_swap_sides,
    MESHPOSE_OT_hold_range,
    MESHPOSE_OT_range_here,
    MESHPOSE_OT_undo_by_hand,
    MESHPOSE_OT_edit_people,
)
