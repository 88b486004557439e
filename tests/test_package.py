# SPDX-License-Identifier: Apache-2.0
"""The extension's zip and the script that fetches Blender: what needs no network and no Blender."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tools import get_blender, package, wheels
from tools.wheels import PackageError, Wheel

TAGS = {"linux-x64": "manylinux_2_28_x86_64", "windows-x64": "win_amd64", "macos-arm64": "macosx_13_0_arm64"}
UNUSED = {
    "linux-x64": "libonnxruntime.so.1.2.3",
    "windows-x64": "onnxruntime.dll",
    "macos-arm64": "libonnxruntime.1.2.3.dylib",
}
ZIPS = ["linux_x64.zip", "windows_x64.zip", "macos_arm64.zip", "linux_x64_python3.14.zip"]


def make_wheel(folder: Path, name: str, files: dict[str, bytes] | None = None) -> Path:
    """A small wheel whose metadata are true."""
    parsed = Wheel.parse(name)
    info = f"{name.split('-')[0]}-{parsed.version}.dist-info"
    contents = files or {f"{name.split('-')[0]}/__init__.py": b"works = True"}
    contents[f"{info}/METADATA"] = f"Metadata-Version: 2.1\nName: {parsed.name}\nVersion: {parsed.version}\n".encode()
    contents[f"{info}/WHEEL"] = b"Wheel-Version: 1.0\n" + "".join(f"Tag: {t}\n" for t in sorted(parsed.tags())).encode()
    contents[f"{info}/RECORD"] = wheels.record(contents, info)
    folder.mkdir(parents=True, exist_ok=True)
    wheels.write(folder / name, contents)
    return folder / name


def small_core(out: Path, version: str) -> Path:
    """Stands in for `package.build_core_wheel`, which takes seconds for the weights."""
    return make_wheel(out, f"meshpose-{version}-py3-none-any.whl")


@pytest.fixture
def libraries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand-ins for the libraries' wheels, in the place where pip's downloads are kept, and for the core."""
    monkeypatch.setattr(package, "build_core_wheel", small_core)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    versions = {"onnxruntime": "1.2.3", "opencv-python-headless": "4.5.6", "threadpoolctl": "7.8"}
    monkeypatch.setattr(package, "pins", lambda: versions)
    for platform, tag in TAGS.items():
        folder = tmp_path / "cache/meshpose/wheels" / platform
        for python in ("311", "313", *(["314"] if platform == "linux-x64" else [])):
            files = {"onnxruntime/__init__.py": b"", f"onnxruntime/capi/{UNUSED[platform]}": b"for programs in C"}
            make_wheel(folder, f"onnxruntime-1.2.3-cp{python}-cp{python}-{tag}.whl", files)
        make_wheel(folder, f"opencv_python_headless-4.5.6-cp37-abi3-{tag}.whl")
        make_wheel(folder, "threadpoolctl-7.8-py3-none-any.whl")
    return tmp_path / "cache"


def test_a_zip_per_platform_lists_what_it_holds(libraries: Path, tmp_path: Path) -> None:
    zips = package.package(tmp_path / "dist")
    assert [path.name.split("-", 2)[-1] for path in zips] == ZIPS
    assert {path.name for path in (tmp_path / "dist").iterdir()} == {path.name for path in zips} | {"SHA256SUMS"}
    sums = dict(line.split("  ")[::-1] for line in (tmp_path / "dist/SHA256SUMS").read_text().splitlines())
    for path, (name, target) in zip(zips, package.TARGETS.items()):
        with zipfile.ZipFile(path) as archive:
            manifest = tomllib.loads(archive.read("blender_manifest.toml").decode())
            names = archive.namelist()
        assert manifest["platforms"] == [target.platform] and manifest["id"] == "meshpose"
        assert sorted(manifest["wheels"]) == sorted(f"./{name}" for name in names if name.endswith(".whl"))
        found = [Wheel.parse(Path(wheel).name) for wheel in manifest["wheels"]]
        assert sorted(w.name for w in found) == sorted(
            ["meshpose", "opencv-python-headless", "threadpoolctl"] + ["onnxruntime"] * len(target.pythons)
        )
        assert {"__init__.py", "panel.py", "LICENSE", "LICENSE-APACHE", "NOTICE", "THIRD_PARTY.md"} <= set(names)
        assert not [name for name in names if "__pycache__" in name or "numpy" in name]
        assert package.target_of(path) == name
        assert sums[path.name] == hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_library_for_c_stays_out(libraries: Path) -> None:
    """pip and Blender take the rest as a wheel under a build tag of ours; its RECORD is true."""
    for name, target in package.TARGETS.items():
        for path in package.travelling_wheels(name):
            wheels.check(path.name, path.read_bytes(), target.platform)
            names = zipfile.ZipFile(path).namelist()
            assert not [n for n in names if n.endswith(UNUSED[target.platform])]
            ours = Wheel.parse(path.name)
            assert ours.build == (wheels.BUILD if ours.name == "onnxruntime" else "")
            assert ours.name != "onnxruntime" or "onnxruntime/__init__.py" in names


def test_what_another_library_links_to_stays(tmp_path: Path) -> None:
    wheel = make_wheel(
        tmp_path,
        "onnxruntime-1.2.3-cp311-cp311-manylinux_2_28_x86_64.whl",
        {
            "onnxruntime/capi/libonnxruntime.so.1.2.3": b"",
            "onnxruntime/capi/state.so": linking_to("libonnxruntime.so.1"),
        },
    )
    with pytest.raises(PackageError, match="state.so links to libonnxruntime"):
        wheels.slim(wheel, tmp_path / "slim")


def linking_to(library: str) -> bytes:
    """An ELF library of this machine's Python that wants one more library."""
    import lief

    binary = lief.parse(some_library().read_bytes())
    assert isinstance(binary, lief.ELF.Binary)
    binary.add_library(library)
    return bytes(binary.write_to_bytes())


def some_library() -> Path:
    """A library of the core's own dependencies (a small one), for this machine."""
    import onnxruntime

    found = sorted((Path(onnxruntime.__file__).parent / "capi").glob("*providers_shared*"))
    if sys.platform != "linux" or not found:
        pytest.skip("needs a library of Linux")
    return found[0]


@pytest.mark.parametrize(
    ("tag", "system", "words"),
    [
        ("win_amd64", "windows-x64", "no library for windows-x64"),
        ("macosx_14_0_arm64", "macos-arm64", "no library for macos-arm64"),
        ("manylinux_2_1_x86_64", "linux-x64", "but the tag of the wheel says"),
        ("manylinux_2_28_x86_64", "linux-x64", None),
    ],
)
def test_a_library_of_another_system_is_seen(tmp_path: Path, tag: str, system: str, words: str | None) -> None:
    wheel = make_wheel(tmp_path, f"a-1-cp311-cp311-{tag}.whl", {"a/b.so": some_library().read_bytes()})
    if words is None:
        assert wheels.check(wheel.name, wheel.read_bytes(), system) == "glibc 2.28"
        return
    with pytest.raises(PackageError, match=words):
        wheels.check(wheel.name, wheel.read_bytes(), system)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda files: files.update({"a/__init__.py": b"other"}), "is not the file that RECORD knows"),
        (lambda files: files.update({"a/more.py": b""}), "RECORD and files differ"),
        (lambda files: files.pop("a/__init__.py"), "RECORD and files differ"),
    ],
)
def test_a_changed_wheel_is_seen(tmp_path: Path, change: Callable[[dict[str, bytes]], object], words: str) -> None:
    wheel = make_wheel(tmp_path, "a-1-py3-none-any.whl")
    with zipfile.ZipFile(wheel) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    change(files)
    wheels.write(wheel, files)
    with pytest.raises(PackageError, match=words):
        wheels.check(wheel.name, wheel.read_bytes(), "linux-x64")


def test_a_renamed_wheel_is_seen(tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path, "a-1-cp311-cp311-win_amd64.whl")
    for name in ("a-2-cp311-cp311-win_amd64.whl", "a-1-cp313-cp313-win_amd64.whl", "a-1-7-cp311-cp311-win_amd64.whl"):
        with pytest.raises(PackageError, match="calls itself"):
            wheels.check(name, wheel.read_bytes(), "windows-x64")


def test_manifest_keeps_blenders_rules(root: Path) -> None:
    manifest = tomllib.loads((root / "blender_manifest.toml").read_text())
    assert manifest["license"] == ["SPDX:GPL-3.0-or-later"]
    for sentence in (manifest["tagline"], *manifest["permissions"].values()):
        assert len(sentence) <= 64 and sentence[-1] not in ".!?"
    assert set(manifest["platforms"]) == {target.platform for target in package.TARGETS.values()}
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
    listed = json.loads((package.ROOT / "weights" / "sha256.json").read_text())
    assert {f"meshpose/weights/{name}" for name in listed} <= names, "every network that can be chosen travels"
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
            lambda files: files.pop("wheels/onnxruntime-1.2.3-1meshpose-cp313-cp313-manylinux_2_28_x86_64.whl"),
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
    with pytest.raises(package.PackageError, match="not exactly one wheel of onnxruntime for Python 314"):
        package.check_zip(good, "linux-x64-python3.14")


def test_check_looks_at_finished_zips(libraries: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    zips = package.package(tmp_path / "dist")
    assert package.main(["--check", *map(str, zips)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[-1] for line in lines] == [
        "Python 3.11, 3.13; glibc 2.28",
        "Python 3.11, 3.13; any version of the system",
        "Python 3.11, 3.13; macOS 13.0",
        "Python 3.14; glibc 2.28",
    ]
    zips[0].write_bytes(zips[0].read_bytes()[:-100])
    zips[2].write_bytes(zips[2].read_bytes()[:100])
    other = zips[1].rename(tmp_path / "dist/meshpose.zip")
    for path in (zips[0], zips[2], other):
        assert package.main(["--check", str(path)]) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1 and path.name in said


def test_a_zip_that_is_too_large_is_refused(libraries: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(package, "LARGEST", 1000)
    with pytest.raises(PackageError, match="MB; at most"):
        package.package(tmp_path / "dist", ["linux-x64"])
    assert not list((tmp_path / "dist").glob("*.zip"))


def test_unwritable_folder_is_one_line(libraries: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "dist").write_text("a file of the user's")
    assert package.main(["--out", str(tmp_path / "dist" / "deeper")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "dist" in error and "--out" in error
    assert (tmp_path / "dist").read_text() == "a file of the user's"


def test_numpy_never_travels(libraries: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    numpy = make_wheel(tmp_path, "numpy-2.0.0-cp311-cp311-manylinux_2_28_x86_64.whl")
    honest = package.travelling_wheels
    monkeypatch.setattr(package, "travelling_wheels", lambda platform: [*honest(platform), numpy])
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
    assert Wheel.parse(wheel).fits(python) is fits


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
    (tmp_path / "b" / get_blender._marker("4.3")).touch()
    assert get_blender.launcher() == tmp_path / "b/blender"
    assert get_blender.fetch() == tmp_path / "b/blender"  # a finished folder: nothing is done again
