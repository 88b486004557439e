# SPDX-License-Identifier: Apache-2.0
"""What the synthetic people and places look like: cloth patterns, puffed clothes, garments, backgrounds, occluders.

Colours are float32 BGR 0..255, as opencv has them. Patterns are functions of the rest position (metres), so that they
stick to the body when it moves.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from training.synth_body import Rest, SynthBody

SHOES = tuple(f"shoes0{i}" for i in range(1, 7))
HAIR = {
    "male": ("short01", "short02", "short03", "short04", "afro01", "ponytail01"),
    "female": ("bob01", "bob02", "braid01", "long01", "ponytail01", "afro01", "short04"),
}


def random_colour(rng: np.random.Generator) -> np.ndarray:
    """(3,) BGR: greys and blacks, muted or bright colours, as clothes are."""
    kind = rng.random()
    if kind < 0.35:
        return np.full(3, rng.uniform(10, 245), np.float32) + rng.normal(0, 8, 3).astype(np.float32)
    hsv = np.array([[[rng.integers(180), int(rng.uniform(40, 255)), int(rng.uniform(40, 255))]]], np.uint8)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)[0, 0].astype(np.float32)


def noise_picture(rng: np.random.Generator, size: int) -> np.ndarray:
    """(size, size) float32 in 0..1: octaves of smooth noise."""
    out = np.zeros((size, size), np.float32)
    for cells in (3, 7, 17, 43):
        grid = rng.random((cells, cells)).astype(np.float32)
        out += cv2.resize(grid, (size, size), interpolation=cv2.INTER_CUBIC) * (3 / cells) ** rng.uniform(0.2, 0.9)
    out -= out.min()
    return out / max(float(out.max()), 1e-6)


def look_up(texture: np.ndarray, uv: np.ndarray) -> np.ndarray:
    """Bilinear texture values (n, channels) float32 at uv (n, 2), v up, wrapped around."""
    h, w = texture.shape[:2]
    if not len(uv):
        return np.zeros((0, texture.shape[2] if texture.ndim == 3 else 1), np.float32)
    x = (uv[:, 0] % 1.0 * w - 0.5).astype(np.float32)
    y = ((1 - uv[:, 1] % 1.0) * h - 0.5).astype(np.float32)
    rows = -(-len(uv) // 1024)
    pad = rows * 1024 - len(uv)
    grid = (np.pad(x, (0, pad)).reshape(rows, 1024), np.pad(y, (0, pad)).reshape(rows, 1024))  # remap wants a picture
    out = cv2.remap(texture, grid[0], grid[1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return out.reshape(rows * 1024, -1)[: len(uv)].astype(np.float32)


class Cloth:
    """A random pattern on rest positions: plain, stripes, checks, dots, noise or a piece of a photograph."""

    def __init__(self, rng: np.random.Generator, photos: list[np.ndarray]) -> None:
        self.kind = rng.choice(
            ["plain", "stripes", "checks", "dots", "noise", "photo"], p=[0.4, 0.14, 0.1, 0.06, 0.15, 0.15]
        )
        self.a, self.b = random_colour(rng), random_colour(rng)
        self.period = float(np.exp(rng.uniform(np.log(0.015), np.log(0.2))))
        self.axis = rng.normal(0, 1, 3) * [0.4, 1, 0.4] if rng.random() < 0.6 else rng.normal(0, 1, 3)
        self.axis /= np.linalg.norm(self.axis)
        self.share = rng.uniform(0.2, 0.6)
        self.wrinkles = noise_picture(rng, 128)
        self.depth = rng.uniform(0.05, 0.45)
        if self.kind in ("noise", "photo"):
            self.texture = (
                photos[rng.integers(len(photos))] if self.kind == "photo" else noise_picture(rng, 128)[..., None]
            )
            self.zoom = rng.uniform(0.8, 4)

    def __call__(self, p: np.ndarray) -> np.ndarray:
        """Rest positions (n, 3) metres -> colours (n, 3)."""
        wrinkle = look_up(self.wrinkles, np.stack([p[:, 0] * 1.3 + p[:, 2] * 0.9, p[:, 1] * 0.9 + p[:, 2] * 0.5], 1))
        return self._colour(p) * (1 - self.depth * wrinkle)

    def _colour(self, p: np.ndarray) -> np.ndarray:
        if self.kind == "plain":
            return np.broadcast_to(self.a, p.shape)
        flat = np.stack([p[:, 0] + p[:, 2] * 0.6, p[:, 1]], 1)
        if self.kind == "photo":
            return look_up(self.texture, flat * self.zoom)[:, :3]
        if self.kind == "noise":
            share = look_up(self.texture, flat * self.zoom)[:, :1]
            return self.a + (self.b - self.a) * np.clip(share * 3 - 1, 0, 1)
        if self.kind == "stripes":
            on = (p @ self.axis / self.period) % 1 < self.share
        elif self.kind == "checks":
            on = (flat / self.period % 1 < self.share).any(1)
        else:
            on = ((flat / self.period % 1 - 0.5) ** 2).sum(1) < 0.08
        return np.where(on[:, None], self.b, self.a)


class Wardrobe:
    """The body's regions for puffed clothes, and MakeHuman's garments, shoes, hair and skins with their textures."""

    def __init__(self, data: Path, body: SynthBody) -> None:
        folder = data / "makehuman"
        index = json.loads((folder / "index.json").read_text())
        self.body, self.assets = body, {}
        self.textures: dict[str, np.ndarray] = {}
        for name, entry in index.items():
            if entry["kind"] in ("clothes", "hair"):
                z = np.load(folder / f"{name}.npz")
                self.assets[name] = Garment({k: z[k] for k in z.files}, body)
            if "texture" in entry:
                picture = cv2.imread(str(folder / "textures" / entry["texture"]), cv2.IMREAD_UNCHANGED)
                self.textures[name] = picture
        self.skins = [n for n, e in index.items() if e["kind"] == "skin"]
        self.suits = {s: [n for n in self.assets if n.startswith(s) and "suit" in n] for s in ("male", "female")}
        self._measure()

    def _measure(self) -> None:
        """Where each vertex of the base mesh lies: arm, leg and trunk coordinates 0..1, hair, foot, hand."""
        b = self.body
        t = b.template
        dominant = b.weights.argmax(1)
        under_head = np.zeros(len(b.names), bool)
        under_hand, under_foot = under_head.copy(), under_head.copy()
        for i, name in enumerate(b.names):
            q = b.parents[i]
            under_head[i] = name == "head" or (q >= 0 and under_head[q])
            under_hand[i] = name.startswith("wrist") or (q >= 0 and under_hand[q])
            under_foot[i] = name.startswith("foot") or (q >= 0 and under_foot[q])
        short = [n.split(".")[0].rstrip("0123456789") for n in b.names]
        at = {
            k: np.isin(dominant, [i for i, n in enumerate(short) if n in names])
            for k, names in {
                "arm": ("upperarm", "lowerarm"),
                "leg": ("upperleg", "lowerleg"),
                "trunk": ("root", "pelvis", "spine", "clavicle", "shoulder", "breast"),
            }.items()
        }
        head = {n: b.heads[i] for n, i in b.bone.items()}
        shoulder, wrist = abs(head["upperarm01.L"][0]), abs(head["wrist.L"][0])
        hip, ankle = head["upperleg01.L"][1], head["foot.L"][1]
        self.arm = np.where(at["arm"], np.clip((abs(t[:, 0]) - shoulder) / (wrist - shoulder), 0, 1), np.nan)
        self.leg = np.where(at["leg"], np.clip((hip - t[:, 1]) / (hip - ankle), 0, 1), np.nan)
        self.trunk = np.where(at["trunk"], (t[:, 1] - hip) / (head["neck01"][1] - hip), np.nan)
        self.hand, self.foot, self.head = under_hand[dominant], under_foot[dominant], under_head[dominant]
        eyes = t[14598:14742].mean(0)
        skull_back = t[self.head, 2].min()
        depth = (t[:, 2] - skull_back) / (eyes[2] - skull_back)  # 0 nape .. 1 eyes
        height = t[:, 1] - eyes[1]
        self.scalp = self.head & ((height > 0.055) | ((depth < 0.5) & (height > -0.09)))
        self.crown = self.head & (height > 0.05)
        neck = np.isin(dominant, [b.bone[f"neck0{i}"] for i in (1, 2, 3)])
        self.mane = (
            (neck | (at["trunk"] & (self.trunk > 0.75))) & (t[:, 2] < head["neck01"][2] - 0.01) & (abs(t[:, 0]) < 0.13)
        )
        quads = b.mapping["faces"].astype(int)
        self.skin_quads = np.flatnonzero((quads < 13380).all(1))
        self.eye_quads = np.flatnonzero(((quads >= 14598) & (quads < 14742)).all(1))

    def regions(self, rng: np.random.Generator, bare: bool = False) -> list[tuple[np.ndarray, float]]:
        """Random puffed clothes, later ones over earlier ones: (vertices bool (19158,), puff in metres) of the top, the
        bottom, shoes, hair, hat and gloves. A one-piece has all in the top; ``bare`` allows a naked chest.
        """
        none = np.zeros(len(self.arm), bool)
        sleeve = rng.choice([-1.0, 0.02, 0.3, 0.5, 0.97], p=[0.15, 0.12, 0.33, 0.1, 0.3])
        leg = rng.choice([0.02, 0.08, 0.25, 0.45, 0.97], p=[0.08, 0.1, 0.2, 0.14, 0.48])
        waist = rng.uniform(0.12, 0.35)
        loose = rng.uniform(0.002, 0.03)
        one_piece = rng.random() < 0.15
        with np.errstate(invalid="ignore"):
            low = -1.0 if one_piece else waist - rng.choice([0.0, 0.25])
            top = ((self.trunk > low) & (self.trunk < rng.uniform(0.85, 1.1))) | (self.arm < sleeve)
            bottom = (self.trunk < waist) | (self.leg < leg)
            high = rng.choice([rng.uniform(0.9, 1.05), rng.uniform(0.6, 0.9)], p=[0.75, 0.25])  # or long socks, boots
            shoes = self.foot | (self.leg > high)
        if one_piece:
            top, bottom, loose = top | (self.leg < leg), none, loose * 0.4
        elif bare and rng.random() < 0.2:
            top = none
        mane = rng.random() < 0.3
        hair = none if rng.random() < 0.08 else self.scalp | self.mane if mane else self.scalp
        return [
            (top, loose),
            (bottom, rng.uniform(0.002, 0.03)),
            (shoes if rng.random() < 0.78 else none, rng.uniform(0.004, 0.015)),
            (hair, rng.uniform(0.005, 0.035)),
            (self.crown if rng.random() < 0.1 else none, rng.uniform(0.015, 0.04)),
            (self.hand if rng.random() < 0.05 else none, rng.uniform(0.002, 0.008)),
        ]

    def skirt(self, rng: np.random.Generator, rest: Rest) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """A cone from the waist down: rest points (n, 3), triangles (m, 3), weights (n, 163): the waist hangs on the
        pelvis, the hem mostly on the thigh of its side.
        """
        around, rows = 28, 8
        with np.errstate(invalid="ignore"):
            hips = rest.vertices[abs(self.trunk) < 0.12]
        hip, ankle = (float(rest.heads[self.body.bone[n]][1]) for n in ("upperleg01.L", "foot.L"))
        neck = float(rest.heads[self.body.bone["neck01"]][1])
        half = np.array([abs(hips[:, 0]).max(), np.ptp(hips[:, 2]) / 2]) + rng.uniform(0.004, 0.02)
        middle = (hips[:, 2].max() + hips[:, 2].min()) / 2
        top, bottom = hip + rng.uniform(0.1, 0.3) * (neck - hip), hip - rng.uniform(0.2, 0.85) * (hip - ankle)
        t = np.repeat(np.linspace(0, 1, rows), around)
        angle = np.tile(np.arange(around) * 2 * np.pi / around, rows)
        flare = 0.92 + rng.uniform(0.05, 0.6) * t + 0.08 * np.minimum(t * 6, 1)
        fold = 1 + rng.uniform(0, 0.06) * t * np.sin(angle * rng.integers(5, 11))
        points = np.stack([np.cos(angle) * half[0] * flare * fold, top + (bottom - top) * t,
                           middle + np.sin(angle) * half[1] * flare * fold], 1)  # fmt: skip
        hang = np.clip((hip - points[:, 1]) / 0.35, 0, 1) * 0.8
        left = np.clip(0.5 + points[:, 0] / 0.2, 0, 1)
        weights = np.zeros((len(points), len(self.body.names)), np.float32)
        weights[:, 0] = 1 - hang
        weights[:, self.body.bone["upperleg01.L"]] = hang * left
        weights[:, self.body.bone["upperleg01.R"]] = hang * (1 - left)
        i = np.arange((rows - 1) * around)
        beside = i // around * around + (i + 1) % around
        quads = np.stack([i, i + around, beside + around, beside], 1)
        return points.astype(np.float32), split_quads(quads), weights


class Garment:
    """One MakeHuman garment, hair style or pair of shoes: how it sits on a rest shape and follows the bones."""

    def __init__(self, z: dict[str, np.ndarray], body: SynthBody) -> None:
        self.index, self.offset = z["bind_index"].astype(int), z["bind_offset"]
        self.share = z["bind_weight"]
        self.ref, self.den = z["scale_ref"], z["scale_den"]
        self.hidden = z["delete_verts"].astype(int)
        share = np.clip(self.share, 0, None)
        share = share / np.maximum(share.sum(1, keepdims=True), 1e-6)
        weights = (body.weights[self.index] * share[..., None]).sum(1)
        self.weights = (weights / weights.sum(1, keepdims=True)).astype(np.float32)
        quads, uv = z["faces"].astype(int), z["face_uv"].astype(int)
        self.triangles, self.uv_triangles = split_quads(quads), split_quads(uv)
        flat = (self.triangles == np.roll(self.triangles, 1, 1)).any(1)
        self.triangles, self.uv_triangles = self.triangles[~flat], self.uv_triangles[~flat]
        self.uv = z["uv"].astype(np.float32)

    def fit(self, rest: Rest) -> np.ndarray:
        """Rest vertices (n, 3) on this shape; the offsets grow with the body, axis by axis."""
        base = rest.vertices
        scale = np.array([abs(base[self.ref[a, 0], a] - base[self.ref[a, 1], a]) / self.den[a] for a in range(3)])
        return (base[self.index] * self.share[..., None]).sum(1) + self.offset * scale.astype(np.float32)


def split_quads(quads: np.ndarray) -> np.ndarray:
    """Quads (n, 4) -> triangles (2n, 3)."""
    return np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]])


@dataclass
class Places:
    """Panoramas (equirectangular, BGR) and pieces of them."""

    panoramas: list[np.ndarray]

    @staticmethod
    def load(folder: Path) -> Places:
        """All panoramas of a folder, and their mirror images."""
        read = [cv2.imread(str(p)) for p in sorted(folder.glob("*.jpg"))]
        return Places([*read, *(np.ascontiguousarray(p[:, ::-1]) for p in read)])

    def patches(self, rng: np.random.Generator, count: int) -> list[np.ndarray]:
        """Square pieces (64..160 px) to print on clothes and boxes."""
        out = []
        for _ in range(count):
            p = self.panoramas[rng.integers(len(self.panoramas))]
            n = int(rng.integers(64, 160))
            y, x = rng.integers(p.shape[0] - n), rng.integers(p.shape[1] - n)
            out.append(p[y : y + n, x : x + n])
        return out

    def view(self, rng: np.random.Generator, turn: np.ndarray, size: int, which: int) -> np.ndarray:
        """A perspective look (size, size, 3) uint8 into a panorama; ``turn`` (3, 3) from its axes (y up, centre +z,
        right -x) to the camera's."""
        panorama = self.panoramas[which]
        half = np.tan(np.radians(rng.uniform(35, 100) / 2))
        g = ((np.arange(size) + 0.5) / size * 2 - 1) * half
        x, y = np.meshgrid(g, g)
        d = np.stack([x, y, np.ones_like(x)], -1) @ turn  # rows times R = R^T applied
        h, w = panorama.shape[:2]
        u = (0.5 - np.arctan2(d[..., 0], d[..., 2]) / (2 * np.pi)) % 1 * w
        v = (0.5 - np.arctan2(d[..., 1], np.hypot(d[..., 0], d[..., 2])) / np.pi) * h
        out = cv2.remap(
            panorama, u.astype(np.float32), v.astype(np.float32), cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP
        )
        gain = rng.uniform(0.6, 1.3) * rng.normal(1, 0.06, 3)
        out = np.clip(out * gain, 0, 255).astype(np.uint8)
        # Panoramas of 512 px are soft: some grain and clutter gives them the detail of a photograph.
        if rng.random() < 0.35:
            out = clutter(rng, out, int(rng.integers(1, 10)), self)
        return out


def texture_background(rng: np.random.Generator, size: int) -> np.ndarray:
    """Noise between two colours, or a gradient with a floor line (size, size, 3) uint8."""
    a, b = random_colour(rng), random_colour(rng)
    n = noise_picture(rng, size)
    if rng.random() < 0.5:
        n = 0.3 * n + 0.7 * (np.arange(size, dtype=np.float32)[:, None] > size * rng.uniform(0.3, 0.9))
    return np.clip(a + (b - a) * n[..., None], 0, 255).astype(np.uint8)


def polygon(rng: np.random.Generator, size: int, centre: np.ndarray, radius: float) -> np.ndarray:
    """(size, size) uint8 mask of a random polygon, box, bar or blob."""
    mask = np.zeros((size, size), np.uint8)
    kind = rng.random()
    if kind < 0.35:  # a box, turned a little
        w, h = radius * rng.uniform(0.4, 1.6), radius * rng.uniform(0.4, 1.6)
        corners = cv2.boxPoints(((float(centre[0]), float(centre[1])), (w, h), rng.normal(0, 25)))
    elif kind < 0.6:  # a pole or rail
        angle = rng.choice([90.0, 0.0, rng.uniform(0, 180)]) + rng.normal(0, 4)
        corners = cv2.boxPoints(
            ((float(centre[0]), float(centre[1])), (size * 2.0, radius * rng.uniform(0.08, 0.35)), angle)
        )
    else:
        t = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(3, 9)))
        corners = centre + np.stack([np.cos(t), np.sin(t)], 1) * radius * rng.uniform(0.4, 1.1, (len(t), 1))
    cv2.fillPoly(mask, [np.round(corners).astype(np.int32)], 255, cv2.LINE_AA)
    return mask


def clutter(rng: np.random.Generator, picture: np.ndarray, count: int, places: Places | None) -> np.ndarray:
    """Polygons with colours or photograph texture behind the person."""
    size = picture.shape[0]
    for _ in range(count):
        mask = polygon(rng, size, rng.uniform(0, size, 2), size * rng.uniform(0.03, 0.3))
        picture = paint(rng, picture, mask, places)
    return picture


def paint(rng: np.random.Generator, picture: np.ndarray, mask: np.ndarray, places: Places | None) -> np.ndarray:
    """The picture (uint8 or float32) with a shaded colour or a piece of a photograph where the mask (uint8) is."""
    x, y, w, h = cv2.boundingRect(mask)
    if w == 0 or h == 0:
        return picture
    if places is not None and rng.random() < 0.6:
        fill = cv2.resize(places.patches(rng, 1)[0], (w, h)).astype(np.float32)
    else:
        fill = random_colour(rng) * (0.7 + 0.3 * cv2.resize(noise_picture(rng, 64), (w, h))[..., None])
    across = np.linspace(-1, 1, w, dtype=np.float32)[:, None] * np.float32(rng.normal(0, 0.25))
    fill = fill * (1 + across) * (1 + np.linspace(-1, 1, h, dtype=np.float32)[:, None, None] * rng.normal(0, 0.25))
    out = picture.copy()
    a = mask[y : y + h, x : x + w, None].astype(np.float32) / 255
    part = out[y : y + h, x : x + w]
    out[y : y + h, x : x + w] = np.clip(part * (1 - a) + fill * a, 0, 255).astype(picture.dtype)
    return out
