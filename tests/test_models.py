# SPDX-License-Identifier: Apache-2.0
"""The sizes of the network: which are offered, which one a job uses, and that a Take is never made by two of them.

The weights folders are made here (conftest.py), so that all of it is tested with and without a fast.onnx.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from fake_network import FRAMES, FakeTracker, install, job

from meshpose import Take, batch, convert, network, ray_batch, weights
from meshpose.batch import convert_many
from meshpose.batch_task import Result
from meshpose.cli import main
from meshpose.convert import Settings, refit, steps
from meshpose.errors import InputError, TakeError
from meshpose.network import Network

SAMPLE = Path(__file__).resolve().parents[1] / "samples" / "turn.mp4"
real_hash = job._weights_hash


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> type[FakeTracker]:
    """The job without looking at pictures, but with the true hashes of the network's file."""
    tracker = install(monkeypatch.setattr)
    monkeypatch.setattr(job, "_weights_hash", real_hash)
    return tracker


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    path = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 25, (64, 48))
    for shade in range(FRAMES):
        writer.write(np.full((48, 64, 3), 20 * shade, np.uint8))
    writer.release()
    return path


def begin(clip: Path, out: Path, **settings: Any) -> None:
    """A job that is stopped after some frames."""
    work = steps(clip, out, Settings(**settings))
    for _ in range(4):
        next(work)
    work.close()


def update(file: Path, gone: bool = False) -> None:
    """Another file of that name, or none, as another version of the program brings it."""
    content = file.read_bytes()
    file.unlink()
    if not gone:
        file.write_bytes(content + b"\x32\x03new")
    weights.write_list()
    weights.path.cache_clear()


# -- what is offered ---------------------------------------------------------------------------------------------------


def test_the_list_says_what_can_be_chosen(two_sizes: Path) -> None:
    assert weights.models() == ["accurate", "fast"] and weights.DEFAULT == "accurate"
    (two_sizes / "draft.onnx").write_bytes(b"lies there and is not listed")
    assert weights.models() == ["accurate", "fast"]
    weights.write_list()
    assert weights.models() == ["accurate", "fast", "draft"], "one that somebody has trained"
    assert weights.model_file("draft") == "draft.onnx"


def test_the_checkouts_own_weights_have_the_default() -> None:
    assert weights.DEFAULT in weights.models() and "people" not in weights.models()


WRONG = ["fast", "people", "Accurate", "../accurate", "accurate.onnx", ""]


@pytest.mark.parametrize("model", WRONG)
@pytest.mark.parametrize("command", ["run", "batch", "evaluate"])
def test_what_is_not_there_is_refused_in_one_line(
    one_size: Path, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], model: str, command: str
) -> None:
    out, pictures = tmp_path / "out", tmp_path / "pictures"
    words = {"run": [clip, "--out", out], "batch": [clip, "--out", out]}
    if command == "evaluate":
        pictures.mkdir()
        cv2.imwrite(str(pictures / "a.png"), np.zeros((9, 9, 3), np.uint8))
        person = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 9, 9]}
        known = {"images": [{"id": 1, "file_name": "a.png"}], "annotations": [person]}
        known["categories"] = [{"id": 1, "name": "person"}]
        (tmp_path / "set.json").write_text(json.dumps(known))
        words["evaluate"] = [tmp_path / "set.json", "--images", pictures]
    assert main([command, *map(str, words[command]), "--model", model]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert said == [f"error: --model {model}: this MeshPose has no such network; choose accurate"]
    assert not out.exists() or list(out.iterdir()) == []


def test_scripts_are_refused_the_same_way(one_size: Path, clip: Path, tmp_path: Path) -> None:
    calls: tuple[Callable[[], object], ...] = (
        lambda: Network("fast"),
        lambda: convert(clip, out=tmp_path / "out", model="fast"),
        lambda: convert_many([clip], tmp_path / "night", model="fast"),
    )
    for call in calls:
        with pytest.raises(InputError, match="^--model fast: .*; choose accurate$"):
            call()
    assert not (tmp_path / "night").exists()


def test_build_hands_it_on() -> None:
    import build

    assert build._split_run(["a.mp4", "--model", "fast"])[0::2] == (Path("a.mp4"), ["--model", "fast"])
    assert build._split_run(["--model=fast", "a.mp4"])[0::2] == (Path("a.mp4"), ["--model=fast"])


# -- which one works ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["accurate", "fast"])
def test_the_chosen_one_is_run_and_remembered(
    two_sizes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str
) -> None:
    """The real job on a frame of the sample."""
    loaded, load = [], network.open_session

    def noted(name: str, threads: int) -> Any:
        loaded.append(name)
        return load(name, threads)

    monkeypatch.setattr(network, "open_session", noted)
    with convert(SAMPLE, out=tmp_path, model=model, end=1, preview=False) as take:
        assert loaded == [f"{model}.onnx"] and take.people == [1]
        digest = weights.digest(two_sizes / f"{model}.onnx")
        assert take.settings["model"] == model and take.settings["network"][f"{model}.onnx"] == digest[:16]


def test_info_says_which(two_sizes: Path, fake: Any, clip: Path, capsys: pytest.CaptureFixture[str]) -> None:
    convert(clip, out=clip.parent, model="fast", preview=False).close()
    assert main(["info", str(clip.with_suffix(".take"))]) == 0
    assert "model fast" in capsys.readouterr().out


def test_the_takes_digest_knows_the_networks_file(two_sizes: Path, fake: Any, clip: Path, tmp_path: Path) -> None:
    """The fake says the same for each of them: what differs is whose answer it is said to be."""
    digests = set()
    for number, model in enumerate(("accurate", "fast", "fast")):
        if number == 2:  # an update of the program
            update(two_sizes / "fast.onnx")
        with convert(clip, out=tmp_path / str(number), model=model, preview=False) as take:
            digests.add(take.digest())
    assert len(digests) == 3


@pytest.mark.parametrize("ray", [None, "auto"])
def test_every_clip_of_a_batch_is_told(
    two_sizes: Path, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ray: str | None
) -> None:
    """By a process here, or by a worker of a cluster; from a script, or from the command line."""
    words: list[tuple[str, ...]] = []

    def stand_in(tasks: Any, *more: Any) -> Any:
        words.extend(task.words for task in tasks)
        return iter([Result(task.clip, "ok") for task in tasks])

    monkeypatch.setattr(ray_batch, "run_on_ray", stand_in)
    monkeypatch.setattr(batch, "_run_here", stand_in)
    convert_many([clip], tmp_path / "a", model="fast", ray=ray)
    shell = ["batch", str(clip), "--out", str(tmp_path / "b"), "--model", "fast", "--quiet"]
    assert main([*shell, "--ray", ray] if ray else shell) == 0
    assert words == [("--model", "fast")] * 2


# -- never two in one Take ---------------------------------------------------------------------------------------------


def test_a_stopped_take_does_not_go_on_with_another(two_sizes: Path, fake: Any, clip: Path, tmp_path: Path) -> None:
    begin(clip, tmp_path, model="accurate")
    fake.looked.clear()
    with pytest.raises(TakeError, match=r"other settings \(model accurate -> fast\); --restart makes it anew"):
        convert(clip, out=tmp_path, model="fast", preview=False)
    assert fake.looked == []
    with convert(clip, out=tmp_path, preview=False) as take:
        assert fake.looked[0] > 0 and take.settings["model"] == "accurate", "the first one goes on where it was"


def test_a_stopped_take_does_not_go_on_with_a_newer_file(two_sizes: Path, fake: Any, clip: Path) -> None:
    begin(clip, clip.parent, model="fast")
    update(two_sizes / "fast.onnx")
    with pytest.raises(TakeError, match="the network's file is another one"):
        convert(clip, out=clip.parent, model="fast", preview=False)
    with convert(clip, out=clip.parent, model="fast", preview=False, restart=True) as take:
        assert take.finished


def test_a_finished_take_keeps_its_network(two_sizes: Path, fake: Any, clip: Path, tmp_path: Path) -> None:
    convert(clip, out=tmp_path, model="fast", preview=False).close()
    before = (tmp_path / "clip.take").read_bytes()
    with pytest.raises(TakeError, match="model fast -> accurate"):
        convert(clip, out=tmp_path, preview=False)
    assert (tmp_path / "clip.take").read_bytes() == before
    with convert(clip, out=tmp_path, preview=False, restart=True) as take:
        assert take.settings["model"] == "accurate" and "fast.onnx" not in take.settings["network"]


def forget_looks(path: Path) -> None:
    """The Take as a version wrote it that knew of no second look."""
    with Take.resume(path) as take:
        take.set_settings({name: value for name, value in take.settings.items() if name != "second_look"})


def test_a_take_of_an_earlier_version_was_seen_once(two_sizes: Path, fake: Any, clip: Path, tmp_path: Path) -> None:
    """Finished it stays as it is, also through a re-fit; one that was stopped does not go on with two looks."""
    done, stopped = tmp_path / "done", tmp_path / "stopped"
    convert(clip, out=done, preview=False).close()
    forget_looks(done / "clip.take")
    fake.looked.clear()
    with convert(clip, out=done, preview=False) as take:
        assert fake.looked == [] and take.settings["second_look"] is False
    forget_looks(done / "clip.take")
    list(refit(done / "clip.take", smooth=0.8))
    with Take.open(done / "clip.take") as take:
        assert (take.settings["second_look"], take.settings["smooth"]) == (False, 0.8)
    begin(clip, stopped)
    fake.looked.clear()
    forget_looks(stopped / "clip.take")
    with pytest.raises(TakeError, match=r"other settings \(second_look False -> True\); --restart makes it anew"):
        convert(clip, out=stopped, preview=False)
    with convert(clip, out=stopped, preview=False, second_look=False) as take:
        assert fake.looked[0] > 0 and take.settings["second_look"] is False


def test_a_refit_needs_no_network(two_sizes: Path, fake: Any, clip: Path, tmp_path: Path) -> None:
    """A Take by `fast` is re-fitted where there is no `fast`, and stays one by `fast`."""
    convert(clip, out=tmp_path, model="fast", preview=False).close()
    update(two_sizes / "fast.onnx", gone=True)
    with Take.open(tmp_path / "clip.take") as take:
        known = take.settings["network"]
    list(refit(tmp_path / "clip.take", smooth=0.9))
    with Take.open(tmp_path / "clip.take") as take:
        assert (take.settings["model"], take.settings["network"]) == ("fast", known)
    with pytest.raises(InputError, match="model decide"):
        list(refit(tmp_path / "clip.take", model="accurate"))


# -- the shipped file --------------------------------------------------------------------------------------------------


@pytest.mark.skipif("fast" not in weights.models(), reason="weights/fast.onnx is not there (yet)")
def test_the_shipped_fast_one_is_small_and_quick() -> None:
    """As promised: 14 MB at most, and less work for a person than `accurate` (CPU seconds, one thread)."""
    assert weights.path("fast.onnx").stat().st_size <= 14e6 and weights.path("accurate.onnx").stat().st_size <= 36e6
    code = (
        "import sys, time, numpy as np; from meshpose.network import Network; net = Network(sys.argv[1], 1)\n"
        "crops = np.random.default_rng(0).integers(0, 255, (1, 256, 256, 3), np.uint8); net(crops)\n"
        "best = 9.0\n"
        "for _ in range(5): start = time.process_time(); net(crops); best = min(best, time.process_time() - start)\n"
        "print(best)"
    )
    spent = {}
    for model in ("accurate", "fast"):
        env = {**os.environ, "PYTHONPATH": str(Path(weights.__file__).parents[1])}
        told = subprocess.run([sys.executable, "-c", code, model], capture_output=True, text=True, env=env, check=True)
        spent[model] = float(told.stdout)
    assert spent["fast"] < 0.85 * spent["accurate"], spent
