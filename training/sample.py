# SPDX-License-Identifier: Apache-2.0
"""The bundled sample: somebody walks towards the camera, turns and walks away. Every texture is made here.

    python -m training.sample --out samples

writes turn.mp4 (360 x 480, 25 fps, under 1 MB) and turn_truth.npz beside it: rotations (F, 104, 4) local-ref deltas
w x y z (the root's includes the turn into the camera frame), translation (F, 3) m of the root in the camera frame
(x right, y down, z away), phenotype (6,), stature in m, camera (4,) fx, fy, cx, cy px, size (2,) px, fps. Then
``Body.load().pose(body.shape(phenotype), rotations, translation)`` are the true vertices, and fx x / z + cx their
pixels (pixel i's centre at i + 0.5).

H.264 needs PyAV (``pip install av``; only for making the clip). Rendering takes about a minute of one core.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from meshpose.body import Body, Shape, quaternion
from training.looks import noise_picture
from training.synth_body import TO_ANNY, bone_rotations, rotation
from training.walk import Path as WalkPath
from training.walk import Walk, legs_of
from training.zbuffer import cover, nearest, vertex_normals

WIDTH, HEIGHT, FPS, FRAMES, FINE = 360, 480, 25, 90, 2
PHENOTYPE = {"gender": 0.08, "age": 0.63, "muscle": 0.6, "weight": 0.45, "height": 0.42, "proportions": 0.6}
FOCAL = 640.0
EYE = np.array([0.15, 1.28, 3.75])  # the camera in the world (x right, y up, z towards it), m
TILT = 0.085  # looking down, radians
LIGHT = np.array([-0.45, 0.82, 0.42]) / np.linalg.norm([-0.45, 0.82, 0.42])
WALL = -2.9  # z of the back wall
SKIN, SHIRT, TROUSERS, SHOES, HAIR, EYES = range(6)


@dataclass(frozen=True)
class Truth:
    """Pose, place and camera of the clip, as stored (see the module's text)."""

    rotations: np.ndarray
    translation: np.ndarray
    phenotype: np.ndarray
    stature: float


def camera_turn() -> np.ndarray:
    """(3, 3) from the world's axes to the camera's."""
    return rotation(np.array([TILT, 0, 0])) @ np.diag([1.0, -1.0, -1.0])


def project(points: np.ndarray) -> np.ndarray:
    """Camera points (n, 3) -> pixels (n, 2)."""
    return points[:, :2] / points[:, 2:] * FOCAL + [WIDTH / 2, HEIGHT / 2]


# ---------------------------------------------------------------------- motion
def walk_truth(body: Body, shape: Shape) -> Truth:
    """The walk as the core's own parameters: D_c = G_p^T G_c with G_c = L_c A_c^T, L the rotations away from rest."""
    heads = (shape.heads @ TO_ANNY).astype(np.float64)
    vertices = shape.vertices @ TO_ANNY
    legs = legs_of(dict(zip(body.bone_names, heads, strict=True)), float(vertices[:, 1].min()))
    walk = Walk(WalkPath((-0.42, -1.35), 0.22, 1.25, 0.48, 3.45), legs)
    turn = camera_turn()
    align = body.reference.astype(np.float64) @ shape.orientations.astype(np.float64).transpose(0, 2, 1)
    align[0] = np.eye(3)
    curl = fingers(body)
    rotations = np.zeros((FRAMES, len(heads), 4))
    translation = np.zeros((FRAMES, 3))
    for k in range(FRAMES):
        frame = walk.frame(k / FPS)
        away = bone_rotations(body.bone_names, body.bone_parents, heads, frame.local, curl)
        away = turn @ away @ TO_ANNY.T  # rest in anny's axes -> camera axes
        full = away @ align.transpose(0, 2, 1)
        delta = full.copy()
        delta[1:] = full[body.bone_parents[1:]].transpose(0, 2, 1) @ full[1:]
        rotations[k] = quaternion(delta)
        translation[k] = turn @ (frame.pelvis - EYE)
    return Truth(rotations.astype(np.float32), translation.astype(np.float32), shape.phenotype, shape.stature)


def fingers(body: Body) -> dict[int, np.ndarray]:
    """Loosely closed hands: each finger bone turned about the axis across the palm (rest arms hang at 45 degrees)."""
    out = {}
    for i, name in enumerate(body.bone_names):
        if name.startswith("finger") and not name.startswith("finger1"):
            sign = 1.0 if name.endswith("L") else -1.0
            out[i] = rotation(np.array([0.0, 0.0, -sign]) * (0.15 if "-1" in name else 0.3))
    return out


# ---------------------------------------------------------------------- looks
class Look:
    """Clothes, hair and face of the walker: material per triangle, puffed rest shape, colours per rest position."""

    def __init__(self, body: Body, shape: Shape, rng: np.random.Generator) -> None:
        self.body, self.rest = body, shape.vertices @ TO_ANNY
        heads = shape.heads @ TO_ANNY
        head = dict(zip(body.bone_names, heads, strict=True))
        self.eyes = [self.rest[body.parts == body.part_names.index(f"eye_front.{s}")].mean(0) for s in "LR"]
        mouth = self.rest[body.parts == body.part_names.index("mouth_cavity")]
        self.mouth = mouth[mouth[:, 2] > mouth[:, 2].max() - 0.006].mean(0)
        self.noise = noise_picture(rng, 256)
        self.weave = rng.random((256, 256)).astype(np.float32)
        self.hip, self.neck = float(head["upperleg01.L"][1]), float(head["neck01"][1])
        self._materials(head)
        self._puff()

    def _materials(self, head: dict[str, np.ndarray]) -> None:
        b, t = self.body, self.rest
        bone = np.array([n.split(".")[0].rstrip("0123456789-") for n in b.bone_names])
        at = bone[b.skin_bones[np.arange(len(t)), b.skin_weights.argmax(1)]]
        self.arm = (abs(t[:, 0]) - head["upperarm01.L"][0]) / (head["wrist.L"][0] - head["upperarm01.L"][0])
        self.leg = (self.hip - t[:, 1]) / (self.hip - head["foot.L"][1])
        trunk = (t[:, 1] - self.hip) / (self.neck - self.hip)
        is_arm, is_leg = np.isin(at, ["upperarm", "lowerarm"]), np.isin(at, ["upperleg", "lowerleg"])
        is_trunk = np.isin(at, ["root", "pelvis", "spine", "clavicle", "shoulder"])
        is_head = b.parts == b.part_names.index("head")
        height, depth = t[:, 1] - self.eyes[0][1], t[:, 2] - self.eyes[0][2]
        vertex = np.full(len(t), SKIN)
        vertex[(is_trunk & (trunk > 0.12) & (trunk < 0.985)) | (is_arm & (self.arm < 0.36))] = SHIRT
        vertex[(is_trunk & (trunk <= 0.12)) | (is_leg & (self.leg < 0.99))] = TROUSERS
        vertex[np.isin(at, ["foot", "toe"]) | (is_leg & (self.leg >= 0.99))] = SHOES
        ear = abs(t[:, 0]) > 0.072
        crown = (height > 0.058 - 0.1 * np.clip(-depth - 0.05, 0, 0.3)) | ((depth < -0.105) & (height > -0.075))
        vertex[is_head & crown & ~(ear & (height < 0.02) & (depth > -0.11))] = HAIR
        vertex[np.isin(b.parts, [i for i, n in enumerate(b.part_names) if n.startswith("eye_")])] = EYES
        vertex[b.inner & (vertex != EYES)] = SKIN
        self.vertex = vertex
        self.material = np.sort(vertex[b.triangles], 1)[:, 1]

    def _puff(self) -> None:
        """Clothes stand off the skin: more at the shirt's hem and the trousers' legs."""
        off = np.zeros(len(self.rest), np.float32)
        wave = np.sin(self.rest @ np.array([31.0, 12.0, 27.0])) * 0.5 + 0.5
        hem = np.clip((self.hip + 0.22 - self.rest[:, 1]) / 0.2, 0, 1)
        off[self.vertex == SHIRT] = (0.006 + 0.010 * hem + 0.005 * wave)[self.vertex == SHIRT]
        off[self.vertex == TROUSERS] = (0.004 + 0.009 * np.clip(self.leg, 0, 1) + 0.004 * wave)[self.vertex == TROUSERS]
        off[self.vertex == SHOES] = 0.007
        off[self.vertex == HAIR] = (0.010 + 0.006 * wave)[self.vertex == HAIR]
        normals = vertex_normals(self.rest, self.body.triangles)
        self.shape = ((self.rest + normals * off[:, None]) @ TO_ANNY.T).astype(np.float32)

    def colours(self, material: int, p: np.ndarray) -> np.ndarray:
        """Rest positions (n, 3) m -> BGR (n, 3)."""
        noise = self._look(self.noise, p[:, 0] * 2.1 + p[:, 2] * 1.3, p[:, 1] * 1.7 + p[:, 2] * 0.4)
        weave = self._look(self.weave, (p[:, 0] + p[:, 2]) * 3.1, p[:, 1] * 3.1)
        if material == SKIN:
            return self._skin(p, noise)
        if material == SHIRT:
            base = np.where(((p[:, 1] - self.hip) / 0.062 % 1 < 0.38)[:, None], [225, 228, 230], [62, 48, 158])
            collar = (p[:, 1] > self.neck - 0.012) | (p[:, 1] < self.hip + 0.075)
            return np.where(collar[:, None], [40, 30, 110], base) * (0.86 + 0.14 * weave + 0.1 * (noise - 0.5))
        if material == TROUSERS:
            belt = abs(p[:, 1] - self.hip - 0.055) < 0.014
            seam = (abs(abs(p[:, 0]) - 0.19) < 0.003) & (p[:, 1] < self.hip)
            worn = 1 + 0.35 * np.clip(noise - 0.45, 0, 1)
            base = np.array([112, 72, 46]) * worn * (0.85 + 0.3 * weave)
            return np.where(belt, [[24], [30], [42]], np.where(seam, base.T * 0.7, base.T)).T
        if material == SHOES:
            sole = p[:, 1] < self.rest[:, 1].min() + 0.022
            return np.where(sole[:, None], [225, 230, 232], [48, 46, 50]) * (0.9 + 0.2 * weave)
        if material == HAIR:
            strand = self._look(self.weave, p[:, 0] * 5.5 + p[:, 2] * 2, p[:, 1] * 0.9 + p[:, 2] * 0.7)
            return np.array([26, 40, 62]) * (0.55 + 0.9 * strand)
        return self._eye(p)

    @staticmethod
    def _look(texture: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
        """Nearest values (n, 1) of a repeated texture at u, v."""
        n = len(texture)
        return texture[(v * n).astype(int) % n, (u * n).astype(int) % n][:, None]

    def _skin(self, p: np.ndarray, noise: np.ndarray) -> np.ndarray:
        out = np.array([138, 168, 214]) * (0.93 + 0.1 * noise)
        for side, eye in zip((1, -1), self.eyes, strict=True):
            x, y = p[:, 0] - eye[0], p[:, 1] - eye[1]
            face = p[:, 2] > eye[2] - 0.05
            brow = (x / 0.021) ** 2 + ((y - 0.021 + 6 * x * x * 1.0) / 0.0045) ** 2 < 1
            socket = np.exp(-((x / 0.022) ** 2) - ((y + 0.004) / 0.016) ** 2)
            cheek = np.exp(-(((x - side * 0.012) / 0.024) ** 2) - ((y + 0.045) / 0.022) ** 2) * face
            out = out * (1 - 0.22 * (socket * face)[:, None]) + cheek[:, None] * [-14, -12, 6]
            out[brow & face] = [30, 44, 66]
        x, y, z = (p - self.mouth).T
        lips = np.clip(1.4 - (x / 0.025) ** 2 - (y / 0.0095) ** 2, 0, 1) * (z > -0.03)
        return out * (1 - lips[:, None]) + lips[:, None] * [98, 96, 178]

    def _eye(self, p: np.ndarray) -> np.ndarray:
        eye = np.where(p[:, :1] > 0, self.eyes[0], self.eyes[1])
        r = np.linalg.norm((p - eye)[:, :2], axis=1)[:, None]
        return np.where(r < 0.0026, [15, 15, 15], np.where(r < 0.0062, [70, 95, 60], [225, 230, 232])).astype(float)


# ---------------------------------------------------------------------- place
def rays() -> tuple[np.ndarray, int, int]:
    """World directions (h, w, 3) through the pixels of the fine picture."""
    w, h = WIDTH * FINE, HEIGHT * FINE
    x, y = np.meshgrid((np.arange(w) + 0.5) / FINE - WIDTH / 2, (np.arange(h) + 0.5) / FINE - HEIGHT / 2)
    d = np.stack([x / FOCAL, y / FOCAL, np.ones_like(x)], -1)
    return d @ camera_turn(), w, h


def place(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The empty room (h, w, 3) float32 BGR, and where its floor is (h, w) bool."""
    d, w, h = rays()
    to_floor = np.where(d[..., 1] < -1e-6, -EYE[1] / np.minimum(d[..., 1], -1e-6), np.inf)
    to_wall = (WALL - EYE[2]) / np.minimum(d[..., 2], -1e-6)
    floor = to_floor < to_wall
    p = EYE + d * np.where(floor, to_floor, to_wall)[..., None]
    noise = noise_picture(rng, 512)
    grain = rng.random((512, 512)).astype(np.float32)

    def at(texture: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
        return texture[(v * 512).astype(int) % 512, (u * 512).astype(int) % 512][..., None]

    x, z = p[..., 0], p[..., 2]
    row = np.floor(x / 0.14)
    plank = np.floor(z / 1.1 + row * 0.37)
    tone = ((row * 12.9898 + plank * 78.233) % 1.7 / 1.7)[..., None]
    wood = np.array([70, 112, 158]) * (0.75 + 0.3 * tone) * (0.86 + 0.28 * at(grain, x * 7.3, z * 0.35))
    gap = (abs(x / 0.14 - row) < 0.03) | (abs(z / 1.1 + row * 0.37 - plank) < 0.006)
    wood = np.where(gap[..., None], wood * 0.55, wood)
    y = p[..., 1]
    course = np.floor(y / 0.075)
    brick_x = x / 0.23 + 0.5 * (course % 2)
    brick = np.floor(brick_x)
    mortar = (abs(y / 0.075 - course) < 0.14) | (abs(brick_x - brick) < 0.045)
    stone = ((brick * 37.7 + course * 91.3) % 2.3 / 2.3)[..., None]
    wall = np.array([158, 146, 120]) * (0.78 + 0.3 * stone) * (0.85 + 0.3 * at(grain, x * 3.1, y * 3.3))
    wall = np.where(mortar[..., None], np.array([186, 186, 178]) * (0.9 + 0.15 * at(grain, x, y)), wall)
    wall = np.where((y < 0.11)[..., None], [205, 212, 216], wall)
    wall = picture_frame(wall, x, y, (-1.15, 1.72, 0.42, 0.3), at(noise, x * 0.9, y * 0.9))
    wall = picture_frame(wall, x, y, (0.95, 1.95, 0.3, 0.42), at(noise, x * 0.6 + 0.4, y * 0.7))
    wall = wall * (0.82 + 0.22 * np.clip(at(noise, x * 0.15, y * 0.2), 0, 1))
    out = np.where(floor[..., None], wood, wall)
    corner = np.clip(np.where(floor, (z - WALL) / 0.5, y / 0.35), 0, 1)  # darker where wall and floor meet
    return (out * (0.72 + 0.28 * corner[..., None])).astype(np.float32), floor


def picture_frame(
    wall: np.ndarray, x: np.ndarray, y: np.ndarray, spot: tuple[float, float, float, float], art: np.ndarray
) -> np.ndarray:
    """A framed print on the wall; spot = centre x, y, half width, half height in m."""
    u, v = abs(x - spot[0]) / spot[2], abs(y - spot[1]) / spot[3]
    inside, inner = (u < 1) & (v < 1), (u < 0.9) & (v < 0.87)
    bands = np.where(art > 0.62, [60, 150, 215], np.where(art > 0.42, [150, 120, 60], [215, 222, 224]))
    return np.where(inner[..., None], bands, np.where(inside[..., None], [36, 40, 44], wall))


# ---------------------------------------------------------------------- picture
class Painter:
    """Draws the dressed walker into the room, with shadows from one lamp."""

    def __init__(self, body: Body, look: Look, rng: np.random.Generator) -> None:
        self.body, self.look, self.rng = body, look, rng
        self.room, self.floor = place(rng)
        self.turn = camera_turn()
        self.light = self.turn @ LIGHT
        self.size = (WIDTH * FINE, HEIGHT * FINE)

    def shadow_on_floor(self, points: np.ndarray) -> np.ndarray:
        """Share of light (h, w) that the walker takes from the floor. points (n, 3) camera axes."""
        world = points @ self.turn + EYE
        flat = world - LIGHT * (world[:, 1] / LIGHT[1])[:, None]
        camera = (flat - EYE) @ self.turn.T
        xy = project(camera) * FINE
        s = cover(xy, 1 / camera[:, 2], self.body.triangles, self.size, True)
        out = np.zeros(self.size[0] * self.size[1], np.float32)
        out[s.pixel] = 1
        out = cv2.GaussianBlur(out.reshape(self.size[::-1]), (0, 0), 2.5 * FINE)
        return out * self.floor

    def lit(self, points: np.ndarray, normals: np.ndarray) -> np.ndarray:
        """Light per vertex 0..1: cosine, where no other part of the body stands in the lamp's way (depth map)."""
        cosine = np.clip(normals @ self.light, 0, 1)
        side = np.cross(self.light, [0.0, 0.0, 1.0])
        side /= np.linalg.norm(side)
        frame = np.stack([side, np.cross(self.light, side)])
        n, middle = 320, points.mean(0)
        xy = (points - middle) @ frame.T * (n / 2.4) + n / 2
        height = (points - middle) @ self.light + 3.0
        s = cover(xy, height, self.body.triangles, (n, n), True)
        top = np.zeros(n * n, np.float32)
        corner = height[self.body.triangles[s.triangle]]
        np.maximum.at(top, s.pixel, (corner * s.barycentric).sum(1).astype(np.float32))
        top = cv2.erode(top.reshape(n, n), np.ones((3, 3), np.uint8))
        at = np.clip(xy.astype(int), 0, n - 1)
        return cosine * np.clip(1.5 - (top[at[:, 1], at[:, 0]] - height) / 0.03, 0, 1)

    def frame(self, points: np.ndarray) -> np.ndarray:
        """Posed, dressed points (n, 3) in camera axes -> picture (HEIGHT, WIDTH, 3) uint8 BGR."""
        b = self.body
        out = self.room * (1 - 0.55 * self.shadow_on_floor(points)[..., None])
        out = cv2.GaussianBlur(out, (0, 0), 0.9 * FINE)  # the room is a little out of focus
        s = cover(project(points) * FINE, 1 / points[:, 2], b.triangles, self.size, False)
        mesh, sample = nearest([s], self.size[0] * self.size[1])
        pixel = np.flatnonzero(mesh == 0)
        s = s.keep(sample[pixel])
        corners, share = b.triangles[s.triangle], s.barycentric[..., None]
        normals = vertex_normals(points, b.triangles)
        sky = 0.5 + 0.5 * normals @ (self.turn @ np.array([0.0, 1.0, 0.0]))
        shade = 0.36 + 0.2 * sky + 0.62 * self.lit(points, normals)
        rest = (self.look.rest[corners] * share).sum(1)
        material = self.look.material[s.triangle]
        colour = np.zeros((len(pixel), 3))
        for k in np.unique(material):
            colour[material == k] = self.look.colours(int(k), rest[material == k])
        colour *= (shade[corners] * s.barycentric).sum(1)[:, None] * np.array([0.97, 1.0, 1.03])
        flat = out.reshape(-1, 3)
        flat[pixel] = colour
        small = cv2.resize(flat.reshape(self.size[1], self.size[0], 3), (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)
        small = cv2.GaussianBlur(small, (0, 0), 0.45) + self.rng.normal(0, 1.3, small.shape)
        return np.clip(small, 0, 255).astype(np.uint8)


def encode(path: Path, frames: list[np.ndarray]) -> None:
    """H.264, yuv420p, one file that plays from its beginning."""
    import av

    with av.open(str(path), "w", options={"movflags": "+faststart"}) as container:
        stream = container.add_stream("libx264", rate=FPS, options={"crf": "21", "preset": "slow"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for picture in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="bgr24")))
        container.mux(stream.encode(None))


def main() -> None:
    """Command line: see the module's text."""
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--out", type=Path, default=Path("samples"))
    ap.add_argument("--every", type=int, default=1, help="draw only every n-th frame, as PNG, and encode nothing")
    args = ap.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(7)
    body = Body.load()
    shape = body.shape(PHENOTYPE)
    truth = walk_truth(body, shape)
    look = Look(body, shape, rng)
    painter = Painter(body, look, rng)
    dressed = Shape(look.shape, shape.heads, shape.orientations, shape.phenotype, shape.stature)
    frames = []
    for k in range(0, FRAMES, args.every):
        points = body.pose(dressed, truth.rotations[k : k + 1], truth.translation[k : k + 1])[0]
        frames.append(painter.frame(points.astype(np.float64)))
        if args.every > 1:
            cv2.imwrite(str(args.out / f"frame_{k:03d}.png"), frames[-1])
    if args.every > 1:
        return
    encode(args.out / "turn.mp4", frames)
    np.savez_compressed(
        args.out / "turn_truth.npz",
        rotations=truth.rotations,
        translation=truth.translation,
        phenotype=truth.phenotype,
        stature=np.float64(truth.stature),
        camera=np.array([FOCAL, FOCAL, WIDTH / 2, HEIGHT / 2]),
        size=np.array([WIDTH, HEIGHT]),
        fps=np.float64(FPS),
    )


if __name__ == "__main__":
    main()
