# SPDX-License-Identifier: Apache-2.0
"""What all tests share: where the checkout is, the optional research data, the command line as a process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

ROOT = Path(__file__).resolve().parents[1]

Meshpose = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def root() -> Path:
    """The top of the checkout."""
    return ROOT


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with clips and photographs that are not part of the repository; skips where it is absent."""
    folder = Path(os.environ.get("MESHPOSE_SHARED", ROOT.parent / "shared"))
    if not (folder / "data").is_dir():
        pytest.skip("needs the research data (environment variable MESHPOSE_SHARED names its folder)")
    return folder


@pytest.fixture(scope="session")
def cost() -> Callable[[Callable[[], object]], float]:
    """`cost(work)`: processor time of some work, in units of what numpy needs for 4 million random numbers beside it.

    A ratio within one run, the least of five tries: what a busy or a slow machine changes, it changes in both.  One
    BLAS thread: the second waits in a loop, and on a busy machine that counts as work.
    """

    def spent(work: Callable[[], object]) -> float:
        start = time.process_time()
        work()
        return time.process_time() - start

    def ratio(work: Callable[[], object]) -> float:
        unit = np.random.default_rng(0)
        with threadpool_limits(1):
            return min(spent(work) / spent(lambda: unit.normal(size=(100, 13718, 3))) for _ in range(5))

    return ratio


@pytest.fixture(scope="session")
def meshpose() -> Meshpose:
    """`meshpose(*arguments, env=..., cwd=...)`: the command line as users start it, in a process of its own."""

    def start(*arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
        env = {**os.environ, "PYTHONPATH": str(ROOT / "core"), **options.pop("env", {})}  # type: ignore[dict-item]
        command = [sys.executable, "-m", "meshpose", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, env=env, **options)  # type: ignore[call-overload,no-any-return]

    return start


@pytest.fixture(scope="session")
def like_fast(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What stands for fast.onnx: the checkout's `accurate`, with a word more in the format's field `doc_string`."""
    from meshpose import weights

    file = tmp_path_factory.mktemp("like_fast") / "fast.onnx"
    file.write_bytes((weights.folder() / "accurate.onnx").read_bytes() + b"\x32\x04fast")
    return file


def _linked(folder: Path, put: pytest.MonkeyPatch, fast: Path | None) -> Path:
    """A weights folder with `accurate` and, where it is given, `fast`, whatever the checkout holds."""
    from meshpose import weights

    real = weights.folder()
    listed = json.loads((real / weights.LIST).read_text())
    listed.pop("fast.onnx", None)
    files = {name: real / name for name in listed} | ({"fast.onnx": fast} if fast else {})
    for name, file in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).symlink_to(file)
    if fast:
        listed["fast.onnx"] = weights.digest(fast)
    (folder / weights.LIST).write_text(json.dumps(listed))
    put.setattr(weights, "folder", lambda: folder)
    weights.path.cache_clear()
    return folder


@pytest.fixture
def two_sizes(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, like_fast: Path
) -> Iterator[Path]:
    """The weights folder of an installation that has `accurate` and `fast`, for this process."""
    from meshpose import weights

    yield _linked(tmp_path_factory.mktemp("weights"), monkeypatch, like_fast)
    weights.path.cache_clear()


@pytest.fixture
def one_size(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The same of one that has `accurate` alone."""
    from meshpose import weights

    yield _linked(tmp_path_factory.mktemp("weights"), monkeypatch, None)
    weights.path.cache_clear()
