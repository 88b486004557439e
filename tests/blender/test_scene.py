# SPDX-License-Identifier: Apache-2.0
"""A small Take in Blender, read back evaluated: positions, colours, camera, footage; twice; in a fresh process."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import bpy
import numpy as np
import pytest
from bpy_extras.object_utils import world_to_camera_view
from mathutils import Vector
from read_back import evaluated, summary

from meshpose.body import Body
from meshpose.camera import Camera
from meshpose.errors import InputError, TakeError
from meshpose.take import Take
from meshpose.upsample import Upsampler
from meshpose.video import write_preview
from meshpose_blender import footage
from meshpose_blender.__main__ import main
from meshpose_blender.export import write_blend
from meshpose_blender.scene import BuiltTake, build_scene, is_untouched, takes

FRAMES, FPS = 12, 25.0
READ = (1, 3, 8, 12)


@dataclass(frozen=True)
class Case:
    take: Path
    blend: Path
    built: BuiltTake


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Take with two people, one of them with a fit, beside a clip of moving noise; named as users name things."""
    from takes import HEIGHT, WIDTH, add_fit, make_take

    random = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("original") / "wälk 'it'.take"
    with write_preview(path.with_suffix(".mp4"), FPS, (WIDTH, HEIGHT)) as writer:
        for _ in range(FRAMES):
            writer.write(random.integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8))
    make_take(path, frames=FRAMES, people=2).close()
    with Take.resume(path) as take:
        add_fit(take, 1)
    return path


@pytest.fixture
def walk(original: Path, tmp_path: Path) -> Path:
    """A copy of the Take and its clip, to do with as one likes."""
    for file in original, original.with_suffix(".mp4"):
        shutil.copy(file, tmp_path)
    return tmp_path / original.name


@pytest.fixture(scope="module")
def files(original: Path) -> tuple[Path, Path]:
    """A Take and the .blend written from it."""
    blend = original.with_name("scene.blend")
    assert len(write_blend(original, blend).people) == 2
    return original, blend


@pytest.fixture
def case(files: tuple[Path, Path]) -> Case:
    """The saved file, opened."""
    take, blend = files
    bpy.ops.wm.open_mainfile(filepath=str(blend))
    return Case(take, blend, takes(bpy.context.scene)[0])


def in_blender(points: np.ndarray, lift: float) -> np.ndarray:
    return np.stack([points[..., 0], points[..., 2], -points[..., 1] + lift], -1)


def on_picture(camera: bpy.types.Object, points: np.ndarray) -> np.ndarray:
    """Pixels (n, 2) of world points in the render of Blender's camera."""
    scene = bpy.context.scene
    seen = np.array([world_to_camera_view(scene, camera, Vector(p))[:2] for p in points.tolist()])
    return np.stack([seen[:, 0], 1 - seen[:, 1]], 1) * (scene.render.resolution_x, scene.render.resolution_y)


def test_mesh_equals_numpy(case: Case) -> None:
    upsampler = Upsampler.load()
    with Take.open(case.take) as take:
        for built in case.built.people:
            person = take.person(built.id)
            for frame in READ:
                index = frame - 1
                positions, colours = evaluated(built.mesh, frame)
                if index not in person.frames:
                    assert not len(positions)
                    continue
                wanted = in_blender(person.vertices([index])[0], case.built.camera.location.z)
                assert np.linalg.norm(positions - wanted, axis=1).max() < 1e-4
                own = upsampler.up(in_blender(person.lowpoly([index])[0], case.built.camera.location.z))
                assert np.linalg.norm(positions - own, axis=1).max() < 1e-4
                seen = np.clip(upsampler.up(person.visibility([index])[0][:, None])[:, 0], 0, 1)
                assert np.abs(colours[:, 1] - seen).max() < 1e-3 and np.abs(colours[:, 0] + seen - 1).max() < 1e-3
                assert np.ptp(seen) > 0.3


def test_absent_frames_are_empty(case: Case) -> None:
    second = case.built.people[1]
    for frame in (-3, 0, 1, 2, FRAMES // 2 + 1, FRAMES + 1, 100):
        assert not len(evaluated(second.mesh, frame)[0]), frame
    assert len(evaluated(second.mesh, 3)[0]) == 13718


def test_camera_sees_the_pixels(case: Case) -> None:
    with Take.open(case.take) as take:
        for built in case.built.people:
            person = take.person(built.id)
            for frame in (5, 12):
                index = frame - 1
                positions, _ = evaluated(built.mesh, frame)
                chosen = np.arange(0, len(positions), 23)
                wanted = take.camera.project(person.vertices([index])[0][chosen])
                found = on_picture(case.built.camera, positions[chosen])
                assert np.abs(found - wanted).max() < 0.1
                network = person.lowpoly_pixels([index])[0]
                lowpoly = in_blender(person.lowpoly([index])[0], case.built.camera.location.z)
                assert np.abs(on_picture(case.built.camera, lowpoly) - network[:, :2]).max() < 0.1


def test_camera_with_any_intrinsics() -> None:
    bpy.ops.wm.read_factory_settings(use_empty=True)
    points = np.random.default_rng(1).normal(0, 1, (50, 3)) + (0, 0, 6)
    for camera in (Camera(900, 900, 300, 250, 640, 480), Camera(500, 650, 200.5, 410, 360, 640)):
        target = footage.new_camera("any", camera, 10.0)
        bpy.context.scene.collection.objects.link(target)
        footage.set_format(bpy.context.scene, camera)
        target.location.z = 1.2
        bpy.context.view_layer.update()
        assert np.abs(on_picture(target, in_blender(points, 1.2)) - camera.project(points)).max() < 0.05


def test_skinned_body_equals_the_fit(case: Case) -> None:
    built = case.built
    assert built.people[1].body is None and built.people[1].armature is None  # no fit of this one in the Take
    body = built.people[0].body
    with Take.open(case.take) as take:
        fit = take.person(1).fit()
    assert fit is not None and body is not None
    assert body.hide_get() and body.hide_render
    body.hide_set(False)
    wanted = in_blender(fit.vertices(Body.load()), built.camera.location.z)
    for row in (0, 5, len(fit.frames) - 1):
        positions, _ = evaluated(body, int(fit.frames[row]) + 1)
        assert np.linalg.norm(positions - wanted[row], axis=1).max() < 1e-3


def test_skinned_body_is_gone_with_the_person(tmp_path: Path) -> None:
    """Before, after and in between: no body stands still where nobody is; it needs no extension, so opens as saved."""
    from takes import add_fit, make_take

    make_take(tmp_path / "gaps.take", frames=FRAMES, people=2).close()
    with Take.resume(tmp_path / "gaps.take") as take:
        add_fit(take, 2)
    write_blend(tmp_path / "gaps.take", tmp_path / "gaps.blend")
    bpy.ops.wm.open_mainfile(filepath=str(tmp_path / "gaps.blend"))
    body = takes(bpy.context.scene)[0].people[1].body
    assert body is not None and body.hide_get() and body.hide_render
    body.hide_set(False)
    for frame in (-3, 1, 2, FRAMES // 2 + 1, FRAMES + 1, 100):
        assert not len(evaluated(body, frame)[0]), frame
    for frame in (3, FRAMES // 2, FRAMES // 2 + 2, FRAMES):
        assert len(evaluated(body, frame)[0]) == 13718, frame


def test_ground_is_at_the_feet(case: Case) -> None:
    lowest = [evaluated(p.mesh, f)[0] for p in case.built.people for f in READ]
    assert abs(min(p[:, 2].min() for p in lowest if len(p))) < 0.05


def test_scene_has_the_clips_format(case: Case) -> None:
    scene, found = bpy.context.scene, case.built
    assert (scene.render.resolution_x, scene.render.resolution_y) == (320, 240)
    assert scene.render.fps / scene.render.fps_base == pytest.approx(FPS)
    assert (scene.frame_start, scene.frame_end) == (1, FRAMES)
    assert scene.view_settings.view_transform == "Standard"
    assert scene.camera == found.camera
    background = found.camera.data.background_images[0]
    assert background.clip.filepath == "//" + case.take.with_suffix(".mp4").name
    assert background.clip.frame_duration == FRAMES
    assert found.people[0].mesh.name == "wälk 'it' Person 1"
    assert not list(case.blend.parent.glob(".*")) and not list(case.blend.parent.glob("*.blend1"))


def fingerprint(scene: bpy.types.Scene, built: BuiltTake) -> list:
    result: list = [(scene.render.fps, scene.frame_end, scene.camera and scene.camera.name, built.collection.name)]
    for person in built.people:
        result += [person.mesh.name] + [evaluated(person.mesh, f)[0].tobytes() for f in (4, 9)]
        if person.armature is not None:
            result += [person.armature.name, person.armature.animation_data.action.name]
            result += [np.array(person.armature.pose.bones["lowerleg01.L"].matrix).tobytes()]
    assert len(result) == 10
    return result


def test_a_second_take_leaves_the_first_alone(walk: Path) -> None:
    bpy.ops.wm.read_factory_settings(use_empty=True)
    scene = bpy.context.scene
    assert is_untouched(scene)
    first = build_scene(walk)
    before = fingerprint(scene, first)
    assert not is_untouched(scene)
    scene.render.resolution_x = 1000
    second = build_scene(walk)
    assert fingerprint(scene, first) == before
    assert scene.render.resolution_x == 1000 and scene.camera == first.camera
    assert second.collection != first.collection and second.people[0].mesh != first.people[0].mesh
    assert (evaluated(second.people[0].mesh, 6)[0] == evaluated(first.people[0].mesh, 6)[0]).all()
    assert [t.collection for t in takes(scene)] == [first.collection, second.collection]


def test_found_by_reference_not_by_name(walk: Path) -> None:
    bpy.ops.wm.read_factory_settings(use_empty=True)
    built = build_scene(walk)
    built.collection.name, built.people[0].mesh.name, built.people[0].collection.name = "один", "два", "три"
    found = takes(bpy.context.scene)[0]
    assert found.people[0].mesh == built.people[0].mesh and found.people[0].body == built.people[0].body


def test_unsaved_file_keeps_absolute_paths_until_it_is_saved(walk: Path) -> None:
    bpy.ops.wm.read_factory_settings(use_empty=False)
    scene = bpy.context.scene
    assert not bpy.data.filepath and is_untouched(scene)
    built = build_scene(walk)
    clip = built.camera.data.background_images[0].clip
    assert Path(clip.filepath) == walk.with_suffix(".mp4") and clip.frame_duration == FRAMES
    assert scene.camera == built.camera and scene.frame_end == FRAMES
    cube = next(o for o in scene.objects if o.type == "MESH" and len(o.data.vertices) == 8)
    assert cube.hide_render  # the camera would stand inside of it
    bpy.ops.wm.save_as_mainfile(filepath=str(walk.with_name("first.blend")), check_existing=False)
    bpy.ops.wm.open_mainfile(filepath=str(walk.with_name("first.blend")))
    saved = takes(bpy.context.scene)[0]
    assert saved.camera.data.background_images[0].clip.filepath == "//" + walk.with_suffix(".mp4").name


def test_missing_clip_is_a_note(walk: Path, tmp_path: Path) -> None:
    walk.with_suffix(".mp4").rename(tmp_path / "moved.mp4")
    bpy.ops.wm.read_factory_settings(use_empty=True)
    built = build_scene(walk)
    assert len(built.people) == 2 and any("not there" in note for note in built.notes)
    bpy.ops.wm.read_factory_settings(use_empty=True)
    again = build_scene(walk, clip=tmp_path / "moved.mp4")
    assert not again.notes and again.camera.data.background_images[0].clip
    with write_preview(tmp_path / "other.mp4", 30.0, (64, 64)) as writer:
        writer.write(np.zeros((64, 64, 3), np.uint8))
    with pytest.raises(InputError, match="64 x 64 pixels at 30 fps, but the Take was made from a clip of 320 x 240"):
        build_scene(walk, clip=tmp_path / "other.mp4")
    assert len(takes(bpy.context.scene)) == 1


def test_nobody_in_the_take(tmp_path: Path) -> None:
    from takes import make_take

    make_take(tmp_path / "empty.take", people=0).close()
    bpy.ops.wm.read_factory_settings(use_empty=True)
    built = build_scene(tmp_path / "empty.take")
    assert built.people == [] and built.camera.location.z > 0


def test_variable_rate_stands_where_blender_shows_it() -> None:
    """24 pictures at 24 fps, then 24 that last three frames each; figures read from Blender's own pixels."""
    times = np.concatenate([np.arange(24), 24 + 3 * np.arange(24)]) / 24
    shown = footage.shown_pictures(times, 24.0)
    assert [int(shown[f - 1]) for f in (1, 24, 25, 31, 49, 61, 88)] == [0, 23, 24, 26, 32, 36, 45]
    assert len(shown) == 94
    rounded = np.round(np.arange(300) / 29.97002997, 3)  # a container that counts milliseconds
    assert (footage.shown_pictures(rounded, 30000 / 1001) == np.arange(300)).all()


def test_rates_with_a_fraction() -> None:
    bpy.ops.wm.read_factory_settings(use_empty=True)
    render = bpy.context.scene.render
    for fps, whole in ((30000 / 1001, 30), (24000 / 1001, 24), (25.0, 25), (12.94, 13)):
        footage.set_rate(bpy.context.scene, fps)
        assert render.fps == whole and render.fps / render.fps_base == pytest.approx(fps, rel=1e-6)


def test_errors_are_one_line(case: Case, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    junk = tmp_path / "junk.take"
    junk.write_bytes(b"no take at all")
    scenes: list[tuple[str, Path, Callable[[], int]]] = [
        ("no such Take", tmp_path, lambda: main([str(tmp_path / "none.take"), "--out", str(tmp_path / "a.blend")])),
        ("not a MeshPose Take", tmp_path, lambda: main([str(junk), "--out", str(tmp_path / "a.blend")])),
        ("folder", tmp_path, lambda: main([str(case.take), "--out", str(tmp_path / "nowhere" / "a.blend")])),
        ("no such file", tmp_path, lambda: main([str(case.take), "--out", str(tmp_path / "a.blend"), "--footage=x"])),
        ("cannot be opened", tmp_path, lambda: main([str(case.take), "--out", str(tmp_path / "a.blend"), "--into=x"])),
    ]
    for words, folder, call in scenes:
        capfd.readouterr()
        assert call() == 2
        lines = [line for line in capfd.readouterr().err.splitlines() if line]
        assert len(lines) == 1 and words in lines[0], lines
        assert not list(folder.glob("*.blend"))
    with pytest.raises(TakeError):
        build_scene(junk)


def test_fresh_process_finds_the_same(case: Case) -> None:
    """Factory settings, nothing of ours imported: Blender alone reads the file."""
    reader, mesh = Path(__file__).with_name("read_back.py"), case.built.people[1].mesh
    command = [sys.executable, str(reader), str(case.blend), mesh.name, *map(str, READ)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["ours"] == []
    for one, other in zip(found["frames"], summary(mesh, list(READ))):
        assert one["vertices"] == other["vertices"]
        assert np.allclose(one["positions"], other["positions"], atol=1e-6)
        assert np.allclose(one["colours"], other["colours"], atol=1e-5)


def test_part_of_a_clip_keeps_its_frames(tmp_path: Path) -> None:
    """A Take of pictures 4 to 9 stands on frames 5 to 10, where Blender shows them."""
    from takes import FPS as RATE
    from takes import clip_info, estimates

    path = tmp_path / "part.take"
    with Take.create(path, clip_info(path.with_suffix(".mp4"), FRAMES), {"start": 4}) as take:
        for index, estimate in enumerate(estimates(FRAMES)):
            if 4 <= index <= 9:
                take.add_frame(index, [(1, estimate)], b"", seconds=index / RATE)
        take.finish()
        take.set_place(1, take.frames, np.full(6, 0.01), "test")
    bpy.ops.wm.read_factory_settings(use_empty=True)
    built = build_scene(path)
    assert (bpy.context.scene.frame_start, bpy.context.scene.frame_end) == (5, 10)
    counts = [len(evaluated(built.people[0].mesh, frame)[0]) for frame in (1, 4, 5, 10, 11)]
    assert counts == [0, 0, 13718, 13718, 0]
