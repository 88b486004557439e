# SPDX-License-Identifier: Apache-2.0
"""The preview: the people's meshes drawn on the frames they came from.

    for frame in write(take, "dancer_preview.mp4"):
        print(frame, "is drawn")

Each person has a colour, where the body was seen; what was guessed (hidden, or out of the picture) turns red.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import cv2
import numpy as np

from .body import Body
from .camera import Camera
from .errors import OutputError
from .raster import draw_mesh
from .take import Take
from .upsample import Upsampler
from .video import Clip, PreviewWriter, write_preview

LONGEST_SIDE = 1280
ALPHA = 0.75
COLOURS = ((110, 190, 70), (220, 150, 60), (60, 200, 230), (200, 90, 180), (225, 200, 255), (190, 190, 60))
"""BGR of the people, in turn by id."""
GUESSED = (50, 50, 215)


def preview_path(take_path: Path, picture: bool = False) -> Path:
    """Where a Take's preview goes: beside it, a video (or a picture of a picture)."""
    return take_path.with_name(f"{take_path.stem}_preview.{'jpg' if picture else 'mp4'}")


def write(take: Take, path: Path) -> Iterator[int]:
    """Draw the Take's people on its clip's frames into `path`; gives the number of frames done, one by one.

    The file appears when it is whole (an iterator that is not driven to its end leaves nothing).  A clip of variable
    rate is written at its own constant rate, each picture standing as long as it does in the clip.
    Raises OutputError where it cannot be written.
    """
    info, frames = take.clip, set(take.frames.tolist())
    scale = min(1.0, LONGEST_SIDE / max(info.width, info.height))
    size = max(1, round(info.width * scale)), max(1, round(info.height * scale))
    painter = Painter(take, scale)
    clip = Clip(info.path, start=min(frames, default=0))
    first = float(take.times().min()) if frames else 0.0
    last = max(frames, default=-1)
    with ExitStack() as stack:
        writer = None if info.is_image else stack.enter_context(write_preview(path, info.fps, size))
        held, written, done = None, 0, 0
        for frame in clip:
            if frame.index > last:
                break
            image = cv2.resize(frame.image, size, interpolation=cv2.INTER_AREA) if scale < 1 else frame.image
            picture = painter.draw(frame.index, image)
            if writer is None:
                _write_picture(path, picture)
            else:
                # A picture stands until the next one's time.
                due = round((frame.time - first) * info.fps)
                written += _repeat(writer, held, due - written)
                held = picture
            done += 1
            yield done
        if writer is not None:
            _repeat(writer, held, 1)


def _repeat(writer: PreviewWriter, picture: np.ndarray | None, times: int) -> int:
    if picture is None:
        return 0
    for _ in range(max(0, times)):
        writer.write(picture)
    return max(0, times)


def _write_picture(path: Path, picture: np.ndarray) -> None:
    part = path.with_name(f".{path.stem}.part{path.suffix}")
    try:
        part.write_bytes(cv2.imencode(path.suffix, picture, [cv2.IMWRITE_JPEG_QUALITY, 92])[1].tobytes())
        os.replace(part, path)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror}); choose another folder with --out") from error


class Painter:
    """Draws a Take's people on pictures that are `scale` times the clip's size."""

    def __init__(self, take: Take, scale: float = 1.0) -> None:
        self.people = [take.person(number) for number in take.people]
        self.present = {person.id: set(person.frames.tolist()) for person in self.people}
        self.scale = scale
        self.faces = Body.load().triangles
        self.upsampler = Upsampler.load()
        self.camera: Camera = take.camera

    def draw(self, frame: int, image: np.ndarray) -> np.ndarray:
        """The picture (h, w, 3) uint8 BGR of a frame with everybody on it, the farthest first."""
        here = [person for person in self.people if frame in self.present[person.id]]
        depth = {person.id: float(person.metres_per_pixel([frame])[0]) for person in here}
        for person in sorted(here, key=lambda p: -depth[p.id]):
            lowpoly = person.lowpoly_pixels([frame])[0] * self.scale
            both = self.upsampler.up(np.column_stack([lowpoly, person.visibility([frame])[0]]))
            mesh, seen = both[:, :3], np.clip(both[:, 3:], 0, 1)
            colour = np.array(COLOURS[(person.id - 1) % len(COLOURS)])
            colours = seen * colour + (1 - seen) * np.array(GUESSED)
            image = draw_mesh(image, mesh[:, :2], mesh[:, 2], self.faces, colours, ALPHA)
            if len(self.people) > 1:
                _label(image, str(person.id), mesh, colour)
        return image


def _label(image: np.ndarray, text: str, mesh: np.ndarray, colour: np.ndarray) -> None:
    """A person's id above the head, dark outline, inside of the picture."""
    height, width = image.shape[:2]
    size = max(0.5, height / 900)
    x = int(np.clip(mesh[:, 0].mean() - 8 * size, 2, max(2, width - 24 * size)))
    y = int(np.clip(mesh[:, 1].min() - 8 * size, 24 * size, max(24 * size, height - 4)))
    for thickness, ink in ((4, (20, 20, 20)), (2, tuple(int(c) for c in colour))):
        weight = max(1, round(thickness * size))
        cv2.putText(image, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, size, ink, weight, cv2.LINE_AA)
