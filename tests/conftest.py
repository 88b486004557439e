# SPDX-License-Identifier: Apache-2.0
"""What all tests share: where the checkout is, the optional research data, the command line as a process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

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
def meshpose() -> Meshpose:
    """`meshpose(*arguments, env=..., cwd=...)`: the command line as users start it, in a process of its own."""

    def start(*arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
        env = {**os.environ, "PYTHONPATH": str(ROOT / "core"), **options.pop("env", {})}  # type: ignore[dict-item]
        command = [sys.executable, "-m", "meshpose", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, env=env, **options)  # type: ignore[call-overload,no-any-return]

    return start
