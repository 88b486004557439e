# SPDX-License-Identifier: Apache-2.0
"""The job: a clip becomes a Take and a preview, as one generator of progress.

    for progress in steps("dancer.mp4", "out", Settings(height=1.72)):
        print(progress.stage, progress.frame, progress.frames)
    take = convert("dancer.mp4", out="out")        # the same in one call

Stages: `track` (decode, find and follow people, the network), `place` (metres), `rig` (shape and bones), `motion`
(steady, on the floor, in the world), `preview`.
The Take is the only state: closing the generator keeps the finished work, and the same call goes on from there.  What
comes after `track` is made again only where something it was made from has changed.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import tempfile
import time
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from threadpoolctl import threadpool_limits

from . import weights
from .body import Body
from .camera import Camera, bone_lengths, in_picture, metres_per_pixel, smoothed
from .errors import InputError, OutputError, TakeError
from .motion import MotionSettings, solve_take
from .moving import Background
from .take import Person, Take, clip_identity

# The rooms that load OpenCV and ONNX Runtime are imported where they are used: `import meshpose` has to stay light,
# Blender does it at its start.
if TYPE_CHECKING:
    from .track import Tracker
    from .video import ClipInfo

PLACE_VERSION, FIT_VERSION, MOTION_VERSION, PREVIEW_VERSION = 6, 6, 4, 2
"""Count up when a stage computes something else: finished Takes are brought up to date without the network."""
CORRECT_VERSION = 1
WEIGHTS = ("people.onnx", "body.npz", "upsampler.npz", "depth.onnx", "pose_prior.npz")
"""Weight files that every conversion needs, beside the network's."""
LEAST_OVERLAP, BOX_FRAMES = 0.2, 15
"""Who stands in a chosen box: intersection over union at least, frames between the box and the person at most."""
RAW_SETTINGS = ("model", "second_look", "max_people", "min_size", "detect_every", "start", "end")
"""Settings that decide what the network says; all others are for what is made from it."""
EARLIER_SETTINGS = {"second_look": False}
"""What Takes were made with that do not say it: those of earlier versions."""


@dataclass(frozen=True)
class Settings:
    """How to convert.

    model: the network, one of `weights.models()`.  second_look: on every frame it sees each person in a mirror, too;
    the mesh is calmer, the network's time twice as long.  person: keep this person only (id).  max_people: follow at
    most so many at a time.  min_size: pixels of a person's longer side below which nobody is looked for.  detect_every:
    frames between looks for new people.  focal_mm (full-frame equivalent) or fov (degrees of the longer side): the
    lens; neither: EXIF, or a guess.  height: the people's height in metres, for their size and distance.  start, end:
    first frame, and the one to stop before (0 is the clip's first).  preview: write the preview, too.  heights: metres
    of single people by id, over `height`.  only: keep only the people who stand in these boxes, each (frame, x, y, w,
    h) in pixels, as `look` finds them.  smooth, lock_feet, level, camera, fill_gaps: see `MotionSettings`.
    """

    model: str = weights.DEFAULT
    second_look: bool = True
    person: int | None = None
    max_people: int | None = None
    min_size: float = 32.0
    detect_every: int = 10
    focal_mm: float | None = None
    fov: float | None = None
    height: float | None = None
    start: int = 0
    end: int | None = None
    only: tuple[tuple[float, ...], ...] = ()
    preview: bool = True
    heights: Mapping[int, float] = field(default_factory=dict)
    smooth: float = 0.5
    lock_feet: bool = True
    level: bool = True
    camera: str = "static"
    fill_gaps: int = 12

    def __post_init__(self) -> None:
        _check_types(self)
        try:  # as JSON gives them back
            object.__setattr__(self, "only", tuple(tuple(map(float, box)) for box in self.only))
            object.__setattr__(self, "heights", {int(number): float(h) for number, h in self.heights.items()})
        except (TypeError, ValueError, AttributeError) as error:
            text = f"only {self.only!r:.60}, heights {self.heights!r:.60}: give boxes of 5 numbers, and metres by id"
            raise InputError(text) from error
        for name in ("person", "max_people", "detect_every"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"--{name.replace('_', '-')} {value}: it must be 1 or more")
        if not self.min_size >= 1:
            raise InputError(f"--min-size {self.min_size:g}: it must be 1 pixel or more")
        if self.focal_mm is not None and self.fov is not None:
            raise InputError("give --focal-mm or --fov, not both: each says the other")
        if self.start < 0 or (self.end is not None and self.end <= self.start):
            raise InputError(f"--start {self.start} --end {self.end}: give a first frame and a later end")
        for height in (self.height, *self.heights.values()):
            if height is not None and not 0.4 <= height <= 2.6:
                raise InputError(f"--height {height:g}: give metres, between 0.4 and 2.6")
        for box in self.only:
            if len(box) != 5 or not box[3] > 0 or not box[4] > 0:
                raise InputError(f"--only {box}: give FRAME:X,Y,WIDTH,HEIGHT in pixels")
        self.motion()

    def height_of(self, person: int) -> float | None:
        """Metres, where they were given."""
        return self.heights.get(person, self.height)

    def motion(self) -> MotionSettings:
        """What the motion stage is told.  InputError where that cannot be."""
        return MotionSettings(self.smooth, self.lock_feet, self.level, self.camera, self.fill_gaps)


@dataclass(frozen=True)
class Progress:
    """Where the job stands: `frame` of `frames` in a stage, frames per second, seconds left of the stage (None: not
    known yet), people in the frame just done, and a warning where there is a new one."""

    stage: str
    frame: int
    frames: int
    fps: float = 0.0
    seconds_left: float | None = None
    people: int = 0
    warning: str = ""


def take_path(clip: str | os.PathLike[str], out: str | os.PathLike[str] = ".") -> Path:
    """Where a clip's Take goes: `OUT/<name of the clip without its ending>.take`."""
    path = Path(os.path.abspath(clip))
    name = path.name if path.is_dir() else path.stem
    if not path.exists():  # a pattern such as f_%04d.png: its fixed part
        name = re.sub(r"%0?\d*d|[*?]+|#+", "", name).rstrip("_-. ") or path.parent.name
    return Path(out) / f"{name}.take"


def convert(
    clip: str | os.PathLike[str], out: str | os.PathLike[str] = ".", restart: bool = False, **settings: Any
) -> Take:
    """Convert a clip and return its Take, open for reading.  settings: those of `Settings`, by name."""
    for _ in steps(clip, out, Settings(**settings), restart):
        pass
    return Take.open(take_path(clip, out))


def steps(
    clip: str | os.PathLike[str],
    out: str | os.PathLike[str] = ".",
    settings: Settings | None = None,
    restart: bool = False,
) -> Generator[Progress, None, None]:
    """Convert a clip, step by step; see this module's head.

    Raises MeshPoseError (one line) for a clip, a setting, an output folder or a Take that cannot be used; what was
    written earlier then stays as it was.
    """
    job = _Job(clip, out, settings or Settings(), restart)
    try:
        yield from job.run()
    except GeneratorExit:
        job.keep_work()
        raise
    finally:
        job.close()


def refit(path: str | os.PathLike[str], preview: bool = False, **changes: Any) -> Generator[Progress, None, None]:
    """Make again what comes after the network in a finished Take, with some settings changed (those of `Settings`).

    Needs not the network that made the mesh, and the clip only for `preview` and for a camera that moves.  Raises
    TakeError for a Take that is not finished or is being written, InputError for a setting that only a new run can
    change or a clip that cannot be read; the Take then stays as it was.
    """
    wrong = [name for name in changes if name in RAW_SETTINGS]
    if wrong:
        raise InputError(f"{path}: {', '.join(wrong)} decide what the network sees; convert the clip anew for them")
    with Take.open(path) as reader:
        if not reader.finished:
            raise TakeError(f"{path}: this Take is not finished; convert its clip again, and it goes on")
        stored, footage = EARLIER_SETTINGS | reader.settings, reader.clip.path
    names = {field.name for field in dataclasses.fields(Settings)}
    lens = {"focal_mm", "fov"}
    if lens & changes.keys():  # one of them says the other
        stored = {name: value for name, value in stored.items() if name not in lens}
    settings = Settings(**{name: stored[name] for name in names & stored.keys()} | changes | {"preview": preview})
    if settings.camera == "moving":
        from .video import probe

        probe(footage)
    take = Take.resume(path)
    try:
        info = take.clip
        take.set_settings(_settings_to_keep(settings, stored.get("network")))
        yield from _derive(take, info, settings, _camera(info, settings))
    except GeneratorExit:
        take.commit()
        raise
    finally:
        take.close()


# -- what is there already -------------------------------------------------------------------------------------------


def _check_types(settings: Settings) -> None:
    """InputError for a setting of the wrong type: one comes from a script, a shell's words or a Take's JSON."""
    kinds = {"str": str, "bool": bool, "int": int, "float": int | float}
    for known in dataclasses.fields(Settings):
        value, names = getattr(settings, known.name), str(known.type).split(" | ")
        if names[0] not in kinds or (value is None and "None" in names):
            continue
        if not isinstance(value, kinds[names[0]]) or isinstance(value, bool) != (names[0] == "bool"):
            raise InputError(f"--{known.name.replace('_', '-')} {value!r:.60}: it must be {' or '.join(names)}")


def _check_output(path: Path) -> None:
    folder = path.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        text = f"{folder}: nothing can be written there ({error.strerror}); choose another folder with --out"
        raise OutputError(text) from error
    if path.is_dir():
        raise OutputError(f"{path}: a folder is in the Take's place; choose another folder with --out")


def _is_of_clip(path: Path, info: ClipInfo) -> bool:
    """Whether the Take at `path` was made from this very clip.  TakeError where it belongs to another clip."""
    with Take.open(path) as take:
        other, same = take.clip.path, take.clip_identity == clip_identity(info.path)
    if not same and other != info.path.resolve():
        raise TakeError(f"{path}: this is the Take of another clip ({other}); choose another folder with --out")
    return same


def _take_to_continue(path: Path, info: ClipInfo, settings: Settings, same: bool) -> Take:
    """The Take at `path`, open for writing, where this job goes on.

    TakeError where the clip has changed since, or where the Take was begun with other settings.
    """
    if not same:
        raise TakeError(f"{path}: the clip has changed since this Take was made; --restart makes it anew")
    with Take.open(path) as reader:
        old, finished = reader.settings, reader.finished
    wanted = _settings_to_keep(settings)
    if finished:  # a newer version does not make a finished Take wrong
        wanted |= {"network": old.get("network")} | {k: v for k, v in EARLIER_SETTINGS.items() if k not in old}
    old = EARLIER_SETTINGS | old
    differ = [name for name in (*RAW_SETTINGS, "network") if old.get(name) != wanted[name]]
    if "model" in differ and "network" in differ:
        differ.remove("network")  # its files' hashes say the same once more
    if differ:
        changes = ", ".join(
            "the network's file is another one" if name == "network" else f"{name} {old.get(name)} -> {wanted[name]}"
            for name in differ
        )
        raise TakeError(f"{path}: this Take was begun with other settings ({changes}); --restart makes it anew")
    take = Take.resume(path)
    take.set_clip(dataclasses.replace(take.clip, path=info.path))
    take.set_settings(wanted)
    return take


def _settings_to_keep(settings: Settings, network: Any = None) -> dict[str, Any]:
    """What the Take remembers: all that decides its content, and which network it was (`network`: an earlier one)."""
    kept = dataclasses.asdict(settings)
    del kept["preview"]
    kept["network"] = network or {name: _weights_hash(name) for name in (f"{settings.model}.onnx", "people.onnx")}
    return kept


def _weights_hash(name: str) -> str:
    return weights.digest(weights.path(name))[:16]


def _camera(info: ClipInfo, settings: Settings) -> Camera:
    """The lens as it is told, by EXIF, or guessed."""
    if settings.fov is not None:
        return Camera.from_fov(info.width, info.height, settings.fov)
    if settings.focal_mm is not None:
        return Camera.from_focal_mm(info.width, info.height, settings.focal_mm)
    if info.exif_focal_35mm:
        return Camera.from_exif_35mm(info.width, info.height, info.exif_focal_35mm)
    return Camera.guess(info.width, info.height)


# -- the job -----------------------------------------------------------------------------------------------------------


class _Job:
    """One run from a clip to its Take and preview."""

    def __init__(
        self, clip: str | os.PathLike[str], out: str | os.PathLike[str], settings: Settings, restart: bool
    ) -> None:
        from .video import probe

        self.settings, self.restart = settings, restart
        self.lost = False  # the clip went away while it was read
        self.info = probe(Path(clip))
        self.camera = _camera(self.info, settings)
        for name in (weights.model_file(settings.model), *WEIGHTS):
            weights.path(name)  # a damaged one ends the job before it replaces a Take
        self.path = take_path(clip, out)
        _check_output(self.path)
        self.take: Take | None = None
        self.new = not Take.begun(self.path)
        if not self.new:
            same = _is_of_clip(self.path, self.info)
            if not restart:
                self.take = _take_to_continue(self.path, self.info, settings, same)

    def run(self) -> Iterator[Progress]:
        """All stages that are not done yet."""
        if self.take is None or not self.take.finished:
            yield from self._track()
        if self.take is not None:
            settings = dataclasses.replace(self.settings, preview=False) if self.lost else self.settings
            yield from _derive(self.take, self.info, settings, self.camera)

    def keep_work(self) -> None:
        """Commit what is done, to the frame."""
        if self.take is not None:
            self.take.commit()

    def close(self) -> None:
        """Let go of the Take; one in which no frame was finished is taken away again."""
        if self.take is not None:
            nothing = self.new and not len(self.take.frames)
            self.take.close()
            if nothing:
                self.path.unlink(missing_ok=True)

    def _track(self) -> Iterator[Progress]:
        """Frames to `raw`, from the first frame or from where the Take stopped."""
        from .video import Clip

        done = self.take.frames if self.take is not None else np.zeros(0, np.int64)
        clip = Clip(self.info.path, start=int(done[-1]) + 1 if len(done) else self.settings.start)
        frames = iter(clip)
        frame = next(frames, None)
        if frame is None and not len(done):
            if self.settings.start:
                raise InputError(f"--start {self.settings.start}: {self.info.path} has fewer frames")
            raise InputError(f"{self.info.path}: no frame of it can be decoded; the file is damaged")
        tracker = self._tracker(self.take.tracker_state if self.take is not None else None)
        if self.take is None:
            kept = _settings_to_keep(self.settings)
            self.take = Take.create(self.path, self.info, kept, self.camera, replace=self.restart)
        end = self.settings.end if self.settings.end is not None else self.info.frames
        pace = _Pace("track", min(end, self.info.frames) - self.settings.start, len(done))
        while frame is not None and (self.settings.end is None or frame.index < self.settings.end):
            people = tracker.step(frame.index, frame.image)
            self.take.add_frame(frame.index, people, tracker.state, seconds=frame.time)
            yield pace.step(people=len(people))
            frame = next(frames, None)
        found = [int(number) for number in tracker.finished()]
        warnings = list(clip.warnings)
        if not found:
            warnings.append(f"nobody was found in {self.info.path.name}: the Take is empty")
        for warning in warnings:
            self.take.add_warning(warning)
            yield dataclasses.replace(pace.step(0), warning=warning)
        if self.settings.start == 0 and self.settings.end is None:
            try:  # the decoded frames are the truth about number and times
                if clip_identity(self.info.path) != self.take.clip_identity:
                    raise InputError(f"{self.info.path}: another clip lies there now")
                self.take.set_clip(dataclasses.replace(self.info, times=self.take.times()))
            except (InputError, OSError):
                # What was read of it is worth no less.
                self.lost = True
                gone = f"{self.info.path}: the clip was moved or deleted while it was converted; no preview was written"
                self.take.add_warning(gone)
                yield dataclasses.replace(pace.step(0), warning=gone)
        self.take.set_job_value("found", json.dumps(found))
        self.take.finish(found)

    def _tracker(self, state: bytes | None) -> Tracker:
        from .detect import PeopleDetector
        from .estimate import Estimator, TwiceEstimator
        from .network import Network
        from .track import Tracker, TrackSettings

        track = TrackSettings(
            max_people=self.settings.max_people,
            min_size=self.settings.min_size,
            detect_every=self.settings.detect_every,
        )
        looks = TwiceEstimator if self.settings.second_look else Estimator
        detector, estimator = PeopleDetector(), looks(Network(self.settings.model))
        if state is None:
            return Tracker(track, detector, estimator)
        return Tracker.restore(state, track, detector, estimator)


# -- the later stages: everything that is made from raw ----------------------------------------------------------------


def _derive(take: Take, info: ClipInfo, settings: Settings, camera: Camera) -> Iterator[Progress]:
    """Choose the people, place them, fit their rigs, draw the preview: only what is not there as it should be."""
    _choose(take, settings)
    take.set_camera(camera)
    take.commit()
    body = Body.load()
    people = [take.person(number) for number in take.people]
    counts = {person.id: len(person.frames) for person in people}
    pace = _Pace("place", sum(counts.values()))
    for person in people:
        yield from _place(take, person, camera, settings.height_of(person.id), body, pace)
    pace = _Pace("rig", sum(counts.values()))
    for person in people:
        _fit(take, person, settings.height_of(person.id), body)
        _correct(take, person)
        yield pace.step(counts[person.id], people=1)
    yield from _motion(take, settings, _Pace("motion", sum(counts.values())))
    if settings.preview:
        yield from _preview(take, info)


def _choose(take: Take, settings: Settings) -> None:
    """Keep everybody whom the tracker kept, or one of them, or those who stand in the boxes of `only`."""
    found = take.found
    person = settings.person
    if person is not None and person not in found and found:
        known = ", ".join(map(str, found))
        raise InputError(f"--person {person}: nobody in {take.clip.path.name} has this number; found were {known}")
    chosen = [number for number in found if person in (None, number)]
    take.keep(chosen)
    if not settings.only:
        return
    inside = {who for box in settings.only if (who := _person_in(take, box, chosen)) is not None}
    if inside:
        take.keep(sorted(inside))
    elif chosen:
        take.add_warning("nobody stands in the boxes that were chosen: everybody is kept")


def _person_in(take: Take, box: tuple[float, ...], people: list[int]) -> int | None:
    """Who stands in a box (frame, x, y, w, h); looked for near that frame: somebody new is followed from the next look.

    None where nobody's mesh shares LEAST_OVERLAP of the box.
    """
    from .matching import box_overlap

    best, found = LEAST_OVERLAP, None
    for number in people:
        person = take.person(number)
        frames = person.frames
        near = frames[np.abs(frames - box[0]) <= BOX_FRAMES]
        if not len(near):
            continue
        points = person.lowpoly_pixels(near[[np.abs(near - box[0]).argmin()]])[0, :, :2]
        low, high = points.min(0), points.max(0)
        overlap = box_overlap(np.array(box[1:]), np.concatenate([low, high - low]))
        if overlap > best:
            best, found = overlap, number
    return found


def _place(
    take: Take, person: Person, camera: Camera, height: float | None, body: Body, pace: _Pace
) -> Iterator[Progress]:
    said, lens = take.raw_hash(person.id), dataclasses.astuple(camera)
    told_by = [_weights_hash(file) for file in ("depth.onnx", "pose_prior.npz")]
    made_from = _made_from("place", PLACE_VERSION, said, lens, height, *told_by)
    if take.made_from("place", person.id) == made_from:
        return
    lengths = bone_lengths(body, height)
    sizes, sure = [], []
    for frames in person.windows():
        lowpoly, visibility = person.lowpoly_pixels(frames, raw=True), person.visibility(frames)
        size, weight = metres_per_pixel(lowpoly, visibility, camera, lengths, body)
        sizes.append(size)
        sure.append(weight)
        yield pace.step(len(frames), people=1)
    smooth = smoothed(np.concatenate(sizes), np.concatenate(sure), person.times())
    take.set_place(person.id, person.frames, smooth, made_from, _change(person, camera, smooth))


def _change(person: Person, camera: Camera, sizes: np.ndarray) -> np.ndarray:
    """By how much depths, and places beyond the picture, differ from what the network says: (n, V, 3) pixels."""
    from .depth import DepthFromMotion
    from .likely import LikelyPlaces, steady_beyond
    from .rig import well_seen

    depth, best = DepthFromMotion(), well_seen(person.visibility())
    frames = person.frames[best]
    likely = LikelyPlaces(person.lowpoly_pixels(frames, raw=True), person.visibility(frames), sizes[best], camera)
    places, read, at = [], [], 0
    for frames in person.windows():
        part = slice(at, at := at + len(frames))
        visibility = person.visibility(frames)
        found = likely(person.lowpoly_pixels(frames, raw=True), visibility, sizes[part])
        places.append(found.astype(np.float32))
        read.append(depth.read(found, visibility, sizes[part], camera))
    points, seen, hips = (np.concatenate(parts) for parts in zip(*read, strict=True))
    result, at = np.concatenate(places), 0
    result[..., 2] += depth.change(points, seen, hips, person.times()) / sizes[:, None]
    steady_beyond(result, person.times(), camera)
    for frames in person.windows():
        result[at : (at := at + len(frames))] -= person.lowpoly_pixels(frames, raw=True)
    return result


def _fit(take: Take, person: Person, height: float | None, body: Body) -> None:
    made_from = _made_from("fit", FIT_VERSION, take.made_from("place", person.id), height, _weights_hash("body.npz"))
    if take.made_from("fit", person.id) == made_from:
        return
    from .rig import fit_rig

    # The low-poly holds all that the mesh knows, at 6 KB a frame instead of 160.
    lowpoly = np.concatenate([person.lowpoly(frames) for frames in person.windows()])
    inside = in_picture(person.lowpoly_pixels(), take.camera)
    fit = fit_rig(lowpoly, person.visibility(), person.frames, body, height=height, inside=inside)
    take.set_fit(person.id, fit, made_from)


def _correct(take: Take, person: Person) -> None:
    """What was corrected by hand, solved on the fit."""
    told = take.corrections.key(person.id)
    made_from = _made_from("corrected", CORRECT_VERSION, take.made_from("fit", person.id), told)
    if (told or take.made_from("corrected", person.id)) and take.made_from("corrected", person.id) != made_from:
        with threadpool_limits(1, "blas"):
            take.corrections.fit(person, made_from)


def _motion(take: Take, settings: Settings, pace: _Pace) -> Iterator[Progress]:
    people = [(number, take.made_from("fit", number), settings.height_of(number)) for number in take.people]
    corrected = [hand for number in take.people if (hand := take.made_from("corrected", number))]
    made_from = _made_from("motion", MOTION_VERSION, dataclasses.astuple(settings.motion()), people, *corrected)
    if take.made_from("motion") == made_from:
        return
    looked = None
    if settings.camera == "moving":
        pace = _Pace("motion", len(take.frames) + pace.frames)
        background = Background(take)
        for seen in background:
            yield pace.step(people=seen)
        looked = background.looked
    for frames in solve_take(take, settings.motion(), made_from, looked):
        yield pace.step(frames, people=1)


def _preview(take: Take, info: ClipInfo) -> Iterator[Progress]:
    from . import preview

    path = preview.preview_path(take.path, info.is_image)
    places = [take.made_from("place", number) for number in take.people]
    made_from = _made_from("preview", PREVIEW_VERSION, take.clip_identity, take.people, places)
    if take.made_from("preview") == made_from and path.exists():
        return
    pace = _Pace("preview", len(take.frames))
    for _ in preview.write(take, path):
        yield pace.step(people=len(take.people))
    take.set_made("preview", 0, made_from)


def _made_from(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


class _Pace:
    """Counts a stage's frames and says how fast they come (over the last few seconds) and how long it takes yet."""

    def __init__(self, stage: str, frames: int, done: int = 0) -> None:
        """done: frames that an earlier run finished."""
        self.stage, self.frames, self.done = stage, max(frames, 1), done
        self.marks = [(time.monotonic(), done)]

    def step(self, count: int = 1, people: int = 0) -> Progress:
        """`count` more frames are done."""
        self.done += count
        now = time.monotonic()
        self.marks.append((now, self.done))
        while len(self.marks) > 2 and now - self.marks[1][0] > 5:
            self.marks.pop(0)
        seconds, frames = now - self.marks[0][0], self.done - self.marks[0][1]
        fps = frames / seconds if seconds > 0 else 0.0
        total = max(self.frames, self.done)
        return Progress(self.stage, self.done, total, fps, (total - self.done) / fps if fps else None, people)
