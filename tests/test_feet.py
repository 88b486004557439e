# SPDX-License-Identifier: Apache-2.0
"""Contact is found on a true walk; feet that slide are held, legs reach them, knees do not pop."""

from __future__ import annotations

import numpy as np
import pytest

from meshpose import feet
from meshpose.body import Body, quaternion, rotation_matrix
from meshpose.contact import find_contact, stretches
from meshpose.feet import Legs, Pose, lock
from tools.walks import TOWARDS, Truth, make_walk, wandering

EYE = np.array([0.15, -4.6, 1.35])


@pytest.fixture(scope="module")
def walk() -> Truth:
    return make_walk(4.0)


def in_world(walk: Truth) -> tuple[Legs, np.ndarray, np.ndarray]:
    """Legs, rotations (F, J, 4) and root (F, 3) in the true world, soles on z = 0."""
    rotations = walk.rotations.copy()
    rotations[:, 0] = quaternion(walk.to_world @ rotation_matrix(rotations[:, 0]))
    root = walk.translation @ walk.to_world.T + walk.eye
    legs = Legs(Body.load(), walk.shape, 1.0)
    pose = legs.pose(rotations, root)
    return legs, rotations, root - [0, 0, np.median(pose.soles[..., 2][walk.contact])]


def slide(pose: Pose, contact: np.ndarray) -> float:
    """Mean mm a frame of points that truly bear."""
    moved = np.linalg.norm(np.diff(pose.soles[..., :2], axis=0), axis=-1)
    return 1000 * float(moved[contact[1:] & contact[:-1]].mean())


def knees(pose: Pose) -> np.ndarray:
    """Angles (F, 2), radians."""
    thigh, shin = pose.knees - pose.hips, pose.ankles - pose.knees
    cosine = (thigh * shin).sum(-1) / np.linalg.norm(thigh, axis=-1) / np.linalg.norm(shin, axis=-1)
    return np.arccos(np.clip(cosine, -1, 1))


def test_legs_agree_with_the_body(walk: Truth) -> None:
    """Against Body.transforms and the skinned mesh: joints, and soles at the bottom of the feet."""
    body = Body.load()
    legs, rotations, root = in_world(walk)
    pose = legs.pose(rotations[:10], root[:10])
    _, heads = body.transforms(walk.shape, rotations[:10], root[:10])
    for joint, found in (("upperleg01", pose.hips), ("lowerleg01", pose.knees), ("foot", pose.ankles)):
        for s, side in enumerate("LR"):
            np.testing.assert_allclose(found[:, s], heads[:, body.bone_names.index(f"{joint}.{side}")], atol=1e-5)
    mesh = body.pose(walk.shape, rotations[:10], root[:10])
    for s, side in enumerate("LR"):
        foot = mesh[:, body.parts == body.part_names.index(f"foot.{side}")]
        near = np.linalg.norm(foot[:, :, None] - pose.soles[:, None, 2 * s : 2 * s + 2], axis=-1).min(1)
        assert near.max() < 0.02, "heel and ball lie on the skin of their foot"


def test_contact_of_a_true_walk(walk: Truth) -> None:
    legs, rotations, root = in_world(walk)
    found = find_contact(legs.pose(rotations, root).soles, EYE, walk.times, np.ones((len(root), 2)))
    hit = (found & walk.contact).sum()
    assert hit / found.sum() > 0.9 and hit / walk.contact.sum() > 0.95
    unseen = find_contact(legs.pose(rotations, root).soles, EYE, walk.times, np.zeros((len(root), 2)))
    assert not unseen.any(), "nothing is said of feet that were not seen"


def seen_with_errors(soles: np.ndarray, eye: np.ndarray, seed: int) -> np.ndarray:
    """Soles (F, 4, 3) that err as a network does: each foot as one along its ray, for some frames on end, each point
    for itself across, and both feet with the body's distance.
    """
    rng, count = np.random.default_rng(seed), len(soles)
    sight = soles - eye
    sight /= np.linalg.norm(sight, axis=-1, keepdims=True)
    foot = 0.05 * np.repeat(wandering(rng, count, 2, 0.93), 2, 1) + 0.04 * wandering(rng, count, 1, 0.95)
    own = np.stack([wandering(rng, count, 4, 0.8) for _ in range(3)], -1)
    return soles + foot[..., None] * sight + 0.012 * own


@pytest.mark.parametrize("way", ["round", "towards", "standing"])
def test_contact_through_noise(way: str) -> None:
    """Precision and recall over 0.9 however somebody walks to the camera, with errors of three seeds."""
    walk = {
        "round": lambda: make_walk(6.0),
        "towards": lambda: make_walk(5.0, path=TOWARDS, speed=0.9),
        "standing": lambda: make_walk(4.0, stand=True),
    }[way]()
    legs, rotations, root = in_world(walk)
    soles, seen = legs.pose(rotations, root).soles, np.ones((len(root), 2))
    for seed in range(3):
        found = find_contact(seen_with_errors(soles, EYE, seed), EYE, walk.times, seen)
        hit = (found & walk.contact).sum()
        precision, recall = hit / found.sum(), hit / walk.contact.sum()
        print(f"{way} {seed}: precision {precision:.3f}, recall {recall:.3f}")
        assert precision > 0.9 and recall > 0.9


def test_a_step_comes_down_on_its_heel(walk: Truth) -> None:
    """Heel before ball when a foot is set down, ball after heel when it leaves; in the middle both."""
    legs, rotations, root = in_world(walk)
    found = find_contact(legs.pose(rotations, root).soles, EYE, walk.times, np.ones((len(root), 2)))
    for side in range(2):
        heel, ball = found[:, 2 * side], found[:, 2 * side + 1]
        for first, end in stretches(heel | ball):
            if first > 0 and end < len(heel):
                assert heel[first] and ball[end - 1] and (heel & ball)[first:end].any()
                assert np.argmax(ball[first:end]) >= 1 and not heel[end - 2]


def test_a_foot_held_in_the_air_does_not_bear(walk: Truth) -> None:
    legs, rotations, root = in_world(make_walk(3.0, stand=True))
    soles = legs.pose(rotations, root).soles.copy()
    soles[:, 2:, 2] += 0.35
    found = find_contact(soles, EYE, walk.times[: len(soles)], np.ones((len(soles), 2)))
    assert found[:, :2].all() and not found[:, 2:].any()


def test_a_foot_that_slips_away_in_depth_does_not_bear() -> None:
    """A foot that leaves straight away from a camera that looks down: its depth hardly says so, its place in the
    picture does. It bears again where it comes to stand.
    """
    walk = make_walk(3.0, stand=True)
    legs, rotations, root = in_world(walk)
    soles = legs.pose(rotations, root).soles.copy()
    eye, t = np.array([0.1, -3.0, 2.2]), walk.times
    gone = np.clip((t - 1.2) / 0.8, 0, 1)[:, None]  # 0.4 m in 0.8 s
    away = soles[:, 2:] + gone[..., None] * [0.0, 0.4, 0.0]
    sight = (away - eye) / np.linalg.norm(away - eye, axis=-1, keepdims=True)
    hidden = 0.7 * ((away - soles[:, 2:]) * sight).sum(-1, keepdims=True) * sight  # of the way, by the depth
    soles[:, 2:] = away - hidden
    found = find_contact(soles, eye, t, np.ones((len(t), 2)))
    assert found[:, :2].mean() > 0.95, "the other foot stands"
    assert found[:28, 2:].all() and found[-20:, 2:].all()
    assert not found[39:43, 2:].any(), "half way it bears neither where it was nor where it comes to"


def test_sliding_feet_are_held(walk: Truth) -> None:
    legs, rotations, root = in_world(walk)
    t = walk.times
    pushed = root + 0.04 * np.stack([np.sin(5 * t), np.sin(3 * t + 1), 0.4 * np.sin(4 * t)], 1)
    before = legs.pose(rotations, pushed)
    held = lock(legs, rotations, pushed, walk.contact, t, EYE)
    after = legs.pose(held.rotations, held.translation)
    assert slide(before, walk.contact) > 3
    assert slide(after, walk.contact) < slide(before, walk.contact) / 5
    height = after.soles[..., 2]
    assert np.abs(height[walk.contact]).max() < 0.02 and height.min() > -0.02
    for joint in (after.knees - after.hips, after.ankles - after.knees):
        lengths = np.linalg.norm(joint, axis=-1)
        assert np.ptp(lengths, axis=0).max() < 1e-6, "bones keep their length"
    pop = np.abs(np.diff(knees(after), 2, axis=0)).max()
    assert pop < 2.5 * np.abs(np.diff(knees(before), 2, axis=0)).max()


def test_nothing_to_do_changes_nothing(walk: Truth) -> None:
    legs, rotations, root = in_world(walk)
    held = lock(legs, rotations, root + [0, 0, 1.0], np.zeros((len(root), 4), bool), walk.times)
    np.testing.assert_allclose(np.abs((held.rotations * rotations).sum(-1)), 1, atol=1e-6)
    np.testing.assert_allclose(held.translation, root + [0, 0, 1.0], atol=1e-6)


def test_a_leg_out_of_reach_lowers_the_hips(walk: Truth) -> None:
    legs, rotations, root = in_world(walk)
    held = lock(legs, rotations, root + [0, 0, 0.06], walk.contact, walk.times)
    pose = legs.pose(held.rotations, held.translation)
    assert np.abs(pose.soles[..., 2][walk.contact]).max() < 0.015
    up = held.shift[:, 2]
    assert up.max() < 0 and np.abs(np.diff(up)).max() < 0.02


def test_knees_keep_their_bend(walk: Truth, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hips that are 3 cm off, and too low: they go to where the legs are as bent as they were."""
    legs, rotations, root = in_world(walk)
    before = legs.pose(rotations, root)
    away = root + 0.03 * np.stack([np.sin(walk.times), np.cos(walk.times), -np.ones(len(root))], 1)
    noise = []
    for shift in (feet._shift, lambda *given: np.zeros((len(root), 3))):
        monkeypatch.setattr(feet, "_shift", shift)
        held = lock(legs, rotations, away, walk.contact, walk.times, EYE)
        bent = np.degrees(knees(legs.pose(held.rotations, held.translation)) - knees(before))
        noise.append(float(np.sqrt((bent**2).mean())))
        print(f"knees {bent.mean():+.2f} degrees, {noise[-1]:.2f}")
        assert len(noise) > 1 or abs(bent.mean()) < 2
    assert noise[0] < 0.5 * noise[1]


def seen_from_ahead(legs: Legs, rotations: np.ndarray, root: np.ndarray) -> np.ndarray:
    """The same steps with 0.45 of their depth, in which feet leave the floor, and their heels rise, by a fifth."""
    pose, out = legs.pose(rotations, root), rotations.copy()
    ankles, soles = pose.ankles.copy(), pose.soles[:, 1::2] - pose.soles[:, ::2]
    ankles[..., 1] = pose.hips[..., 1] + 0.45 * (ankles[..., 1] - pose.hips[..., 1])
    ankles[..., 2] = ankles[..., 2].min() + 0.2 * (ankles[..., 2] - ankles[..., 2].min())
    far = np.linalg.norm(ankles - pose.hips, axis=-1)
    for s in range(2):
        level = feet._exponential(feet._smallest_vector(soles[:, s], soles[:, s] * [1, 1, 0.2]))
        feet._bend(legs, pose, s, np.zeros_like(root), ankles[:, s], far[:, s], level, out)
    return out


def test_heels_rise_where_steps_were_seen_too_short(monkeypatch: pytest.MonkeyPatch) -> None:
    """A foot that stays behind lifts its heel instead of drawing the knee straight; its toes stay flat."""
    walk, body, noise, feet_and_toes = make_walk(3.0, path=TOWARDS, speed=0.9), Body.load(), [], []
    legs, rotations, root = in_world(walk)
    toe = body.bone_names.index("toe2-1.L")
    true, short = knees(legs.pose(rotations, root)), seen_from_ahead(legs, rotations, root)
    for roll in (feet._roll, lambda pose, turns, *rest: np.broadcast_to(np.eye(3), turns.shape)):
        monkeypatch.setattr(feet, "_roll", roll)
        held = lock(legs, short, root, walk.contact, walk.times, EYE)
        pose = legs.pose(held.rotations, held.translation)
        noise.append(float(np.degrees(np.sqrt(((knees(pose) - true) ** 2).mean()))))
        deepest = 1000 * float(body.pose(legs.shape, held.rotations, held.translation)[..., 2].min())
        print(f"knees {noise[-1]:.1f} degrees off, deepest {deepest:.1f} mm, slide {slide(pose, walk.contact):.2f} mm")
        assert deepest > -2 and slide(pose, walk.contact) < 0.1
        foot = pose.turned[legs.chains[0][-1]]
        feet_and_toes.append((foot, foot @ rotation_matrix(held.rotations[:, toe])))
    assert noise[0] < 0.8 * noise[1]
    (foot, toes), (foot_without, toes_without) = feet_and_toes
    assert np.abs(foot - foot_without).max() > 0.2
    np.testing.assert_allclose(toes, toes_without, atol=1e-6)


def test_a_free_leg_goes_with_the_hips(walk: Truth) -> None:
    """One foot stands 8 cm off from where it was seen, the hips give way to it: the other leg, in the air, keeps its
    knee.
    """
    legs, rotations, root = in_world(make_walk(2.0, stand=True))
    names, times = Body.load().bone_names, np.arange(len(rotations)) / 25
    for bone, angle in (("upperleg01.R", -1.0), ("lowerleg01.R", 0.9)):
        turn = rotation_matrix(np.array([np.cos(angle / 2), np.sin(angle / 2), 0, 0]))
        at = names.index(bone)
        rotations[:, at] = quaternion(turn @ rotation_matrix(rotations[:, at]))
    contact = np.zeros((len(rotations), 4), bool)
    contact[:, :2] = True
    root = root + 0.08 * np.stack([np.sin(times), 0.3 * np.cos(times), np.cos(2 * times)], 1)
    before = legs.pose(rotations, root)
    held = lock(legs, rotations, root, contact, times, EYE)
    bent = np.degrees(knees(legs.pose(held.rotations, held.translation)) - knees(before))[:, 1]
    gone = np.linalg.norm(held.shift, axis=1).max()
    print(f"hips go {1000 * gone:.0f} mm, free knee {np.abs(bent).max():.2f} degrees")
    assert gone > 0.03 and np.abs(bent).max() < 0.5


def landing(walk: Truth, pace: float) -> tuple[Legs, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """A right leg, nearly straight, that swings ahead and comes down 30 cm in front of hips that go on at pace, m/s:
    legs, rotations (50, J, 4), root (50, 3), contact (50, 4) from frame 20, times (50,).
    """
    legs, rotations, root = in_world(walk)
    names, times = Body.load().bone_names, np.arange(50) / 25
    rotations, since = np.repeat(rotations[:1], 50, 0), times - 0.8
    ahead = legs.pose(rotations[:1], root[:1]).turned[legs.chains[1][0]][0] @ [0.0, -1.0, 0.0] * [1, 1, 0]
    down = np.arcsin((0.3 - pace * np.maximum(since, 0)) / 0.85)
    up = down[0] * np.cos(np.clip(2.2 * since, -1.57, 0))
    for bone, angle in (("upperleg01.R", -np.where(since < 0, up, down)), ("lowerleg01.R", np.full(50, -0.22))):
        turn = np.stack([np.cos(angle / 2), np.sin(angle / 2), 0 * angle, 0 * angle], 1)
        local = rotations[:, names.index(bone)]
        rotations[:, names.index(bone)] = quaternion(rotation_matrix(turn) @ rotation_matrix(local))
    contact = np.zeros((50, 4), bool)
    contact[20:34, 2:] = True
    return legs, rotations, root[:1] + pace * times[:, None] * ahead / np.linalg.norm(ahead), contact, times


@pytest.mark.parametrize("pace", [0.6, 0.9])
def test_a_leg_that_lands_stretched_does_not_snap(pace: float) -> None:
    """The place asks for a bend that comes and goes within a frame; the knee stays calm, the foot in its place."""
    legs, rotations, root, contact, times = landing(make_walk(0.2, stand=True), pace)
    own = np.degrees(knees(legs.pose(rotations, root))[:, 1])
    held = lock(legs, rotations, root, contact, times, EYE)
    pose = legs.pose(held.rotations, held.translation)
    bent = np.degrees(knees(pose)[:, 1])
    pop = float(np.abs(np.diff(bent, 2)).max())
    print(f"{pace} m/s: {bent[16:26].round(1)} degrees, {pop:.1f} a frame, {slide(pose, contact):.2f} mm")
    assert own.max() < 15 and np.abs(np.diff(own, 2)).max() < 0.1, "the leg is nearly straight, and its knee calm"
    assert pop < 5
    assert slide(pose, contact) < 0.5 and np.abs(pose.soles[contact][:, 2]).max() < 0.008


def test_the_free_end_of_a_foot_stays_over_the_floor(walk: Truth) -> None:
    """Feet that hang from the ankle, toes down, and the other way: held by one end, the other does not sink."""
    legs, rotations, root = in_world(walk)
    body = Body.load()
    for angle in (-0.25, 0.25):
        tipped = rotations.copy()
        for side in "LR":
            foot = body.bone_names.index(f"foot.{side}")
            turn = rotation_matrix(np.array([np.cos(angle / 2), np.sin(angle / 2), 0, 0]))
            tipped[:, foot] = quaternion(turn @ rotation_matrix(rotations[:, foot]))
        held = lock(legs, tipped, root, walk.contact, walk.times, EYE)
        soles = legs.pose(held.rotations, held.translation).soles[..., 2]
        print(f"{angle}: deepest {1000 * soles[walk.contact.reshape(-1, 2, 2).any(2).repeat(2, 1)].min():.1f} mm")
        assert soles[walk.contact.reshape(-1, 2, 2).any(2).repeat(2, 1)].min() > -0.006


def test_stretches_end_at_gaps() -> None:
    mask = np.array([1, 1, 0, 1, 1, 1], bool)
    assert stretches(mask) == [(0, 2), (3, 6)]
    assert stretches(mask, np.array([0, 0, 0, 0, 1, 1])) == [(0, 2), (3, 4), (4, 6)]
    assert stretches(np.zeros(0, bool)) == []
