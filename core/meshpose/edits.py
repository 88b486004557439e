# SPDX-License-Identifier: Apache-2.0
"""Edits of who is who: tracks merged, split, exchanged and taken away, and a person's left and right exchanged.

    with Take.resume("dancer.take") as take:
        take.edits.merge(1, 2)                     # 2 was 1 again after the pillar
        take.edits.split(3, 120)                   # from frame 120 on 3 is somebody else: a new number
        take.edits.swap(4, 5, 40, 60)
        take.edits.delete(6)
        take.edits.sides(1, 10, 14, "legs")
        print(*take.edits.all(), sep="\\n")
        take.edits.undo(2)
    for _ in refit("dancer.take"): pass            # place, rig and motion follow

Edits are kept in the Take in the order they were made and are applied when people are read; what the network said
(`raw`) stays as it was.  A number that a split gave stays that person's for good.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import InputError

if TYPE_CHECKING:
    from .body import Body

Array = np.ndarray

KINDS = ("merge", "split", "swap", "delete", "sides")
PARTS = {"legs": 1, "arms": 2, "body": 4}
"""What `sides` exchanges, and its bit in `Assigned.sides`.  body: the whole person was taken for turned round."""
LIMBS = {
    "legs": ("upperleg", "lowerleg", "foot", "toe"),
    "arms": ("upperarm", "lowerarm", "wrist", "metacarpal", "finger"),
}
TRUNK = ("pelvis", "spine", "clavicle", "shoulder")


@dataclass(frozen=True)
class Edit:
    """One edit.  people: merge (keeps, goes), split (person, new number), swap (both), delete or sides (person).

    first, last: the range of frames (swap, sides), first alone: where a split begins.  part: of PARTS, for sides.
    """

    id: int
    kind: str
    people: tuple[int, ...]
    first: int | None = None
    last: int | None = None
    part: str = ""

    def __str__(self) -> str:
        span = "" if self.first is None else f"@{self.first}" if self.last is None else f"@{self.first}-{self.last}"
        if self.kind == "split":
            return f"{self.id}: split {self.people[0]}{span} (the later one is {self.people[1]})"
        return f"{self.id}: {self.kind} {' '.join(map(str, self.people))}{span}{' ' + self.part if self.part else ''}"


@dataclass(frozen=True, eq=False)
class Assigned:
    """Whose the network's rows are: track and frame (n,) as in `raw`, person (n,) with 0 for nobody, sides (n,) bits of
    PARTS.
    """

    track: Array
    frame: Array
    person: Array
    sides: Array

    def people(self) -> list[int]:
        """Everybody who has a frame, rising."""
        return [int(p) for p in np.unique(self.person) if p]

    def frames(self, person: int) -> Array:
        """The frames (m,) of a person, rising."""
        return np.sort(self.frame[self.person == person])


def assign(track: Array, frame: Array, edits: Iterable[Edit]) -> Assigned:
    """Apply edits, in their order, to the rows of `raw`: track (n,) and frame (n,)."""
    person, sides = track.copy(), np.zeros(len(track), np.int64)
    for edit in edits:
        a, b = (*edit.people, 0)[:2]
        inside = np.ones(len(frame), bool)
        if edit.first is not None:
            inside = frame >= edit.first
        if edit.last is not None:
            inside &= frame <= edit.last
        of_a, of_b = (person == a) & inside, (person == b) & inside
        if edit.kind == "merge":
            twice = np.isin(frame, frame[of_a]) & of_b  # on frames of both the one who keeps his number counts
            person[of_b] = a
            person[twice] = 0
        elif edit.kind == "split":
            person[of_a] = b
        elif edit.kind == "swap":
            person[of_a], person[of_b] = b, a
        elif edit.kind == "delete":
            person[of_a] = 0
        elif edit.kind == "sides":
            sides[of_a] ^= PARTS[edit.part]
    return Assigned(track, frame, person, sides)


def checked(edit: Edit, before: Assigned) -> Edit:
    """The edit, or InputError where it cannot be made of what is there."""
    known = before.people()
    asked = edit.people[:1] if edit.kind == "split" else edit.people
    for person in asked:
        if person not in known:
            there = ", ".join(map(str, known)) or "nobody"
            raise InputError(f"{edit.kind}: there is no person {person}; the Take holds {there}")
    if len(set(asked)) < len(asked):
        raise InputError(f"{edit.kind} {asked[0]} {asked[0]}: give two different people")
    if edit.kind == "sides" and edit.part not in PARTS:
        raise InputError(f"sides {edit.part}: give one of {', '.join(PARTS)}")
    if edit.first is not None and edit.last is not None and edit.last < edit.first:
        raise InputError(f"{edit.kind}: frames {edit.first} to {edit.last} are no range; give the first one first")
    frames = np.concatenate([before.frames(person) for person in asked])
    if edit.kind == "split" and (edit.first is None or not frames.min() < edit.first <= frames.max()):
        span = f"{frames.min()} to {frames.max()}"
        raise InputError(f"split {asked[0]}@{edit.first}: that person is there in frames {span}; split inside of them")
    if edit.kind in ("swap", "sides"):
        low, high = edit.first if edit.first is not None else 0, edit.last if edit.last is not None else frames.max()
        if not ((frames >= low) & (frames <= high)).any():
            raise InputError(f"{edit.kind}: nobody of {', '.join(map(str, asked))} is in frames {low} to {high}")
    return edit


def exchanged_order(sides: Array, body: Body) -> Array:
    """(n, V) which vertex stands in the place of each, where `sides` (n,) has bits of PARTS."""
    mirror = body.lowpoly_mirror
    order = np.tile(np.arange(len(mirror)), (len(sides), 1))
    for part, bit in PARTS.items():
        rows = np.flatnonzero(sides & bit)
        vertices = np.arange(len(mirror)) if part == "body" else np.flatnonzero(_moved_by(body, LIMBS[part]))
        order[rows[:, None], vertices] = order[rows[:, None], mirror[vertices]]
    return order


def exchange_sides(pixels: Array, sides: Array, body: Body) -> Array:
    """Left and right of a low-poly (n, V, 3) in pixels exchanged where `sides` (n,) has bits.

    "legs" and "arms" take the other limb's vertices.  "body" takes those of the mirrored body; where that makes a body
    inside out, its depth was turned round with it and is turned back.
    """
    result: Array = np.take_along_axis(pixels, exchanged_order(sides, body)[..., None], 1)
    turned = np.flatnonzero(sides & PARTS["body"])
    result[turned[_inside_out(result[turned], body)], :, 2] *= -1
    return result


def _moved_by(body: Body, names: tuple[str, ...]) -> Array:
    """(V,) bool: low-poly vertices that bones of these names move most."""
    strongest = np.take_along_axis(body.skin_bones, body.skin_weights.argmax(1)[:, None], 1)[body.lowpoly, 0]
    wanted = [i for i, name in enumerate(body.bone_names) if name.startswith(names)]
    result: Array = np.isin(strongest, wanted)
    return result


def _inside_out(pixels: Array, body: Body) -> Array:
    """(n,) bool: the trunk of the low-poly (n, V, 3) is nearer to the mirror image of a body's than to a body's."""
    rows = np.flatnonzero(_moved_by(body, TRUNK))
    rest = body.template[body.lowpoly[rows]].astype(np.float64)
    trunk: Any = pixels[:, rows].astype(np.float64)
    covariance = (trunk - trunk.mean(1, keepdims=True)).swapaxes(1, 2) @ (rest - rest.mean(0))
    result: Array = np.linalg.det(covariance) < 0
    return result
