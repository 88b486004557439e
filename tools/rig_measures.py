# SPDX-License-Identifier: Apache-2.0
"""The rig fit's figures as one table: how near, how true, how calm, how fast.

    python -m tools.rig_measures                   # from the top of the checkout, some minutes
    python -m tools.rig_measures --take turn.take  # the bundled sample's Take, where it was converted before
    python -m tools.rig_measures --set synth_test.json --images synth_test.zip    # single pictures alone

Three subjects: the bundled sample as the network sees it, against its truth; a synthetic walk with the network's kind
of error (tools/walks.py); random poses of random bodies with 5 mm of noise on each coordinate.  "Mesh" is what the fit
is given, lifted to all vertices; "visible" are the vertices of the outer skin with a visibility over 0.5.  Single
pictures are those of a set with true meshes (training/make_test_set.py writes one), every person a clip of one frame.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from meshpose.body import Body, Shape, rotation_matrix
from meshpose.camera import Camera, bone_lengths, in_picture, metres_per_pixel, place, smoothed
from meshpose.coco import Person, Pictures, load_set
from meshpose.convert import convert
from meshpose.errors import InputError, MeshPoseError, TakeError
from meshpose.estimate import Estimator
from meshpose.likely import likely_places, told_places
from meshpose.network import Network
from meshpose.rig import RigFit, fit_rig
from meshpose.rig_prior import HINGES, LIMITS, prior_of
from meshpose.rig_solve import rotation_vector
from meshpose.take import Take
from meshpose.upsample import CLEAN, Upsampler
from tools.walks import Noise, make_walk, observed
from training.random_bodies import random_bodies

Array = np.ndarray
SAMPLES = Path(__file__).resolve().parents[1] / "samples"
BONES = {
    "pelvis": "root", "chest": "spine02", "head": "head", "thigh": "upperleg01", "shin": "lowerleg01", "foot": "foot",
    "upper arm": "upperarm01", "lower arm": "lowerarm01", "hand": "wrist",
}  # fmt: skip
LONG = 300
"""Frames of the clip that the speed is measured on."""
FOUND = 150.0
"""Millimetres of MPJPE under which a person of a single picture counts as found."""
CLOSE_UP_NOISE = 0.08
"""Metres, per part of a limb and frame: what a network makes up outside of the picture."""


@dataclass(frozen=True, eq=False)
class Subject:
    """One person: low (F, V, 3) metres, visibility and inside (F, V), the truth; said: low before the motion told its
    depths, where that was another."""

    name: str
    low: Array
    visibility: Array
    inside: Array
    shape: Shape
    rotations: Array
    translation: Array
    said: Array | None = None

    def truth(self, body: Body) -> Array:
        """The true mesh (F, N, 3)."""
        return body.pose(self.shape, self.rotations, self.translation)


def sample(body: Body, take: Path) -> Subject:
    """The bundled clip as the network sees it."""
    with Take.open(take) as opened, np.load(SAMPLES / "turn_truth.npz") as z:
        person = opened.person(opened.people[0])
        frames, inside = person.frames, in_picture(person.lowpoly_pixels(), opened.camera)
        truth = body.shape(z["phenotype"]), z["rotations"][frames], z["translation"][frames]
        said = place(person.lowpoly_pixels(raw=True), person.metres_per_pixel(), opened.camera)
        return Subject("sample clip", person.lowpoly(), person.visibility(), inside, *truth, said)


def finished(body: Body, take: Path) -> float:
    """MPJPE in millimetres of the motion that an animator gets from the bundled clip: the rig's fit, then smoothed, on
    the floor, with feet that stand.
    """
    with Take.open(take) as opened:
        motion, world = opened.person(opened.people[0]).motion(), opened.world()
    if motion is None or world is None:
        raise TakeError(f"{take} has no motion: convert {SAMPLES / 'turn.mp4'} to its end")
    posed = body.pose(body.shape(motion.phenotype), motion.rotations, np.zeros((len(motion.frames), 3)))
    camera = motion.scale * posed @ world.rotation[0]  # from the world's axes to the camera's
    with np.load(SAMPLES / "turn_truth.npz") as z:
        shape, rows = body.shape(z["phenotype"]), motion.frames
        truth = body.pose(shape, z["rotations"][rows], z["translation"][rows])
    return 1000 * float(mpjpe(body, camera, truth))


def walk(body: Body, seconds: float = 4.0) -> Subject:
    """A synthetic walk with the network's kind of error, depths as the motion tells them."""
    true = make_walk(seconds=seconds)
    pixels, visibility, _ = observed(true, Noise(seed=3))
    sizes, sure = metres_per_pixel(pixels, visibility, true.camera, bone_lengths(body), body)
    sizes = smoothed(sizes, sure, true.times)
    said = place(pixels, sizes, true.camera)
    pixels = told_places(pixels, visibility, sizes, true.times, true.camera)
    low = place(pixels, sizes, true.camera)
    inside = in_picture(pixels, true.camera)
    return Subject("synthetic walk", low, visibility, inside, true.shape, true.rotations, true.translation, said)


def poses(body: Body, count: int = 48) -> Subject:
    """Random poses of one body, any side to the camera, 5 mm of noise per coordinate."""
    rng = np.random.default_rng(7)
    bodies = random_bodies(body, count, rng, adults=True)
    shape, where = body.shape(bodies.phenotype[0]), bodies.translation + [0, 0, 4]
    truth = body.pose(shape, bodies.rotations, where)[:, body.lowpoly]
    low = truth + rng.normal(0, 0.005, truth.shape)
    ones = np.ones(low.shape[:2])
    return Subject("random poses", low, ones, ones, shape, bodies.rotations, where)


def close_up(body: Body) -> Subject:
    """The walk from the hips up: the legs are outside of the picture and made up anew on every frame."""
    whole, rng = walk(body, 3.0), np.random.default_rng(5)
    bones = np.take_along_axis(body.skin_bones, body.skin_weights.argmax(1)[:, None], 1)[body.lowpoly, 0]
    legs = np.array([body.bone_names[c].startswith(("upperleg", "lowerleg", "foot", "toe")) for c in bones])
    parts = np.unique(bones[legs], return_inverse=True)[1]
    low, inside = np.array(whole.low, np.float64), np.ones_like(whole.visibility)
    low[:, legs] += rng.normal(0, CLOSE_UP_NOISE, (len(low), parts.max() + 1, 3))[:, parts]
    inside[:, legs] = 0
    visibility = np.where(legs, 0.05, whole.visibility)
    return dataclasses.replace(whole, name="close-up", low=low, inside=inside, visibility=visibility)


def single_pictures(body: Body, people: Sequence[Person], pictures: Pictures) -> dict[str, Array]:
    """Millimetres by person (n,): the fit of one frame to the mesh that the network sees from the box alone.

    Raises InputError where a person has no true mesh or no camera.
    """
    estimator, upsampler, lengths = Estimator(Network()), Upsampler.load(), bone_lengths(body)
    rows = []
    for person in people:
        truth, image = pictures.vertices(person), pictures.image(person.image)
        if truth is None or person.camera is None:
            raise InputError(f"annotation {person.id} has no true vertices or no camera")
        estimate = estimator.from_box(image, person.box)
        camera = Camera(*person.camera, width=image.shape[1], height=image.shape[0])
        pixels, seen = estimate.vertices[None].astype(np.float64), estimate.visibility[None].astype(np.float64)
        size = metres_per_pixel(pixels, seen, camera, lengths, body)[0]
        pixels = likely_places(pixels, seen, size, camera)
        low = place(pixels, size, camera)
        fit = fit_rig(low, seen, np.arange(1), body, inside=in_picture(pixels, camera))
        mesh, posed, true = upsampler.up(low.astype(np.float32)), fit.vertices(body), truth[None] / 1000
        if true.shape[1] == len(body.lowpoly):
            true = upsampler.up(true.astype(np.float32), CLEAN)
        facing = visible(body, upsampler, seen)
        away = np.linalg.norm(posed - mesh, axis=-1)[facing].mean() if facing.any() else np.nan
        rows.append((away, mpjpe(body, mesh, true), mpjpe(body, posed, true)))
    names = ("skinned body to mesh, visible", "MPJPE of the mesh", "MPJPE of the rig")
    return dict(zip(names, 1000 * np.array(rows).T, strict=True))


def report_pictures(found: dict[str, Array]) -> None:
    """The table of `single_pictures`: all persons, and those whose mesh's joints are FOUND or better."""
    kept = found["MPJPE of the mesh"] < FOUND
    print(f"| mm, mean (median) | all {len(kept)} | the {kept.sum()} with joints under {FOUND:.0f} mm |\n|---|---|---|")
    for name, values in found.items():
        cells = [f"{np.nanmean(v):.1f} ({np.nanmedian(v):.1f})" if len(v) else "-" for v in (values, values[kept])]
        print(f"| {name} | " + " | ".join(cells) + " |")


def visible(body: Body, upsampler: Upsampler, visibility: Array) -> Array:
    """(F, N) vertices of the outer skin that are seen; visibility (F, V)."""
    lifted = upsampler.up(np.repeat(visibility[..., None].astype(np.float32), 3, -1))[..., 0]
    seen: Array = (lifted > 0.5) & ~body.inner
    return seen


def figures(body: Body, subject: Subject) -> dict[str, float]:
    """Millimetres and degrees of one subject."""
    fit = fit_rig(subject.low, subject.visibility, np.arange(len(subject.low)), body, inside=subject.inside)
    upsampler = Upsampler.load()
    mesh, posed, truth = upsampler.up(subject.low.astype(np.float32)), fit.vertices(body), subject.truth(body)
    said = mesh if subject.said is None else upsampler.up(subject.said.astype(np.float32))
    seen = visible(body, upsampler, subject.visibility)
    aligned = lambda x: x - body.joints(x, "lsp14")[:, 2:4].mean(1, keepdims=True)  # noqa: E731
    away = lambda x: np.linalg.norm(aligned(x) - aligned(truth), axis=-1)[:, ~body.inner].mean()  # noqa: E731
    found = {
        "skinned body to mesh, visible, mm": 1000 * np.linalg.norm(posed - mesh, axis=-1)[seen].mean(),
        "skinned body to mesh, all, mm": 1000 * np.linalg.norm(posed - mesh, axis=-1)[:, ~body.inner].mean(),
        "mesh to truth (hips aligned), mm": 1000 * away(mesh),
        "skinned body to truth, mm": 1000 * away(posed),
        "MPJPE of the mesh as the network said it, mm": 1000 * mpjpe(body, said, truth),
        "MPJPE of the mesh, mm": 1000 * mpjpe(body, mesh, truth),
        "MPJPE of the rig, mm": 1000 * mpjpe(body, posed, truth),
        "beyond joint limits, degrees (largest)": beyond_limits(body, fit),
    }
    turned = [world_rotations(body, q) for q in (fit.rotations, subject.rotations)]
    for label, name in BONES.items():
        rows = [i for i, n in enumerate(body.bone_names) if n.split(".")[0] == name]
        error = rotation_vector(turned[0][:, rows].swapaxes(-1, -2) @ turned[1][:, rows])
        found[f"rotation of {label}, degrees"] = float(np.degrees(np.linalg.norm(error, axis=-1)).mean())
    return {name: float(value) for name, value in found.items()}


def mpjpe(body: Body, mesh: Array, truth: Array) -> Any:
    """Metres between LSP's joints, mid-hips aligned."""
    a, b = (body.joints(x, "lsp14") for x in (mesh, truth))
    away = (a - a[:, 2:4].mean(1, keepdims=True)) - (b - b[:, 2:4].mean(1, keepdims=True))
    return np.linalg.norm(away, axis=-1).mean()


def world_rotations(body: Body, rotations: Array) -> Array:
    """(F, J, 3, 3) turned frames of the bones from local-ref deltas (F, J, 4)."""
    turned = rotation_matrix(np.asarray(rotations, np.float64))
    for c in range(1, turned.shape[1]):
        turned[:, c] = turned[:, body.bone_parents[c]] @ turned[:, c]
    return turned


def beyond_limits(body: Body, fit: RigFit) -> float:
    """Degrees that the worst bone turns beyond its limits."""
    prior, named = prior_of(body), {*LIMITS, *HINGES}
    bones = [c for c, n in enumerate(body.bone_names) if n.split(".")[0] in named]
    vector = rotation_vector(rotation_matrix(fit.rotations[:, bones].astype(np.float64)))
    along = (vector[:, :, None] @ prior.axes[bones])[:, :, 0]
    return float(np.degrees(np.maximum(along - prior.high[bones], prior.low[bones] - along).max()))


def calm(body: Body, subject: Subject, inside: Array | None) -> float:
    """Degrees a frame that the bones of the legs turn."""
    fit = fit_rig(subject.low, subject.visibility, np.arange(len(subject.low)), body, inside=inside)
    legs = [c for c, n in enumerate(body.bone_names) if n.startswith(("upperleg", "lowerleg", "foot"))]
    turned = rotation_matrix(fit.rotations[:, legs].astype(np.float64))
    steps = rotation_vector(turned[:-1].swapaxes(-1, -2) @ turned[1:])
    return float(np.degrees(np.linalg.norm(steps, axis=-1)).mean())


def workload() -> float:
    """CPU seconds of a fixed piece of numpy like the fit's: a measure of how fast this machine is just now."""
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(64, 102, 500)).astype(np.float32), np.eye(105) + 0.01 * rng.normal(size=(64, 105, 105))
    start = time.process_time()
    for _ in range(8):
        np.linalg.solve(b, (a @ a.swapaxes(1, 2))[:, :1, :1] + np.zeros((64, 105, 1)))
    return time.process_time() - start


def speed(body: Body, subject: Subject) -> tuple[float, float, float]:
    """Frames a second on a long clip, CPU milliseconds a frame, and that as a share of `workload`; the best of 3."""
    rows = np.resize(np.arange(len(subject.low)), LONG)
    runs = []
    for _ in range(3):
        base, wall, cpu = workload(), time.perf_counter(), time.process_time()
        fit_rig(subject.low[rows], subject.visibility[rows], np.arange(LONG), body, inside=subject.inside[rows])
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        runs.append((LONG / wall, 1000 * cpu / LONG, cpu / LONG / ((base + workload()) / 2)))
    return max(r[0] for r in runs), min(r[1] for r in runs), min(r[2] for r in runs)


def main() -> None:
    """Command line: see the module's docstring."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--take", type=Path, help="the sample's Take; without it the clip is converted now")
    parser.add_argument("--set", type=Path, help="a COCO-format set with true meshes: its single pictures instead")
    parser.add_argument("--images", type=Path, nargs="+", default=[], help="the set's pictures: zips or folders")
    parser.add_argument("--limit", type=int, help="only so many of the set's persons")
    args = parser.parse_args()
    try:
        if args.set is not None:
            people, pictures = load_set(args.set)[: args.limit], Pictures(args.images)
            pictures.check(people)
            if not people:
                parser.error(f"--limit {args.limit}: no persons are left")
            report_pictures(single_pictures(Body.load(), people, pictures))
            return
        with tempfile.TemporaryDirectory() as folder:
            report(args.take or convert(SAMPLES / "turn.mp4", folder, preview=False).path)
    except MeshPoseError as error:
        parser.error(str(error))


def report(take: Path) -> None:
    """All figures, printed; take: the sample's."""
    body = Body.load()
    subjects = [sample(body, take), walk(body), poses(body)]
    columns = [figures(body, subject) for subject in subjects]
    print("| | " + " | ".join(subject.name for subject in subjects) + " |")
    print("|---|" + "---|" * len(subjects))
    for name in columns[0]:
        print(f"| {name} | " + " | ".join(f"{column[name]:.1f}" for column in columns) + " |")
    print(f"\nMPJPE of the finished motion on the sample clip: {finished(body, take):.1f} mm.")
    near = close_up(body)
    print(f"\nClose-up, legs outside of the picture: they turn {calm(body, near, near.inside):.2f} degrees a frame; "
          f"{calm(body, near, None):.2f} where what the network makes up there counts as a guess.")  # fmt: skip
    fps, cpu, share = speed(body, subjects[0])
    print(f"Speed, {LONG} frames, shape included: {fps:.0f} frames a second, {cpu:.1f} ms CPU a frame, "
          f"{100 * share:.1f} % of the CPU time of a fixed piece of numpy.")  # fmt: skip


if __name__ == "__main__":
    main()
