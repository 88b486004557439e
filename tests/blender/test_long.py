# SPDX-License-Identifier: GPL-3.0-or-later
"""Ten minutes of one person: memory of the later stages, size of the saved scene, a jump to a frame.

`build.py bench --long` tells all figures; here stand the bounds that must not break.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from takes import FPS, HEIGHT, WIDTH, make_take

ROOT = Path(__file__).resolve().parents[2]
FRAMES = 15_000

pytestmark = pytest.mark.slow


def part(name: str, take: Path) -> dict[str, Any]:
    """A part of the bench, in a process of its own."""
    result = take.with_suffix(".json")
    command = [sys.executable, str(ROOT / "tools" / "bench_long.py"), "--part", name, "--take", str(take)]
    done = subprocess.run([*command, "--result", str(result)], capture_output=True, text=True)
    assert result.exists(), done.stderr
    figures: dict[str, Any] = json.loads(result.read_text())
    result.unlink()
    return figures


def test_ten_minutes(tmp_path: Path) -> None:
    take = tmp_path / "long" / "long.take"
    take.parent.mkdir()
    clip = take.with_name("short.mp4")  # Blender shows the last picture on all frames after it
    writer = cv2.VideoWriter(str(clip), cv2.VideoWriter.fourcc(*"mp4v"), FPS, (WIDTH, HEIGHT))
    for index in range(10):
        writer.write(np.full((HEIGHT, WIDTH, 3), 20 * index, np.uint8))
    writer.release()
    make_take(take.with_name("short.take"), frames=48, people=1, fit=True).close()
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT / 'tools')!r}); from pathlib import Path; import bench_long; "
        "bench_long.long_take(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))"
    )
    short = take.with_name("short.take")
    subprocess.run([sys.executable, "-c", code, str(short), str(take), str(FRAMES)], check=True)
    motion = part("motion", take)
    assert motion["frames"] == FRAMES and motion["peak_mib"] < 2048, motion
    scene = part("scene", take)
    assert scene["frames"] == FRAMES and scene["vertices"] == 13718 and scene["peak_mib"] < 2048, scene
    assert scene["blend_mb"] < 150 * FRAMES / 15_000 + 4, scene
    assert scene["beside_it"] == ["short.mp4"], "nothing but the footage"
    assert scene["jump_cpu_ms"] < 20, "the goal is 10 on a quiet machine; a busy one must not fail the tests"
