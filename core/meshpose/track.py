# SPDX-License-Identifier: Apache-2.0
"""Who is who from frame to frame, where to look next, and when to ask the detector again.

    tracker = Tracker(TrackSettings(), PeopleDetector(), Estimator(Network()))
    for frame in clip:
        for person, estimate in tracker.step(frame.index, frame.image):
            ...                                # person is the same number all through the clip
    keep = tracker.finished()                  # the persons that are no ghosts

The crop of the next frame comes from the person's own mesh; only the crop is smoothed, never the mesh.  The detector
runs on the first frame, then every few frames, and whenever a track is in trouble.  A lost person is remembered by
looks, size and place.  Everything is deterministic, and `state()` / `Tracker.restore` go on bit for bit.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Protocol

import numpy as np

from . import matching
from .body import Body
from .crop import Crop
from .detect import ALL_SIDES, SURE_KEYPOINT, Detection, sides_for
from .errors import TakeError
from .estimate import Estimate

FORMAT = 1
SOON = 15
"""Frames after which a lost person no longer counts as lost a moment ago."""
MERGED = 60
"""The same for two persons of whom only one could be followed, one standing before the other."""


@dataclass(frozen=True)
class TrackSettings:
    """What the tracker may do; sizes in picture pixels, times in frames, scores and likenesses from 0 to 1."""

    max_people: int | None = None
    """Most persons at one time; the larger ones are taken first."""
    min_size: float = 32.0
    """Longer side of a person's box under which nobody is followed."""
    detect_every: int = 10
    empty_every: int = 5
    """The same while nobody is in sight, or somebody was lost a moment ago."""
    trouble_every: int = 2
    """The same while a track is in doubt (more and more while the detector finds nothing)."""
    start_score: float = 0.25
    """The detection that starts a new person."""
    keep_score: float = 0.25
    """The network's own score under which a track is in doubt."""
    missed_most: int = 3
    """Detector runs in a row that may overlook a followed person (two more where the network is sure)."""
    remember: int = 600
    """Frames after which a lost person is forgotten."""
    same_look: float = 0.80
    """Likeness of looks for a lost person to be the same one..."""
    same_look_soon: float = 0.6
    """...and for one lost a moment ago at this place."""
    ghost_frames: int = 6
    """A person seen in fewer frames is a ghost (in clips that are longer)."""


class Detector(Protocol):
    """What the tracker wants of a `PeopleDetector`."""

    def __call__(self, image: np.ndarray, sides: Sequence[int] | None = None) -> list[Detection]: ...


class MeshEstimator(Protocol):
    """What the tracker wants of an `Estimator`."""

    def on_crops(self, image: np.ndarray, crops: Sequence[Crop]) -> list[Estimate]: ...

    def from_keypoints(
        self, image: np.ndarray, box: tuple[float, float, float, float], keypoints: np.ndarray
    ) -> Estimate: ...

    def next_crop(self, estimate: Estimate) -> Crop: ...


@dataclass
class _Sight:
    """An estimate and what the tracker reads from it.

    points (17, 2): COCO's keypoints.  box (4,): of the mesh, inside of the picture.  size: longer side of the whole
    mesh's box.  inside: share of the vertices in the picture.
    """

    estimate: Estimate
    points: np.ndarray
    box: np.ndarray
    size: float
    inside: float

    @property
    def middle(self) -> np.ndarray:
        return self.points[[5, 6, 11, 12]].mean(0)


@dataclass
class _Track:
    """One person; all that the next frame needs, and nothing else (see `Tracker.state`)."""

    number: int
    first: int
    last: int
    crop: np.ndarray
    points: np.ndarray
    box: np.ndarray
    size: float
    velocity: np.ndarray = field(default_factory=lambda: np.zeros(2))
    look: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))
    active: bool = True
    frames: int = 0
    asked: int = 0
    """Detector runs since the person was first seen, while in sight."""
    agreed: int = 0
    """Those of them that saw the person too."""
    missed: int = 0
    """Detector runs in a row that did not."""
    shadow: int = 0
    """Frames in a row on which another track lay on the same body."""
    merged: int = -1
    """Until this frame it is open whom the track is on: it shared one body with another, looks must tell."""
    best: float = 0.0
    """Best score of a detection."""

    @property
    def middle(self) -> np.ndarray:
        return self.points[[5, 6, 11, 12]].mean(0)

    def expected(self) -> np.ndarray:
        """(17, 2) keypoints in the next frame if the motion goes on."""
        return self.points + self.velocity


class Tracker:
    """Follows any number of people through the frames of a clip.  See the module."""

    def __init__(self, settings: TrackSettings, detector: Detector, estimator: MeshEstimator) -> None:
        self.settings, self.detector, self.estimator = settings, detector, estimator
        self._body = Body.load()
        self._tracks: list[_Track] = []
        self._past: dict[int, tuple[int, int, int]] = {}  # forgotten persons: frames, asked, agreed
        self._next_number, self._steps, self._runs = 1, 0, 0
        self._last_run = -(10**9)

    # -- one frame ----------------------------------------------------------------------------------------------------

    def step(self, index: int, image: np.ndarray) -> list[tuple[int, Estimate]]:
        """The persons of one frame, by number.  index: the frame's, rising.  image (h, w, 3) uint8 BGR, upright."""
        self._steps += 1
        active = [t for t in self._tracks if t.active]
        estimates = self.estimator.on_crops(image, [Crop.from_array(t.crop) for t in active])
        sights = {t.number: self._sight(e, image) for t, e in zip(active, estimates)}
        if index - self._last_run >= self._wait(index, active, sights):
            self._look_again(index, image, active, sights)
        for track in active:
            if track.active and self._is_lost(track, sights[track.number]):
                track.active = False
        self._part_shadows(index, image, sights)
        shown = [t for t in self._tracks if t.active and t.number in sights]
        for track in shown:
            self._follow(track, sights[track.number], index, image, sights)
        self._forget(index)
        return [(t.number, sights[t.number].estimate) for t in shown]

    def finished(self) -> list[int]:
        """Numbers of the persons to keep: ghosts (a few frames, or never surely seen by the detector) are left out."""
        counted = self._past | {t.number: (t.frames, t.asked, t.agreed) for t in self._tracks}
        least = min(self.settings.ghost_frames, self._steps)
        seen = {n for n, (frames, _, _) in counted.items() if frames >= least}
        return sorted(n for n in seen if counted[n][2] > 1 or counted[n][1] < 3)

    # -- what the network saw -----------------------------------------------------------------------------------------

    def _sight(self, estimate: Estimate, image: np.ndarray) -> _Sight:
        h, w = image.shape[:2]
        xy = estimate.vertices[:, :2].astype(np.float64)
        low, high = xy.min(0), xy.max(0)
        inside = float(np.mean(np.all((xy >= 0) & (xy < (w, h)), axis=1)))
        clipped = np.clip([low, high], 0, (w, h))
        points = np.asarray(self._body.joints(estimate.vertices, "coco17"), np.float64)[:, :2]
        box = np.concatenate([clipped[0], clipped[1] - clipped[0]])
        return _Sight(estimate, points, box, float((high - low).max()), inside)

    def _is_lost(self, track: _Track, sight: _Sight) -> bool:
        """Out of the picture, too small, overlooked too often, or doubted by both networks."""
        s = self.settings
        if sight.inside < 0.15 or max(sight.box[2:]) < s.min_size or not np.isfinite(sight.points).all():
            return True
        if track.missed and sight.estimate.score < s.keep_score:
            return True
        sure = sight.estimate.score >= 0.8 and track.agreed > 2
        return track.missed > s.missed_most + (2 if sure else 0)

    def _wait(self, index: int, active: list[_Track], sights: dict[int, _Sight]) -> int:
        """Frames to let pass between two runs of the detector, as things are."""
        s = self.settings
        if not active:
            return min(s.empty_every, s.detect_every)
        wait = min(s.empty_every, s.detect_every) if self._recent(index) else s.detect_every
        for track in active:
            sight = sights[track.number]
            jump = float(np.linalg.norm(sight.middle - track.middle - track.velocity)) / max(track.size, 1)
            growth = abs(math.log(max(sight.size, 1) / max(track.size, 1)))
            if track.missed:
                wait = min(wait, s.trouble_every * track.missed)
            elif sight.estimate.score < s.keep_score or jump > 0.3 or growth > 0.35:
                wait = min(wait, s.trouble_every)
        for i, a in enumerate(active):
            if any(matching.box_overlap(sights[a.number].box, sights[b.number].box) > 0.3 for b in active[i + 1 :]):
                wait = min(wait, 2 * s.trouble_every)
        return wait

    def _recent(self, index: int) -> list[_Track]:
        """Persons who were lost a moment ago."""
        lost = [t for t in self._tracks if not t.active and t.agreed > 1]
        return [t for t in lost if index - t.last <= SOON or t.merged >= index]

    # -- the detector -------------------------------------------------------------------------------------------------

    def _sides(self, image: np.ndarray, active: list[_Track]) -> list[int]:
        """The sizes at which to show the picture: all at first, then those of the known people and one more in turn."""
        if not active or self._runs == 0:
            return list(ALL_SIDES)
        sides = sides_for([t.size for t in active], image.shape)
        extra = ALL_SIDES[self._runs % len(ALL_SIDES)]
        return sides + [extra] if all(abs(math.log(extra / s)) > 0.2 for s in sides) else sides

    def _look_again(self, index: int, image: np.ndarray, active: list[_Track], sights: dict[int, _Sight]) -> None:
        """Run the detector; put tracks right that left their person; find who came back and who is new."""
        found = self.detector(image, self._sides(image, active))
        found = [d for d in found if max(d.box[2:]) >= self.settings.min_size]
        self._runs, self._last_run = self._runs + 1, index
        # who was lost a moment ago takes part: after an occlusion it is the best pairing of all that tells who is who
        rows = active + [t for t in self._recent(index) if t.look.size]
        looks = [matching.look_of(image, d.keypoints[:, :2]) for d in found] if rows else []
        gain = np.array([[self._gain(t, sights, d, k, index) for d, k in zip(found, looks)] for t in rows])
        for track in active:
            track.asked += 1
        matched = matching.assign(gain.reshape(len(rows), len(found)))  # those in sight come first
        for row, column in matched:
            if row < len(active):
                self._agree(rows[row], sights, found[column], image)
            else:
                self._welcome(index, image, found[column], sights, [rows[row]])
        for row in sorted(set(range(len(active))) - {r for r, _ in matched}):
            active[row].missed += 1
        open_pairs = [rows[r] for r, _ in matched if rows[r].merged >= index and rows[r].active]
        if len(open_pairs) > 1:  # both of them are seen again, each for itself
            for track in open_pairs:
                track.merged = -1
        rest = [found[i] for i in sorted(set(range(len(found))) - {c for _, c in matched})]
        rest.sort(key=lambda d: -d.score * max(d.box[2:]))
        for detection in rest:
            self._welcome(index, image, detection, sights, [t for t in self._tracks if not t.active])

    def _gain(
        self, track: _Track, sights: dict[int, _Sight], detection: Detection, look: np.ndarray | None, index: int
    ) -> float:
        """How well a detection fits a track: where the mesh is, where it was going, and looks; 0 for not at all."""
        going = _fit(track.expected(), track.box + np.pad(track.velocity, (0, 2)), detection)
        alike = matching.look_likeness(track.look, look) if look is not None and track.look.size else None
        if track.active:
            now = _fit(sights[track.number].points, sights[track.number].box, detection)
            if max(now, going) < 0.2:
                return 0.0
        else:
            now = going
            middle, size = detection.keypoints[[5, 6, 11, 12], :2].mean(0), float(max(detection.box[2:]))
            if alike is None or alike < self.settings.same_look_soon or not _near(track, middle, size, index):
                return 0.0
        gain = 0.5 * (now + going)
        weight = 4.0 if track.merged >= index else 1.5
        return gain if alike is None else max(0.0, gain + weight * (alike - self.settings.same_look))

    def _agree(self, track: _Track, sights: dict[int, _Sight], detection: Detection, image: np.ndarray) -> None:
        """A detection belongs to a track: if the mesh lies elsewhere, it is put onto the detected person."""
        sight = sights[track.number]
        fit = _fit(sight.points, sight.box, detection)
        if fit < 0.4:
            again = self._sight(self._from(detection, image), image)
            if _fit(again.points, again.box, detection) > fit:
                sights[track.number] = again
        track.missed, track.agreed = 0, track.agreed + 1
        track.best = max(track.best, detection.score)

    def _from(self, detection: Detection, image: np.ndarray) -> Estimate:
        x, y, w, h = (float(v) for v in detection.box)
        return self.estimator.from_keypoints(image, (x, y, w, h), detection.keypoints)

    # -- who comes ----------------------------------------------------------------------------------------------------

    def _welcome(
        self, index: int, image: np.ndarray, detection: Detection, sights: dict[int, _Sight], lost: list[_Track]
    ) -> None:
        """A detection that belongs to nobody in sight: one of the lost who came back, somebody new, or a repeat."""
        s = self.settings
        here = [sights[t.number] for t in self._tracks if t.active]
        if s.max_people is not None and len(here) >= s.max_people:
            return
        if any(_repeats(detection, other) for other in here):
            return
        if not lost and detection.score < s.start_score:
            return
        sight = self._sight(self._from(detection, image), image)
        if sight.inside < 0.15 or not np.isfinite(sight.points).all() or sight.estimate.score < s.keep_score:
            return
        if any(_same_body(sight, other) for other in here):
            return
        track = self._returning(index, image, sight, lost)
        if track is None:
            if detection.score < s.start_score:
                return
            track = _Track(self._next_number, index, index, np.zeros(4), sight.points, sight.box, sight.size)
            self._next_number += 1
            self._tracks.append(track)
        track.active, track.missed, track.shadow = True, 0, 0
        track.velocity = np.zeros(2)
        track.points, track.box, track.size = sight.points, sight.box, sight.size
        track.crop = self.estimator.next_crop(sight.estimate).as_array()
        track.asked, track.agreed, track.best = track.asked + 1, track.agreed + 1, max(track.best, detection.score)
        sights[track.number] = sight

    def _returning(self, index: int, image: np.ndarray, sight: _Sight, lost: list[_Track]) -> _Track | None:
        """The lost person that this is, by looks first; place and size only forbid."""
        s = self.settings
        look = matching.look_of(image, sight.points)
        best, found = 0.0, None
        for track in lost:
            away = index - track.last
            alike = 0.5 if look is None or not track.look.size else matching.look_likeness(track.look, look)
            if not _near(track, sight.middle, sight.size, index):
                continue
            distance = float(np.linalg.norm(sight.middle - track.middle)) / max(sight.size, track.size, 1)
            soon = away <= SOON and distance < 0.3 + 0.05 * away
            least = min(s.same_look_soon, 0.5) if soon and look is None else s.same_look_soon if soon else s.same_look
            score = alike + (0.15 if soon else 0.0)
            if alike >= least and score > best:
                best, found = score, track
        return found

    # -- after the frame ----------------------------------------------------------------------------------------------

    def _part_shadows(self, index: int, image: np.ndarray, sights: dict[int, _Sight]) -> None:
        """Two tracks on one body for some frames: the one that looks less like it is lost (it may be found again)."""
        active = [t for t in self._tracks if t.active]
        shadowed: set[int] = set()
        for i, a in enumerate(active):
            for b in active[i + 1 :]:
                if not (a.active and b.active) or not _same_body(sights[a.number], sights[b.number]):
                    continue
                shadowed |= {a.number, b.number}
                if min(a.shadow, b.shadow) < 2:
                    continue
                look = matching.look_of(image, sights[a.number].points)
                alike = [
                    0.0 if look is None or not t.look.size else matching.look_likeness(t.look, look) for t in (a, b)
                ]
                loser = b if alike[0] + 0.03 >= alike[1] or a.frames > 5 * b.frames else a
                loser.active = False
                a.merged = b.merged = index + MERGED
        for track in active:
            track.shadow = track.shadow + 1 if track.number in shadowed else 0

    def _follow(self, track: _Track, sight: _Sight, index: int, image: np.ndarray, sights: dict[int, _Sight]) -> None:
        """Take the frame's sight into the track: motion, looks, and the crop of the next frame."""
        if track.frames and track.last == index - 1:
            motion = np.clip(sight.middle - track.middle, -0.3 * sight.size, 0.3 * sight.size)
            track.velocity = 0.5 * track.velocity + 0.5 * motion
        track.points, track.box = sight.points, sight.box
        track.size = sight.size if not track.frames else 0.7 * track.size + 0.3 * sight.size
        previous = Crop.from_array(track.crop) if track.frames else None
        track.crop = next_crop(previous, self.estimator.next_crop(sight.estimate), track.velocity).as_array()
        others = [o for n, o in sights.items() if n != track.number and o is not sight]
        alone = all(matching.box_overlap(sight.box, o.box) < 0.1 for o in others)
        if track.frames < 5 or track.frames % 3 == 0:
            self._remember_look(track, image, (alone and track.merged < index) or not track.look.size)
        track.last, track.frames = index, track.frames + 1

    @staticmethod
    def _remember_look(track: _Track, image: np.ndarray, clear: bool) -> None:
        look = matching.look_of(image, track.points) if clear else None
        if look is None:
            return
        if not track.look.size:
            track.look = look
            return
        # what looks different is most likely somebody else in front: it is hardly learnt
        alike = matching.look_likeness(track.look, look)
        pace = 0.15 * min(1.0, max(0.05, (alike - 0.6) / 0.3))
        track.look = (1 - pace) * track.look + pace * look

    def _forget(self, index: int) -> None:
        """Lost persons who stay away for long keep nothing but their counts; what never became a person goes first."""
        for track in [t for t in self._tracks if not t.active]:
            short = track.frames < self.settings.ghost_frames
            if index - track.last > (self.settings.remember // 10 if short else self.settings.remember):
                self._past[track.number] = (track.frames, track.asked, track.agreed)
                self._tracks.remove(track)

    # -- state --------------------------------------------------------------------------------------------------------

    def state(self) -> bytes:
        """All that the next frame depends on, exactly: `Tracker.restore` goes on as if nothing had happened."""
        arrays: list[np.ndarray] = []

        def plain(value: object) -> object:
            if not isinstance(value, np.ndarray):
                return value
            arrays.append(np.asarray(value, "<f8"))
            return {"shape": list(value.shape)}

        tracks = [{name: plain(value) for name, value in vars(t).items()} for t in self._tracks]
        header = {
            "format": FORMAT,
            "counters": [self._next_number, self._steps, self._runs, self._last_run],
            "past": [[n, *p] for n, p in self._past.items()],
            "tracks": tracks,
            "settings": asdict(self.settings),
        }
        text = json.dumps(header, separators=(",", ":")).encode()  # Python writes floats so that they read back exactly
        return struct.pack("<I", len(text)) + text + b"".join(a.tobytes() for a in arrays)

    @classmethod
    def restore(cls, state: bytes, settings: TrackSettings, detector: Detector, estimator: MeshEstimator) -> Tracker:
        """The tracker as it was when `state()` was called.  Raises TakeError for a state of another version."""
        try:
            (length,) = struct.unpack_from("<I", state)
            header = json.loads(state[4 : 4 + length])
            if header["format"] != FORMAT or set(header["tracks"][0] if header["tracks"] else _NAMES) != _NAMES:
                raise ValueError("another version's")
            tracker, at = cls(settings, detector, estimator), 4 + length
            for entry in header["tracks"]:
                for name, value in entry.items():
                    if isinstance(value, dict):
                        count = math.prod(value["shape"])
                        entry[name] = np.frombuffer(state, "<f8", count, at).reshape(value["shape"]).copy()
                        at += 8 * count
                tracker._tracks.append(_Track(**entry))
        except (ValueError, KeyError, TypeError, struct.error) as error:
            raise TakeError("the tracker's saved state is not of this version; begin again with --restart") from error
        tracker._past = {n: (frames, asked, agreed) for n, frames, asked, agreed in header["past"]}
        tracker._next_number, tracker._steps, tracker._runs, tracker._last_run = header["counters"]
        return tracker


_NAMES = {f.name for f in fields(_Track)}


def next_crop(previous: Crop | None, wanted: Crop, velocity: np.ndarray) -> Crop:
    """The crop of the next frame: what the mesh asks for, moved on by the motion and calmed.

    previous: the crop that this frame was seen through.  velocity (2,) picture pixels a frame.  Small changes are
    damped, large ones followed at once; size and angle change by at most 30 % and 60 degrees a frame, so that one bad
    mesh cannot throw the track away.
    """
    ahead = wanted.as_array()[:2] + 0.7 * velocity
    if previous is None:
        return Crop(float(ahead[0]), float(ahead[1]), wanted.side, wanted.angle)
    offset = (ahead - (previous.cx, previous.cy)) / previous.side
    pace = min(1.0, 0.5 + 5 * float(np.hypot(*offset)))
    centre = np.array([previous.cx, previous.cy]) + pace * offset * previous.side
    growth = math.log(wanted.side / previous.side)
    growth = max(-0.3, min(0.3, growth * min(1.0, 0.3 + 2 * abs(growth))))
    turn = (wanted.angle - previous.angle + math.pi) % (2 * math.pi) - math.pi
    turn = max(-math.pi / 3, min(math.pi / 3, turn * min(1.0, 0.3 + abs(turn))))
    angle = (previous.angle + turn + math.pi) % (2 * math.pi) - math.pi
    return Crop(float(centre[0]), float(centre[1]), previous.side * math.exp(growth), angle)


def _fit(points: np.ndarray, box: np.ndarray, detection: Detection) -> float:
    """0..1, how well keypoints (17, 2) and box (4,) of a mesh agree with a detection."""
    scores = detection.keypoints[:, 2]
    sure = np.where(scores > SURE_KEYPOINT, scores, 0)
    alike = matching.keypoint_likeness(points, detection.keypoints[:, :2], max(detection.box[2:]), sure)
    return 0.5 * alike + 0.5 * matching.box_overlap(box, detection.box)


def _near(track: _Track, middle: np.ndarray, size: float, index: int) -> bool:
    """Whether a lost person can have come to a place (2,) and a stature (pixels) by now."""
    away = index - track.last
    growth = abs(math.log(max(size, 1) / max(track.size, 1)))
    distance = float(np.linalg.norm(middle - track.middle)) / max(size, track.size, 1)
    return growth <= min(0.35 + 0.02 * away, 1.0) and distance <= 0.5 + 0.1 * away


def _repeats(detection: Detection, sight: _Sight) -> bool:
    """Whether a detection shows (a part of) a body that is already followed."""
    if _fit(sight.points, sight.box, detection) > 0.5:
        return True
    inside = matching.box_inside(detection.box, sight.box)
    scores = np.where(detection.keypoints[:, 2] > SURE_KEYPOINT, detection.keypoints[:, 2], 0)
    alike = matching.keypoint_likeness(sight.points, detection.keypoints[:, :2], max(sight.box[2:]), scores)
    return inside > 0.85 and (alike > 0.4 or detection.box[3] < 0.6 * sight.box[3])


def _same_body(a: _Sight, b: _Sight) -> bool:
    """Whether two meshes lie on one person."""
    alike = matching.keypoint_likeness(a.points, b.points, max(max(a.box[2:]), max(b.box[2:])))
    return alike > 0.7 and matching.box_overlap(a.box, b.box) > 0.5
