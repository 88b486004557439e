# SPDX-License-Identifier: Apache-2.0
"""`python3 build.py bench [CLIP]`: how fast, how much memory, beside the peer's landmark path on the same frames.

Every part is measured in a process of its own, so that its peak memory is its own:
- convert: clip to Take, whole and by stage (time spent inside the public calls of each room, nested calls taken off)
- networks: each of our networks and BlazePose heavy on the crops that the Take holds, with 1 and with 2 threads
- scene: a Take of 300 frames (the clip's people again and again) built by bpy; then frame after frame evaluated
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import importlib
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from meshpose import MeshPoseError, weights

SAMPLE = Path(__file__).resolve().parents[1] / "samples" / "turn.mp4"
SCENE_FRAMES = 300
PEER, THREADS, AT_A_TIME = "BlazePose heavy", (1, 2), 6
Figures = dict[str, Any]


# ---------------------------------------------------------------- clock


class Stages:
    """Time spent inside functions that were wrapped, each without what wrapped functions inside of it took.

    seconds: stage -> (2,) wall seconds, and seconds of CPU over all threads (the one to look at on a busy machine).
    """

    def __init__(self) -> None:
        self.seconds: dict[str, np.ndarray] = {}
        self._inner: list[np.ndarray] = []

    @contextlib.contextmanager
    def inside(self, stage: str) -> Iterator[None]:
        """Count the time of a with-block under `stage`."""
        self._inner.append(np.zeros(2))
        start = clocks()
        try:
            yield
        finally:
            spent = clocks() - start
            nested = self._inner.pop()
            self.seconds[stage] = self.seconds.get(stage, np.zeros(2)) + spent - nested
            if self._inner:
                self._inner[-1] += spent

    def wrap(self, owner: Any, name: str, stage: str) -> None:
        """Replace `owner.name` by itself with a clock around it."""
        call: Callable[..., Any] = getattr(owner, name)

        def timed(*arguments: Any, **options: Any) -> Any:
            with self.inside(stage):
                return call(*arguments, **options)

        setattr(owner, name, timed)

    def wrap_iteration(self, owner: Any, name: str, stage: str) -> None:
        """The same for a method that returns an iterator: the time of each step."""
        call: Callable[..., Iterator[Any]] = getattr(owner, name)

        def timed(*arguments: Any, **options: Any) -> Iterator[Any]:
            items = iter(call(*arguments, **options))
            while True:
                with self.inside(stage):
                    item = next(items, self)
                if item is self:
                    return
                yield item

        setattr(owner, name, timed)


def clocks() -> np.ndarray:
    """(2,) wall time and this process's CPU time, seconds."""
    return np.array([time.perf_counter(), time.process_time()])


def peak_mib() -> float:
    """Largest memory of this process so far, MiB."""
    try:
        import resource
    except ImportError:  # Windows keeps no such figure in the standard library
        return float("nan")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


# ---------------------------------------------------------------- the parts, each in its own process


def measure_convert(clip: Path, folder: Path, model: str | None = None) -> Figures:
    """Clip to Take: frames per second of the whole, seconds by stage."""
    from meshpose import detect, network, preview, rig, take, track, video

    convert = importlib.import_module("meshpose.convert")  # the package's attribute of this name is the function
    stages = Stages()
    for room, name in ((detect.PeopleDetector, "__init__"), (network.Network, "__init__")):
        stages.wrap(room, name, "load networks (once)")
    stages.wrap_iteration(video.Clip, "__iter__", "decode (also for the preview)")
    stages.wrap(detect.PeopleDetector, "__call__", "find people")
    stages.wrap(network.Network, "__call__", "network")
    stages.wrap(track.Tracker, "step", "follow (crops, warps, identity)")
    for name in ("add_frame", "commit", "finish", "set_place", "set_fit"):
        stages.wrap(take.Take, name, "take")
    stages.wrap(convert, "metres_per_pixel", "place")
    stages.wrap(rig, "fit_rig", "rig")
    stages.wrap_iteration(preview, "write", "preview")
    start = clocks()
    with stages.inside("rest"):
        result = convert.convert(clip, folder, restart=True, **({"model": model} if model else {}))
    seconds, cpu_seconds = clocks() - start
    frames = len(result.frames)
    return {
        "model": result.settings["model"],
        "frames": frames,
        "people": len(result.people),
        "size": [result.clip.width, result.clip.height],
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "fps": frames / seconds,
        "ms_per_frame_by_stage": {k: list(1000 * v / max(1, frames)) for k, v in stages.seconds.items()},
        "peak_mib": peak_mib(),
        "take": str(result.path),
    }


def measure_networks(clip: Path, take_file: Path) -> Figures:
    """One person in every frame by each of our networks and by the peer, with 1 and with 2 threads: warp, pass, answer.

    A few frames go through all of them before the next ones come, so that a machine that is busy now and then is busy
    for all of them; the first of the few is not counted: the one before has filled the caches with its own weights.
    Milliseconds are medians over the frames, of CPU they are means.
    """
    from meshpose.crop import Crop
    from meshpose.take import Take
    from meshpose.video import Clip

    with Take.open(take_file) as take:
        if not take.people:
            return {"left_out": "nobody in the clip"}
        person = take.person(take.people[0])
        crops = {int(f): Crop.from_array(c) for f, c in zip(person.frames, person.crops())}
    paths, left_out = _paths()
    spent: dict[tuple[str, int], list[np.ndarray]] = {path: [] for path in paths}
    frames = (frame for frame in Clip(clip) if frame.index in crops)
    while block := list(itertools.islice(frames, AT_A_TIME)):
        for path, run in paths.items():
            for number, frame in enumerate(block):
                start = clocks()
                run(frame.image, crops[frame.index])
                if number:
                    spent[path].append(1000 * (clocks() - start))
    figures: Figures = {"paths": [], "left_out": left_out, "peak_mib": peak_mib()}
    for (name, threads), passes in spent.items():
        if passes:
            wall, cpu = np.array(passes).T
            known = {"name": name, "threads": threads, "ms": float(np.median(wall)), "cpu_ms": float(cpu.mean())}
            figures["paths"].append(known)
    return figures


def _paths() -> tuple[dict[tuple[str, int], Callable[[np.ndarray, Any], Any]], str | None]:
    """(network, threads) -> what runs it on a picture and a crop; and why the peer is left out, if it is.

    The peer comes last: its second thread goes on turning for a moment after the answer, and would slow down ours.
    """
    from meshpose.estimate import Estimator
    from meshpose.landmarks import LandmarkEstimator, fetch
    from meshpose.network import Network

    paths: dict[tuple[str, int], Callable[[np.ndarray, Any], Any]] = {}
    for name in weights.models():
        for threads in THREADS:
            paths[name, threads] = functools.partial(_ours, Estimator(Network(name, threads)))
    try:
        folder = fetch()
        for threads in THREADS:
            paths[PEER, threads] = LandmarkEstimator(folder, threads).from_crop
    except MeshPoseError as error:
        return paths, str(error)
    return paths, None


def _ours(estimator: Any, image: np.ndarray, crop: Any) -> Any:
    return estimator.on_crops(image, [crop])


def lengthen(source: Path, target: Path, frames: int) -> None:
    """A Take of `frames` frames out of a shorter one: its frames forwards and backwards until there are enough."""
    from meshpose.crop import Crop
    from meshpose.estimate import Estimate
    from meshpose.take import Take

    with Take.open(source) as old:
        count = len(old.frames)
        period = max(1, 2 * count - 2)
        order = np.array([min(i % period, period - i % period) for i in range(frames)])
        clip = dataclasses.replace(old.clip, times=np.arange(frames) / old.clip.fps)
        people = {}
        for number in old.people:
            person = old.person(number)
            columns = (person.crops(), person.lowpoly_pixels(), person.visibility(), person.score())
            people[number] = (person, {int(f): i for i, f in enumerate(person.frames)}, columns)
        with Take.create(target, clip, old.settings, old.camera) as new:
            for index, at in enumerate(order):
                seen = []
                for number, (_, rows, (crops, pixels, visibility, score)) in people.items():
                    if (i := rows.get(int(old.frames[at]))) is not None:
                        estimate = Estimate(Crop.from_array(crops[i]), pixels[i], visibility[i], float(score[i]))
                        seen.append((number, estimate))
                new.add_frame(index, seen)
            new.finish()
            for number, (person, rows, _) in people.items():
                where = np.array([rows.get(int(old.frames[at]), -1) for at in order])
                frames_of = np.flatnonzero(where >= 0)
                where = where[frames_of]
                new.set_place(number, frames_of, person.metres_per_pixel()[where], new.raw_hash(number))
                if (fit := person.fit()) is not None:
                    longer = dataclasses.replace(
                        fit, rotations=fit.rotations[where], translation=fit.translation[where], frames=frames_of
                    )
                    new.set_fit(number, longer, new.raw_hash(number))


def measure_scene(take_file: Path) -> Figures:
    """Seconds to build the scene of 300 frames; milliseconds to evaluate a frame of it on playback."""
    import bpy

    from meshpose_blender.scene import build_scene

    with tempfile.TemporaryDirectory(dir=take_file.parent) as folder:
        long = Path(folder) / "long.take"
        lengthen(take_file, long, SCENE_FRAMES)
        bpy.ops.wm.read_factory_settings(use_empty=True)
        start = clocks()
        built = build_scene(long)
        build_seconds, build_cpu_seconds = clocks() - start
    scene = bpy.context.scene
    objects = [person.mesh for person in built.people]
    spent = []
    for frame in range(scene.frame_start, min(scene.frame_end, scene.frame_start + 120)):
        start = clocks()
        scene.frame_set(frame)
        graph = bpy.context.evaluated_depsgraph_get()
        counts = [len(o.evaluated_get(graph).data.vertices) for o in objects]
        spent.append(1000 * (clocks() - start))
    wall, cpu = np.median(spent, axis=0)
    return {
        "blender": bpy.app.version_string,
        "frames": SCENE_FRAMES,
        "people": len(objects),
        "vertices_last_frame": counts,
        "build_seconds": build_seconds,
        "build_cpu_seconds": build_cpu_seconds,
        "playback_ms_per_frame": wall,
        "playback_cpu_ms_per_frame": cpu,
        "peak_mib": peak_mib(),
    }


# ---------------------------------------------------------------- all of it


def in_own_process(part: str, *arguments: str | Path, script: Path = Path(__file__)) -> Figures:
    """Run one part in a new process; what it measured, or the reason why not."""
    with tempfile.TemporaryDirectory() as folder:
        result_file = Path(folder) / "figures.json"
        command = [sys.executable, str(script), "--part", part, "--result", str(result_file), *map(str, arguments)]
        result = subprocess.run(command, capture_output=True, text=True)
        if result_file.is_file():  # what is written counts, even where Blender crashes on its way out
            figures: Figures = json.loads(result_file.read_text("utf-8"))
            return figures
    last = [line for line in (result.stderr + result.stdout).splitlines() if line.strip()]
    return {"failed": last[-1] if last else f"exit code {result.returncode}"}


def ratios(path: Figures, paths: list[Figures]) -> list[str]:
    """A network's time, and that of all its threads, as multiples of the default network's and the peer's."""
    others = {other["name"]: other for other in paths if other["threads"] == path["threads"]}
    named = [name for name in (weights.DEFAULT, PEER) if name in others and path["name"] not in (name, PEER)]
    parts = {name: [path[unit] / others[name][unit] for unit in ("ms", "cpu_ms")] for name in named}
    return [f"{wall:.2f} x {name} (CPU {cpu:.2f})" for name, (wall, cpu) in parts.items()]


def table(figures: Figures) -> str:
    """The figures for people: wall time first, CPU time of all threads behind it."""
    whole, beside, scene = figures["convert"], figures["networks"], figures["scene"]
    size = "x".join(map(str, whole["size"]))
    load = f", load {figures['load']:.1f}" if figures["load"] is not None else ""
    people = f"{whole['frames']} frames of {size}, {whole['people']} people"
    lines = [f"{figures['clip']}: {people}, {figures['cpus']} CPUs{load}"]

    def line(name: str, value: str, cpu: str = "", more: str = "") -> None:
        lines.append(f"  {name:40s} {value:>16s}   {cpu:>16s}   {more}".rstrip())

    line("", "wall", "CPU")
    cpu = f"{1000 * whole['cpu_seconds'] / max(1, whole['frames']):.1f} ms a frame"
    peak = f"peak {whole['peak_mib']:.0f} MiB"
    line(f"clip to Take and preview, {whole['model']}", f"{whole['fps']:.1f} fps", cpu, peak)
    for stage, (wall, busy) in sorted(whole["ms_per_frame_by_stage"].items(), key=lambda item: -item[1][0]):
        line(f"  {stage}", f"{wall:.2f} ms a frame", f"{busy:.2f} ms a frame")
    for path in (paths := beside.get("paths", [])):
        words = f"{path['name']}, one person, {path['threads']} thread{'s' * (path['threads'] > 1)}"
        line(words, f"{path['ms']:.1f} ms", f"{path['cpu_ms']:.1f} ms", ", ".join(ratios(path, paths)))
    if reason := beside.get("left_out") or beside.get("failed"):
        line(PEER if paths else "networks", "not measured", "", reason)
    if "failed" in scene:
        line("scene", "not measured", "", scene["failed"])
    else:
        name = f"scene of {scene['frames']} frames, {scene['people']} people"
        line(name, f"{scene['build_seconds']:.2f} s", f"{scene['build_cpu_seconds']:.2f} s", f"bpy {scene['blender']}")
        wall, busy = scene["playback_ms_per_frame"], scene["playback_cpu_ms_per_frame"]
        more = f"peak {scene['peak_mib']:.0f} MiB"
        line("playback, evaluated", f"{wall:.2f} ms a frame", f"{busy:.2f} ms a frame", more)
    return "\n".join(lines)


def main(argv: list[str]) -> int:
    """Measure and print; exit code 2 where the clip cannot be converted."""
    parser = argparse.ArgumentParser(prog="build.py bench", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("clip", nargs="?", type=Path, default=SAMPLE, help="a clip with people (default: the sample)")
    parser.add_argument("--model", metavar="fast|accurate", help="the network that converts (accurate); all are timed")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there too")
    parser.add_argument("--part", choices=("convert", "networks", "scene"), help=argparse.SUPPRESS)
    parser.add_argument("--result", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--take", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.part:
        parts: dict[str, Callable[[], Figures]] = {
            "convert": lambda: measure_convert(options.clip, options.folder, options.model),
            "networks": lambda: measure_networks(options.clip, options.take),
            "scene": lambda: measure_scene(options.take),
        }
        options.result.write_text(json.dumps(parts[options.part]()), "utf-8")
        return 0
    try:
        weights.model_file(options.model or weights.DEFAULT)
    except MeshPoseError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder:
        figures: Figures = {"clip": str(options.clip), "cpus": os.cpu_count()}
        figures["load"] = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
        chosen = ["--model", options.model] if options.model else []
        figures["convert"] = in_own_process("convert", options.clip, "--folder", folder, *chosen)
        if "failed" in figures["convert"]:
            print(f"error: {figures['convert']['failed']}", file=sys.stderr)
            return 2
        take = figures["convert"].pop("take")
        figures["networks"] = in_own_process("networks", options.clip, "--take", take)
        figures["scene"] = in_own_process("scene", options.clip, "--take", take)
    print(table(figures))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n", "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
