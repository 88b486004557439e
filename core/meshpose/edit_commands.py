# SPDX-License-Identifier: Apache-2.0
"""`meshpose people TAKE ...` and `meshpose correct TAKE ...`: what is changed by hand, from a shell.

    meshpose people dancer.take                      who is there, and the edits made so far
    meshpose people dancer.take merge 1 2            2 was 1 again; also split 1@120, swap 1 2@40-60, delete 3
    meshpose people dancer.take undo 4               edit 4 is taken back
    meshpose correct dancer.take                     the corrections made so far
    meshpose correct dancer.take joint 1@40 wrist.L 0.3 0.2 1.1 --reach 8
    meshpose correct dancer.take joint 1@40 elbow.L 412 233 --space pixel
    meshpose correct dancer.take sides 1@10-14 legs  left and right exchanged: legs, arms or body (taken back by people)
    meshpose correct dancer.take freeze 1@80-95 --bones upperarm01.L
    meshpose correct dancer.take blend 1@80-95
    meshpose correct dancer.take undo 2

Several are said with a `+` between them: `merge 1 2 + delete 3`.  The later parts of the Take follow at once, without
the network, unless `--no-refit` is given.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from typing import TYPE_CHECKING

from .corrections import REACH
from .errors import InputError
from .take_corrections import SPACES

if TYPE_CHECKING:
    from .take import Take

PEOPLE = "list, merge A B, split A@FRAME, swap A B@FIRST-LAST, delete A, undo EDIT"
CORRECT = (
    "list, joint A@FRAME JOINT X Y Z, sides A@FIRST-LAST [legs|arms|body], freeze A@FIRST-LAST, blend A@FIRST-LAST, "
    "undo CORRECTION"
)


def add_options(parser: argparse.ArgumentParser, what: str) -> None:
    """The options of `people` or `correct`."""
    parser.add_argument("take", help="a finished .take file")
    parser.add_argument("do", nargs="*", metavar="WORD", help=PEOPLE if what == "people" else CORRECT)
    if what == "correct":
        spaces = "what X Y Z (or X Y) is: metres of the world, of the camera's frame, or a pixel (world)"
        parser.add_argument("--space", choices=SPACES, default="world", help=spaces)
        parser.add_argument("--reach", type=int, default=REACH, metavar="N", help=f"frames to fade over ({REACH})")
        bones = "freeze or blend only these bones and what hangs from them, with commas between"
        parser.add_argument("--bones", default="", metavar="NAMES", help=bones)
    parser.add_argument("--json", action="store_true", help="list as JSON")
    parser.add_argument("--no-refit", action="store_true", help="only keep it; a later refit makes the rest follow")
    parser.add_argument("--progress", choices=("bar", "json", "none"), default="bar", help="how progress is told (bar)")
    parser.set_defaults(what=what, preview=False, set=[])


def change(options: argparse.Namespace) -> bool:
    """Do what the words say; False where nothing was to be changed (a list was asked for)."""
    from .take import Take

    words = options.do or ["list"]
    if words == ["list"]:
        with Take.open(options.take) as take:
            _list(take, options)
        return False
    act = _people if options.what == "people" else _correct
    with Take.resume(options.take) as take:
        for one in " ".join(words).split(" + "):
            done = act(take, one.split() or [""], options)
            if options.progress != "json":  # stdout is for its events then
                print(done, flush=True)
        _warn(take)
    return True


def _people(take: Take, words: list[str], options: argparse.Namespace) -> str:
    """One edit; what was done, in words."""
    what, *rest = words
    edits = take.edits
    if what == "merge" and len(rest) == 2:
        return str(edits.merge(_number(rest[0]), _number(rest[1])))
    if what == "split" and len(rest) == 1:
        person, first, last = _span(rest[0])
        if last == first:
            return str(edits.split(person, first))
    if what == "swap" and len(rest) == 2:
        one = _number(rest[0])
        if "@" not in rest[1]:
            return str(edits.swap(one, _number(rest[1])))
        return str(edits.swap(one, *_span(rest[1])))
    if what == "delete" and len(rest) == 1:
        return str(edits.delete(_number(rest[0])))
    if what == "undo" and len(rest) == 1:
        return f"taken back: {edits.undo(_number(rest[0]))}"
    raise InputError(f"people {' '.join(words)}: give one of {PEOPLE}")


def _correct(take: Take, words: list[str], options: argparse.Namespace) -> str:
    """One correction; what was done, in words."""
    what, *rest = words
    corrections, bones = take.corrections, [name for name in options.bones.split(",") if name]
    if what == "joint" and len(rest) == 2 + (2 if options.space == "pixel" else 3):
        person, frame, last = _span(rest[0])
        if frame == last:
            target = [_metres(word) for word in rest[2:]]
            return str(corrections.joint(person, frame, rest[1], target, options.space, options.reach))
    if what == "sides" and len(rest) in (1, 2):
        return f"edit {take.edits.sides(*_span(rest[0]), *(rest[1:] or ['body']))}"
    if what == "freeze" and len(rest) == 1:
        return str(corrections.freeze(*_span(rest[0]), bones, options.reach))
    if what == "blend" and len(rest) == 1:
        return str(corrections.blend(*_span(rest[0]), bones))
    if what == "undo" and len(rest) == 1:
        return f"taken back: {corrections.undo(_number(rest[0]))}"
    raise InputError(f"correct {' '.join(words)}: give one of {CORRECT}")


def _list(take: Take, options: argparse.Namespace) -> None:
    """Who is there and what was edited, or what was corrected; on stdout."""
    edits = take.edits.all()
    if options.what == "people":
        people = {number: take.person(number).frames.tolist() for number in take.people}
        if options.json:
            ends = [{"id": n, "frames": len(f), "first": f[0], "last": f[-1]} for n, f in people.items() if f]
            print(json.dumps({"people": ends, "edits": [str(edit) for edit in edits]}))
            return
        for number, frames in people.items():
            print(f"person {number:<3}{len(frames)} frames" + (f", {frames[0]} to {frames[-1]}" if frames else ""))
    else:
        edits = [edit for edit in edits if edit.kind == "sides"]
        made = [str(correction) for correction in take.corrections.all()]
        if options.json:
            print(json.dumps({"corrections": made, "edits": [str(edit) for edit in edits]}))
            return
        print("\n".join(f"correction {line}" for line in made) or "no corrections")
    for edit in edits:
        print(f"edit {edit}")
    _warn(take)


def _warn(take: Take) -> None:
    """What later edits have taken from corrections, on stderr."""
    for line in take.corrections.unused():
        print(f"warning: {line}", file=sys.stderr)


def _number(word: str) -> int:
    if not re.fullmatch(r"\d{1,9}", word):
        raise InputError(f"{word}: give a number")
    return int(word)


def _metres(word: str) -> float:
    try:
        return float(word)
    except ValueError:
        raise InputError(f"{word}: give a number") from None


def _span(word: str) -> tuple[int, int, int]:
    """`1@40` or `1@40-60` as person, first, last."""
    match = re.fullmatch(r"(\d{1,9})@(\d{1,9})(?:-(\d{1,9}))?", word)
    if match is None:
        raise InputError(f"{word}: give PERSON@FRAME or PERSON@FIRST-LAST, such as 1@40-60")
    return int(match[1]), int(match[2]), int(match[3] or match[2])
