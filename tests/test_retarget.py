# SPDX-License-Identifier: Apache-2.0
"""A motion on other armatures: other rest poses, sizes, bones and axes; directions, feet, root; who is who."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from meshpose import mapping
from meshpose.body import Body, quaternion, rotation_matrix
from meshpose.errors import InputError
from meshpose.mapping import find_roles
from meshpose.retarget import NEXT, Figure, Retargeted, RetargetSettings, bend, lock_offsets, retarget, runs
from meshpose.rigs import Posed, Rig, t_pose
from training.random_bodies import random_bodies
from training.sample import camera_turn

SAMPLES = Path(__file__).resolve().parents[1] / "samples"
PRESET = {"default": "default", "mixamo": "mixamo", "game_engine": "unreal", "rigify": "rigify"}


@dataclass
class Actor:
    figure: Figure
    posed: Posed
    names: list[str]


@pytest.fixture(scope="module")
def body() -> Body:
    return Body.load()


def figure(names: list[str], parents: np.ndarray, heads: np.ndarray, preset: str = "") -> Figure:
    return Figure(parents, heads, find_roles(names, parents, heads, preset)[0])


def actor(body: Body, rotations: np.ndarray, way: np.ndarray, phenotype: object = None, rig: str = "default") -> Actor:
    shape = body.shape(phenotype)  # type: ignore[arg-type]
    one = Rig.load(rig)
    rest, posed = one.rest(body, shape), one.posed(body, shape, rotations)
    heads = posed.heads + way[:, None]
    return Actor(figure(rest.names, rest.parents, rest.heads), Posed(posed.linear, heads), rest.names)


def character(
    body: Body, rig: str, phenotype: object, pose: np.ndarray | None, place: np.ndarray, size: float
) -> Actor:
    """Someone's character: that rig, its rest pose bent into `pose`, turned by `place` (3, 3), of another size, on the
    floor.
    """
    shape = body.shape(phenotype)  # type: ignore[arg-type]
    one = Rig.load(rig)
    heads = one.rest(body, shape).heads
    if pose is not None:
        heads = one.posed(body, shape, pose[None]).heads[0]
    heads = size * heads @ place.T
    ankles = [i for i, n in enumerate(one.names) if n.lower() in ("foot_l", "foot.l", "mixamorig:leftfoot")]
    heads = heads + (0.3, -0.2, 0.09 * size - heads[ankles[0], 2])
    return Actor(figure(one.names, one.parents, heads, PRESET[rig]), Posed(np.zeros(0), np.zeros(0)), one.names)


def walk(body: Body) -> tuple[np.ndarray, np.ndarray]:
    """The sample's walk in the world (its truth is in the camera's frame): rotations, and the root's way."""
    with np.load(SAMPLES / "turn_truth.npz") as z:
        rotations, translation = z["rotations"].copy(), z["translation"]
    upright = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]]) @ camera_turn().T
    rotations[:, 0] = quaternion(upright @ rotation_matrix(rotations[:, 0].astype(np.float64)))
    way = translation @ upright.T
    posed = body.transforms(body.shape(), rotations, way)[1]
    return rotations, way - (0, 0, posed[..., 2].min() - 0.02)


def degrees(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    cosine = (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)
    return np.degrees(np.arccos(np.clip(cosine, -1, 1)))


def directions(source: Actor, target: Figure, result: Retargeted) -> dict[str, float]:
    """Largest angle over the frames between source and target, of every part that both have."""
    apart = {}
    for base, after in NEXT.items():
        for side in "LR":
            ends = [f"{base}.{side}", f"{after}.{side}"]
            if all(e in f.roles for e in ends for f in (source.figure, target)):
                ways = [
                    posed.heads[:, f.roles[ends[1]][0]] - posed.heads[:, f.roles[ends[0]][0]]
                    for f, posed in ((source.figure, source.posed), (target, result.posed))
                ]
                apart[ends[0]] = float(degrees(*ways).max())
    return apart


TURN = rotation_matrix([np.cos(0.6), 0, 0, np.sin(0.6)])


@pytest.mark.parametrize("rest", ["A", "T", "sitting"])
@pytest.mark.parametrize("rig", ["mixamo", "game_engine", "rigify"])
def test_parts_point_where_they_did(body: Body, rig: str, rest: str) -> None:
    """Within a degree, on random poses, whatever the target's rest pose, build, size and heading."""
    bodies = random_bodies(body, 12, np.random.default_rng(3), adults=True)
    source = actor(body, bodies.rotations, np.tile([0, 0, 1.0], (12, 1)), bodies.phenotype[0])
    pose = {"A": None, "T": t_pose(body, body.shape()), "sitting": sitting(body)}[rest]
    target = character(body, rig, {"height": 0.9, "weight": 0.8}, pose, TURN, 1.4).figure
    result = retarget(source.figure, source.posed, target, RetargetSettings(lock_feet=False))
    apart = directions(source, target, result)
    print(rig, rest, f"{max(apart.values()):.4f} degrees at most, of {len(apart)} parts")
    assert len(apart) >= 14 and max(apart.values()) < 1


def sitting(body: Body) -> np.ndarray:
    """A rest pose that nobody has: a T-pose with thighs forward and one arm bent."""
    pose = t_pose(body, body.shape())
    names = body.bone_names
    for name, turn in {"upperleg01.L": (0.8, -0.6, 0, 0), "upperleg01.R": (0.8, -0.6, 0, 0),
                       "lowerarm01.L": (0.9, 0, 0, -0.44)}.items():  # fmt: skip
        own = rotation_matrix(pose[names.index(name)])
        pose[names.index(name)] = quaternion(rotation_matrix(np.array(turn)) @ own)
    return pose


def test_hands_and_twist_survive_another_rest_pose(body: Body) -> None:
    """Onto the very same body in a T-pose: every mapped bone turns as the source's, palms and soles included."""
    bodies = random_bodies(body, 8, np.random.default_rng(4), adults=True)
    source = actor(body, bodies.rotations, np.zeros((8, 3)), None, "mixamo")
    bent = character(body, "mixamo", None, t_pose(body, body.shape()), np.eye(3), 1.0)
    result = retarget(source.figure, source.posed, bent.figure, RetargetSettings(lock_feet=False))
    for role in ("hand.L", "hand.R"):
        ours, theirs = source.figure.roles, bent.figure.roles
        side = role[-1]
        across = [
            posed.heads[:, roles[f"index.{side}"][0]] - posed.heads[:, roles[f"pinky.{side}"][0]]
            for roles, posed in ((ours, source.posed), (theirs, result.posed))
        ]
        print(role, degrees(*across).max())
        assert degrees(*across).max() < 6, role


def test_same_figure_gives_the_same_pose(body: Body) -> None:
    rotations, way = walk(body)
    source = actor(body, rotations[::10], way[::10], None, "mixamo")
    result = retarget(source.figure, source.posed, source.figure, RetargetSettings(lock_feet=False))
    bones = [b for role, part in source.figure.roles.items() for b in part if not role.startswith("clavicle")]
    turned = result.posed.linear[:, bones].swapaxes(-1, -2) @ source.posed.linear[:, bones]
    angle = np.degrees(np.arccos(np.clip((np.trace(turned, axis1=-2, axis2=-1) - 1) / 2, -1, 1)))
    assert result.scale == pytest.approx(1) and not [b for b in result.unmapped if b in bones]
    print(f"median {np.median(angle):.2f}, 95 % {np.percentile(angle, 95):.2f} degrees")
    assert np.percentile(angle, 95) < 4
    height = result.posed.heads[:, source.figure.roles["head"][0], 2]
    assert np.ptp(height - source.posed.heads[:, source.figure.roles["head"][0], 2]) < 0.03


@pytest.mark.parametrize("root", ["hips", "root", "in_place"])
def test_way_through_space(body: Body, root: str) -> None:
    rotations, way = walk(body)
    source = actor(body, rotations, way)
    target = character(body, "game_engine", {"height": 0.8}, None, np.eye(3), 1.2).figure
    result = retarget(source.figure, source.posed, target, RetargetSettings(root=root))
    hips, top = target.roles["hips"][0], 0
    gone = np.linalg.norm(np.ptp(result.posed.heads[:, :, :2], axis=0), axis=-1)
    far = np.linalg.norm(np.ptp(source.posed.heads[:, source.figure.roles["hips"][0], :2], axis=0))
    if root == "in_place":
        assert gone[hips] < 0.01 and gone[top] == 0
    else:
        assert gone[hips] == pytest.approx(result.scale * far, rel=0.05)
        assert (gone[top] > 0.5) == (root == "root")
    assert np.ptp(result.posed.heads[:, hips, 2]) > 0.005, "up and down stays on the hips"


def slide(result: Retargeted, target: Figure) -> float:
    """Mean way a frame, mm, of the slower point of feet in contact."""
    ways = []
    for i, side in enumerate("LR"):
        steps = np.stack([np.linalg.norm(np.diff(result.posed.heads[:, target.roles[f"{p}.{side}"][0]], axis=0), axis=1)
                          for p in ("foot", "toe")]).min(0)  # fmt: skip
        both = result.contact[1:, i] & result.contact[:-1, i]
        ways.append(steps[both])
    return 1000 * float(np.concatenate(ways).mean())


def test_feet_stay_on_other_proportions(body: Body) -> None:
    """Long thighs, short shins: without the lock the feet slide; with it they do not, and no knee jumps."""
    rotations, way = walk(body)
    source = actor(body, rotations, way)
    target = character(body, "mixamo", {"height": 0.9}, None, np.eye(3), 1.0).figure
    heads = target.heads.copy()
    for side in "LR":
        knee, ankle = (target.roles[f"{p}.{side}"][0] for p in ("shin", "foot"))
        up = 0.35 * (heads[ankle] - heads[knee])
        below = [b for b in range(len(heads)) if b == knee]
        heads[below] += up
    target = Figure(target.parents, heads, target.roles)
    free = retarget(source.figure, source.posed, target, RetargetSettings(lock_feet=False), fps=25)
    held = retarget(source.figure, source.posed, target, RetargetSettings(lock_feet=True), fps=25)
    assert held.contact.mean() > 0.3, "somebody walks: a foot is mostly down"
    before, after = slide(free, target), slide(held, target)
    print(f"slide {before:.2f} -> {after:.2f} mm a frame")
    assert after < before / 5 and after < 1
    for side in "LR":
        knee = target.roles[f"shin.{side}"][0]
        jerk = [np.abs(np.diff(r.posed.heads[:, knee], 2, axis=0)).max() for r in (free, held)]
        assert jerk[1] < 2.5 * jerk[0] + 0.01
    toe = held.posed.heads[:, target.roles["toe.L"][0], 2]
    assert toe.min() > -0.03


def test_a_bent_leg_reaches_and_keeps_its_bones() -> None:
    heads = np.array([[0, 0, 1.0], [0, -0.05, 0.5], [0, 0, 0.05]])
    place = np.tile(heads, (5, 1, 1))
    linear = np.tile(np.eye(3), (5, 3, 1, 1))
    goal = np.array([[0, 0, 0.05], [0.1, 0, 0.1], [0, -0.4, 0.3], [0, 0.2, 0.2], [2, 0, 0]])
    bend(linear, place, 0, 1, 2, goal)
    knee = place[:, 0] + linear[:, 0] @ (heads[1] - heads[0])
    ankle = knee + linear[:, 1] @ (heads[2] - heads[1])
    assert np.abs(ankle[:4] - goal[:4]).max() < 1e-9
    length = np.linalg.norm(heads[1] - heads[0]) + np.linalg.norm(heads[2] - heads[1])
    assert np.linalg.norm(ankle[4] - heads[0]) == pytest.approx(0.999 * length)
    assert np.allclose(linear[0], np.eye(3)), "a foot that is there already bends nothing"
    assert (knee[:4, 1] < 0.05).all()


def test_offsets_hold_contacts_and_let_go() -> None:
    time = np.arange(40)
    ankle = np.stack([0.01 * time, 0 * time, 0.09 + 0 * time], 1)
    contact = (time >= 10) & (time < 20)
    shift = lock_offsets(ankle, ankle + (0, -0.1, -0.07), contact, None)
    held = (ankle + shift)[contact]
    assert np.ptp(held, axis=0).max() < 1e-9 and np.abs(shift[contact].mean(0)).max() < 1e-9
    assert np.abs(shift[:4]).max() == 0 and np.abs(shift[26:]).max() == 0
    assert np.abs(np.diff(shift, axis=0)).max() < 0.03
    assert runs(contact) == [(10, 20)]


@pytest.mark.parametrize("rig", ["default", "mixamo", "game_engine", "rigify"])
def test_geometry_alone_finds_arms_and_legs(body: Body, rig: str) -> None:
    """The same bones as the list of names, with names that say nothing; facing any way."""
    rest = Rig.load(rig).rest(body, body.shape())
    wanted = mapping.named_roles(rest.names, PRESET[rig])
    for turn in (np.eye(3), rotation_matrix([np.sqrt(0.5), 0, 0, np.sqrt(0.5)])):
        found, how = find_roles([f"x{i}" for i in range(len(rest.names))], rest.parents, rest.heads @ turn.T)
        assert how == "geometry"
        for role in mapping.NEEDED:
            assert set(found[role]) & set(wanted[role]), (role, [rest.names[b] for b in found[role]])


@pytest.mark.parametrize(
    ("style", "example"),
    [("{part}_{side}", "UpperArm_L"), ("{Long}{part}", "LeftUpperArm"), ("Bip01 {side} {part}", "Bip01 L UpperArm"),
     ("{side}_{part}", "l_upperarm"), ("{part}.{side}", "upper_arm.L")],
)  # fmt: skip
def test_names_in_many_writings(body: Body, style: str, example: str) -> None:
    words = {"clavicle": "Clavicle", "upper_arm": "UpperArm", "forearm": "Forearm", "hand": "Hand", "thigh": "Thigh",
             "shin": "Calf", "foot": "Foot", "toe": "Toe0", "index": "Finger1"}  # fmt: skip
    names, parents, wanted = ["Pelvis", "Spine", "Spine1", "Neck", "Head"], [-1, 0, 1, 2, 3], {}
    for side, long in (("L", "Left"), ("R", "Right")):
        for role, word in words.items():
            above = {"clavicle": 2, "thigh": 0}.get(role, len(names) - 1)
            wanted[f"{role}.{side}"] = len(names)
            names.append(style.format(part=word, side=side, Long=long))
            parents.append(above)
    found = mapping.guess_by_names(names, parents)
    assert found["hips"] == [0] and found["spine"] == [1, 2] and found["head"] == [4]
    for role in mapping.NEEDED[1:]:
        assert found[role] == [wanted[role]], (example, role)


def test_what_has_no_arms_is_one_line() -> None:
    with pytest.raises(InputError, match="no bones found for"):
        find_roles(["a", "b"], [-1, 0], np.eye(3)[:2])
    with pytest.raises(InputError, match="root motion 'feet'"):
        RetargetSettings(root="feet")
    with pytest.raises(InputError, match="there are default, mixamo, rigify, unreal"):
        find_roles(["a"], [-1], np.eye(3)[:1], "maya")
