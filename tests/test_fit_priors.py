# SPDX-License-Identifier: Apache-2.0
"""The fitter's priors: limbs that pass through the body, and the code of whole poses (slow: needs torch)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytestmark = pytest.mark.slow


def test_distance_of_segments() -> None:
    """Against points along both, close together; parallel ones and points, too."""
    torch = pytest.importorskip("torch")
    from training.collide import between

    p, q, r, s = torch.from_numpy(np.random.default_rng(0).normal(size=(4, 200, 3)))
    s[:20] = r[:20] + 0.5 * (q[:20] - p[:20])
    q[20:30] = p[20:30]
    t = torch.linspace(0, 1, 201, dtype=p.dtype)[:, None, None]
    first, second = p + t * (q - p), r + t * (s - r)
    want = (first[:, None] - second[None]).norm(dim=-1).amin((0, 1))
    assert (between(p, q, r, s) - want).abs().max() < 0.01


def test_a_hand_in_the_belly_is_told_and_comes_out(shared: Path) -> None:
    """The T-pose costs nothing; a forearm through the trunk costs, is seen by the winding number, and leaves it."""
    torch = pytest.importorskip("torch")
    from training import collide
    from training.fit import MIDDLE, TorchBody
    from training.fits import FitBody

    reader = FitBody(shared / "data" / "fit_body.npz")
    body, groups = TorchBody(reader), [str(g) for g in reader.data["groups"]]
    a = torch.zeros(2, 18, 3)
    a[1, 6] = torch.tensor([0.8, 0.0, -1.35])  # the left arm down and turned in
    a[1, 8, 1] = -1.2  # its elbow bent

    def pose(turns: Any) -> Any:
        return body.pose(torch.eye(3).expand(2, 3, 3), turns, MIDDLE.expand(2, 6))

    def inside(turns: Any) -> np.ndarray:
        vertices = pose(turns)[0].detach().numpy()
        return collide.within(vertices, reader.faces, reader.data["weights"], groups).sum(1)

    before, cost = inside(a), collide.cost(pose(a)[1])
    assert before[0] == 0 and cost[0] == 0
    assert before[1] > 15 and cost[1] > 0.8
    a.requires_grad_(True)
    adam = torch.optim.Adam([a], 0.02)
    for _ in range(150):
        adam.zero_grad()
        collide.cost(pose(a)[1]).sum().backward()
        adam.step()
    assert collide.cost(pose(a)[1])[1] < 0.02 and inside(a.detach())[1] < before[1] / 4


def test_the_code_tells_poses_from_joints_of_different_poses(shared: Path, tmp_path: Path) -> None:
    """After some hundred steps, on clips it never saw; the file gives the same answers."""
    torch = pytest.importorskip("torch")
    from training import pose_code
    from training.pose_prior import frames_of

    file, rng = shared / "data" / "motion.npz", np.random.default_rng(0)
    net = pose_code.train(frames_of(file, 4000, rng), 800)
    figures = pose_code.told(net, frames_of(file, 200, rng, test=True))
    assert figures["degrees"] < 18
    assert figures["cost of strange poses"] > 1.15 * figures["cost"]
    torch.save(net.state_dict(), tmp_path / "code.pt")
    a = 0.3 * torch.randn(4, 18, 3)
    assert torch.equal(pose_code.load(tmp_path / "code.pt")(a), net(a))


def test_priors_are_judged_on_known_poses(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A row for each set of priors and each recipe left out; without the third dimension fits are worse; a missing code
    is one line."""
    pytest.importorskip("torch")
    from training import check_fit

    data = str(shared / "data")
    monkeypatch.setattr("sys.argv", ["check_fit", "--data", data, "--count", "6"])
    check_fit.main()
    rows = {name: values for name, *values in (line.split(" | ") for line in capsys.readouterr().out.splitlines())}
    assert [float(v) for v in rows["the truth itself"][:3]] == [0.0, 0.0, 0.0]
    for name in ("mixtures", "mixtures, collisions"):
        assert 10 < float(rows[name][1]) < 120
    assert float(rows["without the depth"][1]) > 1.1 * float(rows["mixtures, collisions"][1])
    assert rows["without the prior"] != rows["without the start"] != rows["mixtures, collisions"]
    monkeypatch.setattr("sys.argv", ["check_fit", "--data", data, "--code", str(tmp_path / "none.pt")])
    with pytest.raises(SystemExit) as stopped:
        check_fit.main()
    assert stopped.value.code == 2 and "none.pt: there is no such file" in capsys.readouterr().err
