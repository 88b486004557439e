# SPDX-License-Identifier: Apache-2.0
"""The corrections of a Take: tables `correction` (what was said) and `corrected` (what it changes in the fit).

A Take without corrections has neither table, or empty ones.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from . import corrections
from .body import Body
from .camera import in_picture
from .corrections import Change, Correction, Target
from .database import Database, blob, stack
from .errors import InputError, TakeError

if TYPE_CHECKING:
    from .motion import Motion, World
    from .rig import RigFit
    from .take import Person, Take

SCHEMA = """
CREATE TABLE IF NOT EXISTS correction (correction INTEGER PRIMARY KEY AUTOINCREMENT, person INTEGER NOT NULL,
    kind TEXT NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS corrected (person INTEGER NOT NULL, frame INTEGER NOT NULL, turns BLOB NOT NULL,
    shift BLOB NOT NULL, UNIQUE (person, frame))
"""
TABLES = ("correction", "corrected")
SPACES = ("camera", "world", "pixel")
"""What a joint's target is given in: metres of the camera's frame or of the world's, or the picture."""


def there(database: Database) -> bool:
    """Whether anything was corrected, ever."""
    return bool(database.rows("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'corrected'"))


def content(database: Database) -> tuple[str, ...]:
    """Queries whose rows are the content, for a Take's digest."""
    if not there(database) or not database.rows("SELECT 1 FROM correction LIMIT 1"):
        return ()
    return (
        "SELECT person, kind, first, last, value FROM correction ORDER BY correction",
        "SELECT person, frame, turns, shift FROM corrected ORDER BY person, frame",
    )


def drop(database: Database, person: int) -> None:
    """Forget what corrections change in a person's fit; the corrections stay."""
    if there(database):
        database.run("DELETE FROM corrected WHERE person = ?", (person,))
    database.run("DELETE FROM made WHERE what = 'corrected' AND person = ?", (person,))


def change(database: Database, person: int) -> Change | None:
    """What corrections change in a person's fit; None for nothing."""
    if not there(database):
        return None
    rows = database.rows("SELECT frame, turns, shift FROM corrected WHERE person = ? ORDER BY frame", (person,))
    if not rows:
        return None
    with database.sound():
        turns = stack([row[1] for row in rows], np.float32, (len(Body.load().bone_names), 3)).astype(np.float64)
        shift = stack([row[2] for row in rows], np.float64, (3,))
        if not (np.isfinite(turns).all() and np.isfinite(shift).all()):
            raise ValueError("a correction's change is not finite")
        return Change(np.array([row[0] for row in rows], np.int64), turns, shift)


def laid_on(fit: RigFit, person: Person) -> RigFit:
    """A fit with its person's corrections."""
    made = change(person.take._db, person.id)
    if made is None:
        return fit
    rotations, translation = made.on(fit.frames, fit.rotations, fit.translation)
    return dataclasses.replace(fit, rotations=rotations, translation=translation)


class Corrections:
    """A Take's corrections by hand; see `meshpose.corrections`.  Made by `Take.corrections`.

    Every method that changes something raises InputError where it cannot be done, TakeError where the Take is open for
    reading only.  Call `meshpose.convert.refit` when all is said.
    """

    def __init__(self, take: Take) -> None:
        self._take, self._db = take, take._db

    def all(self, person: int | None = None) -> list[Correction]:
        """In the order they were made; of one person where that is asked.

        A correction belongs to what the network followed on its frame: where a later edit gives that to somebody else,
        it goes along.
        """
        owned = self._owned()
        return [c for c, belongs in owned if person is None or (belongs and c.person == person)]

    def unused(self) -> list[str]:
        """One line for each correction of which something is lost to later edits of who is who."""
        lines = []
        for made, belongs in self._owned():
            if not belongs:
                lines.append(f"correction {made} is not used: nobody has that frame any more")
            elif made.kind != "joint" and made.person in self._take.people:
                frames = self._take.person(made.person).frames
                rest = ((frames >= made.first) & (frames <= made.last)).sum()
                if rest < 2 or not frames[0] <= made.first or not made.last <= frames[-1]:
                    lines.append(f"correction {made}: person {made.person} is there in a part of these frames only")
        return lines

    def _owned(self) -> list[tuple[Correction, bool]]:
        """Every correction with the person whose it is now; False where it is nobody's."""
        if not there(self._db):
            return []
        rows = self._db.rows("SELECT correction, person, kind, first, last, value FROM correction ORDER BY correction")
        with self._db.sound():
            found = [(_read(row), _anchor(row[5])) for row in rows]
        out = []
        for correction, anchor in found:
            owner = correction.person if anchor is None else self._take.edits.owner(*anchor)
            made = correction if owner is None else dataclasses.replace(correction, person=owner)
            out.append((made, owner is not None))
        return out

    def joint(
        self,
        person: int,
        frame: int,
        joint: str,
        target: Sequence[float],
        space: str = "world",
        reach: int = corrections.REACH,
    ) -> Correction:
        """A joint (a bone's name: its head; or "elbow.L") belongs at `target` on `frame`.

        space: "world" or "camera", metres (x, y, z); "pixel", the picture (x, y), anywhere on that ray.  Its neighbours
        follow over `reach` frames on each side.  An earlier correction of this joint on this frame goes.
        """
        frames = self._frames(person)
        if frame not in frames:
            raise InputError(f"person {person} is not in frame {frame}; a joint is corrected where the person was seen")
        name = Body.load().bone_names[corrections.bone_of(Body.load(), joint)]
        if space not in SPACES:
            raise InputError(f"space {space}: give one of {', '.join(SPACES)}")
        wanted = 2 if space == "pixel" else 3
        if len(target) != wanted or not all(math.isfinite(v) for v in target):
            raise InputError(f"a target in {space} is {wanted} numbers, not {target!r}")
        if not 1 <= reach <= 1000:
            raise InputError(f"reach {reach}: give a number of frames, 1 to 1000")
        pixel, depth = self._seen(person, frame, [float(v) for v in target], space)
        for old in self.all(person):
            if (old.kind, old.first, old.joint) == ("joint", frame, name):
                self._db.run("DELETE FROM correction WHERE correction = ?", (old.id,))
        return self._add(Correction(0, person, "joint", frame, frame, name, pixel, depth, int(reach)))

    def freeze(
        self, person: int, first: int, last: int, bones: Sequence[str] = (), back: int = corrections.REACH
    ) -> Correction:
        """The pose of frame `first` is held until `last`; the last `back` frames lead to the pose that is there."""
        return self._range("freeze", person, first, last, bones, back)

    def blend(self, person: int, first: int, last: int, bones: Sequence[str] = ()) -> Correction:
        """The way from the pose of frame `first` straight to that of `last`.  bones: as in `Correction`."""
        return self._range("blend", person, first, last, bones, corrections.REACH)

    def undo(self, number: int) -> Correction:
        """Take a correction back; all others stay.  InputError where there is none of that number."""
        known = {correction.id: correction for correction in self.all()}
        if number not in known:
            raise InputError(f"there is no correction {number}; there are {', '.join(map(str, known)) or 'none'}")
        self._db.run("DELETE FROM correction WHERE correction = ?", (int(number),))
        self._take.commit()
        return known[number]

    # -- for the stages of the job -------------------------------------------------------------------------------------

    def key(self, person: int) -> list[Any]:
        """What a person's corrected fit is made from beside the fit; empty for no correction."""
        return [dataclasses.astuple(correction)[1:] for correction in self.all(person)]

    def fit(self, person: Person, made_from: str) -> None:
        """Solve a person's corrections on the fit and keep what they change.  Commits."""
        drop(self._db, person.id)
        fit, mine = person.fit(corrected=False), self.all(person.id)
        if fit is not None and mine:
            pixels = person.lowpoly_pixels(fit.frames)
            made = corrections.change_of_fit(
                fit, self._targets(person, mine, None), _ranges(mine), person.lowpoly(fit.frames).astype(np.float64),
                person.visibility(fit.frames), in_picture(pixels, self._take.camera), Body.load(),
            )  # fmt: skip
            for i, frame in enumerate(made.frames):
                row = (person.id, int(frame), blob(made.turns[i], np.float32), blob(made.shift[i], np.float64))
                self._db.run("INSERT INTO corrected VALUES (?, ?, ?, ?)", row)
        self._take.set_made("corrected", person.id, made_from)

    def motion(self, person: Person, motion: Motion, world: World) -> Motion:
        """A finished motion with the corrections on it."""
        mine = self.all(person.id)
        if not mine or not len(motion.frames):
            return motion
        body, of_fit = Body.load(), change(self._db, person.id)
        none = Change(np.zeros(0, np.int64), np.zeros((0, len(body.bone_names), 3)), np.zeros((0, 3)))
        targets, ranges = self._targets(person, mine, motion), _ranges(mine)
        to_camera = world.at(motion.frames)
        made = corrections.change_of_motion(motion, to_camera, of_fit or none, targets, ranges, body)
        rotations, translation = made.on(motion.frames, motion.rotations, motion.translation)
        keyed, rows = motion.keyed.copy(), np.searchsorted(motion.frames, made.frames)
        keyed[rows] |= np.abs(made.turns).max(-1) > corrections.SAME_PLACE
        return dataclasses.replace(motion, rotations=rotations, translation=translation, keyed=keyed)

    def _targets(self, person: Person, mine: list[Correction], motion: Motion | None) -> list[Target]:
        """Where the joints belong, metres of the camera's frame, at the hips' depth that the fit or the motion has."""
        body, camera, targets = Body.load(), self._take.camera, []
        frames = set(person.frames.tolist())
        for correction in mine:
            if correction.kind == "joint" and correction.first in frames:
                hips = self._hips_depth(person, correction.first, motion)
                depth = hips * (1.0 if correction.depth is None else correction.depth)
                x, y, z = camera.unproject(np.array(correction.pixel), np.array(depth)).tolist()
                bone, ray = body.bone_names.index(correction.joint), correction.depth is None
                targets.append(Target(correction.first, bone, (x, y, z), ray, correction.reach))
        return targets

    def _hips_depth(self, person: Person, frame: int, motion: Motion | None) -> float:
        """Metres from the camera to the mid-hips on a frame."""
        size = float(person.metres_per_pixel([frame])[0])
        if motion is not None:
            row = int(np.searchsorted(motion.frames, frame))
            if row < len(motion.frames) and motion.frames[row] == frame and motion.metres_per_pixel[row] > 0:
                size = float(motion.metres_per_pixel[row])
        return size * (self._take.camera.fx + self._take.camera.fy) / 2

    def _seen(
        self, person: int, frame: int, target: list[float], space: str
    ) -> tuple[tuple[float, float], float | None]:
        """A target as it is kept: pixel, and depth as a share of the hips', so that it outlives a new lens or size."""
        if space == "pixel":
            return (target[0], target[1]), None
        who, point, motion = self._take.person(person), np.array(target), None
        if space == "world":
            world, motion = self._take.world(), who.motion()
            if world is None or motion is None:
                raise TakeError(f"{self._take.path}: there is no world yet; run the conversion to its end")
            rotation, translation = world.at([frame])
            point = rotation[0].T @ (point - translation[0])
        if not point[2] > 0.05:
            raise InputError(f"the target lies behind the camera ({point[2]:.2f} m in front of it)")
        x, y = self._take.camera.project(point).tolist()
        return (x, y), float(point[2] / self._hips_depth(who, frame, motion))

    def _range(
        self, kind: str, person: int, first: int, last: int, bones: Sequence[str], back: int
    ) -> Correction:  # fmt: skip
        frames = self._frames(person)
        if not first < last or not ((frames >= first) & (frames <= last)).sum() > 1:
            raise InputError(f"{kind}: frames {first} to {last} hold no range of person {person}")
        if not 0 <= back <= 1000:
            raise InputError(f"back {back}: give a number of frames, 0 to 1000")
        names = tuple(Body.load().bone_names[corrections.bone_of(Body.load(), bone)] for bone in bones)
        return self._add(Correction(0, person, kind, int(first), int(last), reach=int(back), bones=names))

    def _frames(self, person: int) -> np.ndarray:
        if person not in self._take.people:
            known = ", ".join(map(str, self._take.people)) or "nobody"
            raise InputError(f"there is no person {person}; the Take holds {known}")
        return self._take.person(person).frames

    def _anchored(self, made: Correction) -> tuple[int, int]:
        """Track and frame of what the network followed, on the first frame that is corrected."""
        frames = self._take.person(made.person).frames
        frame = int(frames[frames >= made.first][0])
        return self._take.edits.track(made.person, frame), frame

    def _add(self, made: Correction) -> Correction:
        for statement in SCHEMA.split(";"):
            self._db.run(statement)
        value = {
            "joint": made.joint, "pixel": made.pixel, "depth": made.depth, "reach": made.reach, "bones": made.bones,
            "anchor": self._anchored(made),
        }  # fmt: skip
        row = (made.person, made.kind, int(made.first), int(made.last), json.dumps(value, sort_keys=True))
        self._db.run("INSERT INTO correction (person, kind, first, last, value) VALUES (?, ?, ?, ?, ?)", row)
        self._take.commit()
        return self.all()[-1]


def _anchor(text: str) -> tuple[int, int] | None:
    """Track and frame that a correction was made on; None in Takes of earlier versions."""
    anchor = json.loads(text).get("anchor")
    return None if anchor is None else (int(anchor[0]), int(anchor[1]))


def _ranges(mine: list[Correction]) -> list[Correction]:
    return [correction for correction in mine if correction.kind != "joint"]


def _read(row: tuple[Any, ...]) -> Correction:
    """A row of `correction`; ValueError or another of `Database.sound` where it cannot be."""
    number, person, kind, first, last, text = row
    value = json.loads(text)
    depth = None if value["depth"] is None else float(value["depth"])
    x, y = map(float, value["pixel"])
    if kind not in corrections.KINDS or not all(map(math.isfinite, (x, y, depth or 1.0))):
        raise ValueError("a correction is none that there is")
    bones = tuple(str(bone) for bone in value["bones"])
    names = set(Body.load().bone_names)
    if kind == "joint" and value["joint"] not in names or not names.issuperset(bones):
        raise ValueError("a correction names a bone that there is not")
    return Correction(
        int(number), int(person), kind, int(first), int(last), str(value["joint"]), (x, y), depth,
        int(value["reach"]), bones,
    )  # fmt: skip
