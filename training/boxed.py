# SPDX-License-Identifier: Apache-2.0
"""Held-out persons as the product meets them: from a box, four start angles, then the crop of the own mesh.

Score, regularity and fullness stand behind what the product does with a box, so they are solved on such estimates, not
on the crops of the training.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import nn

from meshpose.crop import CROP, Crop
from meshpose.estimate import START_ANGLES, Estimate, Estimator
from meshpose.network import Network, Prediction

from .data import OUTSIDE, SEEN, Person, own_crop
from .model import MeshPoseNet
from .precision import mixed_precision

NEAR = 0.06  # a vertex is right within this part of the side of the person's own crop
BESIDE = 0.3  # what a hidden vertex counts
FOUND = 0.6  # quality from which an estimate says how vertices lie: a wrong pose says nothing of scatter or thickness


class TorchNetwork(Network):
    """A network in torch behind the interface of the product's, which keeps what its score is made from."""

    def __init__(self, net: MeshPoseNet) -> None:
        self.net = net.eval().to(memory_format=torch.channels_last)
        self.score_inputs = np.zeros((0, 0), np.float32)

    @torch.no_grad()
    def __call__(self, crops: np.ndarray) -> Prediction:
        """As `meshpose.network.Network`; `score_inputs` (n, inputs) are those of these crops."""
        rgb = torch.from_numpy(np.ascontiguousarray(crops[..., ::-1])).permute(0, 3, 1, 2).float() / 255
        with mixed_precision():
            features = self.net.features(rgb.contiguous(memory_format=torch.channels_last))
            heat = self.net.heat(features.dense)
        found = self.net.answer(features.summary.float(), heat.float())
        self.score_inputs = found["score_inputs"].numpy()
        return Prediction(*(found[k].numpy() for k in ("vertices", "visibility", "score")))


@dataclass
class Boxed:
    """One person's four starts and their four second passes: score inputs (8, n), quality (8,) 0..1, estimates.

    empty (k, n): score inputs of crops of the same picture that nobody is in.
    """

    person: Person
    inputs: np.ndarray
    quality: np.ndarray
    estimates: list[Estimate]
    empty: np.ndarray

    def best(self) -> Estimate:
        """The second pass of the best quality."""
        half = len(START_ANGLES)
        return self.estimates[half + int(self.quality[half:].argmax())]


def well_found(seen: Iterable[Boxed]) -> Iterator[tuple[Estimate, np.ndarray]]:
    """The best second pass and the true vertices (V, 3), picture px, of those who are known exactly and were found."""
    for b in seen:
        truth = b.person.vertices
        if b.person.exact and truth is not None and b.quality[len(b.quality) // 2 :].max() > FOUND:
            yield b.best(), truth


def overstated(seen: Iterable[Boxed]) -> float:
    """By how much too high the log odds of being seen are on average, over the vertices of those who are well found and
    known exactly (outside of the crop nothing is seen); 0 where there is nobody."""
    said, true = [np.zeros(0)], [np.zeros(0, bool)]
    for b in seen:
        if (truth := next((t for _, t in well_found([b])), None)) is None:
            continue
        estimate, inside = b.best(), b.best().crop.to_crop(truth)[:, :2]
        said.append(np.asarray(estimate.visibility, np.float64).clip(1e-4, 1 - 1e-4))
        true.append((b.person.visibility == SEEN) & ((inside > 1) & (inside < CROP - 1)).all(1))
    p, share = np.concatenate(said), float(np.concatenate(true).mean()) if len(true) > 1 else 0.0
    if not 0 < share < 1:
        return 0.0
    odds, low, high = np.log(p / (1 - p)), -5.0, 5.0
    while high - low > 1e-3:
        middle = (low + high) / 2
        low, high = (middle, high) if (1 / (1 + np.exp(middle - odds))).mean() > share else (low, middle)
    return (low + high) / 2


def understate(net: MeshPoseNet, seen: list[Boxed], by: float) -> None:
    """Lower the log odds of being seen, in place: the network's, and what its score has read of these persons."""
    count = len(net.regression.visibility.bias)
    with torch.no_grad():
        net.regression.visibility.bias.sub_(by)
    for b in seen:
        for rows in (b.inputs, b.empty):
            p = rows[:, -count:].astype(np.float64).clip(1e-6, 1 - 1e-6)
            rows[:, -count:] = 1 / (1 + np.exp(by) * (1 - p) / p)


def boxed(network: TorchNetwork, people: Iterable[Person]) -> Iterator[Boxed]:
    """Each person with known vertices, hips and neck, seen eight times."""
    estimator, rng = Estimator(network), np.random.default_rng(0)
    for person in people:
        image = cv2.imdecode(np.frombuffer(person.jpeg, np.uint8), cv2.IMREAD_COLOR)
        own = own_crop(person, (image.shape[1], image.shape[0]))
        if own is None or person.vertices is None:
            continue
        box = tuple(float(v) for v in person.box)
        starts = estimator.on_crops(image, [Crop.from_box(box, angle=a) for a in START_ANGLES])  # type: ignore[arg-type]
        inputs = [network.score_inputs]
        again = estimator.on_crops(image, [estimator.next_crop(e) for e in starts])
        estimates = starts + again
        inputs.append(network.score_inputs)
        quality = np.array([quality_of(person, own, e) for e in estimates])
        aside = beside(person, image, rng)
        if aside is not None:
            estimator.on_crops(image, [aside])
        empty = network.score_inputs[:1] if aside is not None else inputs[0][:0]
        yield Boxed(person, np.concatenate(inputs), quality, estimates, empty)


def beside(person: Person, image: np.ndarray, rng: np.random.Generator) -> Crop | None:
    """A crop of the picture without the person: half as large as the box, or up to its size; None where there is no
    room."""
    high, wide = image.shape[:2]
    largest = min(float(max(person.box[2:])), high, wide)
    for _ in range(20):
        side = float(rng.uniform(0.5, 1.0)) * largest
        cx, cy = rng.uniform(side / 2, wide - side / 2), rng.uniform(side / 2, high - side / 2)
        away = np.abs(np.asarray(person.vertices)[:, :2] - (cx, cy)).max(1)
        if side > 24 and (away < side / 2).mean() < 0.02:
            return Crop(float(cx), float(cy), side, float(rng.uniform(-np.pi, np.pi)))
    return None


def quality_of(person: Person, own: Crop, estimate: Estimate) -> float:
    """Share of the vertices that lie within NEAR of their true place; hidden ones count less, those outside nothing."""
    if person.vertices is None or person.visibility is None:
        raise ValueError("a person without vertices has no quality")
    distance = np.linalg.norm(estimate.vertices[:, :2] - person.vertices[:, :2], axis=1) / own.side
    weight = np.where(person.visibility == OUTSIDE, 0.0, np.where(person.visibility == SEEN, 1.0, BESIDE))
    return float((weight * (distance < NEAR)).sum() / max(weight.sum(), 1e-6))


def solve_score(net: MeshPoseNet, seen: list[Boxed], decay: float) -> dict[str, float]:
    """Logistic regression (in place) of the quality from the score's inputs; tells what it is worth on the last fifth
    of the persons, solved without them."""
    inputs, quality = np.stack([b.inputs for b in seen]), np.stack([b.quality for b in seen])
    split = len(seen) * 4 // 5
    weight, bias = logistic(*rows_of(seen[:split]), decay)
    empty = np.concatenate([b.empty for b in seen[split:]])
    worth = choice(inputs[split:] @ weight + bias, quality[split:])
    worth["empty crops under 0.25"] = float((empty @ weight + bias < np.log(0.25 / 0.75)).mean()) if len(empty) else 1.0
    weight, bias = logistic(*rows_of(seen), decay)
    with torch.no_grad():
        net.score.weight.copy_(torch.from_numpy(weight)[None])
        net.score.bias.fill_(bias)
    return worth


def rows_of(seen: list[Boxed]) -> tuple[np.ndarray, np.ndarray]:
    """All score inputs (m, n) and qualities (m,): of the estimates, and 0 for the crops that nobody is in."""
    inputs = np.concatenate([np.concatenate([b.inputs, b.empty]) for b in seen])
    return inputs, np.concatenate([np.append(b.quality, np.zeros(len(b.empty))) for b in seen])


def choice(score: np.ndarray, quality: np.ndarray) -> dict[str, float]:
    """What (n, 8) scores choose among n persons' starts and second passes, as `Estimator.from_box` does."""
    half = len(START_ANGLES)
    rows = np.arange(len(score))
    two = np.argsort(-score[:, :half], axis=1)[:, :2] + half
    taken = two[rows, np.take_along_axis(score, two, 1).argmax(1)]
    chosen = quality[rows, taken]
    bad = chosen < 0.5 * chosen.mean()
    order = np.argsort(np.argsort(score[rows, taken]))
    above = (order[~bad].sum() - (~bad).sum() * ((~bad).sum() - 1) / 2) if bad.any() and (~bad).any() else np.nan
    return {
        "chosen": float(chosen.mean()),
        "best of two": float(quality[rows[:, None], two].max(1).mean()),
        "best of all": float(quality[:, half:].max(1).mean()),
        "AUC": float(above / max(bad.sum() * (~bad).sum(), 1)),
    }


def logistic(inputs: np.ndarray, quality: np.ndarray, decay: float) -> tuple[np.ndarray, float]:
    """weights (n,), bias of the logistic regression of quality (..., ) in 0..1 from inputs (..., n)."""
    x = torch.from_numpy(inputs.reshape(-1, inputs.shape[-1]).astype(np.float32))
    target = torch.from_numpy(quality.reshape(-1).astype(np.float32))
    mean, scale = x.mean(0), 1 / (x.std(0) + 1e-2)
    x = (x - mean) * scale
    w, b = torch.zeros(x.shape[1], requires_grad=True), torch.zeros((), requires_grad=True)
    optimiser = torch.optim.LBFGS([w, b], max_iter=150, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        loss = nn.functional.binary_cross_entropy_with_logits(x @ w + b, target) + decay * w.square().sum()
        loss.backward()
        return loss

    optimiser.step(closure)
    with torch.no_grad():
        return (w * scale).numpy(), float(b - (w * scale * mean).sum())
