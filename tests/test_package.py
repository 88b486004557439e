# SPDX-License-Identifier: Apache-2.0
"""The extension's zip and the script that fetches Blender: what needs no network and no Blender."""

from __future__ import annotations

import csv
import io
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from tools import get_blender, package

WHEELS = (
    "onnxruntime-1.2.3-cp311-cp311-{tag}.whl",
    "onnxruntime-1.2.3-cp313-cp313-{tag}.whl",
    "opencv_python_headless-4.5.6-cp37-abi3-{tag}.whl",
)
TAGS = {"linux-x64": "manylinux_2_28_x86_64", "windows-x64": "win_amd64", "macos-arm64": "macosx_13_0_arm64"}


@pytest.fixture
def libraries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand-ins for the libraries' wheels in the place where pip's downloads are kept."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(package, "pins", lambda: {"onnxruntime": "1.2.3", "opencv-python-headless": "4.5.6"})
    for platform, tag in TAGS.items():
        folder = tmp_path / "cache/meshpose/wheels" / platform
        folder.mkdir(parents=True)
        for name in WHEELS:
            (folder / name.format(tag=tag)).write_bytes(b"wheel")
    return tmp_path / "cache"


def test_a_zip_per_platform_lists_what_it_holds(libraries: Path, tmp_path: Path) -> None:
    zips = package.package(tmp_path / "dist")
    assert [path.name.split("-")[-1] for path in zips] == ["linux_x64.zip", "windows_x64.zip", "macos_arm64.zip"]
    assert sorted(path.name for path in (tmp_path / "dist").iterdir()) == sorted(path.name for path in zips)
    for path, (platform, tag) in zip(zips, TAGS.items()):
        with zipfile.ZipFile(path) as archive:
            manifest = tomllib.loads(archive.read("blender_manifest.toml").decode())
            names = archive.namelist()
        assert manifest["platforms"] == [platform] and manifest["id"] == "meshpose"
        assert sorted(manifest["wheels"]) == sorted(f"./{name}" for name in names if name.endswith(".whl"))
        assert {name.format(tag=tag) for name in WHEELS} < {Path(name).name for name in manifest["wheels"]}
        assert {"__init__.py", "panel.py", "LICENSE", "LICENSE-APACHE", "NOTICE", "THIRD_PARTY.md"} <= set(names)
        assert not [name for name in names if "__pycache__" in name or "numpy" in name]


def test_manifest_keeps_blenders_rules(root: Path) -> None:
    manifest = tomllib.loads((root / "blender_manifest.toml").read_text())
    assert manifest["license"] == ["SPDX:GPL-3.0-or-later"]
    for sentence in (manifest["tagline"], *manifest["permissions"].values()):
        assert len(sentence) <= 64 and sentence[-1] not in ".!?"
    assert set(manifest["platforms"]) == set(package.PLATFORM_TAGS)
    assert manifest["version"] == package.core_version()


def test_core_wheel_is_whole(tmp_path: Path) -> None:
    """pip installs it; the package with the weights is found from there, and every line of RECORD is true."""
    wheel = package.build_core_wheel(tmp_path, "0.1.0.post20300101000000")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        record = archive.read("meshpose-0.1.0.post20300101000000.dist-info/RECORD").decode()
    rows = list(csv.reader(io.StringIO(record)))
    assert {row[0] for row in rows} == names
    assert {"meshpose/cli.py", "meshpose/weights/body.npz", "meshpose/weights/sha256.json"} <= names
    target = tmp_path / "site"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*command, "--target", str(target), str(wheel)], check=True, capture_output=True)
    code = "from meshpose import weights; print(weights.path('body.npz'))"
    found = subprocess.run([sys.executable, "-c", code], cwd=target, capture_output=True, text=True)
    assert found.stdout.strip() == str(target / "meshpose/weights/body.npz"), found.stderr


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda files: files.pop("wheels/onnxruntime-1.2.3-cp313-cp313-manylinux_2_28_x86_64.whl"),
            "listed and packed",
        ),
        (lambda files: files.update({"wheels/more-1-py3-none-any.whl": b""}), "listed and packed"),
        (lambda files: files.pop("NOTICE"), "NOTICE is missing"),
        (lambda files: files.pop("__init__.py"), "__init__.py is missing"),
    ],
)
def test_a_broken_zip_is_seen(libraries: Path, tmp_path: Path, change: object, words: str) -> None:
    (good,) = package.package(tmp_path / "dist", ["linux-x64"])
    with zipfile.ZipFile(good) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    change(files)  # type: ignore[operator]
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    with pytest.raises(package.PackageError, match=words):
        package.check_zip(tmp_path / "bad.zip", "linux-x64")
    with pytest.raises(package.PackageError, match="is not for windows-x64"):
        package.check_zip(good, "windows-x64")


def test_unwritable_folder_is_one_line(libraries: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "dist").write_text("a file of the user's")
    assert package.main(["--out", str(tmp_path / "dist" / "deeper")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "dist" in error and "--out" in error
    assert (tmp_path / "dist").read_text() == "a file of the user's"


def test_numpy_never_travels(libraries: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    numpy = tmp_path / "numpy-2.0.0-cp311-cp311-manylinux_2_28_x86_64.whl"
    numpy.write_bytes(b"wheel")
    honest = package.download_wheels
    monkeypatch.setattr(package, "download_wheels", lambda platform: [*honest(platform), numpy])
    with pytest.raises(package.PackageError, match="numpy.* must not travel"):
        package.package(tmp_path / "dist", ["linux-x64"])
    assert not list((tmp_path / "dist").glob("*.zip"))


def test_pins_come_from_the_requirements() -> None:
    found = package.pins()
    assert set(found) == set(package.LIBRARIES)
    assert all(version[0].isdigit() for version in found.values())


@pytest.mark.parametrize(
    ("wheel", "python", "fits"),
    [
        ("a-1-cp311-cp311-win_amd64.whl", "311", True),
        ("a-1-cp313-cp313-win_amd64.whl", "311", False),
        ("a-1-cp313-cp313t-win_amd64.whl", "313", False),
        ("a-1-cp37-abi3-win_amd64.whl", "313", True),
        ("a-1-cp312-abi3-win_amd64.whl", "311", False),
        ("a-1-py3-none-any.whl", "313", True),
        ("a-1-py2.py3-none-any.whl", "313", True),
    ],
)
def test_which_wheels_fit(wheel: str, python: str, fits: bool) -> None:
    assert package._fits(wheel, python) is fits


def test_debian_sources_change_only_the_suite(tmp_path: Path) -> None:
    (tmp_path / "apt/sources.list.d").mkdir(parents=True)
    (tmp_path / "os-release").write_text("ID=debian\nVERSION_CODENAME=bookworm\n")
    (tmp_path / "apt/sources.list.d/debian.sources").write_text(
        "Types: deb\nURIs: http://mirror.test/debian\nSuites: bookworm bookworm-updates\nComponents: main\n"
        "Signed-By: /keys/debian.gpg\n\n"
        "Types: deb\nURIs: http://mirror.test/security\nSuites: bookworm-security\nComponents: main\n"
    )
    (tmp_path / "apt/sources.list").write_text(
        "# old\ndeb [trusted=yes] http://old.test/debian bookworm main contrib\n"
    )
    (tmp_path / "apt/sources.list.d/other.list").write_text("deb http://cloud.test/apt cloud-bookworm main\n")
    assert get_blender.debian_sources("trixie", tmp_path).splitlines() == [
        "deb [signed-by=/keys/debian.gpg] http://mirror.test/debian trixie main",
        "deb [trusted=yes] http://old.test/debian trixie main",
    ]
    (tmp_path / "os-release").write_text("ID=other\n")
    assert "deb.debian.org" in get_blender.debian_sources("trixie", tmp_path)


def test_blenders_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MESHPOSE_BLENDER_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert get_blender.default_folder() == tmp_path / "meshpose/blender-4.3"
    monkeypatch.setenv("MESHPOSE_BLENDER_DIR", str(tmp_path / "b"))
    assert get_blender.launcher() is None
    (tmp_path / "b").mkdir()
    (tmp_path / "b/.done-trixie").touch()
    assert get_blender.launcher() == tmp_path / "b/blender"
    assert get_blender.fetch() == tmp_path / "b/blender"  # a finished folder: nothing is done again
