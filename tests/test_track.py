# SPDX-License-Identifier: Apache-2.0
"""Following people in a made-up world: coloured bodies that move, a network and a detector that see what is drawn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
import pytest

from meshpose import matching
from meshpose.body import Body
from meshpose.crop import Crop
from meshpose.detect import Detection
from meshpose.errors import TakeError
from meshpose.estimate import Estimate
from meshpose.track import Tracker, TrackSettings, next_crop

WIDTH, HEIGHT = 480, 320
RED, BLUE, GREEN = (40, 40, 200), (200, 60, 30), (50, 170, 40)
Path2 = Callable[[int], tuple[float, float] | None]


@dataclass
class Actor:
    """Somebody of the world: where the middle is at each frame (None: not there), stature in pixels, colour."""

    path: Path2
    height: float = 160.0
    colour: tuple[int, int, int] = RED
    detectable: Callable[[int], bool] = lambda frame: True
    score: float = 0.6


@dataclass
class World:
    """The clip, and the two networks that look at it.  Later actors stand in front of earlier ones."""

    actors: list[Actor]
    now: int = 0
    runs: list[int] = field(default_factory=list)
    strict: bool = False

    def __post_init__(self) -> None:
        self.body = Body.load()
        rest = self.body.template[self.body.lowpoly]
        flat = np.stack([rest[:, 0], -rest[:, 2], rest[:, 1]], 1)  # picture x, y down, depth
        middle = (flat.min(0) + flat.max(0)) / 2
        self.shape = (flat - middle) / np.ptp(flat[:, 1])

    def mesh(self, actor: Actor) -> np.ndarray | None:
        """(V, 3) picture pixels now."""
        place = actor.path(self.now)
        return None if place is None else (self.shape * actor.height + (*place, 0)).astype(np.float32)

    def frame(self, index: int) -> np.ndarray:
        self.now = index
        image = np.random.default_rng(5).integers(90, 130, (HEIGHT, WIDTH, 3)).astype(np.uint8)
        for actor in self.actors:
            mesh = self.mesh(actor)
            if mesh is not None:
                faces = mesh[self.body.lowpoly_faces][..., :2].astype(np.int32)
                cv2.fillPoly(image, list(faces), actor.colour)
        return image

    # the detector: whoever is not covered by somebody in front
    def __call__(self, image: np.ndarray, sides: Sequence[int] | None = None) -> list[Detection]:
        self.runs.append(self.now)
        found: list[Detection] = []
        boxes: list[np.ndarray] = []
        for actor in reversed(self.actors):
            mesh = self.mesh(actor)
            if mesh is None or not actor.detectable(self.now):
                continue
            low = np.clip(mesh.min(0)[:2], 0, (WIDTH, HEIGHT))
            high = np.clip(mesh.max(0)[:2], 0, (WIDTH, HEIGHT))
            box = np.concatenate([low, high - low]).astype(np.float64)
            if box[2] * box[3] > 100 and all(matching.box_overlap(box, b) < 0.6 for b in boxes):
                points = self.body.joints(mesh, "coco17")[:, :2].astype(np.float64)
                inside = np.all((points >= 0) & (points < (WIDTH, HEIGHT)), axis=1)
                found.append(Detection(actor.score, box, np.c_[points, 0.8 * inside]))
                boxes.append(box)
        return found

    # the estimator: the front person near the middle of the crop, or a guess nobody should believe
    def on_crops(self, image: np.ndarray, crops: Sequence[Crop]) -> list[Estimate]:
        assert not self.strict or len(crops) > 0
        return [self._seen(crop) for crop in crops]

    def _seen(self, crop: Crop) -> Estimate:
        ones = np.ones(len(self.shape), np.float32)
        for actor in reversed(self.actors):
            mesh = self.mesh(actor)
            if mesh is None:
                continue
            away = np.hypot(*((mesh.min(0) + mesh.max(0))[:2] / 2 - (crop.cx, crop.cy)))
            if away < 0.2 * crop.side and 0.3 < actor.height / crop.side < 1.2:
                noise = np.random.default_rng(self.now).normal(0, 0.005 * actor.height, mesh.shape)
                return Estimate(crop, (mesh + noise).astype(np.float32), ones, 0.9)
        guess = self.shape * crop.side / 2 + (crop.cx, crop.cy, 0)
        return Estimate(crop, guess.astype(np.float32), 0 * ones, 0.05)

    def from_keypoints(
        self, image: np.ndarray, box: tuple[float, float, float, float], keypoints: np.ndarray
    ) -> Estimate:
        return self._seen(Crop.from_box(box))

    def next_crop(self, estimate: Estimate) -> Crop:
        low, high = estimate.vertices.min(0), estimate.vertices.max(0)
        return Crop.from_box((*low[:2], *(high - low)[:2]))

    def who(self, estimate: Estimate) -> int:
        """Index of the actor that a mesh lies on, -1 for none."""
        for i in range(len(self.actors) - 1, -1, -1):
            mesh = self.mesh(self.actors[i])
            if mesh is not None and np.abs(mesh - estimate.vertices).mean() < 0.03 * self.actors[i].height:
                return i
        return -1


def follow(
    world: World, frames: int, tracker: Tracker | None = None, begin: int = 0
) -> tuple[Tracker, list[dict[int, int]]]:
    """Run the tracker; what it said of each frame: person -> actor."""
    tracker = tracker or Tracker(TrackSettings(), world, world)
    said = []
    for index in range(begin, frames):
        image = world.frame(index)
        said.append({person: world.who(estimate) for person, estimate in tracker.step(index, image)})
    return tracker, said


def walk(x0: float, x1: float, frames: int, y: float = 170.0) -> Path2:
    return lambda k: (x0 + (x1 - x0) * k / (frames - 1), y)


def test_one_person_keeps_one_number_in_every_frame() -> None:
    world = World([Actor(lambda k: (200 + 90 * np.sin(k / 8), 160 + 20 * np.cos(k / 5)))])
    tracker, said = follow(world, 60)
    assert said == [{1: 0}] * 60 and tracker.finished() == [1]
    assert len(world.runs) <= 8  # the crop comes from the mesh, the detector only now and then


def test_two_people_cross_and_keep_their_numbers() -> None:
    world = World([Actor(walk(80, 400, 60), colour=RED), Actor(walk(400, 80, 60), colour=BLUE)])
    tracker, said = follow(world, 60)
    assert tracker.finished() == [1, 2]
    first = said[0]
    assert sorted(first.values()) == [0, 1]
    apart = [k for k in range(60) if abs(320 * k / 59 - 160) > 60]
    for k in apart:
        assert said[k] == first, k
    assert all(len(s) >= 1 for s in said)


@pytest.mark.parametrize("colour", [RED, BLUE])
def test_alike_people_cross_on_their_own_ways(colour: tuple[int, int, int]) -> None:
    """Nothing but the motion tells them apart, one passes behind the other for a few frames."""
    world = World([Actor(walk(60, 420, 40), colour=colour), Actor(lambda k: (240.0, 172.0), colour=colour)])
    _, said = follow(world, 40)
    assert said[0] == said[-1] and len(said[0]) == 2


def test_who_leaves_and_comes_back_is_the_same() -> None:
    world = World([Actor(lambda k: None if 20 <= k < 70 else (100 + 4.0 * min(k, 20), 170), colour=RED)])
    tracker, said = follow(world, 100)
    assert tracker.finished() == [1]
    assert said[10] == {1: 0} and said[-1] == {1: 0}
    assert all(s == {} for s in said[24:68])
    assert sum(s == {1: 0} for s in said) >= 20 + 24


def test_somebody_else_at_the_same_spot_is_somebody_new() -> None:
    spot = (200.0, 170.0)
    world = World(
        [Actor(lambda k: spot if k < 20 else None, colour=RED), Actor(lambda k: spot if k >= 40 else None, colour=BLUE)]
    )
    tracker, said = follow(world, 70)
    assert tracker.finished() == [1, 2]
    assert said[10] == {1: 0} and said[-1] == {2: 1}


def test_who_looks_the_same_at_the_same_spot_is_the_same() -> None:
    spot = (200.0, 170.0)
    _, said = follow(World([Actor(lambda k: spot if not 20 <= k < 40 else None, colour=GREEN)]), 60)
    assert said[-1] == {1: 0}


def test_ghosts_are_dropped() -> None:
    """A false detection that lasts for one run, on a mesh that finds nobody or somebody of air."""
    world = World(
        [
            Actor(walk(100, 200, 60)),
            Actor(lambda k: (380.0, 170.0) if k < 4 else None, colour=GREEN, detectable=lambda k: k == 0),
        ]
    )
    tracker, said = follow(world, 60)
    assert tracker.finished() == [1] or tracker.finished() == [2]
    (kept,) = tracker.finished()
    assert all(s[kept] == 0 for s in said)


def test_a_mesh_without_a_detection_does_not_live_on() -> None:
    """The estimator always sees something there, the detector saw it once: a ghost, however sure the network is."""
    world = World([Actor(lambda k: (380.0, 170.0), colour=GREEN, detectable=lambda k: k == 0)])
    tracker, said = follow(world, 60)
    assert tracker.finished() == [] and said[-1] == {}


def test_overlooked_for_a_while_is_still_followed() -> None:
    world = World([Actor(walk(100, 380, 60), detectable=lambda k: not 9 <= k <= 13)])
    tracker, said = follow(world, 60)
    assert said == [{1: 0}] * 60 and tracker.finished() == [1]


def test_single_picture_keeps_everybody() -> None:
    world = World([Actor(walk(60 + 60 * i, 60 + 60 * i, 2), 110, (30 * i, 200 - 30 * i, 90)) for i in range(7)])
    tracker, said = follow(world, 1)
    assert tracker.finished() == list(range(1, 8)) and sorted(said[0].values()) == list(range(7))


def test_nobody() -> None:
    world = World([])
    tracker, said = follow(world, 20)
    assert said == [{}] * 20 and tracker.finished() == []
    assert len(world.runs) <= 5


def test_most_people_and_least_size() -> None:
    world = World(
        [Actor(lambda k: (100.0, 160.0), 60), Actor(lambda k: (240.0, 160.0), 200), Actor(lambda k: (400.0, 160.0), 28)]
    )
    tracker = Tracker(TrackSettings(max_people=1), world, world)
    assert all(s == {1: 1} for s in follow(world, 15, tracker)[1])
    _, said = follow(world, 15)
    assert sorted(said[-1].values()) == [0, 1]
    tracker = Tracker(TrackSettings(min_size=20), world, world)
    assert sorted(follow(world, 5, tracker)[1][-1].values()) == [0, 1, 2]


def test_two_tracks_never_stay_on_one_person() -> None:
    """Behind somebody the network sees the front person: the hidden track ends, and begins again when it is seen."""
    world = World(
        [
            Actor(lambda k: (150 + 3.0 * min(k, 30), 170), colour=RED),
            Actor(lambda k: (240.0, 170.0) if k < 60 else (240 + 4.0 * (k - 60), 170), colour=BLUE),
        ]
    )
    _, said = follow(world, 100)
    assert all(list(s.values()).count(1) <= 1 for s in said[40:])
    assert said[-1] == said[0] and len(said[0]) == 2


@pytest.mark.parametrize("who_moves_on", [0, 1])
def test_after_an_occlusion_looks_tell_who_is_who(who_moves_on: int) -> None:
    """Red stops behind blue for twenty frames; then the one or the other walks on."""

    def red(k: int) -> tuple[float, float]:
        return 120 + 4.0 * min(k, 30) + (4.0 * max(k - 50, 0) if who_moves_on == 0 else 0), 170.0

    def blue(k: int) -> tuple[float, float]:
        return 240 + (4.0 * max(k - 50, 0) if who_moves_on == 1 else 0), 171.0

    _, said = follow(World([Actor(red, colour=RED), Actor(blue, colour=BLUE)]), 100)
    assert sorted(said[0].values()) == [0, 1] and said[-1] == said[0]


@pytest.mark.parametrize("name", ["cross", "return", "ghost"])
def test_restored_at_any_frame_it_goes_on_exactly(name: str) -> None:
    actors = {
        "cross": [Actor(walk(80, 400, 45), colour=RED), Actor(walk(400, 80, 45), colour=BLUE)],
        "return": [
            Actor(lambda k: None if 12 <= k < 25 else (100 + 4.0 * k, 170), colour=RED),
            Actor(walk(300, 310, 45)),
        ],
        "ghost": [Actor(walk(100, 200, 45)), Actor(lambda k: (380.0, 170.0) if k < 4 else None)],
    }[name]
    world = World(actors)
    tracker = Tracker(TrackSettings(), world, world)
    states, meshes = [], []
    for index in range(45):
        image = world.frame(index)
        meshes.append([(n, e.vertices.tobytes(), e.crop) for n, e in tracker.step(index, image)])
        states.append(tracker.state())
    for cut in range(44):
        resumed = Tracker.restore(states[cut], TrackSettings(), world, world)
        assert resumed.state() == states[cut]
        image = world.frame(cut + 1)
        assert [(n, e.vertices.tobytes(), e.crop) for n, e in resumed.step(cut + 1, image)] == meshes[cut + 1]
        assert resumed.state() == states[cut + 1]
    assert resumed.finished() == tracker.finished()


def test_foreign_state_is_refused_in_one_line() -> None:
    world = World([])
    for state in (b"", b"\x05\0\0\0{}", b"\x40\0\0\0" + b'{"format":0,"tracks":[]}'.ljust(64)):
        with pytest.raises(TakeError, match="--restart"):
            Tracker.restore(state, TrackSettings(), world, world)


def test_crop_is_calm_when_little_changes_and_quick_when_much_does() -> None:
    before, still = Crop(100, 100, 200, 0.0), np.zeros(2)
    calm = next_crop(before, Crop(102, 100, 204, 0.02), still)
    assert 0 < calm.cx - 100 < 1.5 and 200 < calm.side < 202 and 0 < calm.angle < 0.01
    quick = next_crop(before, Crop(160, 100, 200, 0.0), still)
    assert quick.cx == pytest.approx(160)
    wild = next_crop(before, Crop(100, 100, 5000, 3.0), still)
    assert wild.side < 300 and abs(wild.angle) < 1.1
    round_the_back = next_crop(Crop(0, 0, 100, 3.1), Crop(0, 0, 100, -3.1), still)
    assert abs(abs(round_the_back.angle) - np.pi) < 0.06
    assert next_crop(None, before, np.array([10.0, 0])).cx == pytest.approx(107)


def test_assignment_is_the_best_one() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        gain = rng.uniform(-0.3, 1, rng.integers(1, 5, 2))
        rows, columns = gain.shape
        best = 0.0
        for order in np.ndindex(*[columns + 1] * rows):  # column of each row; `columns` means none
            used = [c for c in order if c < columns]
            if len(set(used)) == len(used):
                best = max(best, sum(gain[r, c] for r, c in enumerate(order) if c < columns))
        pairs = matching.assign(gain)
        assert sum(gain[p] for p in pairs) == pytest.approx(best)
    assert matching.assign(np.zeros((0, 3))) == []


def test_looks_tell_colours_apart_and_not_a_little_light() -> None:
    world = World([Actor(lambda k: (200.0, 160.0), colour=c) for c in (RED,)])
    image = world.frame(0)
    mesh = world.mesh(world.actors[0])
    assert mesh is not None
    points = world.body.joints(mesh, "coco17")[:, :2]
    red = matching.look_of(image, points)
    brighter = matching.look_of(cv2.convertScaleAbs(image, alpha=1.1, beta=5), points)
    world.actors[0].colour = BLUE
    blue = matching.look_of(world.frame(0), points)
    assert red is not None and brighter is not None and blue is not None
    assert matching.look_likeness(red, red) == pytest.approx(1)
    assert matching.look_likeness(red, brighter) > 0.8 > 0.5 > matching.look_likeness(red, blue)
    assert matching.look_of(image, points + 5000) is None
