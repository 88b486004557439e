# SPDX-License-Identifier: Apache-2.0
"""The README's picture, made from a Take: frames in a row, each as it is, with the mesh, with the visibility heatmap.

python3 build.py run && .venv/bin/python tools/pictures.py out/turn.take docs/images/sample.jpg --frames 4
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import cv2
import numpy as np

from meshpose.body import Body
from meshpose.errors import InputError, MeshPoseError
from meshpose.raster import draw_mesh
from meshpose.take import Take
from meshpose.upsample import Upsampler
from meshpose.video import Clip

SEEN, GUESSED = np.array([70.0, 190.0, 60.0]), np.array([50.0, 50.0, 215.0])
"""BGR of visibility 1 and 0, as the material in Blender has it."""


def strip(take: Take, frame: int, image: np.ndarray) -> np.ndarray:
    """(h, 3 w, 3) uint8 BGR: the frame, its meshes in grey, its meshes coloured by visibility; cut to the people."""
    upsampler, faces = Upsampler.load(), Body.load().triangles
    grey, heat, corners = image, image, []
    for number in take.people:
        person = take.person(number)
        if frame not in person.frames:
            continue
        mesh = upsampler.up(person.lowpoly_pixels([frame])[0])
        seen = np.clip(upsampler.up(person.visibility([frame])[0][:, None]), 0, 1)
        grey = draw_mesh(grey, mesh[:, :2], mesh[:, 2], faces, None, 1.0)
        heat = draw_mesh(heat, mesh[:, :2], mesh[:, 2], faces, seen * SEEN + (1 - seen) * GUESSED, 1.0)
        corners += [mesh[:, :2].min(0), mesh[:, :2].max(0)]
    x, y, w, h = _window(np.array(corners or [(0, 0), image.shape[1::-1]]), image.shape)
    return np.concatenate([part[y : y + h, x : x + w] for part in (image, grey, heat)], 1)


def _window(corners: np.ndarray, shape: tuple[int, ...], aspect: float = 0.62) -> tuple[int, int, int, int]:
    """x, y, w, h of the picture's part around corners (n, 2), with some air, w / h = `aspect` where there is room."""
    low, high = corners.min(0), corners.max(0)
    height = min(1.15 * max(high[1] - low[1], (high[0] - low[0]) / aspect), shape[0])
    size = np.array([min(aspect * height, shape[1]), height])
    start = np.clip((low + high) / 2 - size / 2, 0, np.array(shape[1::-1]) - size)
    return int(start[0]), int(start[1]), int(size[0]), int(size[1])


def main(argv: list[str]) -> int:
    """Write the picture."""
    parser = argparse.ArgumentParser(prog="tools/pictures.py", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("take", type=Path)
    parser.add_argument("out", type=Path, help="a .jpg or .png")
    parser.add_argument("--frames", type=int, nargs="+", help="clip frames to show (default: three, evenly)")
    parser.add_argument("--height", type=int, default=360, help="pixels")
    options = parser.parse_args(argv)
    try:
        with Take.open(options.take) as take:
            frames = options.frames or [
                int(f) for f in take.frames[np.linspace(0, len(take.frames) - 1, 5)[1:4].astype(int)]
            ]
            strips = [strip(take, f.index, f.image) for f in Clip(take.clip.path) if f.index in frames]
        if not strips:
            raise InputError(f"{options.take}: none of the frames {frames} is in the clip")
    except MeshPoseError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    scaled = [cv2.resize(s, (round(s.shape[1] * options.height / len(s)), options.height)) for s in strips]
    cv2.imwrite(str(options.out), np.concatenate(scaled, 1), [cv2.IMWRITE_JPEG_QUALITY, 88])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
