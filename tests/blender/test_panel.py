# SPDX-License-Identifier: Apache-2.0
"""What the panel shows, and what its buttons do: clips from everywhere, people, presets, results, re-fit."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

bpy = pytest.importorskip("bpy")

from panel_stand_ins import LOOK, PROGRESS, Context, Layout, drawn, fake, until  # noqa: E402
from takes import make_take  # noqa: E402

import meshpose_blender  # noqa: E402
from meshpose.take import Take  # noqa: E402
from meshpose_blender import confidence, imports, looks, panel, people, scene, settings, view, watching  # noqa: E402
from meshpose_blender import job as jobs  # noqa: E402
from meshpose_blender.job import Job  # noqa: E402
from meshpose_blender.watching import watch  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = ROOT / "samples" / "turn.mp4"
MAIN, SUBS = panel.CLASSES[0], panel.CLASSES[1:]


@pytest.fixture
def registered() -> Iterator[None]:
    bpy.ops.wm.read_factory_settings(use_empty=True)
    meshpose_blender.register()
    yield
    meshpose_blender.unregister()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("takes") / "walk.take"
    make_take(path, frames=30, people=2, fit=True).close()
    with Take.resume(path) as take:
        # By a network that this installation does not have: a re-fit needs none.
        take.set_settings({**take.settings, "network": {"fake.onnx": "another"}})
    return path


@pytest.fixture
def take(registered: None, finished: Path, tmp_path: Path) -> Path:
    """A small Take of two people, built in the scene."""
    for part in (finished, finished.with_suffix(".mp4")):
        shutil.copy(part, tmp_path)
    path = tmp_path / finished.name
    bpy.ops.meshpose.load_take(filepath=str(path))
    return path


def built() -> scene.BuiltTake:
    found = people.active_take(bpy.context)
    assert found is not None
    return found


def said(shown: list[tuple[str, str]]) -> str:
    """All sentences, unwrapped."""
    return " ".join(text for kind, text in shown if kind == "label")


# -- the main panel ----------------------------------------------------------------------------------------------------


def test_convert_is_the_first_button_and_nothing_is_there_that_cannot_be_used(registered: None) -> None:
    assert drawn(MAIN) == [("operator", "meshpose.choose_clip"), ("operator", "meshpose.load_take")]
    bpy.context.scene.meshpose.clip = "/x/a.mp4"
    assert drawn(MAIN) == [("prop", "clip"), ("operator", "meshpose.convert"), ("operator", "meshpose.load_take")]
    for sub in SUBS:
        shown = drawn(sub)
        assert shown, sub.bl_label
        assert not any("refit" in text or "render_overlay" in text or "worst" in text for _, text in shown), shown
    for sub in (panel.MESHPOSE_PT_mesh, panel.MESHPOSE_PT_heatmap, panel.MESHPOSE_PT_export):
        assert drawn(sub) == [("label", panel.NOTHING_YET)]


def test_the_running_job_and_what_waits_behind_it(registered: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "start", lambda *args, **options: fake(PROGRESS, then="sys.stdin.read()"))
    bpy.ops.meshpose.convert(clip="/clips/Tänzer 1.mp4")
    bpy.ops.meshpose.choose_clip(filepath="/clips/b.mp4", queue=True)
    until(lambda: watch.job is not None and watch.job.poll() and watch.job.people == 2)
    assert not bpy.ops.meshpose.convert.poll() and bpy.ops.meshpose.cancel.poll()
    assert drawn(MAIN) == [
        ("label", "Tänzer 1.mp4"),
        ("progress", "Find 3 / 12 0.25"),
        ("label", "0:01 left, 8.0 frames/s"),
        ("label", "2 people"),
        ("operator", "meshpose.cancel"),
        ("label", "b.mp4"),
        ("operator", "meshpose.unqueue"),
        ("operator", "meshpose.choose_clip Add Clips to the Queue"),
    ]
    bpy.ops.meshpose.cancel()
    assert not bpy.ops.meshpose.cancel.poll()
    assert ("label", "Finishing the frame in work") in drawn(MAIN)
    until(lambda: watching.look() is None)
    shown = drawn(MAIN)
    assert ("operator", "meshpose.convert") not in shown[:1] and "Cancelled" in watch.message
    assert ("operator", "meshpose.resume Resume Tänzer 1.mp4") in shown
    bpy.ops.meshpose.unqueue()
    assert ("label", "b.mp4") not in drawn(MAIN)


def test_an_error_is_one_sentence_with_details_to_copy(
    registered: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def start(clip: str, out: Path, **options: Any) -> Job:
        asked.append((clip, Path(out), options["height"], options["max_people"], options["restart"]))
        error = {"event": "error", "message": "a.mp4: the clip has changed; --restart makes it anew"}
        return fake(error, then="print('deep down', file=sys.stderr); sys.exit(2)")

    monkeypatch.setattr(jobs, "start", start)
    bpy.context.scene.meshpose.clip = str(tmp_path / "a.mp4")
    bpy.ops.meshpose.convert(height=1.75)
    assert asked == [(str(tmp_path / "a.mp4"), tmp_path, pytest.approx(1.75), None, False)]
    until(lambda: watching.look() is None)
    assert watch.failed
    shown = drawn(MAIN)
    assert "a.mp4: the clip has changed; --restart makes it anew" in said(shown)
    assert ("operator", "meshpose.convert Begin Anew") in shown and ("operator", "meshpose.copy_details") in shown
    assert "deep down" in watch.detail and "exit code: 2" in watch.detail
    bpy.ops.meshpose.copy_details()
    bpy.ops.meshpose.dismiss()
    assert not watch.message and ("operator", "meshpose.copy_details") not in drawn(MAIN)
    bpy.ops.meshpose.convert(restart=True)
    assert asked[-1][-1] is True
    until(lambda: watching.look() is None)


def test_a_missing_package_is_said_in_place_of_the_button(registered: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "missing_packages", lambda: ["onnxruntime"])
    bpy.context.scene.meshpose.clip = "/x/a.mp4"
    text = said(drawn(MAIN))
    assert "onnxruntime is missing" in text and "Install from Disk" in text
    assert not any(text.startswith(("meshpose.convert", "meshpose.choose")) for _, text in drawn(MAIN))


def test_a_package_that_breaks_while_the_scene_is_built_is_one_line(
    registered: None, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: Any, **options: Any) -> Any:
        raise ImportError("libGL.so.1: cannot open shared object file", name="cv2")

    monkeypatch.setattr("meshpose_blender.rebuild.build_scene", broken)
    with pytest.raises(RuntimeError, match="cv2 does not work in this Blender .libGL") as caught:
        bpy.ops.meshpose.load_take(filepath=str(finished))
    assert "Traceback" not in str(caught.value)


def test_convert_without_a_clip_and_load_of_something_else_are_one_line(registered: None, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="No clip chosen"):
        bpy.ops.meshpose.convert()
    assert watch.job is None
    (tmp_path / "a.take").write_text("no database")
    with pytest.raises(RuntimeError, match="a.take") as caught:
        bpy.ops.meshpose.load_take(filepath=str(tmp_path / "a.take"))
    assert "Traceback" not in str(caught.value)


def test_a_long_sentence_is_wrapped(registered: None) -> None:
    layout = Layout()
    sentence = "clip.mp4: this is no video that can be read; give another file or convert it first, with any tool"
    panel.draw_sentence(layout, Context(), sentence, "ERROR")
    assert len(layout.shown) > 1 and " ".join(text for _, text in layout.shown) == sentence


# -- where clips come from ---------------------------------------------------------------------------------------------


def test_numbered_pictures_become_one_sequence(tmp_path: Path) -> None:
    names = ["f_0001.png", "f_0002.png", "f_0010.png", "b.mp4", "still.jpg", "g7.png"]
    clips = imports.as_clips(tmp_path / name for name in names)
    assert clips == [str(tmp_path / name) for name in ("f_%04d.png", "b.mp4", "still.jpg", "g7.png")]


def test_one_chosen_clip_waits_several_go_to_the_queue(registered: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "start", lambda *args, **options: fake(PROGRESS, then="sys.stdin.read()"))
    bpy.ops.meshpose.choose_clip(filepath="/x/a.mp4", directory="/x", files=[{"name": "a.mp4"}])
    assert bpy.context.scene.meshpose.clip == "/x/a.mp4" and watch.job is None
    files = [{"name": "a.mp4"}, {"name": "b.mp4"}]
    bpy.ops.meshpose.choose_clip(filepath="/x/a.mp4", directory="/x", files=files)
    assert watch.job is not None and [(task.name, task.place) for task in watch.queue] == [("b.mp4", "new")]


def test_what_is_dropped_is_converted(registered: None, finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    handler = bpy.types.MESHPOSE_FH_clip
    assert handler.bl_import_operator == "meshpose.drop"
    for kind, wanted in (("VIEW_3D", True), ("OUTLINER", True), ("SEQUENCE_EDITOR", False), ("IMAGE_EDITOR", False)):
        context = Context()
        context.area = type("Area", (), {"type": kind})()  # type: ignore[assignment]
        assert handler.poll_drop(context) is wanted
    assert {".mp4", ".mov", ".take"} <= set(handler.bl_file_extensions.split(";"))
    assert ".png" not in handler.bl_file_extensions  # Blender shows dropped pictures itself
    started: list[str] = []

    def start(clip: str, out: Path, **options: Any) -> Job:
        started.append(clip)
        return fake(PROGRESS, then="sys.stdin.read()")

    monkeypatch.setattr(jobs, "start", start)
    bpy.ops.meshpose.drop("INVOKE_DEFAULT", filepath="/x/a.MP4")
    assert started == ["/x/a.MP4"] and bpy.context.scene.meshpose.clip == "/x/a.MP4"
    bpy.ops.meshpose.drop(filepath=str(finished))
    assert len(built().people) == 2
    with pytest.raises(RuntimeError, match="drop a video or a Take"):
        bpy.ops.meshpose.drop(filepath="/x/a.txt")


def test_the_sequencers_strip_gives_clip_range_and_start(registered: None, tmp_path: Path) -> None:
    if not SAMPLE.is_file():
        pytest.skip("the sample clip is not there")
    from meshpose_blender import compat

    assert not bpy.ops.meshpose.from_strip.poll()
    strip = compat.strips(bpy.context.scene).new_movie("shot", str(SAMPLE), 1, 101)
    bpy.context.scene.sequence_editor.active_strip = strip
    chosen = bpy.context.scene.meshpose
    bpy.ops.meshpose.from_strip()
    assert Path(bpy.path.abspath(chosen.clip)) == SAMPLE and chosen.frame_start == 101 and not chosen.use_range
    strip.frame_offset_start, strip.frame_offset_end = 20, 30
    bpy.ops.meshpose.from_strip()
    assert (chosen.frame_start, chosen.use_range, chosen.first, chosen.last) == (101, True, 21, 60)
    assert ("operator", "meshpose.from_strip") in drawn(panel.MESHPOSE_PT_clip)
    options = settings.conversion(chosen)
    assert (options["start"], options["end"]) == (20, 60)


def test_a_movie_clip_gives_clip_and_start(registered: None) -> None:
    if not SAMPLE.is_file():
        pytest.skip("the sample clip is not there")
    movie = bpy.data.movieclips.load(str(SAMPLE))
    movie.frame_start = 7
    bpy.ops.meshpose.from_movie_clip(name=movie.name)
    chosen = bpy.context.scene.meshpose
    assert Path(bpy.path.abspath(chosen.clip)) == SAMPLE and chosen.frame_start == 7
    assert ("menu", "MESHPOSE_MT_movie_clips") in drawn(panel.MESHPOSE_PT_clip)


# -- people before, settings, presets ----------------------------------------------------------------------------------


def test_people_of_a_frame_are_offered_with_their_picture(registered: None, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = bpy.context.scene.meshpose
    assert drawn(panel.MESHPOSE_PT_people) == [("label", "Choose a clip first")]
    chosen.clip = "/x/a.mp4"
    assert drawn(panel.MESHPOSE_PT_people)[0] == ("operator", "meshpose.find_people")
    settings.take_look(chosen, LOOK)
    monkeypatch.setattr(panel, "picture", lambda path: 7)  # without a window Blender has no icons
    shown = drawn(panel.MESHPOSE_PT_people)
    assert shown[1] == ("picture", "") and [text for _, text in shown].count("chosen") == 2


def test_presets_set_everything_and_saved_ones_come_back(registered: None) -> None:
    chosen = bpy.context.scene.meshpose
    chosen.clip = "/x/a.mp4"
    for name, (text, values) in settings.PRESETS.items():
        chosen.use_height = True
        bpy.ops.meshpose.use_preset(name=name)
        assert len(text) > 20 and not chosen.use_height and chosen.clip == "/x/a.mp4"
        for key, value in values.items():
            assert getattr(chosen, key) == (pytest.approx(value) if isinstance(value, float) else value)
        jobs.command_line("a.mp4", ".", **settings.conversion(chosen))
        from meshpose.convert import Settings

        known = {k: v for k, v in settings.changes(chosen).items() if v is not None}
        Settings(**known)  # the core takes every preset
    chosen.smooth = 0.33
    bpy.ops.meshpose.save_preset(name="MeshPose test 33")
    chosen.smooth = 0.9
    path = bpy.utils.preset_find("MeshPose_test_33", "meshpose")
    try:
        bpy.ops.script.execute_preset(filepath=path, menu_idname="MESHPOSE_MT_presets")
        assert chosen.smooth == pytest.approx(0.33)
    finally:
        Path(path).unlink()


def test_the_settings_become_the_jobs_options(registered: None) -> None:
    from meshpose.cli import _parser, _settings

    chosen = bpy.context.scene.meshpose
    chosen.lens, chosen.focal_mm = "FOCAL", 50.0
    chosen.use_height, chosen.height = True, 1.8
    chosen.smooth, chosen.lock_feet, chosen.camera, chosen.fill_gaps = 0.25, False, "moving", 3
    chosen.use_max_people, chosen.max_people, chosen.preview = True, 2, False
    words = jobs.command_line("a.mp4", ".", **settings.conversion(chosen))
    told = _settings(_parser().parse_args(words[3:]))
    assert (told.focal_mm, told.fov, told.height, told.smooth) == (50.0, None, 1.8, 0.25)
    assert (told.lock_feet, told.level, told.camera, told.fill_gaps) == (False, True, "moving", 3)
    assert (told.max_people, told.preview, told.only) == (2, False, ())
    chosen.lens = "FOV"
    assert settings.conversion(chosen)["fov"] == pytest.approx(55.0)


def networks(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What the panel's list offers now: as after a start of Blender with the weights that are there."""
    monkeypatch.setattr(settings, "_model_items", [])
    return settings._models(None, None)


def test_the_networks_that_are_here_can_be_chosen(
    registered: None, two_sizes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert [(item[0], item[4]) for item in networks(monkeypatch)] == [("accurate", 0), ("fast", 1)]
    assert all(len(item[2]) > 40 for item in settings._models(None, None)), "what is gained, what is lost"
    chosen = bpy.context.scene.meshpose
    assert chosen.model == "accurate" and settings.conversion(chosen)["model"] == "accurate"
    chosen.clip, chosen.model = "/x/a.mp4", "fast"
    assert ("prop", "model") in drawn(panel.MESHPOSE_PT_clip)
    words = jobs.command_line("a.mp4", ".", **settings.conversion(chosen))
    assert words[words.index("--model") + 1] == "fast"
    assert "model" not in settings.changes(chosen), "a re-fit keeps the Take's own"
    bpy.ops.meshpose.use_preset(name="Balanced")
    assert chosen.model == "accurate", "a preset is the whole way to convert"


def test_the_choice_of_the_network_is_kept_in_the_file_and_in_presets(
    registered: None, two_sizes: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    networks(monkeypatch)
    bpy.context.scene.meshpose.model = "fast"
    bpy.ops.meshpose.save_preset(name="MeshPose test fast")
    path = bpy.utils.preset_find("MeshPose_test_fast", "meshpose")
    try:
        assert "settings.model = 'fast'" in Path(path).read_text()
    finally:
        Path(path).unlink()
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "a.blend"))
    bpy.ops.wm.read_factory_settings(use_empty=True)
    bpy.ops.wm.open_mainfile(filepath=str(tmp_path / "a.blend"))
    assert bpy.context.scene.meshpose.model == "fast"


def test_a_file_that_chose_a_network_which_is_not_here(
    registered: None, one_size: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = bpy.context.scene.meshpose
    chosen.clip = "/x/a.mp4"
    monkeypatch.setattr(settings, "_model_items", [("fast", "Fast", "As it was where the file was saved", "NONE", 1)])
    chosen.model = "fast"
    assert settings.conversion(chosen)["model"] == "fast"
    assert [item[0] for item in networks(monkeypatch)] == ["accurate"]
    assert ("prop", "model") not in drawn(panel.MESHPOSE_PT_clip), "nothing to choose"
    assert settings.conversion(chosen)["model"] == "accurate"
    (one_size / "sha256.json").write_text("damaged")
    assert [item[0] for item in networks(monkeypatch)] == ["accurate"], "the panel is still drawn; the job says it"


def test_the_operator_takes_a_network_for_once(registered: None, monkeypatch: pytest.MonkeyPatch) -> None:
    told: dict[str, Any] = {}

    def start(clip: str, out: Path, **options: Any) -> Job:
        told.update(options)
        return fake(PROGRESS)

    monkeypatch.setattr(jobs, "start", start)
    bpy.ops.meshpose.convert(clip="/x/a.mp4", model="fast")
    until(lambda: watching.look() is None)
    assert told["model"] == "fast" and bpy.context.scene.meshpose.model == "accurate"


# -- the result --------------------------------------------------------------------------------------------------------


def test_the_list_of_people_and_the_way_to_the_worst_frame(take: Path) -> None:
    bpy.context.scene.meshpose.clip = ""
    shown = drawn(panel.MESHPOSE_PT_people)
    with Take.open(take) as content:
        for place, number in enumerate(content.people):
            person = content.person(number)
            sure = person.score() * np.minimum(2 * person.visibility().mean(1), 1)  # half of a body is its far side
            assert ("operator", f"meshpose.worst_frame {sure.mean():.0%}") in shown
            frame = int(person.frames[sure.argmin()]) + 1
            bpy.ops.meshpose.worst_frame(person=built().people[place].collection.name)
            assert bpy.context.scene.frame_current == frame
    again = built().people[0].collection
    moments = list(again[confidence.WORST])
    assert len(moments) > 1
    bpy.context.scene.frame_set(moments[-1])
    bpy.ops.meshpose.worst_frame(person=again.name)
    assert bpy.context.scene.frame_current == moments[0]  # round again
    apart = np.diff(sorted(moments))
    assert apart.min() >= confidence.APART


def test_bodies_are_shown_and_hidden_together(take: Path) -> None:
    shown = bpy.context.scene.meshpose_looks
    assert shown.show_mesh and not shown.show_body
    shown.show_body, shown.show_mesh = True, False
    for person in built().people:
        assert person.mesh.hide_get() and person.mesh.hide_render
        assert person.body is not None and not person.body.hide_get() and not person.body.hide_render
    assert ("prop", "show_body") in drawn(panel.MESHPOSE_PT_mesh)


def test_every_sub_panel_draws_with_a_take(take: Path) -> None:
    for mode in ("visibility", "confidence", "depth", "clay"):
        bpy.context.scene.meshpose_looks.mode = mode
        assert looks.mode(built()) == mode
        shown = drawn(panel.MESHPOSE_PT_heatmap)
        assert (("prop", "legend") in shown) is (mode != "clay")
        assert (("prop", "Near") in shown) is (mode == "depth")
    bpy.context.scene.meshpose_looks.ghosts = True
    for sub in SUBS:
        shown = drawn(sub)
        assert shown and ("label", panel.NOTHING_YET) not in shown, sub.bl_label
    assert ("operator", "meshpose.refit Re-fit walk") in drawn(panel.MESHPOSE_PT_motion)
    take.unlink()
    motion = drawn(panel.MESHPOSE_PT_motion)
    assert not any("refit" in text for _, text in motion) and "is not there" in said(motion)
    assert not bpy.ops.meshpose.refit.poll()


def test_refit_replaces_the_take_without_the_network(take: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the real process: another height, the same looks, nothing twice, what is the user's stays."""
    with Take.open(take) as content:
        before = {number: content.person(number).height() for number in content.people}
    mine = bpy.data.objects.new("mine", None)
    built().people[0].collection.objects.link(mine)
    shown = bpy.context.scene.meshpose_looks
    shown.mode, shown.legend = "depth", True
    counts = [len(getattr(bpy.data, kind)) for kind in ("objects", "node_groups", "armatures", "images", "actions")]
    chosen = bpy.context.scene.meshpose
    chosen.use_height, chosen.height = True, 1.2
    bpy.ops.meshpose.refit()
    assert watch.job is not None and "refit" in watch.job.command and "run" not in watch.job.command
    until(lambda: watching.look() is None, 240)
    assert not watch.failed, watch.detail
    with Take.open(take) as content:
        for number, height in before.items():
            assert content.person(number).height() == pytest.approx(1.2, abs=0.02) and height != pytest.approx(1.2)
    assert len(scene.takes(bpy.context.scene)) == 1 and built().collection.name == "walk"
    assert looks.mode(built()) == "depth" and looks.legend_of(built()) is not None
    assert mine.name in bpy.context.scene.objects
    after = [len(getattr(bpy.data, kind)) for kind in ("objects", "node_groups", "armatures", "images", "actions")]
    assert after == counts


def test_the_scene_matches_the_footage_when_asked(take: Path) -> None:
    target = bpy.context.scene
    target.render.resolution_x, target.render.fps, target.camera = 17, 60, None
    bpy.ops.meshpose.match_camera()
    assert (target.render.resolution_x, target.render.resolution_y, target.render.fps) == (320, 240, 25)
    assert target.camera == built().camera and target.view_settings.view_transform == "Standard"


def test_the_legend_of_the_viewport_says_what_the_settings_say(take: Path) -> None:
    class View(Context):
        def __init__(self) -> None:
            super().__init__()
            overlay = type("Overlay", (), {"show_overlays": True})()
            self.space_data = type("Space", (), {"type": "VIEW_3D", "overlay": overlay})()  # type: ignore[assignment]

    assert view.wanted(View()) is None
    shown = bpy.context.scene.meshpose_looks
    shown.legend = True
    assert view.wanted(View()) == ("visibility", ("Visibility", "guessed", "seen"))
    shown.mode = "depth"
    looks.put(looks.settings_in(built()), "Near", 1.25)
    found = view.wanted(View())
    assert found is not None and found[1][:2] == ("Depth", "1.2 m")
    shown.mode = "clay"
    assert view.wanted(View()) is None
    corners, colours, triangles = view.bar("visibility", 10.0, 20.0, 2.0)
    assert corners[0].tolist() == [10, 20] and corners[-1].tolist() == [10 + 28, 20 + 300]
    assert colours[0].tolist() == [1, 0, 0, 1] and colours[-1].tolist() == [0, 1, 0, 1]
    assert colours[32, :2] == pytest.approx([0.735, 0.735], abs=0.02)  # half of each, as a display shows it
    assert triangles.max() == len(corners) - 1
