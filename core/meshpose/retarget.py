# SPDX-License-Identifier: Apache-2.0
"""A motion from one armature onto another of other bones, proportions, axes and rest pose.

    result = retarget(source, source_posed, target, RetargetSettings(root="hips"), fps=25)
    turns, shifts = channels(target_rest, result.posed)         # meshpose.rigs

Nothing is taken from names but which bone is which part (`mapping`).  The two rest poses are laid over each other part
by part, from the hips outwards: the smallest turn that brings the direction of the source's part to the target's, hands
and feet by the plane of the knuckles and of the sole.  What this turn leaves open is taken from the pose itself: every
part that is mapped on both sides points exactly where it points in the source.

Frame of reference: the world, metres, z up, the floor at z = 0; both armatures as they stand there.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import InputError
from .mapping import Roles
from .rigs import Posed, frame, nearest_rotation, swing

Array = npt.NDArray[Any]

ROOTS = ("hips", "root", "in_place")
NEXT = {
    "clavicle": "upper_arm", "upper_arm": "forearm", "forearm": "hand", "hand": "middle",
    "thigh": "shin", "shin": "foot", "foot": "toe",
}  # fmt: skip
FINGERS = ("thumb", "index", "middle", "ring", "pinky")
ORDER = ("clavicle", "upper_arm", "forearm", "hand", *FINGERS, "thigh", "shin", "foot", "toe")

CONTACT_SPEED, CONTACT_HEIGHT = 0.25, 0.06
"""Metres a second, and metres above a planted foot's joint, below which a foot stands on the floor."""
SHORTEST_CONTACT, RELEASE = 3, 6
"""Frames."""
DEEPEST = 0.08
"""Metres that a foot is moved up or down at most to stand on the floor."""
LOWEST = 0.15
"""Part of the leg by which the hips come down at most where a leg is too short for its step."""
STRAIGHT = 0.999
"""Part of its length to which a leg is stretched at most, so that no knee snaps."""


@dataclass(frozen=True, eq=False)
class Figure:
    """An armature in its rest pose, in the world: parents (B,), -1 for none, parents before children; heads (B, 3);
    roles: part of the person -> bones.
    """

    parents: Array
    heads: Array
    roles: Roles


@dataclass(frozen=True)
class RetargetSettings:
    """root: where the way through space goes: "hips", "root" (the bone above the hips that stands on the floor follows
    them, the hips keep the rest) or "in_place" (the person stays where the target stands); lock_feet: feet that stand
    on the floor in the source stay in place on the target too; fit_steps: the way is scaled by the length of the legs.
    """

    root: str = "hips"
    lock_feet: bool = True
    fit_steps: bool = True

    def __post_init__(self) -> None:
        if self.root not in ROOTS:
            raise InputError(f"root motion {self.root!r}: it goes on {', '.join(ROOTS)}")


@dataclass(frozen=True, eq=False)
class Retargeted:
    """posed: the target's bones on every frame; mapped and unmapped: target bones (indices); contact (F, 2) of the left
    and the right foot; scale: the target's legs against the source's; notes: what the user should know.
    """

    posed: Posed
    mapped: list[int]
    unmapped: list[int]
    contact: Array
    scale: float
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class _Part:
    """What a role is on one side of the work: bones; start and end of its direction in the rest pose (3,), end None
    where nothing says; `posed` the same on all frames (F, 3)."""

    bones: list[int]
    start: Array
    end: Array | None


def retarget(
    source: Figure,
    posed: Posed,
    target: Figure,
    settings: RetargetSettings | None = None,
    fps: float = 25.0,
    contact: Array | None = None,
) -> Retargeted:
    """The source's motion on the target's bones.

    posed: the source's bones, linear (F, B, 3, 3) from rest to pose and heads (F, B, 3), in the world.  fps: frames a
    second, for the speed of feet.  contact (F, 2): which feet stand on the floor, where that is known already.
    """
    settings = settings or RetargetSettings()
    turned = _turns(source, posed, target)
    unmapped = [b for b in range(len(target.parents)) if b not in turned]
    linear = _inherited(target, turned, len(posed.heads))
    scale = leg_length(target) / max(leg_length(source), 1e-9)
    contact = feet_on_floor(source, posed, fps) if contact is None else np.asarray(contact, bool)
    hips = _hips_way(source, posed, target, linear, scale if settings.fit_steps else 1.0, scale)
    notes: list[str] = []
    place = _chain(target, linear, hips)
    if settings.lock_feet and contact.any():
        place = _locked(target, linear, hips, contact, turned, notes)
    posed_target = _with_root(target, Posed(linear, place), settings.root, notes)
    return Retargeted(posed_target, sorted(turned), unmapped, contact, scale, notes)


# -- turns ---------------------------------------------------------------------------------------------------------


def _turns(source: Figure, posed: Posed, target: Figure) -> dict[int, Array]:
    """World turn (F, 3, 3) from rest to pose of each target bone that has a part in the source too."""
    rest_s, rest_t = body_axes(source), body_axes(target)
    across = rest_t @ rest_s.T
    turned: dict[int, Array] = {}

    def mean(bones: list[int]) -> Array:
        return nearest_rotation(posed.linear[:, bones].mean(1)) if len(bones) > 1 else posed.linear[:, bones[0]]

    def lay(bone: int, spin: Array, swung: Array, way: Array | None, along: Array | None) -> None:
        """spin (F, 3, 3) of the source's part, swung (3, 3) source's rest to target's; then along the way (F, 3)."""
        turn = spin @ swung.T
        if way is not None and along is not None:
            turn = swing(np.einsum("fxy,y->fx", turn, along), way) @ turn
        turned[bone] = turn

    lay(target.roles["hips"][0], mean(source.roles["hips"][:1]), across, None, None)
    laid = {"hips": across}
    for role in ("spine", "neck"):
        if role in source.roles and role in target.roles:
            _lay_chain(source, posed, target, role, across, lay)
    if "head" in source.roles and "head" in target.roles:
        lay(target.roles["head"][0], mean(source.roles["head"][:1]), across, None, None)
    for side in "LR":
        swung = across
        for base in ORDER:
            role = f"{base}.{side}"
            if base == "thigh":
                swung = across
            if role not in source.roles or role not in target.roles:
                continue
            if base in FINGERS:
                _lay_finger(source, posed, target, role, laid.get(f"hand.{side}", swung), lay)
                continue
            a, b = _part(source, base, side), _part(target, base, side)
            swung = _laid_over(source, target, base, side, swung, a, b, across)
            laid[role] = swung
            way = None if a.end is None or b.end is None else _way(source, posed, base, side)
            along = None if b.end is None else b.end - b.start
            lay(b.bones[0], mean(a.bones), swung, way, along)
    return turned


def _lay_chain(source: Figure, posed: Posed, target: Figure, role: str, across: Array, lay: Any) -> None:
    """Spine or neck: chains of any number of bones, compared at equal parts of their length."""
    ends = [_chain_joints(figure, role) for figure in (source, target)]
    steps = [np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(e, axis=0), axis=1))]) for e in ends]
    at_s, at_t = (s / max(s[-1], 1e-9) for s in steps)
    moved = _chain_posed(source, posed, role)
    bones = source.roles[role]
    for k, bone in enumerate(target.roles[role]):
        low, high = at_t[k], at_t[k + 1]
        share = np.clip(np.minimum(high, at_s[1:]) - np.maximum(low, at_s[:-1]), 0, None)
        share = share / share.sum() if share.sum() > 1e-9 else np.eye(len(bones))[-1]
        spin = nearest_rotation(np.einsum("b,fbxy->fxy", share, posed.linear[:, bones]))
        way = _along(moved, at_s, high) - _along(moved, at_s, low)
        along = ends[1][k + 1] - ends[1][k]
        lay(bone, spin, across, way, along if np.linalg.norm(along) > 1e-6 else None)


def _after(figure: Figure, role: str) -> int | None:
    """The bone at whose head a spine or neck ends."""
    for after in {"spine": ("neck", "head"), "neck": ("head",)}[role]:
        if after in figure.roles:
            return figure.roles[after][0]
    return None


def _chain_joints(figure: Figure, role: str) -> Array:
    bones, after = figure.roles[role], _after(figure, role)
    last = figure.heads[after] if after is not None else figure.heads[bones[-1]] + (0, 0, 1e-3)
    return np.concatenate([figure.heads[bones], last[None]])


def _chain_posed(figure: Figure, posed: Posed, role: str) -> Array:
    """The same joints on all frames (F, n, 3)."""
    bones, after = figure.roles[role], _after(figure, role)
    if after is not None:
        return posed.heads[:, [*bones, after]]
    end = posed.heads[:, bones[-1]] + posed.linear[:, bones[-1]] @ np.array([0, 0, 1e-3])
    return np.concatenate([posed.heads[:, bones], end[:, None]], 1)


def _along(joints: Array, at: Array, where: float) -> Array:
    """Point (F, 3) of polylines (F, n, 3) at a part of their rest length."""
    i = int(np.clip(np.searchsorted(at, where, side="right") - 1, 0, len(at) - 2))
    share = (where - at[i]) / max(at[i + 1] - at[i], 1e-9)
    result: Array = joints[:, i] * (1 - share) + joints[:, i + 1] * share
    return result


def _lay_finger(source: Figure, posed: Posed, target: Figure, role: str, hand: Array, lay: Any) -> None:
    ours, theirs = source.roles[role], target.roles[role]
    swung = hand
    for k in range(min(len(ours), len(theirs))):
        way = along = None
        if k + 1 < min(len(ours), len(theirs)):
            arm = source.heads[ours[k + 1]] - source.heads[ours[k]]
            along = target.heads[theirs[k + 1]] - target.heads[theirs[k]]
            swung = swing(swung @ arm, along) @ swung
            way = posed.heads[:, ours[k + 1]] - posed.heads[:, ours[k]]
        lay(theirs[k], posed.linear[:, ours[k]], swung, way, along)


def _end(figure: Figure, base: str, side: str) -> int | None:
    role = f"{NEXT.get(base, '')}.{side}"
    return figure.roles[role][0] if role in figure.roles else None


def _part(figure: Figure, base: str, side: str) -> _Part:
    bones, end = figure.roles[f"{base}.{side}"], _end(figure, base, side)
    return _Part(bones, figure.heads[bones[0]], None if end is None else figure.heads[end])


def _way(figure: Figure, posed: Posed, base: str, side: str) -> Array:
    end = _end(figure, base, side)
    return posed.heads[:, end] - posed.heads[:, figure.roles[f"{base}.{side}"][0]]


def _laid_over(
    source: Figure, target: Figure, base: str, side: str, swung: Array, a: _Part, b: _Part, across: Array
) -> Array:
    """Turn (3, 3) that brings the source's part in its rest pose onto the target's in its own."""
    planes = [_plane(figure, base, side) for figure in (source, target)]
    if planes[0] is not None and planes[1] is not None:
        laid: Array = planes[1] @ planes[0].T
        return laid
    if base == "toe":
        return swung
    if a.end is None or b.end is None:
        return swung
    laid = swing(swung @ (a.end - a.start), b.end - b.start) @ swung
    return laid


def _plane(figure: Figure, base: str, side: str) -> Array | None:
    """Axes (3, 3) of what is flat: the palm by its knuckles, the foot by the floor; None for other parts."""
    if base == "hand":
        knuckles = [figure.roles.get(f"{finger}.{side}") for finger in ("index", "pinky")]
        if knuckles[0] is None or knuckles[1] is None:
            return None
        places = figure.heads[[knuckles[0][0], knuckles[1][0]]]
        return frame(places.mean(0) - figure.heads[figure.roles[f"hand.{side}"][0]], places[0] - places[1])
    if base in ("foot", "toe"):
        foot, toe = figure.roles.get(f"foot.{side}"), figure.roles.get(f"toe.{side}")
        if foot is None or toe is None:
            return None
        way = figure.heads[toe[0]] - figure.heads[foot[0]]
        if np.linalg.norm(way[:2]) < 1e-6:
            return None
        return frame(way if base == "foot" else way * (1, 1, 0), np.cross(way, [0, 0, 1.0]))
    return None


def body_axes(figure: Figure) -> Array:
    """Axes (3, 3) of a figure's rest pose: columns its left, its up, and across both."""
    roles, heads = figure.roles, figure.heads
    hips = [heads[roles[f"thigh.{side}"][0]] for side in "LR"]
    arms = [heads[roles[f"upper_arm.{side}"][0]] for side in "LR"]
    return frame(np.mean(arms, 0) - np.mean(hips, 0), hips[0] - hips[1])


# -- places --------------------------------------------------------------------------------------------------------


def _inherited(target: Figure, turned: dict[int, Array], frames: int) -> Array:
    """Turns (F, B, 3, 3): bones without a part move with their parent; those above the hips stay."""
    linear = np.tile(np.eye(3), (frames, len(target.parents), 1, 1))
    for b, p in enumerate(target.parents):
        if b in turned:
            linear[:, b] = turned[b]
        elif p >= 0:
            linear[:, b] = linear[:, p]
    return linear


def _chain(target: Figure, linear: Array, hips: Array) -> Array:
    """Heads (F, B, 3) with the hips' at (F, 3); bones above the hips stay in their rest pose."""
    place = np.broadcast_to(target.heads, (len(hips), *target.heads.shape)).copy()
    carried = target.roles["hips"][0]
    for b, p in enumerate(target.parents):
        if b == carried:
            place[:, b] = hips
        elif p >= 0:
            place[:, b] = place[:, p] + np.einsum("fxy,y->fx", linear[:, p], target.heads[b] - target.heads[p])
    return place


def leg_length(figure: Figure) -> float:
    """Metres from hip to knee to ankle, the mean of both sides."""
    lengths = []
    for side in "LR":
        parts = [figure.roles.get(f"{base}.{side}") for base in ("thigh", "shin", "foot")]
        joints = figure.heads[[part[0] for part in parts if part]]
        lengths.append(float(np.linalg.norm(np.diff(joints, axis=0), axis=1).sum()))
    return float(np.mean(lengths))


def _middle(figure: Figure, heads: Array) -> Array:
    """Between the hip joints, of heads (..., B, 3)."""
    result: Array = heads[..., [figure.roles[f"thigh.{side}"][0] for side in "LR"], :].mean(-2)
    return result


def _ankles(figure: Figure, heads: Array) -> Array:
    """The feet's joints (..., 2, 3); the shins' where there are none."""
    parts = [figure.roles.get(f"foot.{s}") or figure.roles[f"shin.{s}"] for s in "LR"]
    result: Array = heads[..., [part[0] for part in parts], :]
    return result


def _hips_way(source: Figure, posed: Posed, target: Figure, linear: Array, steps: float, scale: float) -> Array:
    """Places (F, 3) of the target's hips bone: the way of the point between the hip joints, at the target's size."""
    way = _middle(source, posed.heads)
    floor = float(np.percentile(_ankles(source, posed.heads)[..., 2], 5))
    moved = way.copy()
    moved[:, :2] = way[:1, :2] + steps * (way[:, :2] - way[:1, :2])
    moved[:, 2] = ankle_height(target, scale * max(floor, 0.0)) + scale * (way[:, 2] - floor)
    hips = target.roles["hips"][0]
    arm = _middle(target, target.heads) - target.heads[hips]
    result: Array = moved - np.einsum("fxy,y->fx", linear[:, hips], arm)
    return result


def ankle_height(target: Figure, likely: float) -> float:
    """Metres of the target's ankles above its floor, z = 0 of its rest pose; `likely` where it does not stand there."""
    return float(_ankles(target, target.heads)[..., 2].mean()) if stands(target) else likely


def stands(target: Figure) -> bool:
    """Whether the rest pose stands on z = 0."""
    height = float(_ankles(target, target.heads)[..., 2].mean())
    return 0 < height < 0.3 * leg_length(target)


# -- feet ----------------------------------------------------------------------------------------------------------


def feet_on_floor(source: Figure, posed: Posed, fps: float) -> Array:
    """Which feet (F, 2) stand on the floor: the ankle or the ball slow and low, for some frames in a row."""
    contact = np.zeros((len(posed.heads), 2), bool)
    for i, side in enumerate("LR"):
        for base in ("foot", "toe"):
            part = source.roles.get(f"{base}.{side}")
            if part is None or len(contact) < 2:
                continue
            point = posed.heads[:, part[0]]
            speed = np.linalg.norm(np.gradient(point, axis=0), axis=1) * fps
            low = point[:, 2] < np.percentile(point[:, 2], 5) + CONTACT_HEIGHT
            contact[:, i] |= (speed < CONTACT_SPEED) & low
    for i in range(2):
        for start, stop in runs(contact[:, i]):
            if stop - start < SHORTEST_CONTACT:
                contact[start:stop, i] = False
    return contact


def runs(flags: Array) -> list[tuple[int, int]]:
    """(start, stop) of each row of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flags.astype(np.int8), [0]])))
    return [(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2])]


def _locked(
    target: Figure, linear: Array, hips: Array, contact: Array, mapped: dict[int, Array], notes: list[str]
) -> Array:
    """Heads with both legs bent so that feet on the floor stay where they are; changes the legs' turns in linear."""
    place = _chain(target, linear, hips)
    legs: list[tuple[list[int], Array]] = []
    for i, side in enumerate("LR"):
        if f"foot.{side}" not in target.roles:
            notes.append(f"no foot bone on the {'left' if side == 'L' else 'right'}: it is not locked")
            continue
        leg = [target.roles[f"{base}.{side}"][0] for base in ("thigh", "shin", "foot")]
        foot, ball = leg[2], target.roles.get(f"toe.{side}", leg[2:])[0]
        heights = target.heads[[foot, ball], 2] if stands(target) else None
        legs.append((leg, place[:, foot] + lock_offsets(place[:, foot], place[:, ball], contact[:, i], heights)))
    lower = smooth_above(np.max([_shortage(place, leg, goal) for leg, goal in legs] + [np.zeros(len(place))], 0))
    hips = hips - lower[:, None] * (0, 0, 1)
    place = _chain(target, linear, hips)
    for leg, goal in legs:
        bend(linear, place, leg[0], leg[1], leg[2], goal)
    for b, p in enumerate(target.parents):  # whatever hangs on the legs follows them
        if p >= 0 and b not in mapped:
            linear[:, b] = linear[:, p]
    return _chain(target, linear, hips)


def _shortage(place: Array, leg: list[int], goal: Array) -> Array:
    """How far (F,) the hips must come down for a leg (thigh, shin, foot) to reach its goal (F, 3)."""
    hip, knee, ankle = (place[:, bone] for bone in leg)
    reach = STRAIGHT * (np.linalg.norm(knee - hip, axis=1) + np.linalg.norm(ankle - knee, axis=1))
    way = goal - hip
    level = np.sqrt(np.maximum(reach**2 - (way[:, :2] ** 2).sum(1), 0))
    result: Array = np.clip(-way[:, 2] - level, 0, LOWEST * reach)
    return result


def smooth_above(values: Array) -> Array:
    """A smooth curve (F,) that nowhere lies below values (F,) by more than rounding: highest nearby, then averaged."""
    wide = np.pad(values, 2 * RELEASE, mode="edge")
    highest = np.lib.stride_tricks.sliding_window_view(wide, 2 * RELEASE + 1).max(-1)
    window = np.hanning(2 * RELEASE + 3)[1:-1]
    result: Array = np.convolve(highest, window / window.sum(), "valid")
    return result


def lock_offsets(ankle: Array, ball: Array, contact: Array, heights: Array | None) -> Array:
    """How far (F, 3) to move a foot so that it does not slide while it is in contact (F,): ankle and ball (F, 3).

    In contact the slower of the two points stands; its way is taken back, and it comes to its height above the floor
    (heights (2,), None: not known).  Sideways the offset of a contact has mean 0.  It runs smoothly to that of the next
    one, or to nothing, within RELEASE frames.
    """
    shift = np.zeros_like(ankle)
    steps = np.stack([np.diff(point, axis=0) for point in (ankle, ball)])  # (2, F - 1, 3)
    slower = np.linalg.norm(steps, axis=-1).argmin(0)
    back = -np.take_along_axis(steps, slower[None, :, None], 0)[0]
    found = runs(contact)
    for start, stop in found:
        offset = np.concatenate([np.zeros((1, 3)), np.cumsum(back[start : stop - 1], 0)])
        offset -= offset.mean(0)
        if heights is not None:
            which = slower[np.minimum(np.arange(start, stop), len(slower) - 1)]
            at = np.where(which == 0, ankle[start:stop, 2], ball[start:stop, 2]) + offset[:, 2]
            offset[:, 2] += np.clip((heights[which] - at).mean(), -DEEPEST, DEEPEST)
        shift[start:stop] = offset
    ends = [(0, 0)] + found + [(len(contact), len(contact))]
    for (_, stop), (start, _) in zip(ends, ends[1:]):
        free = start - stop
        if free <= 0:
            continue
        after = shift[stop - 1] if stop > 0 else np.zeros(3)
        before = shift[start] if start < len(contact) else np.zeros(3)
        count = min(RELEASE, free)
        gone = np.zeros((free, 3))
        gone[:count] += after * _ease(count, False)
        gone[free - count :] += before * _ease(count, True)
        shift[stop:start] = gone
    return shift


def _ease(count: int, rising: bool) -> Array:
    """Weights (count, 1) between 0 and 1 with level ends."""
    weights = np.linspace(0, 1, count + 2)[1:-1, None]
    ease: Array = weights**2 * (3 - 2 * weights)
    return ease if rising else 1 - ease


def bend(linear: Array, place: Array, thigh: int, shin: int, foot: int, goal: Array) -> None:
    """Turn a leg so that its ankle gets to goal (F, 3), in place; the knee keeps its plane, the foot its turn.

    linear (F, B, 3, 3) and place (F, B, 3) of all bones.
    """
    hip, knee, ankle = place[:, thigh], place[:, shin], place[:, foot]
    upper, lower = (np.linalg.norm(v, axis=1) for v in (knee - hip, ankle - knee))
    before, after = ankle - hip, goal - hip
    far = np.linalg.norm(after, axis=1)
    reach = np.clip(far, np.abs(upper - lower) * 1.001 + 1e-6, STRAIGHT * (upper + lower))
    reach = np.where(np.linalg.norm(goal - ankle, axis=1) < 1e-9, np.linalg.norm(before, axis=1), reach)
    turn = swing(before, after)
    carried = np.einsum("fxy,fy->fx", turn, knee - hip)
    along = after / np.maximum(far, 1e-9)[:, None]
    side = carried - (carried * along).sum(1, keepdims=True) * along
    side /= np.maximum(np.linalg.norm(side, axis=1, keepdims=True), 1e-9)
    share = np.clip((upper**2 - lower**2 + reach**2) / (2 * np.maximum(reach, 1e-9)), -upper, upper)
    wanted = along * share[:, None] + side * np.sqrt(np.maximum(upper**2 - share**2, 0))[:, None]
    thigh_turn = swing(carried, wanted) @ turn
    shin_now = np.einsum("fxy,fy->fx", thigh_turn, ankle - knee)
    shin_turn = swing(shin_now, along * reach[:, None] - wanted) @ thigh_turn
    linear[:, thigh] = thigh_turn @ linear[:, thigh]
    linear[:, shin] = shin_turn @ linear[:, shin]


# -- root ----------------------------------------------------------------------------------------------------------


def _with_root(target: Figure, posed: Posed, root: str, notes: list[str]) -> Posed:
    """The way through space on the bone that the user wants it on."""
    hips = target.roles["hips"][0]
    above = _root_bone(target)
    heads = posed.heads.copy()
    if root == "in_place":
        away = (heads[:, hips] - target.heads[hips]) * (1, 1, 0)
        below = _below(target, hips)
        heads[:, below] -= away[:, None]
        return Posed(posed.linear, heads)
    if root == "root" and above is None:
        notes.append("there is no bone above the hips: the way through space is on the hips")
    elif root == "root" and above is not None:
        way = (heads[:, hips] - target.heads[hips]) * (1, 1, 0)
        others = [b for b in _below(target, above) if b not in _below(target, hips)]
        heads[:, others] += way[:, None]
    return Posed(posed.linear, heads)


def _root_bone(target: Figure) -> int | None:
    """The topmost bone above the hips."""
    bone = int(target.parents[target.roles["hips"][0]])
    while bone >= 0 and target.parents[bone] >= 0:
        bone = int(target.parents[bone])
    return bone if bone >= 0 else None


def _below(target: Figure, top: int) -> list[int]:
    inside = {top}
    for b, p in enumerate(target.parents):
        if int(p) in inside:
            inside.add(b)
    return sorted(inside)
