# SPDX-License-Identifier: Apache-2.0
"""How a long clip goes: memory and pace of each stage, size of the saved scene, milliseconds to jump to a frame.

    python3 build.py bench --long [CLIP] [--frames 15000] [--seconds 600] [--json FILE]

The clip's frames (default: the bundled sample) are shown forwards and backwards until there are enough.  Each part runs
in a process of its own, so that its peak memory is its own:

- job: a video of 1920 x 1080 made of the clip, converted as users do, for at most `--seconds`: frames a second of the
  first and of the last part, memory on the way
- decode: all frames of that video through the job with finding people and the network left out: what decoding and the
  Take cost from the first to the last thousand frames
- motion: everything behind the rig fit on a Take of all frames
- scene: the same Take becomes a .blend; its size, and the time of jumps to frames all over it

A Take of the full length is made from the clip's own: its estimates again and again, each with a scatter of its own
(`JITTER`), so that no two frames are alike and compression has nothing to gain from the repetition.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from bench import SAMPLE, Figures, clocks, in_own_process, peak_mib

JITTER = 0.4
"""Pixels by which a vertex of the lengthened Take differs from its frame's (one sigma)."""
SIZE = 1920, 1080
PART = 1000
"""Frames of the first and of the last part whose pace is compared."""


def shown(count: int, frames: int) -> np.ndarray:
    """(frames,) which of `count` frames is shown: forwards, backwards, and so on."""
    period = max(1, 2 * count - 2)
    at = np.arange(frames) % period
    return np.minimum(at, period - at)


def resident_mib() -> float:
    """Memory of this process now, MiB; nan where the system does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return float("nan")
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def long_clip(clip: Path, target: Path, frames: int) -> None:
    """A video of SIZE: the clip's pictures, scaled to fit and again and again; the pieces are encoded once."""
    import av
    import cv2

    from meshpose.video import Clip, probe

    info = probe(clip)
    scale = min(SIZE[0] / info.width, SIZE[1] / info.height)
    size = round(info.width * scale), round(info.height * scale)
    left, top = (SIZE[0] - size[0]) // 2, (SIZE[1] - size[1]) // 2
    pictures = []
    for frame in Clip(clip):
        picture = np.full((SIZE[1], SIZE[0], 3), 90, np.uint8)
        picture[top : top + size[1], left : left + size[0]] = cv2.resize(frame.image, size)
        pictures.append(cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 90])[1])
    order = shown(len(pictures), 2 * len(pictures) - 2)
    with av.open(str(target), "w") as file:
        stream = file.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = *SIZE, "yuv420p", 6_000_000
        stream.codec_context.max_b_frames = 0
        packets = []
        for at in order:
            image = cv2.imdecode(pictures[at], cv2.IMREAD_COLOR)
            packets += stream.encode(av.VideoFrame.from_ndarray(image, format="bgr24"))
        packets += stream.encode()
        step, data = packets[0].time_base, [(bytes(packet), packet.is_keyframe) for packet in packets]
        for index in range(frames):
            content, key = data[index % len(data)]
            packet = av.Packet(content)
            packet.stream, packet.time_base = stream, step
            packet.pts = packet.dts = round(index / 25 / step)
            packet.duration = round(1 / 25 / step)
            packet.is_keyframe = key
            file.mux(packet)


def long_take(source: Path, target: Path, frames: int) -> None:
    """A Take of `frames` frames out of a shorter one, with a scatter on each; its fit is the short one's again."""
    from meshpose.crop import Crop
    from meshpose.estimate import Estimate
    from meshpose.take import Take

    random = np.random.default_rng(0)
    with Take.open(source) as old:
        order = shown(len(old.frames), frames)
        number = old.people[0]
        person = old.person(number)
        rows = {int(frame): row for row, frame in enumerate(person.frames)}
        where = np.array([rows.get(int(old.frames[at]), -1) for at in order])
        crops, pixels, visibility, score = person.crops(), person.lowpoly_pixels(), person.visibility(), person.score()
        clip = dataclasses.replace(old.clip, times=np.arange(frames) / old.clip.fps)
        settings = {**old.settings, "end": None}
        with Take.create(target, clip, settings, old.camera) as new:
            for index, row in enumerate(where):
                seen = []
                if row >= 0:
                    vertices = pixels[row] + random.normal(0, JITTER, pixels[row].shape).astype(np.float32)
                    # As the network's own: no value of one frame is that of another.
                    heat = np.clip(visibility[row] + random.normal(0, 0.01, visibility[row].shape), 0, 1)
                    estimate = Estimate(Crop.from_array(crops[row]), vertices, heat.astype(np.float32), score[row])
                    seen.append((number, estimate))
                new.add_frame(index, seen)
            new.set_job_value("found", json.dumps([number]))
            new.finish()
            there = np.flatnonzero(where >= 0)
            where = where[there]
            new.set_place(number, there, person.metres_per_pixel()[where], "made by the bench")
            fit = person.fit()
            if fit is not None:
                turned = fit.rotations[where] + random.normal(0, 0.002, fit.rotations[where].shape)
                turned /= np.linalg.norm(turned, axis=-1, keepdims=True)
                # Bones that the fit does not turn stay as they are.
                still = np.ptp(fit.rotations, 0).max(-1) < 1e-6
                turned[:, still] = fit.rotations[where][:, still]
                place = fit.translation[where] + random.normal(0, 0.002, (len(where), 3))
                longer = dataclasses.replace(fit, rotations=turned, translation=place, frames=there)
                new.set_fit(number, longer, "made by the bench")


# -- the parts ---------------------------------------------------------------------------------------------------------


class _Pace:
    """Frames a second and memory along the way."""

    def __init__(self) -> None:
        self.marks: list[tuple[float, float]] = []

    def step(self) -> None:
        """A frame is done."""
        self.marks.append((time.perf_counter(), resident_mib()))

    def figures(self, part: int) -> Figures:
        """Frames done, frames a second and largest memory of the first and the last `part` frames."""
        times, memory = np.array(self.marks).T
        part = max(2, min(part, len(times) // 2))
        return {
            "frames": len(times),
            "part": part,
            "first_fps": (part - 1) / (times[part - 1] - times[0]),
            "last_fps": (part - 1) / (times[-1] - times[-part]),
            "first_mib": memory[:part].max(),
            "last_mib": memory[-part:].max(),
            "peak_mib": peak_mib(),
        }


def measure_job(clip: Path, folder: Path, seconds: float) -> Figures:
    """The real job on the long video, stopped after some seconds."""
    from meshpose.convert import Settings, steps

    pace, started = _Pace(), time.monotonic()
    work = steps(clip, folder, Settings(preview=False))
    for progress in work:
        if progress.stage == "track" and not progress.warning:
            pace.step()
        if progress.stage != "track" or time.monotonic() - started > seconds:
            break
    work.close()
    return pace.figures(PART)


def measure_decode(clip: Path, folder: Path) -> Figures:
    """All frames decoded and written to a Take, with one person's last estimate on each."""
    from meshpose.crop import Crop
    from meshpose.estimate import Estimate
    from meshpose.take import Take
    from meshpose.video import Clip, probe

    pace, random = _Pace(), np.random.default_rng(0)
    with Take.create(folder / "decode.take", probe(clip)) as take:
        for frame in Clip(clip):
            vertices = random.normal(500, 100, (500, 3)).astype(np.float32)
            estimate = Estimate(Crop(500.0, 500.0, 400.0, 0.0), vertices, np.ones(500, np.float32), 0.9)
            take.add_frame(frame.index, [(1, estimate)], b"", frame.time)
            pace.step()
    return pace.figures(PART)


def measure_motion(take_file: Path) -> Figures:
    """Everything behind the rig fit."""
    from meshpose.motion import MotionSettings, solve_take
    from meshpose.take import Take

    start = clocks()
    with Take.resume(take_file) as take:
        frames = sum(solve_take(take, MotionSettings(), "made by the bench"))
    wall, cpu = clocks() - start
    return {"frames": frames, "seconds": wall, "cpu_seconds": cpu, "peak_mib": peak_mib()}


def measure_scene(take_file: Path, blend: Path) -> Figures:
    """The scene of the long Take: seconds, size of the saved file, milliseconds of a jump to a frame."""
    import bpy

    from meshpose_blender.scene import build_scene

    bpy.ops.wm.read_factory_settings(use_empty=True)
    start = clocks()
    built = build_scene(take_file)
    build_seconds, build_cpu = clocks() - start
    bpy.ops.wm.save_as_mainfile(filepath=str(blend), compress=True)
    scene, mesh, random = bpy.context.scene, built.people[0].mesh, np.random.default_rng(0)
    spent = []
    for frame in random.integers(scene.frame_start, scene.frame_end, 60):
        start = clocks()
        scene.frame_set(int(frame))
        graph = bpy.context.evaluated_depsgraph_get()
        count = len(mesh.evaluated_get(graph).data.vertices)
        spent.append(1000 * (clocks() - start))
    wall, cpu = np.median(spent, axis=0)
    return {
        "frames": scene.frame_end - scene.frame_start + 1,
        "vertices": count,
        "seconds": build_seconds,
        "cpu_seconds": build_cpu,
        "blend_mb": blend.stat().st_size / 1e6,
        "beside_it": sorted(path.name for path in blend.parent.iterdir() if path.suffix not in (".take", ".blend")),
        "jump_ms": wall,
        "jump_cpu_ms": cpu,
        "peak_mib": peak_mib(),
    }


def all_parts(clip: Path, frames: int, seconds: float) -> Iterator[tuple[str, Figures]]:
    """Each part in a process of its own: its name and figures."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        video, take, scene = folder / "long.mp4", folder / "long.take", folder / "scene"
        scene.mkdir()
        from meshpose.convert import convert

        short = convert(clip, folder, preview=False)
        long_take(short.path, scene / take.name, frames)
        script = Path(__file__)
        yield "motion", in_own_process("motion", "--take", scene / take.name, script=script)
        yield "scene", in_own_process("scene", "--take", scene / take.name, script=script)
        if seconds > 0:
            long_clip(clip, video, frames)
            yield "decode", in_own_process("decode", video, "--folder", folder, script=script)
            (folder / "decode.take").unlink(missing_ok=True)
            yield "job", in_own_process("job", video, "--folder", folder, "--seconds", str(seconds), script=script)


def say(name: str, part: Figures) -> str:
    """One part's figures for people."""
    if "failed" in part:
        return f"  {name:8s} not measured: {part['failed']}"
    if "first_fps" in part:
        pace = f"{part['first_fps']:.1f} fps in the first {part['part']}, {part['last_fps']:.1f} in the last"
        return f"  {name:8s} {part['frames']} frames, {pace}, {part['last_mib']:.0f} MiB (peak {part['peak_mib']:.0f})"
    line = f"  {name:8s} {part['frames']} frames, {part['seconds']:.1f} s, CPU {part['cpu_seconds']:.1f} s"
    line += f", peak {part['peak_mib']:.0f} MiB"
    if "blend_mb" in part:
        line += f", .blend {part['blend_mb']:.0f} MB, a jump {part['jump_ms']:.1f} ms (CPU {part['jump_cpu_ms']:.1f})"
    return line


def main(argv: list[str]) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="build.py bench --long", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("clip", nargs="?", type=Path, default=SAMPLE, help="a clip with people (default: the sample)")
    parser.add_argument("--frames", type=int, default=15_000, help="length of the long clip (15000: 10 minutes)")
    parser.add_argument("--seconds", type=float, default=600, help="of the real job (600; 0: no video at all)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there too")
    parser.add_argument("--part", choices=("job", "decode", "motion", "scene"), help=argparse.SUPPRESS)
    parser.add_argument("--result", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--take", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.part:
        parts: dict[str, Callable[[], Figures]] = {
            "job": lambda: measure_job(options.clip, options.folder, options.seconds),
            "decode": lambda: measure_decode(options.clip, options.folder),
            "motion": lambda: measure_motion(options.take),
            "scene": lambda: measure_scene(options.take, options.take.with_suffix(".blend")),
        }
        options.result.write_text(json.dumps(parts[options.part]()), "utf-8")
        return 0
    figures: dict[str, Any] = {"clip": str(options.clip), "cpus": os.cpu_count()}
    figures["load"] = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    print(f"{options.clip}, {options.frames} frames of {SIZE[0]} x {SIZE[1]}", flush=True)
    for name, part in all_parts(options.clip, options.frames, options.seconds):
        figures[name] = part
        print(say(name, part), flush=True)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n", "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
