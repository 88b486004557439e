# SPDX-License-Identifier: Apache-2.0
"""SPIN's loop: the network's own prediction starts the next fit, the better of the two is kept.

    python -m training.spin "lspet train" --data DATA --fits fits_v0.npz --model accurate --out FITS.npz [--rejected]

(Kolotouros et al., "Learning to Reconstruct 3D Human Pose and Shape via Model-fitting in the Loop", ICCV 2019; three
recipes for better 3D pseudo-GTs, 2023.)  The network sees each person through the crop that the labels ask for; the
body is brought onto its mesh in 3D, then fitted to the evidence with the limbs' directions of the network's mesh in
place of the teacher's.  Energies of the old and the new fit are compared on the labels, landmarks and prior alone.
Where the teacher saw somebody else, the network's mesh is the second opinion that a fit needs to be accepted.
"""

from __future__ import annotations

import argparse
import json
import zipfile
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as functional
from torch import Tensor

from meshpose.estimate import Estimator
from meshpose.network import Network

from .arguments import existing_file
from .data import Person, own_crop
from .fit import (
    LIMBS,
    RATE,
    TORSO,
    Evidence,
    Prior,
    State,
    TorchBody,
    accept,
    begin,
    chosen,
    energy,
    optimise,
    project,
    read_evidence,
    robust,
    to_columns,
)
from .fits import MID_HIPS, FitBody, from_quaternion
from .rotations import rotation

SECOND_PASS = 1
AGREE = 0.25  # torso lengths between the fit's vertex and the network's that still agree


def pictures(data: Path, name: str, ids: np.ndarray) -> list[tuple[np.ndarray, Person]]:
    """The pictures (BGR) and labels of some annotations of a set, in their order."""
    folder, split = name.split()
    meta = json.loads((data / folder / f"{split}.json").read_text())
    images = {i["id"]: i for i in meta["images"]}
    by = {a["id"]: a for a in meta["annotations"]}
    archives: dict[str, zipfile.ZipFile] = {}
    out = []
    for number in ids:
        a = by[int(number)]
        image = images[a["image_id"]]
        archive = archives.setdefault(image["shard"], zipfile.ZipFile(data / folder / image["shard"]))
        jpeg = archive.read(image["file_name"])
        joints = np.array(a.get("keypoints") or [0] * 42, np.float32).reshape(14, 3)
        picture = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
        out.append((picture, Person(jpeg, np.array(a["bbox"], np.float32), joints)))
    return out


def seen(estimator: Estimator, people: list[tuple[np.ndarray, Person]]) -> np.ndarray:
    """(n, 500, 3) the network's mesh of each person, picture px, depth from the mid-hips."""
    out = []
    for picture, person in people:
        crop = own_crop(person, (picture.shape[1], picture.shape[0]))
        if crop is not None:
            estimate = estimator.refined(picture, estimator.on_crops(picture, [crop])[0], SECOND_PASS)
        else:
            x, y, w, h = (float(v) for v in person.box)
            estimate = estimator.from_box(picture, (x, y, w, h), passes=2)
        out.append(estimate.vertices)
    return np.stack(out)


def in_units(vertices: np.ndarray, e: Evidence) -> Tensor:
    """Picture px (n, 500, 3) -> the evidence's units, depth too."""
    v = torch.from_numpy(vertices.astype(np.float32))
    xy = (v[..., :2] - e.crop[:, None, :2]) / e.crop[:, None, 2:]
    return torch.cat([xy, v[..., 2:] / e.crop[:, None, 2:]], -1)


def keypoint_regressor(body: TorchBody, count: int = 400) -> Tensor:
    """(48, 500) that gives the fit body's keypoints from its low-poly, solved on random poses (ridge)."""
    torch.manual_seed(0)
    a = torch.randn(count, 18, 3) * 0.35
    phenotype = torch.rand(count, 6) * 0.6 + 0.2
    with torch.no_grad():
        vertices, keys = body.pose(torch.eye(3).expand(count, 3, 3), a, phenotype)
    x = vertices.permute(0, 2, 1).reshape(-1, vertices.shape[1]).double()
    y = keys.permute(0, 2, 1).reshape(-1, keys.shape[1]).double()
    gram = x.T @ x + 0.02 * len(x) * 0.01 * torch.eye(x.shape[1], dtype=torch.float64)
    return torch.linalg.solve(gram, x.T @ y).T.float()


def start(mesh: Tensor, keys: Tensor, e: Evidence, body: TorchBody, prior: Prior, steps: int = 80) -> State:
    """The state whose body lies on the network's mesh (n, 500, 3), in 3D."""
    torso = keys[:, TORSO]
    s = begin(torso, torso[..., :2], torch.ones(len(mesh), 4), body)
    for x in (s.turn, s.a, s.camera, s.phenotype):
        x.requires_grad_(True)
    groups: list[dict] = [{"params": [s.turn, s.a], "f": 1.0}, {"params": [s.camera, s.phenotype], "f": 0.5}]
    adam = torch.optim.Adam(groups, RATE, betas=(0.9, 0.95))
    for k in range(steps):
        for group in adam.param_groups:
            group["lr"] = RATE * group["f"] * (1 if k < 0.7 * steps else 0.2)
        adam.zero_grad()
        vertices, key = body.pose(rotation(s.turn) @ s.pelvis, s.a, s.phenotype)
        flat = project(vertices, s.camera)
        depth = (vertices[..., 2] - key[:, MID_HIPS, None, 2]) * s.camera[:, :1].exp()
        away = (flat - mesh[..., :2]).square().sum(-1) + 0.3 * (depth - mesh[..., 2]).square()
        total = 40 * robust(away / 0.07**2, 6.0).mean(1) + 0.2 * prior(s.a)
        (total + 0.5 * ((s.phenotype - 0.5) / 0.18).square().sum(1)).sum().backward()
        adam.step()
        with torch.no_grad():
            s.phenotype.clamp_(0.02, 0.98)
            s.camera[:, 3].clamp_(0, 0.4)
    return s


def stored(columns: dict[str, np.ndarray], e: Evidence) -> State:
    """The state of stored fits (rows as the evidence's)."""
    a = torch.from_numpy(from_quaternion(columns["quat"].astype(np.float64)).astype(np.float32))
    px, c = e.crop[:, 2], torch.from_numpy(columns["camera"].astype(np.float32))
    camera = torch.stack(
        [(c[:, 0] / px).log(), (c[:, 1] - e.crop[:, 0]) / px, (c[:, 2] - e.crop[:, 1]) / px, c[:, 3]], 1
    )
    phenotype = torch.from_numpy(columns["phenotype"].astype(np.float32) / 255)
    return State(rotation(a[:, 0]), torch.zeros(len(a), 3), a[:, 1:], camera, phenotype)


def refit(
    old: State, mesh: Tensor, e: Evidence, body: TorchBody, prior: Prior, regressor: Tensor, steps: int
) -> tuple[State, Tensor, np.ndarray, np.ndarray]:
    """-> the better state of each person, (n,) True where it is the new one, accepted (n,), joint errors (n, 14)."""
    keys = torch.einsum("kv,nvd->nkd", regressor, mesh)
    directions = functional.normalize(torch.stack([keys[:, b] - keys[:, a] for a, b in LIMBS], 1), dim=-1)
    own = replace(e, limbs=directions, limb_weight=torch.full_like(e.limb_weight, 0.5))
    plain = replace(e, limb_weight=torch.zeros_like(e.limb_weight))
    new = start(mesh, keys, e, body, prior)
    optimise(new, own, body, prior, steps, RATE * 0.6, skin=False)
    optimise(new, own, body, prior, 40, RATE * 0.4, skin=True)
    with torch.no_grad():
        before, after = (energy(s, plain, body, prior, skin=True) for s in (old, new))
    better = after < before
    best = chosen([old, new], better.long())
    accepted, error = accept(best, e, body, prior)
    accepted |= second_opinion(best, mesh, e, body, error)
    return best, better, accepted, error


def second_opinion(s: State, mesh: Tensor, e: Evidence, body: TorchBody, error: np.ndarray) -> np.ndarray:
    """(n,) fits that the labels bear out and the network's mesh agrees with, whatever the teacher says."""
    with torch.no_grad():
        vertices, key = body.pose(rotation(s.turn) @ s.pelvis, s.a, s.phenotype)
        flat = project(vertices, s.camera)
        torso = (project(key, s.camera)[:, 45] - project(key, s.camera)[:, MID_HIPS]).norm(dim=-1).clamp(min=0.4)
    near = (flat - mesh[..., :2]).norm(dim=-1) < AGREE * torso[:, None]
    known = ~np.isnan(error)
    right = (np.nan_to_num(error, nan=9.0) < 0.2).sum(1) >= 0.9 * known.sum(1)
    far = (np.nan_to_num(error, nan=0.0) > 0.45).any(1)
    fine: np.ndarray = (near.float().mean(1).numpy() > 0.85) & right & ~far & (known.sum(1) >= 8) & ~e.conflict
    return fine


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("set", help='a photograph set, for instance "lspet train"')
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--fits", required=True, help="the fit file (in DATA, or a path) that is to be made better")
    parser.add_argument("--model", default="accurate")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rejected", action="store_true", help="only persons without an accepted fit; others stay")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--code", type=existing_file, help="of training.pose_code: a prior beside the mixtures")
    a = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    body, prior = TorchBody(FitBody(a.data / "fit_body.npz")), Prior.load(a.data, a.code)
    with np.load(a.data / a.fits) as z:
        columns = {k: z[k].copy() for k in z.files}
    code = [str(s) for s in columns["sets"]].index(a.set)
    row_of = {int(columns["id"][r]): int(r) for r in np.flatnonzero(columns["set"] == code)}
    evidence = read_evidence(a.data, a.set, None)
    rows = np.array([row_of[int(i)] for i in evidence.ids])
    todo = np.flatnonzero(~columns["accepted"][rows]) if a.rejected else np.arange(len(rows))
    todo = todo[: a.limit]
    regressor, estimator = keypoint_regressor(body), Estimator(Network(a.model, 1))
    was, won = int(columns["accepted"][rows].sum()), 0
    errors = []
    for i in range(0, len(todo), a.batch):
        part = todo[i : i + a.batch]
        e = Evidence(*(getattr(evidence, f)[part] for f in Evidence.__dataclass_fields__))
        mesh = in_units(seen(estimator, pictures(a.data, a.set, e.ids)), e)
        here = {k: columns[k][rows[part]] for k in ("quat", "camera", "phenotype")}
        best, better, accepted, error = refit(stored(here, e), mesh, e, body, prior, regressor, a.steps)
        new = to_columns(best, e)
        for key in ("quat", "camera", "phenotype"):
            columns[key][rows[part]] = new[key]
        columns["accepted"][rows[part]] = accepted
        won += int(better.sum())
        errors.append(error[accepted])
        print(f"{i + len(part)} of {len(todo)}: new fit better {won}, accepted {int(accepted.sum())}", flush=True)
    np.savez_compressed(a.out, **columns)
    now = int(columns["accepted"][rows].sum())
    known = [e[:, :12][~np.isnan(e[:, :12])] for e in errors]
    told = f"{100 * np.concatenate(known).mean():.1f} % of the torso" if any(map(len, known)) else "unknown, no labels"
    print(f"{a.set}: accepted {was} -> {now} of {len(rows)}; new fit better in {won} of {len(todo)}; "
          f"mean joint error of the accepted {told}")  # fmt: skip


if __name__ == "__main__":
    main()
