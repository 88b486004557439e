# SPDX-License-Identifier: Apache-2.0
"""The job's process and the watch over it: said, cancelled, broken; queue, resume; Blender used or closed meanwhile."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

bpy = pytest.importorskip("bpy")

from panel_stand_ins import DONE, LOOK, PROGRESS, fake, until  # noqa: E402

import meshpose_blender  # noqa: E402
from meshpose import MeshPoseError  # noqa: E402
from meshpose.take import Take  # noqa: E402
from meshpose.video import Clip, write_preview  # noqa: E402
from meshpose_blender import job as jobs  # noqa: E402
from meshpose_blender import scene, watching  # noqa: E402
from meshpose_blender.job import Job, State  # noqa: E402
from meshpose_blender.watching import watch  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = ROOT / "samples" / "turn.mp4"


@pytest.fixture
def registered() -> Iterator[None]:
    bpy.ops.wm.read_factory_settings(use_empty=True)
    meshpose_blender.register()
    yield
    meshpose_blender.unregister()


@pytest.fixture
def starts(monkeypatch: pytest.MonkeyPatch) -> list[Job]:
    """Jobs that the operators start, instead of conversions: each waits until its stdin is closed."""
    started: list[Job] = []

    def start(clip: str, out: Path, **settings: Any) -> Job:
        started.append(fake(PROGRESS, then="sys.stdin.read(); sys.exit(130)"))
        return started[-1]

    monkeypatch.setattr(jobs, "start", start)
    return started


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    if not SAMPLE.is_file():
        pytest.skip("the sample clip is not there")
    return Path(shutil.copy(SAMPLE, tmp_path / "Tänzer 'a'.mp4"))


# -- the process -------------------------------------------------------------------------------------------------------


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
    assert words[-4:] == ["--restart", "--height", "1.7", "--no-preview"] and "--fov" not in words
    monkeypatch.setenv("PYTHONPATH", "/of/another/python")
    env = jobs.environment()
    assert "/of/another/python" not in env["PYTHONPATH"]
    probe = Job([sys.executable, "-c", "import meshpose, cv2, onnxruntime, numpy; print('{}')"], env).wait(
        interval=0.01
    )
    assert "exit code 0" in probe.error


def test_missing_and_broken_packages_say_what_to_do() -> None:
    """In words that an artist can follow, and with the Python that the right zip has to fit."""
    python = f"Python {sys.version_info[0]}.{sys.version_info[1]}"
    missing = fake(then="raise ModuleNotFoundError(\"No module named 'onnxruntime'\")").wait(interval=0.01)
    assert "onnxruntime is missing" in missing.error and "Install from Disk" in missing.error
    assert python in missing.error and "\n" not in missing.error
    broken = fake(then="raise ImportError('DLL load failed while importing onnxruntime_pybind11_state')")
    broken.wait(interval=0.01)
    assert "onnxruntime does not work in this Blender (DLL load failed" in broken.error
    several = "raise ImportError('numpy.core.multiarray failed to import\\nIMPORTANT: read this\\nand this')"
    assert "does not work in this Blender" in fake(then=several).wait(interval=0.01).error
    assert "Traceback" in broken.detail and "command:" in broken.detail and python in broken.detail


def test_packages_that_are_not_there_are_named_before_a_job() -> None:
    assert jobs.missing_packages() == []
    code = (
        "import sys, importlib.util as u\n"
        "from meshpose_blender import job\n"
        "find = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name == 'onnxruntime' else find(name, *a)\n"
        "print(job.missing_packages())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "['onnxruntime']", done.stdout + done.stderr


def test_another_extensions_packages_do_not_get_in_the_way(tmp_path: Path) -> None:
    """An add-on puts its own broken cv2 and onnxruntime in front of everybody's path: the job still uses ours."""
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    for name in ("cv2", "onnxruntime"):
        (theirs / name).mkdir(parents=True)
        (theirs / name / "__init__.py").write_text("raise ImportError('of another extension')")
        (ours / name).mkdir(parents=True)
        (ours / name / "__init__.py").write_text("print('ours', __name__)")
    shutil.copytree(ROOT / "core" / "meshpose", ours / "meshpose")
    code = (
        f"import sys; sys.path[:0] = [{str(theirs)!r}, {str(ours)!r}, {str(ROOT)!r}]\n"
        "from meshpose_blender import job\n"
        "import subprocess\n"
        "code = 'import cv2, onnxruntime, numpy, meshpose; print(meshpose.__file__)'\n"
        "done = subprocess.run([sys.executable, '-c', code], env=job.environment(), capture_output=True, text=True)\n"
        "print(done.stdout, done.stderr)"
    )
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, env=env)
    assert "ours cv2" in done.stdout and "ours onnxruntime" in done.stdout, done.stdout + done.stderr
    assert str(ours) in done.stdout


# -- the queue ---------------------------------------------------------------------------------------------------------


def run_timer(seconds: float = 60.0) -> None:
    """Blender's timer until nothing is in work."""
    until(lambda: watching.look() is None, seconds)


def test_clips_wait_for_each_other_and_a_broken_one_stops_nobody(
    registered: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[str] = []
    built: list[tuple[str, str]] = []

    def start(clip: str, out: Path, **settings: Any) -> Job:
        asked.append(Path(clip).name)
        if "broken" in clip:
            return fake({"event": "error", "message": f"{clip}: this is no video"}, then="sys.exit(2)")
        return fake({**DONE, "take": clip.replace(".mp4", ".take")})

    def build_scene(take: Path, **options: Any) -> Any:
        built.append((take.name, bpy.context.scene.name))
        return SimpleNamespace(people=[1], notes=[])

    monkeypatch.setattr(jobs, "start", start)
    monkeypatch.setattr(scene, "build_scene", build_scene)
    monkeypatch.setattr("meshpose_blender.rebuild.build_scene", build_scene)
    names = ("a.mp4", "broken.mp4", "c.mp4")
    bpy.ops.meshpose.drop(directory=str(tmp_path), files=[{"name": name} for name in names])
    assert asked == ["a.mp4"] and [task.name for task in watch.queue] == ["broken.mp4", "c.mp4"]
    bpy.ops.meshpose.drop(filepath=str(tmp_path / "d.mp4"))
    bpy.ops.meshpose.unqueue(index=2)
    assert [task.name for task in watch.queue] == ["broken.mp4", "c.mp4"]
    run_timer()
    assert asked == list(names) and watch.message.startswith("c.take: 1 person, in the scene c")
    assert [take for take, _ in built] == ["a.take", "c.take"]
    assert built[0][1] == "Scene" and built[1][1] == "c"  # the second has a scene of its own


def test_cancel_keeps_the_queue_and_resume_takes_up_the_same_task(registered: None, starts: list[Job]) -> None:
    bpy.context.scene.meshpose.smooth = 0.8
    bpy.ops.meshpose.convert(clip="/x/a.mp4")
    bpy.ops.meshpose.drop(filepath="/x/b.mp4")
    task = watch.task
    until(lambda: watch.job is not None and watch.job.poll())
    began = time.monotonic()
    bpy.ops.meshpose.cancel()
    run_timer()
    assert time.monotonic() - began < 1.5  # the timer's own step included
    assert watch.stopped is task and len(watch.queue) == 1 and "Cancelled" in watch.message
    bpy.context.scene.meshpose.smooth = 0.1
    bpy.ops.meshpose.resume()
    assert watch.task is task and task is not None and task.options["smooth"] == pytest.approx(0.8)
    bpy.ops.meshpose.cancel()
    run_timer()
    bpy.ops.meshpose.unqueue()
    assert not bpy.ops.meshpose.resume.poll() and not watch.queue


# -- Blender is used meanwhile -----------------------------------------------------------------------------------------


def test_undo_save_and_render_while_a_job_runs(registered: None, starts: list[Job], tmp_path: Path) -> None:
    bpy.ops.mesh.primitive_cube_add()
    bpy.ops.ed.undo_push(message="cube")
    bpy.ops.meshpose.convert(clip="/x/a.mp4")
    until(lambda: watch.job is not None and watch.job.poll())
    bpy.ops.mesh.primitive_cube_add()
    bpy.ops.ed.undo_push(message="another")
    bpy.ops.ed.undo()
    bpy.ops.ed.redo()
    assert watching.look() is not None and watch.task is not None
    assert watching.scene_of(watch.task) == bpy.context.scene
    path = tmp_path / "meanwhile.blend"
    bpy.ops.wm.save_as_mainfile(filepath=str(path))
    assert path.is_file() and watching.look() is not None
    scene_ = bpy.context.scene
    scene_.render.engine, scene_.render.resolution_x, scene_.render.resolution_y = "BLENDER_WORKBENCH", 32, 32
    camera = bpy.data.objects.new("camera", bpy.data.cameras.new("camera"))
    scene_.collection.objects.link(camera)
    scene_.camera = camera
    bpy.ops.render.render()
    assert watching.look() is not None and starts[0].state is State.RUNNING


def test_nothing_is_built_while_blender_renders(registered: None, monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[Path] = []

    def build_scene(take: Path, **options: Any) -> Any:
        built.append(take)
        return SimpleNamespace(people=[1, 2], notes=["cut off"])

    monkeypatch.setattr("meshpose_blender.rebuild.build_scene", build_scene)
    monkeypatch.setattr(jobs, "start", lambda *args, **settings: fake({"event": "warning", "message": "cut off"}, DONE))
    rendering = True
    monkeypatch.setattr(watching, "busy", lambda: rendering)
    bpy.ops.meshpose.convert(clip="/x/a.mp4")
    until(lambda: watching.look() is not None and watch.job is not None and watch.job.state is State.DONE)
    assert watching.look() is not None and not built and not watch.building
    rendering = False
    until(lambda: watching.look() is not None and watch.building)
    assert not built
    run_timer()
    assert built == [Path("/x/a.take")]
    assert watch.message == "a.take: 2 people" and watch.warnings == ["cut off"]


def test_a_take_is_not_put_into_another_file_but_into_the_same_one_loaded_anew(
    registered: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(jobs, "start", lambda *args, **settings: fake(DONE))
    bpy.ops.meshpose.convert(clip="/x/a.mp4")
    bpy.ops.wm.read_homefile(use_empty=True, use_factory_startup=True)  # File > New while the job runs
    assert bpy.app.timers.is_registered(watching.look)  # the job is still watched
    run_timer()
    assert "Load Take" in watch.message and not watch.failed and watch.ready == Path("/x/a.take")
    built: list[str] = []

    def build_scene(take: Path, **options: Any) -> Any:
        built.append(bpy.context.scene.name)
        return SimpleNamespace(people=[1], notes=[])

    monkeypatch.setattr("meshpose_blender.rebuild.build_scene", build_scene)
    bpy.context.scene.name = "Shot"
    path = str(tmp_path / "shot.blend")
    bpy.ops.wm.save_as_mainfile(filepath=path)
    bpy.ops.meshpose.convert(clip="/x/a.mp4")
    bpy.ops.wm.open_mainfile(filepath=path)
    run_timer()
    assert built == ["Shot"]


def test_a_look_fills_the_list_of_people(registered: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching.Task, "start", lambda task: fake(LOOK))
    settings = bpy.context.scene.meshpose
    settings.clip, settings.frame_start = "/x/a.mp4", 11
    bpy.context.scene.frame_set(18)
    bpy.ops.meshpose.find_people()
    assert watch.task is not None and watch.task.frame == 7
    run_timer()
    assert [(p.number, round(p.score, 2), p.chosen) for p in settings.candidates] == [(1, 0.93, True), (2, 0.41, True)]
    assert not watch.message and settings.looked_at == 7
    from meshpose_blender.settings import chosen, conversion, nobody_chosen

    assert chosen(settings) == [] and "start" not in conversion(settings)
    settings.candidates[1].chosen = False
    words = jobs.command_line("a.mp4", ".", **conversion(settings))
    assert "--only=7:10,20,30,90" in words and len([word for word in words if word.startswith("--only")]) == 1
    settings.candidates[0].chosen = False
    assert nobody_chosen(settings)
    with pytest.raises(RuntimeError, match="Nobody is chosen"):
        bpy.ops.meshpose.convert()
    settings.clip = "/x/b.mp4"
    assert not len(settings.candidates)


# -- with the real job -------------------------------------------------------------------------------------------------


def alive(number: int) -> bool:
    """Whether a process runs (one that has ended and waits for its parent does not)."""
    stat = Path(f"/proc/{number}/stat")
    return stat.is_file() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


def short(clip: Path, frames: int) -> None:
    """Leave only the clip's first frames."""
    part = clip.with_name("part.mp4")
    with write_preview(part, 30.0, (360, 480)) as writer:
        for frame in Clip(clip):
            if frame.index < frames:
                writer.write(frame.image)
    part.replace(clip)


def test_cancel_takes_less_than_a_second_and_keeps_the_frames(clip: Path) -> None:
    """Of the real conversion, in the midst of the network's work; then it goes on to the end of a short range."""
    job = jobs.start(clip, clip.parent, preview=False)
    until(lambda: job.poll() and job.progress.stage == "track" and job.progress.frame >= 3, 120)
    job.cancel()
    began = time.monotonic()
    job.wait(interval=0.01)
    took = time.monotonic() - began
    print(f"cancelled in {took:.2f} s")
    assert job.state is State.CANCELLED and took < 1.0
    with Take.open(clip.with_suffix(".take")) as take:
        assert len(take.frames) >= 1 and not take.finished
        kept = take.frames
    again = jobs.start(clip, clip.parent, preview=False)
    until(lambda: again.poll() and again.progress.frame > len(kept), 120)
    assert again.progress.frame > len(kept)
    again.close()


@pytest.mark.skipif(not Path("/proc/self/stat").is_file(), reason="looks into /proc")
def test_blender_is_killed_while_a_job_runs(clip: Path) -> None:
    """The job hears that nobody holds its stdin any more, ends, and keeps the Take."""
    code = (
        f"import sys, time; sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / 'core')!r}]\n"
        "from meshpose_blender import job as jobs\n"
        f"job = jobs.start({str(clip)!r}, {str(clip.parent)!r}, preview=False)\n"
        "print(job._process.pid, flush=True)\n"
        "while job.poll() or job.progress.frame < 3: time.sleep(0.02)\n"
        "print('works', flush=True)\n"
        "time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as blender:
        assert blender.stdout is not None
        number = int(blender.stdout.readline())
        assert blender.stdout.readline().strip() == "works"
        blender.send_signal(signal.SIGKILL)
        blender.wait()
        began = time.monotonic()
        until(lambda: not alive(number), 30)
        print(f"the job ended {time.monotonic() - began:.2f} s after Blender")
    with Take.open(clip.with_suffix(".take")) as take:
        assert len(take.frames) >= 1 and not take.finished
    Take.resume(clip.with_suffix(".take")).close()  # nobody holds it


def test_a_real_look_finds_the_person_and_draws_the_frame(registered: None, clip: Path) -> None:
    settings = bpy.context.scene.meshpose
    settings.clip = str(clip)
    bpy.context.scene.frame_set(9)
    watching.look_picture().unlink(missing_ok=True)
    bpy.ops.meshpose.find_people()
    run_timer(180)
    assert not watch.failed, watch.detail
    assert len(settings.candidates) == 1 and settings.looked_at == 8
    x, y, w, h = settings.candidates[0].box
    assert 0 <= x and x + w <= 360 and h > 150 and 0 <= y and y + h <= 485
    assert watching.look_picture().stat().st_size > 10_000
    settings.clip = str(clip.with_name("gone.mp4"))
    bpy.ops.meshpose.find_people()
    run_timer(180)
    assert watch.failed and "gone.mp4" in watch.message


def test_a_network_that_is_not_here_is_one_line_from_everywhere(
    clip: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The headless command, and a script's convert: the job's own sentence, and nothing is written."""
    line = "--model quick: this MeshPose has no such network; choose accurate"
    assert meshpose_blender.command.main(["run", str(clip), "--out", str(tmp_path / "out"), "--model", "quick"]) == 2
    said = capfd.readouterr().err
    assert said.startswith(f"error: {line}") and said.count("\n") == 1
    with pytest.raises(MeshPoseError, match=line):
        meshpose_blender.convert(clip, tmp_path / "out", model="quick")
    assert not (tmp_path / "out").exists()


def test_the_clip_is_deleted_while_it_is_converted(clip: Path) -> None:
    """What was open can be read to its end: a finished Take and a warning, and a scene without footage."""
    short(clip, 12)
    job = jobs.start(clip, clip.parent)
    until(lambda: job.poll() and job.progress.stage == "track" and job.progress.frame >= 1, 120)
    clip.unlink()
    job.wait(interval=0.02)
    assert job.state is State.DONE, job.detail
    assert [w for w in job.warnings if "moved or deleted" in w and clip.name in w] and job.preview is None
    with Take.open(clip.with_suffix(".take")) as take:
        assert len(take.frames) == 12 and take.finished and take.person(take.people[0]).fit() is not None
    bpy.ops.wm.read_factory_settings(use_empty=True)
    built = scene.build_scene(clip.with_suffix(".take"))
    assert len(built.people) == 1 and any("the clip is not there any more" in note for note in built.notes)
