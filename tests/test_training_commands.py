# SPDX-License-Identifier: Apache-2.0
"""What the training's commands say of files that are not there (slow: needs torch)."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("command", ["train", "ablate"])
@pytest.mark.parametrize("option", ["--start", "--bodies"])
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
    assert str(missing) in last and "there is no such file" in last
