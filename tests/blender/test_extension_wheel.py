# SPDX-License-Identifier: Apache-2.0
"""The extension inside the bpy wheel: registration, the panel's pictures of a job, the job itself with a stand-in."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

bpy = pytest.importorskip("bpy")

import meshpose_blender  # noqa: E402
from meshpose_blender import job as jobs  # noqa: E402
from meshpose_blender import operators, panel, scene  # noqa: E402
from meshpose_blender.job import Job, State  # noqa: E402

PROGRESS = {
    "event": "progress",
    "stage": "find",
    "frame": 3,
    "frames": 12,
    "fps": 8.0,
    "seconds_left": 1.1,
    "people": 2,
}
DONE = {"event": "done", "take": "/x/a.take", "preview": None, "people": 2}


def fake(*events: dict[str, Any] | str, then: str = "") -> Job:
    """A job whose process prints these events (or raw lines) and then runs the code `then`."""
    lines = [event if isinstance(event, str) else json.dumps(event) for event in events]
    code = f"import os, sys, time\nfor line in {lines!r}: print(line, flush=True)\n{then}"
    return Job([sys.executable, "-c", code])


def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    """Wait for something that another process does."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


@pytest.fixture
def registered() -> Iterator[None]:
    bpy.ops.wm.read_factory_settings(use_empty=True)
    meshpose_blender.register()
    yield
    meshpose_blender.unregister()


class Context:
    """What a panel asks of its context."""

    class region:
        width = 400

    def __init__(self) -> None:
        self.scene = bpy.context.scene
        self.preferences = SimpleNamespace(system=SimpleNamespace(ui_scale=1.0))  # 0 without a window


class Layout:
    """Stands in for Blender's layout and notes what a panel shows: (kind, text or operator)."""

    def __init__(self, shown: list[tuple[str, str]] | None = None) -> None:
        self.shown: list[tuple[str, str]] = [] if shown is None else shown
        self.scale_y = 1.0

    def column(self, align: bool = False) -> Layout:
        return Layout(self.shown)

    row = column

    def label(self, text: str, icon: str = "NONE") -> None:
        self.shown.append(("label", text))

    def progress(self, factor: float, text: str) -> None:
        self.shown.append(("progress", f"{text} {factor:.2f}"))

    def prop(self, data: Any, name: str, text: str = "") -> None:
        getattr(data, name)
        self.shown.append(("prop", name))

    def operator(self, name: str, text: str = "", icon: str = "NONE") -> SimpleNamespace:
        assert icon in bpy.types.UILayout.bl_rna.functions["label"].parameters["icon"].enum_items
        module, function = name.split(".")
        getattr(getattr(bpy.ops, module), function).get_rna_type()  # it exists
        self.shown.append(("operator", f"{name} {text}".strip()))
        return SimpleNamespace()  # takes the operator's settings


def shown() -> list[tuple[str, str]]:
    """What the panel shows now."""
    layout = Layout()
    if operators.watch.job is not None:
        panel.draw_job(layout, operators.watch.job)
    else:
        panel.draw_start(layout, Context())
    return layout.shown


def test_register_and_unregister_twice_leave_nothing() -> None:
    bpy.ops.wm.read_factory_settings(use_empty=True)
    for _ in range(2):
        assert not hasattr(bpy.types.Scene, "meshpose")
        meshpose_blender.register()
        assert bpy.context.scene.meshpose.clip == ""
        assert bpy.types.MESHPOSE_PT_panel.bl_category == "MeshPose"
        for name in ("choose_clip", "convert", "cancel", "load_take"):
            assert getattr(bpy.ops.meshpose, name).get_rna_type().description
        meshpose_blender.unregister()
        assert not hasattr(bpy.types, "MESHPOSE_PT_panel")
    assert not bpy.app.timers.is_registered(operators.look)


def test_panel_shows_only_what_can_be_used(registered: None) -> None:
    assert shown() == [("operator", "meshpose.choose_clip"), ("operator", "meshpose.load_take")]
    bpy.context.scene.meshpose.clip = "/x/a.mp4"
    assert shown() == [("prop", "clip"), ("operator", "meshpose.convert"), ("operator", "meshpose.load_take")]
    operators.watch.say("a.take: the clip has changed; --restart makes it anew", failed=True)
    assert shown()[-1] == ("operator", "meshpose.convert Begin Anew")
    operators.watch.say("")
    operators.watch.clip, operators.watch.job = "/clips/Tänzer 1.mp4", fake(PROGRESS, then="sys.stdin.read()")
    until(lambda: operators.watch.job is not None and operators.watch.job.poll() and operators.watch.job.people == 2)
    assert not bpy.ops.meshpose.convert.poll() and bpy.ops.meshpose.cancel.poll()
    assert shown() == [
        ("label", "Tänzer 1.mp4"),
        ("progress", "Find 3 / 12 0.25"),
        ("label", "0:01 left, 8.0 frames/s"),
        ("label", "2 people"),
        ("operator", "meshpose.cancel"),
    ]
    bpy.ops.meshpose.cancel()
    assert not bpy.ops.meshpose.cancel.poll()
    assert shown()[-1] == ("label", "Finishing the frame in work")
    until(lambda: operators.look() is None)
    assert ("operator", "meshpose.convert") in shown() and "Cancelled" in operators.watch.message


def test_panel_wraps_a_long_sentence(registered: None) -> None:
    layout = Layout()
    sentence = "clip.mp4: this is no video that can be read; give another file or convert it first, with any tool"
    panel.draw_sentence(layout, Context(), sentence, "ERROR")
    assert len(layout.shown) > 1 and " ".join(text for _, text in layout.shown) == sentence


def test_convert_without_a_clip_is_one_line(registered: None) -> None:
    with pytest.raises(RuntimeError, match="No clip chosen"):
        bpy.ops.meshpose.convert()
    assert operators.watch.job is None


def test_convert_starts_the_job_and_says_its_error(
    registered: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def start(clip: str, out: Path, **settings: Any) -> Job:
        asked.append((clip, Path(out), settings["height"], settings["max_people"], settings["restart"]))
        return fake({"event": "error", "message": "a.mp4: this is no video"}, then="sys.exit(2)")

    monkeypatch.setattr(jobs, "start", start)
    bpy.ops.meshpose.convert(clip=str(tmp_path / "a.mp4"), height=1.75)
    assert asked == [(str(tmp_path / "a.mp4"), tmp_path, pytest.approx(1.75), None, False)]
    assert bpy.app.timers.is_registered(operators.look)
    until(lambda: operators.look() is None)
    assert operators.watch.failed and operators.watch.message == "a.mp4: this is no video"
    assert ("label", "a.mp4: this is no video") in shown()


def test_a_job_that_is_done_loads_its_take_once(registered: None, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[Path] = []

    def build_scene(take: Path) -> Any:
        loaded.append(take)
        return SimpleNamespace(people=[1, 2], notes=["cut off"])

    monkeypatch.setattr(scene, "build_scene", build_scene)
    monkeypatch.setattr(jobs, "start", lambda *args, **settings: fake({"event": "warning", "message": "cut off"}, DONE))
    bpy.ops.meshpose.convert(clip="/x/a.mp4")
    until(lambda: operators.look() is not None and operators.watch.building)
    assert shown() == [("label", "a.mp4"), ("label", "Building the scene")] and not loaded
    until(lambda: operators.look() is None)
    assert loaded == [Path("/x/a.take")]
    assert operators.watch.message == "a.take: 2 people" and operators.watch.warnings == ["cut off"]


def test_a_take_is_not_put_into_another_file(registered: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "start", lambda *args, **settings: fake(DONE))
    bpy.ops.meshpose.convert(clip="/x/a.mp4")
    bpy.ops.wm.read_homefile(use_empty=True, use_factory_startup=True)  # File > New while the job runs
    assert bpy.app.timers.is_registered(operators.look)  # the job is still watched
    until(lambda: operators.look() is None)
    assert "Load Take" in operators.watch.message and not operators.watch.failed


def test_load_take_of_something_else_is_one_line(registered: None, tmp_path: Path) -> None:
    (tmp_path / "a.take").write_text("no database")
    with pytest.raises(RuntimeError, match="a.take") as caught:
        bpy.ops.meshpose.load_take(filepath=str(tmp_path / "a.take"))
    assert "Traceback" not in str(caught.value)


def test_unregister_ends_a_running_job(monkeypatch: pytest.MonkeyPatch) -> None:
    meshpose_blender.register()
    running = fake(PROGRESS, then="sys.stdin.read()")
    monkeypatch.setattr(jobs, "start", lambda *args, **settings: running)
    bpy.ops.meshpose.convert(clip="/x/a.mp4")
    meshpose_blender.unregister()
    assert running._process is not None and running._process.poll() is not None
    assert operators.watch.job is None and not bpy.app.timers.is_registered(operators.look)


# ---------------------------------------------------------------- the job


def test_job_reports_and_ends() -> None:
    seen: list[int] = []
    job = fake("chatter of a library", PROGRESS, {**PROGRESS, "frame": 12, "new_key": 1}, DONE)
    job.wait(lambda job: seen.append(job.progress.frame), interval=0.01)
    assert job.state is State.DONE and job.take == Path("/x/a.take") and job.people == 2
    assert job.progress.fraction == 1.0 and seen[-1] == 12


def test_job_cancels_by_closing_stdin_and_keeps_quiet_about_it() -> None:
    """Without the signal, as on Windows."""
    deaf = "import signal; signal.signal(15, signal.SIG_IGN); print('ready', flush=True)"
    job = fake(then=f"{deaf}; sys.stdin.read(); sys.exit(130)")
    until(lambda: job.poll())
    job.cancel()
    assert job.cancelling
    assert job.wait(interval=0.01).state is State.CANCELLED and job.error == ""


def test_job_cancelled_at_once() -> None:
    """Before the process has read anything of its stdin."""
    job = fake(then="time.sleep(60)")
    job.cancel()
    began = time.monotonic()
    assert job.wait(interval=0.01).state is State.CANCELLED and time.monotonic() - began < 5


def test_job_that_ignores_cancel_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "TERMINATE_AFTER", 0.1)
    monkeypatch.setattr(jobs, "KILL_AFTER", 0.3)
    job = fake(then="import signal; signal.signal(15, signal.SIG_IGN); print('ready', flush=True); time.sleep(60)")
    until(lambda: job.poll())
    job.cancel()
    began = time.monotonic()
    assert job.wait(interval=0.01).state is State.CANCELLED and time.monotonic() - began < 10


@pytest.mark.parametrize(
    ("then", "words"),
    [
        ("print('Killed by a bug', file=sys.stderr); os._exit(7)", ["exit code 7", "Killed by a bug"]),
        ("os.kill(os.getpid(), 9)", ["exit code -9", "no message"]),
        ("", ["exit code 0"]),  # ended without a result
        ("print('error: --fov x: no number', file=sys.stderr); sys.exit(2)", ["--fov x: no number"]),
    ],
)
def test_job_that_breaks_leaves_one_sentence(then: str, words: list[str]) -> None:
    job = fake(PROGRESS, then=then).wait(interval=0.01)
    assert job.state is State.FAILED and "\n" not in job.error
    assert all(word in job.error for word in words)


def test_job_with_much_on_stderr_does_not_stand_still() -> None:
    job = fake(DONE, then="for _ in range(9999): sys.stderr.write('y' * 99 + '\\n')")
    assert job.wait(interval=0.01).state is State.DONE


def test_job_that_cannot_start() -> None:
    job = Job(["/nowhere/python"])
    assert job.state is State.FAILED and "/nowhere/python" in job.error


def test_command_line_and_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    words = jobs.command_line("-odd name'.mp4", "out", restart=True, height=1.7, fov=None, preview=False)
    assert words[:4] == [sys.executable, "-m", "meshpose", "run"] and words[4].endswith("/-odd name'.mp4")
    assert Path(words[4]).is_absolute() and Path(words[words.index("--out") + 1]).is_absolute()
    assert words[-4:] == ["--no-preview", "--restart", "--height", "1.7"] and "--fov" not in words
    monkeypatch.setenv("PYTHONPATH", "/of/another/python")
    env = jobs.environment()
    assert "/of/another/python" not in env["PYTHONPATH"]
    probe = Job([sys.executable, "-c", "import meshpose, cv2, onnxruntime, numpy; print('{}')"], env).wait(
        interval=0.01
    )
    assert "exit code 0" in probe.error
