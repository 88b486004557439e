# SPDX-License-Identifier: Apache-2.0
"""A batch on a Ray cluster of two workers on this machine: one is killed in the middle, nothing is lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from fake_network import FRAMES

from meshpose.batch import convert_many
from meshpose.take import Take

HERE = Path(__file__).parent
CLIPS = 6

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks for the worker's process in /proc"),
]


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """Address of a cluster with two workers of two cores each."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["PYTHONPATH"] = os.pathsep.join([str(HERE.parent / "core"), os.environ.get("PYTHONPATH", "")])
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    for _ in range(2):
        made.add_node(num_cpus=2)
    try:
        yield str(made.address)
    finally:
        made.shutdown()


def write_clips(folder: Path) -> list[Path]:
    """Clips of noise."""
    paths = []
    for number in range(CLIPS):
        paths.append(folder / f"clip {number}.avi")
        writer = cv2.VideoWriter(str(paths[-1]), cv2.VideoWriter.fourcc(*"MJPG"), 25, (64, 48))
        random = np.random.default_rng(number)
        for _ in range(FRAMES):
            writer.write(random.integers(0, 255, (48, 64, 3), np.uint8))
        writer.release()
    return paths


def job_at_work(out: Path) -> int:
    """The process of a job that writes a Take in `out`, some frames into it."""
    for _ in range(600):
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                words = (folder / "cmdline").read_bytes().decode().split("\0")
            except OSError:
                continue
            takes = list(Path(words[words.index("--out") + 1]).glob("*.take")) if "--out" in words else []
            if takes and takes[0].is_relative_to(out) and "run" in words and Take.begun(takes[0]):
                with Take.open(takes[0]) as take:
                    if len(take.frames) >= 3:
                        return int(folder.name)
        time.sleep(0.1)
    raise AssertionError("no job came to work")


def parent(process: int) -> int:
    """Who started a process: the Ray worker."""
    return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])


def test_a_killed_worker_loses_nothing(cluster: str, tmp_path: Path) -> None:
    clips, out = write_clips(tmp_path), tmp_path / "out"
    slow = tmp_path / "slow.py"
    slow.write_text(
        f"import os, sys; os.environ['MESHPOSE_FAKE_SECONDS'] = '0.4'; sys.path.insert(0, {str(HERE)!r})\n"
        "import fake_network\nfrom meshpose.cli import main\nfake_network.install(setattr)\nsys.exit(main())\n"
    )
    program = (sys.executable, str(slow))
    killed: list[int] = []

    def kill() -> None:
        killed.append(parent(job_at_work(out)))
        os.kill(killed[0], signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    results = convert_many(clips, out, ray=cluster, program=program, preview=False)
    killer.join()
    assert killed and [result.status for result in results] == ["ok"] * CLIPS, results
    alone = (sys.executable, str(HERE / "fake_network.py"))
    for clip, result in zip(clips, results):
        done: Any = subprocess.run([*alone, "run", str(clip), "--out", str(tmp_path / "alone"), "--no-preview"])
        assert done.returncode == 0 and result.frames == FRAMES
        with Take.open(result.outputs[0]) as take, Take.open(tmp_path / "alone" / f"{clip.stem}.take") as wanted:
            assert take.digest() == wanted.digest()
