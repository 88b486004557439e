# SPDX-License-Identifier: Apache-2.0
"""What the training's commands say of files that are not there, or not what they should be (slow: needs torch)."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from meshpose import weights

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("command", ["train", "ablate"])
@pytest.mark.parametrize("option", ["--start", "--bodies", "--fits"])
def test_a_missing_file_is_one_line(
    command: str, option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2, the file's name, before anything is read."""
    pytest.importorskip("torch")
    missing = tmp_path / "nothing.here"
    folders = [part for name in ("data", "synth", "models", "out") for part in (f"--{name}", str(tmp_path))]
    monkeypatch.setattr("sys.argv", [command, *folders, option, str(missing)])
    with pytest.raises(SystemExit) as stopped:
        importlib.import_module(f"training.{command}").main()
    assert stopped.value.code == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert str(missing) in last and "there is no such" in last


def test_a_file_of_another_network_is_said_to_be(tmp_path: Path) -> None:
    """By `read_back`: `accurate` for an encoder of other widths, and what is no ONNX file at all."""
    pytest.importorskip("torch")
    from training.checkpoint import AnotherNetwork, read_back

    other: Any = SimpleNamespace(encoder=SimpleNamespace(channels={"down4": 8}))
    with pytest.raises(AnotherNetwork, match=r"accurate\.onnx: is no export of this network"):
        read_back(other, weights.path("accurate.onnx"))
    (tmp_path / "text.onnx").write_text("weights?")
    with pytest.raises(AnotherNetwork, match=r"text\.onnx: is no ONNX file"):
        read_back(other, tmp_path / "text.onnx")


def test_fitting_says_which_sets_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line and exit code 2 for another."""
    pytest.importorskip("torch")
    from training import fit

    monkeypatch.setattr("sys.argv", ["fit", "lspet val", "--data", str(tmp_path), "--out", str(tmp_path / "f.npz")])
    with pytest.raises(SystemExit) as stopped:
        fit.main()
    assert stopped.value.code == 2 and "lspet train" in capsys.readouterr().err.strip().splitlines()[-1]


def test_training_says_that_it_begins_at_another_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a line, with exit code 2."""
    pytest.importorskip("torch")
    from training import train
    from training.checkpoint import AnotherNetwork

    def refuse(*_: object) -> None:
        raise AnotherNetwork("a.onnx: is no export of this network")

    monkeypatch.setattr(train, "photographs", lambda *_: [SimpleNamespace(source="ccp train")])
    monkeypatch.setattr(train, "train", refuse)
    folders = [part for name in ("data", "models", "out") for part in (f"--{name}", str(tmp_path))]
    monkeypatch.setattr("sys.argv", ["train", *folders])
    with pytest.raises(SystemExit) as stopped:
        train.main()
    assert stopped.value.code == 2 and "a.onnx: is no export" in capsys.readouterr().err
