# SPDX-License-Identifier: GPL-3.0-or-later
"""A person's motion on a character that the user has, and another rig for the people of a take: the work, and its
operators.

    outcome = retarget(built.people[0].armature, bpy.data.objects["Knight"])
    outcome.unmapped                                # names of the target's bones that got nothing

The source is sampled as it stands in the scene, with the user's corrections; the target gets a new action on its bones.
What is which bone, and how the rest poses differ, is the core's work (`meshpose.mapping`, `meshpose.retarget`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import bpy
import numpy as np

from meshpose import MeshPoseError
from meshpose.body import quaternion
from meshpose.errors import InputError
from meshpose.mapping import find_roles, presets
from meshpose.retarget import Figure, RetargetSettings
from meshpose.retarget import retarget as carry_over
from meshpose.rigs import Posed, Rest, channels, nearest_rotation
from meshpose.rigs import names as rig_names

from . import bake, keys, people, rigify
from .armature import RIG, contact_of, continuous

UNEVEN = 1e-3
"""Parts by which the three scales of an armature may differ."""
OURS = {"default": "default", "mixamo": "mixamo", "game_engine": "unreal", "rigify": "rigify"}
"""Which list of names our own rigs have; other rigs are looked up in all of them."""


@dataclass(frozen=True)
class Outcome:
    """action: what the target got; names: of which list its bones are, or what they were guessed by; mapped, unmapped:
    names of its bones; notes: what the user should know, one line each.
    """

    action: bpy.types.Action
    names: str
    mapped: list[str]
    unmapped: list[str]
    notes: list[str] = field(default_factory=list)


def retarget(
    source: bpy.types.Object,
    target: bpy.types.Object,
    preset: str = "",
    settings: RetargetSettings | None = None,
    key_settings: keys.KeySettings = keys.EVERY_FRAME,
    frames: tuple[int, int] | None = None,
) -> Outcome:
    """Bake the motion of `source` (one of ours, or any armature of a person) on `target`, in world space.

    preset: which list of names the target's bones are from ("" the one that fits best, "guess" none); frames: first and
    last (default: those of the source's keys).  Raises InputError where either is no armature of a person, or the
    target is scaled unevenly; nothing is changed then.
    """
    for which in (source, target):
        if which.type != "ARMATURE":
            raise InputError(f"{which.name}: this is no armature")
    if source == target:
        raise InputError(f"{source.name}: choose another armature as the target")
    frames = frames or key_range(source)
    sampled = bake.sample(source, frames)
    ours = OURS.get(str(source.get(RIG, "")), "")
    rest_s = world_rest(source, sampled.names, sampled.parents)
    roles, _ = find_roles(sampled.names, rest_s.parents, rest_s.heads, ours)
    figure = Figure(rest_s.parents, rest_s.heads, roles)
    names, parents = bones_of(target)
    rest = world_rest(target, names, parents)
    roles_t, how = find_roles(names, rest.parents, rest.heads, preset)
    character = Figure(rest.parents, rest.heads, roles_t)
    scene = bpy.context.scene
    fps = scene.render.fps / scene.render.fps_base
    contact = contact_of(source, sampled.frames)
    result = carry_over(figure, _moved(sampled, rest_s), character, settings, fps, contact)
    notes = [*result.notes, *_constrained(target, [names[b] for b in result.mapped])]
    numbers = sampled.frames
    title = f"{target.name} {source.name}"
    if rigify.is_generated(target):
        action = rigify.key(target, names, rest, result.posed, numbers, key_settings, title)
    else:
        action = _key(target, names, rest, result.posed, numbers, key_settings, title)
    return Outcome(action, how, [names[b] for b in result.mapped], [names[b] for b in result.unmapped], notes)


def key_range(source: bpy.types.Object) -> tuple[int, int]:
    """First and last frame of an armature's keys; of the scene, where it has none."""
    animation = source.animation_data
    if animation is not None and animation.action is not None:
        start, end = animation.action.frame_range
        if end > start:
            return int(np.floor(start)), int(np.ceil(end))
    scene = bpy.context.scene
    return scene.frame_start, scene.frame_end


def bones_of(target: bpy.types.Object) -> tuple[list[str], list[int]]:
    """Names and parents of a target's bones, parents first; of a generated Rigify rig those of its skeleton."""
    if rigify.is_generated(target):
        return rigify.skeleton(target)
    bones = sorted(target.data.bones, key=lambda bone: len(bone.parent_recursive))
    names = [bone.name for bone in bones]
    return names, [names.index(bone.parent.name) if bone.parent else -1 for bone in bones]


def world_rest(target: bpy.types.Object, names: list[str], parents: list[int]) -> Rest:
    """Rest pose in the world, metres, where the object stands now.  InputError when it is scaled unevenly."""
    matrix = np.array(target.matrix_world, np.float64)
    scales = np.linalg.norm(matrix[:3, :3], axis=0)
    if np.ptp(scales) > UNEVEN * scales.max() or np.linalg.det(matrix[:3, :3]) <= 0:
        raise InputError(f"{target.name}: its scale differs between axes or is negative; apply it (Object > Apply)")
    rest = matrix @ np.array([target.data.bones[name].matrix_local for name in names], np.float64)
    axes = rest[:, :3, :3] / scales.mean()
    none = np.full(len(names), -1)
    return Rest(names, np.array(parents), rest[:, :3, 3], rest[:, :3, 3], axes, none, 0, -1)


def _moved(sampled: bake.Sampled, rest: Rest) -> Posed:
    """A sampled armature as turns from its rest pose, and heads."""
    turned = nearest_rotation(sampled.world[..., :3, :3]) @ rest.axes.swapaxes(-1, -2)
    return Posed(turned, sampled.world[..., :3, 3])


def _constrained(target: bpy.types.Object, names: list[str]) -> list[str]:
    if rigify.is_generated(target):
        return []
    bound = [name for name in names if any(not c.mute for c in target.pose.bones[name].constraints)]
    return [f"constraints work against the keys of {', '.join(bound)}: mute them"] if bound else []


def _key(
    target: bpy.types.Object,
    names: list[str],
    rest: Rest,
    posed: Posed,
    frames: np.ndarray,
    settings: keys.KeySettings,
    title: str,
) -> bpy.types.Action:
    """Bring all bones to rest, then key the turns, and the shifts of those that leave their parent's end."""
    rotations, shifts = channels(rest, posed)
    for b, name in enumerate(names):
        if not target.data.bones[name].use_inherit_rotation:
            local = rest.axes[b].T @ posed.linear[:, b] @ rest.axes[b]
            rotations[:, b] = quaternion(local)
    shifts /= float(np.mean(target.matrix_world.to_scale()))
    shifts[:, np.abs(shifts).max((0, 2)) < keys.STILL] = 0
    for bone in target.pose.bones:
        bone.matrix_basis.identity()
        bone.scale = (1, 1, 1)
    return keys.write(target, names, continuous(rotations), shifts, frames, settings, name=title)


# -- faces ---------------------------------------------------------------------------------------------------------


def _preset_items(self: Any, context: bpy.types.Context) -> list[tuple[str, str, str]]:
    items = [("AUTO", "Whichever Fits", "The list of names that fits best, else a guess by words and by geometry")]
    items += [(name, str(data["title"]), f"Bones named as in {data['title']}") for name, data in presets().items()]
    _items[:] = [*items, ("guess", "Guess", "By words in the names, else by geometry alone")]
    return _items


def _rig_items(self: Any, context: bpy.types.Context) -> list[tuple[str, str, str]]:
    titles = {"default": "MeshPose", "game_engine": "Game Engine"}
    _rigs[:] = [(name, titles.get(name, name.replace("_", " ").title()), "") for name in rig_names()]
    return _rigs


_items: list[tuple[str, str, str]] = []  # Blender keeps no reference to the texts of its lists
_rigs: list[tuple[str, str, str]] = []


class _Keys:
    """How keys are written; shared by the operators here."""

    reduce: bpy.props.BoolProperty(  # type: ignore[valid-type]
        name="Few Keys", description="As few keys as stay within the bounds, on smooth curves; off: a key every frame"
    )
    degrees: bpy.props.FloatProperty(  # type: ignore[valid-type]
        name="Degrees",
        description="How far a bone's turn may be from the full motion on any frame",
        default=keys.DEGREES,
        min=0.01,
        max=20.0,
    )
    millimetres: bpy.props.FloatProperty(  # type: ignore[valid-type]
        name="Millimetres",
        description="How far a bone's place may be from the full motion on any frame",
        default=keys.MILLIMETRES,
        min=0.1,
        max=200.0,
    )

    def key_settings(self, unseen: bool = False, only_turns: bool = False) -> keys.KeySettings:
        """As `keys.write` takes them."""
        return keys.KeySettings(self.reduce, self.degrees, self.millimetres, unseen, only_turns)

    def draw_keys(self, layout: bpy.types.UILayout) -> None:
        """The bounds show when they count."""
        layout.prop(self, "reduce")
        if self.reduce:
            layout.prop(self, "degrees")
            layout.prop(self, "millimetres")


class MESHPOSE_OT_retarget(_Keys, bpy.types.Operator):
    """Put the motion of a person on the active armature: select the person's rig, then your character's last"""

    bl_idname = "meshpose.retarget"
    bl_label = "Retarget to Character"
    bl_options = {"REGISTER", "UNDO"}

    preset: bpy.props.EnumProperty(  # type: ignore[valid-type]
        name="Bone Names", description="How the character's bones are called", items=_preset_items
    )
    root: bpy.props.EnumProperty(  # type: ignore[valid-type]
        name="Way through Space",
        items=(
            ("hips", "On the Hips", "The hips carry the whole way"),
            ("root", "On the Root", "The topmost bone follows over the floor, the hips keep the rest: root motion"),
            ("in_place", "In Place", "The character stays where it stands"),
        ),
    )
    lock_feet: bpy.props.BoolProperty(  # type: ignore[valid-type]
        name="Lock Feet", description="Feet that stand in the source stand here too, whatever the legs", default=True
    )
    fit_steps: bpy.props.BoolProperty(  # type: ignore[valid-type]
        name="Steps by Leg Length",
        description="Scale the way by the length of the legs; off: the character goes as far as the person went",
        default=True,
    )

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        """A character as the active object, and somebody whose motion it gets."""
        target = context.view_layer.objects.active
        if target is None or target.type != "ARMATURE" or RIG in target:
            cls.poll_message_set("Make your character's armature the active object")
            return False
        return source_for(context) is not None

    def invoke(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        """Ask first: it makes keys."""
        result: set[str] = context.window_manager.invoke_props_dialog(self)
        return result

    def draw(self, context: bpy.types.Context) -> None:
        """All choices."""
        layout = self.layout
        layout.use_property_split, layout.use_property_decorate = True, False
        for name in ("preset", "root", "lock_feet", "fit_steps"):
            layout.prop(self, name)
        self.draw_keys(layout)

    def execute(self, context: bpy.types.Context) -> set[str]:
        """Bake, and say which bones got nothing."""
        source, target = source_for(context), context.view_layer.objects.active
        if source is None:
            self.report({"ERROR"}, "Select the rig of a person too")
            return {"CANCELLED"}
        preset = "" if self.preset in ("", "AUTO") else self.preset
        try:
            settings = RetargetSettings(self.root, self.lock_feet, self.fit_steps)
            outcome = retarget(source, target, preset, settings, self.key_settings())
        except MeshPoseError as error:
            self.report({"ERROR"}, str(error))
            return {"CANCELLED"}
        target[REPORT] = summary(outcome)
        for line in (*outcome.notes, summary(outcome)):
            self.report({"WARNING" if line in outcome.notes else "INFO"}, line)
        return {"FINISHED"}


REPORT = "meshpose_retargeted"
"""On a character: what the last retargeting said."""


def summary(outcome: Outcome) -> str:
    """One line: how many bones, by which names, and all that got nothing."""
    line = f"{len(outcome.mapped)} bones mapped (names: {outcome.names})"
    return f"{line}; nothing for {', '.join(outcome.unmapped)}" if outcome.unmapped else line


def source_for(context: bpy.types.Context) -> bpy.types.Object | None:
    """Whose motion the active armature gets: another selected armature, ours first, else a person of the take."""
    objects = context.view_layer.objects
    others = [o for o in objects.selected if o.type == "ARMATURE" and o != objects.active]
    others.sort(key=lambda o: RIG not in o)
    if others:
        return others[0]
    built = people.active_take(context)
    rigs = [person.armature for person in built.people if person.armature is not None] if built is not None else []
    return rigs[0] if rigs else None


class MESHPOSE_OT_change_rig(_Keys, bpy.types.Operator):
    """Build the people of the take again on another rig, from the Take's motion"""

    bl_idname = "meshpose.change_rig"
    bl_label = "Change Rig"
    bl_description = "Build the people of this take again on another rig. Keys that you changed are made anew"
    bl_options = {"REGISTER", "UNDO"}

    rig: bpy.props.EnumProperty(name="Rig", items=_rig_items)  # type: ignore[valid-type]
    unseen: bpy.props.BoolProperty(  # type: ignore[valid-type]
        name="Key Unseen Bones", description="Also key bones that were never seen in the clip; their pose is a guess"
    )

    only_turns: bpy.props.BoolProperty(  # type: ignore[valid-type]
        name="Bones Only Turn",
        description="Nothing but the hips moves, as some engines want it. Off: bones of other programs' rigs also "
        "shift a little, so that all joints stay where the body has them",
    )

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        """With a take whose file is there."""
        built = people.active_take(context)
        return built is not None and people.take_path(built).is_file()

    def invoke(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        """Ask which."""
        result: set[str] = context.window_manager.invoke_props_dialog(self)
        return result

    def draw(self, context: bpy.types.Context) -> None:
        """All choices."""
        layout = self.layout
        layout.use_property_split, layout.use_property_decorate = True, False
        layout.prop(self, "rig")
        layout.prop(self, "unseen")
        layout.prop(self, "only_turns")
        self.draw_keys(layout)

    def execute(self, context: bpy.types.Context) -> set[str]:
        """Build again; a Take that cannot be used leaves everything as it is."""
        from .rebuild import build_or_replace

        built = people.active_take(context)
        if built is None:
            return {"CANCELLED"}
        path, start = people.take_path(built), people.first_frame(built)
        try:
            chosen = self.key_settings(self.unseen, self.only_turns)
            new = build_or_replace(context.scene, path, True, rig=self.rig, keys=chosen, frame_start=start)
        except MeshPoseError as error:
            self.report({"ERROR"}, str(error))
            return {"CANCELLED"}
        for note in new.notes:
            self.report({"WARNING"}, note)
        return {"FINISHED"}


CLASSES = (MESHPOSE_OT_retarget, MESHPOSE_OT_change_rig)


def draw_rig(layout: bpy.types.UILayout, context: bpy.types.Context) -> None:
    """The part of the panel about rigs: which one the people have, and a character that gets their motion."""
    built = people.active_take(context)
    rigs = [person.armature for person in built.people if person.armature is not None] if built is not None else []
    column = layout.column()
    if rigs:
        column.operator("meshpose.change_rig", text=f"Rig: {rigs[0].get(RIG, 'default')}", icon="ARMATURE_DATA")
    column.operator("meshpose.retarget", icon="OUTLINER_OB_ARMATURE")
    target = context.view_layer.objects.active
    if target is None or target.type != "ARMATURE" or RIG in target:
        column.label(text="Select your character's armature", icon="INFO")
    elif REPORT in target:
        column.label(text=str(target[REPORT])[:120], icon="CHECKMARK")
