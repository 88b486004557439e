# SPDX-License-Identifier: Apache-2.0
"""The same way through every Blender that we promise: install, convert, save, open without the extension, export.

The bpy wheels stand for the official builds (same Python, same numpy), Debian's binaries for the program that people
start. Downloads: tools/get_bpy.py, tools/get_blender.py; each is fetched when its turn comes.
"""

from __future__ import annotations

import json
import tomllib
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from test_real_blender import READ_BACK, SAMPLE, Blender, cannot, compare

from meshpose.take import Take
from tools import get_blender, get_bpy, package

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
FRAMES = 24
LANGUAGES = {"Debian 4.3": "de_DE"}  # the wheels come in English only
BLENDERS = [*(f"bpy {version}" for version in get_bpy.VERSIONS), "Debian 4.3", "Debian 5"]


@pytest.fixture(scope="module")
def zips(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, Path]]:
    """`zips(target)`: an older version's zip and today's; made when first asked for."""
    folder, made = tmp_path_factory.mktemp("dist"), dict[str, tuple[Path, Path]]()

    def make(target: str) -> tuple[Path, Path]:
        if target not in made:
            (today,) = package.package(folder, [target])
            made[target] = older(today, folder / f"older-{target}.zip"), today
        return made[target]

    return make


def older(today: Path, path: Path) -> Path:
    """The same under version 0.0.1, with a module that today's does not have."""
    with zipfile.ZipFile(today) as source, zipfile.ZipFile(path, "w") as target:
        for name in source.namelist():
            data = source.read(name)
            if name == "blender_manifest.toml":
                version = tomllib.loads(data.decode())["version"]
                data = data.replace(f'\nversion = "{version}"'.encode(), b'\nversion = "0.0.1"')
            if name == "__init__.py":
                data += b"\nfrom .aged import AGE\n"
            target.writestr(name, data)
        target.writestr("aged.py", 'AGE = "old"\n')
    return path


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample's first frames, under a name as users give them."""
    if not SAMPLE.is_file():
        cannot(f"{SAMPLE} is missing")
    path = tmp_path_factory.mktemp("clips") / "Drehung 'é' 1.mp4"
    capture = cv2.VideoCapture(str(SAMPLE))
    size = int(capture.get(cv2.CAP_PROP_FRAME_WIDTH)), int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT))
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), capture.get(cv2.CAP_PROP_FPS), size)
    for _ in range(FRAMES):
        writer.write(capture.read()[1])
    writer.release()
    return path


def fetched(name: str) -> Path:
    kind, version = name.split()
    try:
        return get_bpy.fetch(version) if kind == "bpy" else get_blender.fetch(version)
    except get_blender.FetchError as error:
        cannot(str(error))
        raise


@pytest.mark.parametrize("name", BLENDERS)
def test_end_to_end(name: str, clip: Path, zips: Callable[[str], tuple[Path, Path]], tmp_path: Path) -> None:
    launcher, out = fetched(name), tmp_path / "results"

    def script(file: Path, resources: str, *words: str | Path) -> Any:
        """Run a script in this Blender, with preferences and extensions of its own; the JSON that it prints, if any."""
        (tmp_path / resources).mkdir(exist_ok=True)
        before = [] if name.startswith("bpy") else ["-b", "--python-exit-code", "1", "-P"]
        result = Blender(launcher, tmp_path / resources)(*before, file, *(["--"] if before else []), *words)
        return json.loads(next((line for line in result.stdout.splitlines() if line.startswith("{")), "null"))

    zip_of = zips("linux-x64-python3.14" if name == "Debian 5" else "linux-x64")
    said = script(HERE / "end_to_end.py", "with", *zip_of, clip, out, *filter(None, [LANGUAGES.get(name)]))
    print(said["blender"], "Python", said["python"], "numpy", said["numpy"])
    assert said["code"] == 0 and str(tmp_path / "with") in said["core"]
    assert said["aged"] == ["old", "old"] and said["stale"] == [False, False, False]
    on, off, again = (said["registered"][key] for key in ("on", "off", "again"))
    assert on == again and "MESHPOSE_PT_panel" in on[0] and on[2] and off == [[], 0, False]
    assert (said["mesh"] != "Mesh") == (name in LANGUAGES)  # the interface was translated, or not

    blend = out / f"{clip.stem}.blend"
    with Take.open(blend.with_suffix(".take")) as take:
        person = take.person(take.people[0])
        frames = [int(frame) for frame in person.frames[[0, len(person.frames) // 2, -1]]]
        words = [str(blend), f"{blend.stem} {person.name}", *(str(frame + 1) for frame in frames)]
        played = script(READ_BACK, "without", *words)
        assert played["ours"] == []
        for frame, found in zip(frames, played["frames"]):
            compare(person, frame, found)

    files = sorted([*out.glob("*.fbx"), *out.glob("*.glb")])
    assert {file.suffix for file in files} == {".fbx", ".glb"}
    script(HERE / "read_export.py", "without", tmp_path / "read.npz", "30", str(FRAMES), *files)
    with np.load(tmp_path / "read.npz") as read:
        for file in files:
            (heads,) = (read[key] for key in read if key.startswith(f"{file.name}|") and key.endswith("|heads"))
            vertices = [read[key] for key in read if key.startswith(f"{file.name}|") and key.endswith("|vertices")]
            assert heads.shape[:1] == (FRAMES,) and heads.shape[1] > 50
            assert np.linalg.norm(np.diff(heads, axis=0), axis=-1).max(0).min() > 1e-4  # every bone moves
            assert max(part.shape[1] for part in vertices) >= 13718
