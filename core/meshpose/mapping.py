# SPDX-License-Identifier: Apache-2.0
"""Which bone of an armature is which part of a person: from lists of names (data files), or guessed.

    roles = find_roles(names, parents, heads)                  # the list that fits best, else a guess
    roles["upper_arm.L"]                                       # indices of its bones, from the body outwards

A list is `mappings/NAME.json`: `bones` role -> names, with {S} for the side; `sides`; `prefix`, a pattern that names
may begin with.  Upper and lower case count the same.  Roles with sides end in .L or .R, the person's own left and
right.
"""

from __future__ import annotations

import json
import re
from functools import lru_cache
from importlib import resources
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import InputError

Array = npt.NDArray[Any]
Roles = dict[str, list[int]]

MIDDLE = ("root", "hips", "spine", "neck", "head")
NEEDED = ("hips", *(f"{part}.{side}" for part in ("thigh", "shin", "upper_arm", "forearm") for side in "LR"))
"""Roles without which nothing can be carried over."""
WORDS = {
    "hips": r"hips?|pelvis|cog", "spine": r"spine\d*|chest|upperchest|torso|abdomen\d*|waist", "neck": r"neck\d*",
    "head": r"head", "clavicle": r"clavicle|collar|collarbone|shoulder", "upper_arm": r"upperarm|uparm|arm|bicep",
    "forearm": r"forearm|lowerarm|loarm|elbow", "hand": r"hand|wrist", "thigh": r"thigh|upleg|upperleg",
    "shin": r"shin|calf|leg|lowerleg|loleg|knee", "foot": r"foot|ankle", "toe": r"toes?|toebase|ball",
    "thumb": r"(?:hand)?thumb", "index": r"(?:hand|f)?index", "middle": r"(?:hand|f)?(?:middle|mid)",
    "ring": r"(?:hand|f)?ring", "pinky": r"(?:hand|f)?(?:pinky|little)",
}  # fmt: skip
CHAINS = ("spine", "neck", "thumb", "index", "middle", "ring", "pinky")
"""Roles of several bones in a row; of another's doubles the first is taken."""
PREFIX = re.compile(r"^(?:.*:|bip\d*[ _]|def-|org-|b_|jnt_|bone_|cc_base_|armature_)+", re.IGNORECASE)


@lru_cache(maxsize=1)
def presets() -> dict[str, dict[str, Any]]:
    """The lists of this installation by name."""
    folder = resources.files(__package__) / "mappings"
    files = sorted((f for f in folder.iterdir() if f.name.endswith(".json")), key=lambda f: f.name)
    return {file.name.removesuffix(".json"): json.loads(file.read_text("utf-8")) for file in files}


def named_roles(names: list[str], preset: str) -> Roles:
    """Roles of the bones that a list names and that are there.  InputError where there is no such list."""
    if preset not in presets():
        raise InputError(f"bone names {preset!r}: there are {', '.join(presets())}, or guess")
    data = presets()[preset]
    prefix = re.compile(data.get("prefix", "") or "(?!)", re.IGNORECASE)
    at: dict[str, int] = {}
    for i, name in enumerate(names):
        at.setdefault(prefix.sub("", name, count=1).lower(), i)
    found: Roles = {}
    for role, wanted in data["bones"].items():
        for side in ("",) if role in MIDDLE else ("L", "R"):
            filled = [w.replace("{S}", data["sides"].get(side, "")).lower() for w in wanted]
            bones = [at[w] for w in filled if w in at]
            if bones:
                found[f"{role}.{side}" if side else role] = bones
    return found


def find_roles(names: list[str], parents: npt.ArrayLike, heads: npt.ArrayLike, preset: str = "") -> tuple[Roles, str]:
    """Roles, and what they come from: the name of a list, "names" or "geometry".

    parents (B,) indices, -1 for none; heads (B, 3) in the rest pose, z up.  preset: a list to be used, "guess" for
    none, "" for the one that names most of the bones.  InputError where hips, arms and legs are not found.
    """
    tries: list[tuple[Roles, str]] = []
    if preset and preset != "guess":
        tries = [(named_roles(names, preset), preset)]
    else:
        if not preset:
            tries = [(named_roles(names, each), each) for each in presets()]
            tries.sort(key=lambda found: -len(found[0]))
        tries += [(guess_by_names(names, parents), "names"), (guess_by_geometry(parents, heads), "geometry")]
    for roles, source in tries:
        if all(role in roles for role in NEEDED):
            return roles, source
    missing = [role for role in NEEDED if role not in tries[0][0]]
    raise InputError(f"no bones found for {', '.join(missing)}: choose another list of names for this armature")


def guess_by_names(names: list[str], parents: npt.ArrayLike) -> Roles:
    """Roles by the words in names, in many ways of writing left and right."""
    above = np.asarray(parents)
    found: Roles = {}
    for i, name in enumerate(names):
        word, side = _split(name)
        word = re.sub(r"[^a-z0-9]", "", word)
        for role, pattern in WORDS.items():
            number = r"\d*" if role in CHAINS else r"(?:0*1)?"
            if (side or role in MIDDLE) and re.fullmatch(f"(?:{pattern}){number}", word):
                found.setdefault(role if role in MIDDLE else f"{role}.{side}", []).append(i)
                break
    depth = np.zeros(len(names), int)
    for i in range(len(names)):
        depth[i] = 0 if above[i] < 0 else depth[above[i]] + 1
    for role, bones in found.items():
        bones.sort(key=lambda b: depth[b])
        if role.split(".")[0] not in CHAINS:
            del bones[1:]
    return found


def _split(name: str) -> tuple[str, str]:
    """A name without prefix and side, lower case, and the side (L, R or nothing)."""
    word = PREFIX.sub("", name)
    for side, long in (("L", "left"), ("R", "right")):
        short = side.lower()
        if re.search(long, word, re.IGNORECASE):
            return re.sub(long, "", word, count=1, flags=re.IGNORECASE).lower(), side
        pattern = rf"(?:^{short}[ _.\-])|(?:[ _.\-]{short}(?=$|[ _.\-]))"
        if re.search(pattern, word, re.IGNORECASE):
            return re.sub(pattern, "", word, count=1, flags=re.IGNORECASE).lower(), side
    return word.lower(), ""


def guess_by_geometry(parents: npt.ArrayLike, heads: npt.ArrayLike) -> Roles:
    """Roles by where the bones are: legs end lowest, the head highest in the middle, arms farthest to the sides.

    Bones that are not in the way from the hips to one of these ends get no role.  The person may face along x or y.
    """
    above, place = np.asarray(parents, int), np.asarray(heads, np.float64)
    quarter = np.array([[0.0, 1.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    return _guess_facing_y(above, place) or _guess_facing_y(above, place @ quarter.T)


def _guess_facing_y(above: Array, place: Array) -> Roles:
    ends = [b for b in range(len(above)) if not (above == b).any()]
    ways = {b: _way(above, b) for b in ends}
    low = sorted(ends, key=lambda b: place[b, 2])
    pairs = [(a, b) for i, a in enumerate(low) for b in low[i + 1 :] if _mirrored(place, ways[a], ways[b])]
    if not pairs:
        return {}
    legs = pairs[0]
    hips = _fork(ways[legs[0]], ways[legs[1]])
    top = max(ends, key=lambda b: place[b, 2] - 2 * abs(place[b, 0] - place[hips, 0]))
    arms_of = [p for p in pairs if _fork(ways[p[0]], ways[p[1]]) in ways[top] and hips not in p and p != legs]
    arms_of = [p for p in arms_of if place[p[0], 2] > place[hips, 2] - 0.3 * np.ptp(place[:, 2])]
    if not arms_of:
        return {}
    across = lambda b: abs(place[b, 0] - place[hips, 0])  # noqa: E731
    arms = max(arms_of, key=lambda p: across(p[0]) + across(p[1]))
    forward = sum((_toes(above, place, ways[leg]) for leg in legs), np.zeros(3)) * (1, 1, 0)
    left = np.cross([0, 0, 1.0], forward if np.linalg.norm(forward) > 1e-6 else [0, -1.0, 0])
    chest = _fork(ways[arms[0]], ways[arms[1]])
    trunk = ways[top][ways[top].index(hips) + 1 :]
    split = trunk.index(chest) + 1 if chest in trunk else 1
    found: Roles = {"hips": [hips], "spine": trunk[:split], "neck": trunk[split:-1][:2], "head": trunk[split:][-1:]}
    if len(trunk[split:]) >= 3:
        found["neck"], found["head"] = trunk[split : split + 1], trunk[split + 1 : split + 2]
    for pair, fork, parts in (legs, hips, ("", "thigh", "shin", "foot", "toe")), (
        arms, chest, ("clavicle", "upper_arm", "forearm", "hand", "")
    ):  # fmt: skip
        for end in pair:
            way = ways[end][ways[end].index(fork) + 1 :]
            side = "L" if (place[end] - place[hips]) @ left > 0 else "R"
            longest = _two_longest(place, way)
            if longest < 0:
                return {}
            chain = {1: way[longest], 2: way[longest + 1]}
            chain |= {0: way[longest - 1]} if longest else {}
            chain |= {3 + k: b for k, b in enumerate(way[longest + 2 : longest + 4])}
            found |= {f"{parts[k]}.{side}": [b] for k, b in chain.items() if parts[k]}
    return {role: bones for role, bones in found.items() if bones}


def _way(above: Array, end: int) -> list[int]:
    way = [end]
    while above[way[0]] >= 0:
        way.insert(0, int(above[way[0]]))
    return way


def _toes(above: Array, place: Array, leg: list[int]) -> Array:
    """From the ankle to the middle of what is below it: toes reach farther to the front than heels to the back."""
    start = _two_longest(place, leg)
    ankle = leg[min(start + 2, len(leg) - 1)] if start >= 0 else leg[-1]
    below = [b for b in range(len(above)) if ankle in _way(above, b)]
    way: Array = place[below].mean(0) - place[ankle]
    return way


def _fork(a: list[int], b: list[int]) -> int:
    return [i for i, j in zip(a, b) if i == j][-1] if a[0] == b[0] else -1


def _mirrored(place: Array, a: list[int], b: list[int]) -> bool:
    """Whether two ways end at mirrored places, away from the middle plane of where they fork."""
    fork = _fork(a, b)
    if fork < 0 or len(a) != len(b):
        return False
    one, other = place[a[-1]] - place[fork], place[b[-1]] - place[fork]
    size = max(float(np.linalg.norm(one)), 1e-9)
    return bool(np.linalg.norm(one * (-1, 1, 1) - other) < 0.15 * size and abs(one[0]) > 0.05 * size)


def _two_longest(place: Array, way: list[int]) -> int:
    """Where in a way the two bones in a row begin that are longest together: thigh and shin, upper arm and forearm."""
    length = np.linalg.norm(np.diff(place[way], axis=0), axis=1)
    return int((length[:-1] + length[1:]).argmax()) if len(length) >= 2 else -1
