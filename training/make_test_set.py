# SPDX-License-Identifier: Apache-2.0
"""Our own synthetic test set for `meshpose evaluate`: poses of test clips that no training picture shows.

    python -m training.make_test_set --data DATA --out FOLDER --count 300 --seed 900000
    meshpose evaluate FOLDER/synth_test.json --images FOLDER/synth_test.zip

One person labelled per picture (288 x 288 px, JPEG of quality 92). Annotations hold `bbox` (the naked mesh inside the
picture), `keypoints` (COCO-17, neck, head_top; v 2 seen, 1 hidden, 0 outside), `keypoints_3d` and `vertices` (whole
mesh, 13,718 x 3, an .npy in the zip), both mm in the camera frame, `segmentation` (what is seen of the person with
clothes and hair) and its `area`, `visibility` (a digit for each low-poly vertex: 0 hidden by the body itself, 1 seen,
2 hidden by something else, 3 outside of the picture); `images[].camera` is fx, fy, cx, cy. The principal point is
that of the virtual whole picture, so it may lie outside of this crop.
"""

from __future__ import annotations

import argparse
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from meshpose.body import Body
from meshpose.coco import encode_segmentation
from meshpose.metrics import COCO17, KEYPOINTS
from training.render import SIZE, Renderer, Truth


def keypoints(truth: Truth, body: Body) -> tuple[np.ndarray, np.ndarray]:
    """The 19 keypoints: pixels and visibility (19, 3), and mm in the camera frame (19, 3).

    A keypoint counts as seen when one of the four low-poly vertices nearest to it is.
    """
    joints = np.concatenate([body.joints(truth.mesh, "coco17"), body.joints(truth.mesh, "lsp14")[12:14]])
    focal, cx, cy = truth.camera[:3]
    xy = joints[:, :2] / joints[:, 2:] * focal + [cx, cy]
    lowpoly = truth.mesh[body.lowpoly]
    near = np.linalg.norm(joints[:, None] - lowpoly, axis=-1).argsort(1)[:, :4]
    seen = (truth.visibility[near] == 1).any(1)
    inside = ((xy >= 0) & (xy < SIZE)).all(1)
    return np.column_stack([xy, np.where(inside, np.where(seen, 2, 1), 0)]), joints * 1000


def annotation(truth: Truth, body: Body, number: int) -> dict[str, Any]:
    """The COCO annotation of picture `number` (image id and annotation id alike)."""
    flat, metric = keypoints(truth, body)
    flat[flat[:, 2] == 0] = 0
    focal, cx, cy = truth.camera[:3]
    xy = np.clip(truth.mesh[:, :2] / truth.mesh[:, 2:] * focal + [cx, cy], 0, SIZE)
    low, high = xy.min(0), xy.max(0)
    return {
        "id": number,
        "image_id": number,
        "category_id": 1,
        "iscrowd": 0,
        "bbox": [round(float(v), 2) for v in (*low, *(high - low))],
        "area": float(truth.silhouette.sum()),
        "segmentation": encode_segmentation(truth.silhouette),
        "keypoints": [round(float(v), 2) for v in flat.ravel()],
        "num_keypoints": int((flat[:, 2] > 0).sum()),
        "keypoints_3d": [[round(float(v), 1) for v in p] for p in metric],
        "vertices": f"{number:04d}.npy",
        "visibility": "".join(str(int(code)) for code in truth.visibility),
    }


def main() -> None:
    """Command line: see the module's text."""
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--data", type=Path, required=True)
    ap.add_argument("--out", type=Path, required=True)
    ap.add_argument("--count", type=int, default=300)
    ap.add_argument("--seed", type=int, default=900_000)
    ap.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "meshpose" / "synth_body.npz")
    args = ap.parse_args()
    cv2.setNumThreads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    render = Renderer(args.data, args.cache, args.seed, test=True, with_mesh=True)
    body = Body.load()
    images, annotations = [], []
    with zipfile.ZipFile(args.out / "synth_test.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(1, args.count + 1):
            truth = render()
            name = f"{number:04d}.jpg"
            archive.writestr(name, cv2.imencode(".jpg", truth.picture, [cv2.IMWRITE_JPEG_QUALITY, 92])[1].tobytes())
            vertices = io.BytesIO()
            np.save(vertices, (truth.mesh * 1000).astype(np.float32))
            archive.writestr(f"{number:04d}.npy", vertices.getvalue())
            focal, cx, cy = (float(v) for v in truth.camera[:3])
            camera = {"fx": focal, "fy": focal, "cx": cx, "cy": cy}
            images.append({"id": number, "file_name": name, "width": SIZE, "height": SIZE, "camera": camera})
            annotations.append(annotation(truth, body, number))
    category = {"id": 1, "name": "person", "keypoints": list(KEYPOINTS), "skeleton": []}
    info = {"description": "MeshPose's own synthetic test set", "keypoints": f"{len(COCO17)} of COCO, neck, head_top"}
    content = {"info": info, "images": images, "annotations": annotations, "categories": [category]}
    (args.out / "synth_test.json").write_text(json.dumps(content))


if __name__ == "__main__":
    main()
