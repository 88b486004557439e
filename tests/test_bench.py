# SPDX-License-Identifier: Apache-2.0
"""`build.py bench`: what its table says of the networks, and the networks' part on a few frames of the sample."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from takes import make_take

from meshpose import landmarks
from meshpose.errors import InputError
from tools import bench

PATHS = [
    {"name": "accurate", "threads": 1, "ms": 40.0, "cpu_ms": 40.0},
    {"name": "fast", "threads": 1, "ms": 24.0, "cpu_ms": 30.0},
    {"name": "BlazePose heavy", "threads": 1, "ms": 32.0, "cpu_ms": 20.0},
    {"name": "accurate", "threads": 2, "ms": 20.0, "cpu_ms": 40.0},
    {"name": "fast", "threads": 2, "ms": 16.0, "cpu_ms": 30.0},
]


def figures(**more: Any) -> dict[str, Any]:
    whole = {"model": "fast", "frames": 10, "people": 1, "size": [360, 480], "fps": 5.0, "cpu_seconds": 1.0}
    whole |= {"peak_mib": 400.0, "ms_per_frame_by_stage": {"network": [20.0, 30.0]}}
    return {"clip": "x.mp4", "cpus": 2, "load": None, "convert": whole, "scene": {"failed": "no bpy"}} | more


def test_the_table_sets_the_networks_side_by_side() -> None:
    text = bench.table(figures(networks={"paths": PATHS, "left_out": None}))
    titles = [f"{path['name']}, one person, {path['threads']} thread" for path in PATHS]
    line = {title: next(words for words in text.splitlines() if title in words) for title in titles}
    fast, accurate = (line[f"{name}, one person, 1 thread"] for name in ("fast", "accurate"))
    assert "clip to Take and preview, fast" in text and "not measured" in text.splitlines()[-1]
    assert "0.60 x accurate (CPU 0.75), 0.75 x BlazePose heavy (CPU 1.50)" in fast
    assert "1.25 x BlazePose heavy (CPU 2.00)" in accurate and "x accurate" not in accurate
    alone = line["fast, one person, 2 thread"]
    assert "0.80 x accurate" in alone and "heavy" not in alone, "there was no peer with two threads"
    assert " x " not in line["BlazePose heavy, one person, 1 thread"]


def test_what_was_not_measured_is_said() -> None:
    text = bench.table(figures(networks={"paths": PATHS[:1], "left_out": "npm is missing"}))
    assert "BlazePose heavy" in text and "npm is missing" in text
    assert "nobody in the clip" in bench.table(figures(networks={"left_out": "nobody in the clip"}))


@pytest.mark.parametrize("names", [["accurate"], ["accurate", "fast"]])
def test_every_network_that_is_here_is_timed(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, names: list[str]
) -> None:
    request.getfixturevalue("two_sizes" if "fast" in names else "one_size")

    def offline() -> Path:
        raise InputError("the peer cannot be fetched")

    monkeypatch.setattr(landmarks, "fetch", offline)
    monkeypatch.setattr(bench, "THREADS", (1,))
    clip = tmp_path / "a.avi"
    writer = cv2.VideoWriter(str(clip), cv2.VideoWriter.fourcc(*"MJPG"), 25, (320, 240))
    for _ in range(3):
        writer.write(np.zeros((240, 320, 3), np.uint8))
    writer.release()
    make_take(tmp_path / "a.take", frames=3).close()
    told = bench.measure_networks(clip, tmp_path / "a.take")
    assert [(path["name"], path["threads"]) for path in told["paths"]] == [(name, 1) for name in names]
    assert all(path["ms"] > 0 and path["cpu_ms"] > 0 for path in told["paths"])
    assert told["left_out"] == "the peer cannot be fetched"


def test_another_network_is_one_line(one_size: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main(["--model", "fast"]) == 2
    assert capsys.readouterr().err == "error: --model fast: this MeshPose has no such network; choose accurate\n"
