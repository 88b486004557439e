# SPDX-License-Identifier: Apache-2.0
"""Make the extension's zips: `python3 build.py package [--out DIR] [--platform linux-x64]`.

A zip holds `meshpose_blender/` at its top, the manifest, the notices, and in `wheels/` the core with its weights
(one pure wheel, made here), onnxruntime for each Python that Blender comes with, and opencv. numpy is Blender's own:
a second one would be swapped in under Blender's feet. onnxruntime's other declared dependencies (protobuf,
flatbuffers, packaging) serve tools that we do not call; it runs without them.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
import zipfile
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

# Blender 4.2 to 5.0 come with Python 3.11, 5.1 and Debian's 4.3 with 3.13.
PYTHONS = ("311", "313")
# What pip may take for each of Blender's platform names, newest first.
PLATFORM_TAGS = {
    "linux-x64": ("manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64"),
    "windows-x64": ("win_amd64",),
    "macos-arm64": ("macosx_14_0_arm64", "macosx_13_0_arm64", "macosx_12_0_arm64", "macosx_11_0_arm64"),
}
# Written as our users' Blender needs them; the versions come from requirements/runtime.txt.
LIBRARIES = ("onnxruntime", "opencv-python-headless")
NEVER = ("numpy", "torch", "bpy")
NOTICES = {"LICENSE": "LICENSE-APACHE", "NOTICE": "NOTICE", "THIRD_PARTY.md": "THIRD_PARTY.md"}
SKIP = re.compile(r"(^|/)(__pycache__|\..*|.*\.pyc)(/|$)")


class PackageError(Exception):
    """The zip cannot be made; the text is one line for people."""


def package(out: Path, platforms: Iterable[str] = tuple(PLATFORM_TAGS)) -> list[Path]:
    """Make one zip per platform in `out` and check each; returns their paths.

    Raises PackageError when a file is missing, pip finds no wheel, or the finished zip does not hold what it lists.
    """
    manifest = (ROOT / "blender_manifest.toml").read_text()
    fields = tomllib.loads(manifest)
    core = core_version()
    if fields["version"] != core:
        raise PackageError(
            f"blender_manifest.toml says {fields['version']}, meshpose.__version__ is {core}: make them equal"
        )
    out.mkdir(parents=True, exist_ok=True)
    work = out / ".core"
    shutil.rmtree(work, ignore_errors=True)
    try:
        # The wheel's version grows with every build: Blender unpacks a wheel again only if its version is a new one.
        wheel = build_core_wheel(work, f"{core}.post{time.strftime('%Y%m%d%H%M%S', time.gmtime())}")
        return [_zip(out, name, manifest, [wheel, *download_wheels(name)]) for name in platforms]
    finally:
        shutil.rmtree(work, ignore_errors=True)


def core_version() -> str:
    """`meshpose.__version__`, read without importing the package."""
    text = (ROOT / "core/meshpose/__init__.py").read_text()
    match = re.search(r'^__version__ = "([^"]+)"', text, re.MULTILINE)
    if match is None:
        raise PackageError('core/meshpose/__init__.py has no line __version__ = "..."')
    return match.group(1)


def build_core_wheel(out: Path, version: str) -> Path:
    """The core with the weights inside as a pure wheel (PEP 427), made with nothing but the standard library."""
    files = {f"meshpose/{name}": path for name, path in _files(ROOT / "core/meshpose")}
    files |= {f"meshpose/weights/{name}": path for name, path in _files(ROOT / "weights")}
    if "meshpose/weights/sha256.json" not in files:
        raise PackageError(f"{ROOT / 'weights'}: no weights there; is the checkout complete?")
    info = f"meshpose-{version}.dist-info"
    contents: dict[str, bytes] = {name: path.read_bytes() for name, path in sorted(files.items())}
    contents |= {f"{info}/licenses/{name}": (ROOT / name).read_bytes() for name in NOTICES}
    contents[f"{info}/METADATA"] = (
        f"Metadata-Version: 2.4\nName: meshpose\nVersion: {version}\nLicense-Expression: Apache-2.0\n"
        + "".join(f"License-File: {name}\n" for name in NOTICES)
        + "Requires-Python: >=3.11\nRequires-Dist: numpy>=1.26\n"
        + "".join(f"Requires-Dist: {name}\n" for name in LIBRARIES)
    ).encode()
    contents[f"{info}/WHEEL"] = b"Wheel-Version: 1.0\nGenerator: meshpose\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    contents[f"{info}/entry_points.txt"] = b"[console_scripts]\nmeshpose = meshpose.cli:main\n"
    record = "".join(f"{name},{_record_digest(data)},{len(data)}\n" for name, data in contents.items())
    contents[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n".encode()
    out.mkdir(parents=True, exist_ok=True)
    wheel = out / f"meshpose-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in contents.items():
            archive.writestr(name, data)
    return wheel


def _record_digest(data: bytes) -> str:
    return "sha256=" + base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()


def _files(folder: Path) -> list[tuple[str, Path]]:
    """(relative name, path) of the files that travel, without caches and hidden files."""
    found = [(path.relative_to(folder).as_posix(), path) for path in sorted(folder.rglob("*")) if path.is_file()]
    return [(name, path) for name, path in found if not SKIP.search(name)]


def pins() -> dict[str, str]:
    """Library → version as requirements/runtime.txt pins it for Python 3.11, the oldest Python that Blender brings."""
    found: dict[str, str] = {}
    for line in (ROOT / "requirements/runtime.txt").read_text().splitlines():
        match = re.match(r'([\w.-]+)==([\w.]+)(?:;\s*python_version\s*([<>=]+)\s*"3\.(\d+)")?', line)
        if match is None or match.group(1) not in LIBRARIES:
            continue
        name, version, sign, minor = match.groups()
        if sign is None or {"<": 11 < int(minor or 0), "==": int(minor or 0) == 11}.get(sign, False):
            found[name] = version
    missing = [name for name in LIBRARIES if name not in found]
    if missing:
        raise PackageError(f"requirements/runtime.txt pins no version of {', '.join(missing)} for Python 3.11")
    return found


def download_wheels(platform: str) -> list[Path]:
    """The libraries' wheels for one platform and all PYTHONS, from pip, kept in the user's cache."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "meshpose/wheels" / platform
    cache.mkdir(parents=True, exist_ok=True)
    wheels: set[Path] = set()
    for name, version in pins().items():
        stem = f"{name.replace('-', '_')}-{version}-"
        for python in PYTHONS:
            fitting = [path for path in cache.glob(f"{stem}*.whl") if _fits(path.name, python)]
            if not fitting:
                _download(f"{name}=={version}", python, platform, cache)
                fitting = [path for path in cache.glob(f"{stem}*.whl") if _fits(path.name, python)]
            if not fitting:
                raise PackageError(f"pip fetched no wheel of {name} {version} for Python {python} on {platform}")
            wheels.add(fitting[0])
    return sorted(wheels)


def _download(requirement: str, python: str, platform: str, cache: Path) -> None:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
    command += ["--implementation", "cp", "--python-version", python, "--dest", str(cache)]
    for tag in PLATFORM_TAGS[platform]:
        command += ["--platform", tag]
    result = subprocess.run([*command, requirement], capture_output=True, text=True)
    if result.returncode != 0:
        last = (result.stderr.strip().splitlines() or ["no message"])[-1]
        raise PackageError(f"pip could not fetch {requirement} for Python {python} on {platform}: {last}")


def _fits(wheel: str, python: str) -> bool:
    """Whether a wheel's file name says that it runs on this CPython (`"311"`): its own, abi3 of an older, or pure."""
    tag, abi = wheel.removesuffix(".whl").split("-")[-3:-1]
    if abi == "abi3":
        return any(part.startswith("cp3") and int(part[3:]) <= int(python[1:]) for part in tag.split("."))
    return (tag == f"cp{python}" and abi in (tag, "none")) or "py3" in tag.split(".")


def _zip(out: Path, platform: str, manifest: str, wheels: list[Path]) -> Path:
    """Write and check the zip of one platform."""
    listed = "".join(f'\n    "./wheels/{wheel.name}",' for wheel in wheels)
    manifest, changed = re.subn(r"^platforms = \[.*\]$", f'platforms = ["{platform}"]', manifest, flags=re.MULTILINE)
    manifest, filled = re.subn(r"^wheels = \[\]$", f"wheels = [{listed}\n]", manifest, flags=re.MULTILINE)
    if (changed, filled) != (1, 1):
        raise PackageError("blender_manifest.toml needs one line `platforms = [...]` and one line `wheels = []`")
    fields = tomllib.loads(manifest)
    target = out / f"{fields['id']}-{fields['version']}-{platform.replace('-', '_')}.zip"
    partial = target.with_suffix(".part")
    with zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("blender_manifest.toml", manifest)
        for name, path in _files(ROOT / "meshpose_blender"):
            archive.write(path, name)
        for name, stored in NOTICES.items():
            archive.write(ROOT / name, stored)
        for wheel in wheels:  # a wheel is compressed already
            archive.write(wheel, f"wheels/{wheel.name}", compress_type=zipfile.ZIP_STORED)
    check_zip(partial, platform)
    partial.replace(target)
    return target


def check_zip(path: Path, platform: str) -> None:
    """Look at a finished zip as Blender will; raises PackageError with what is wrong.

    `extension validate` calls a zip valid although a listed wheel is missing, and Blender then installs it and fails.
    """
    with zipfile.ZipFile(path) as archive:
        names = set(archive.namelist())
        fields = tomllib.loads(archive.read("blender_manifest.toml").decode())
    listed = {str(wheel).removeprefix("./") for wheel in fields["wheels"]}
    packed = {name for name in names if name.endswith(".whl")}
    if listed != packed:
        raise PackageError(f"{path.name}: wheels listed and packed differ: {sorted(listed ^ packed)}")
    for needed in ("__init__.py", "LICENSE", *NOTICES.values()):
        if needed not in names:
            raise PackageError(f"{path.name}: {needed} is missing")
    systems = {"linux-x64": "manylinux", "windows-x64": "win_amd64", "macos-arm64": "macosx"}
    for wheel in sorted(listed):
        file = wheel.removeprefix("wheels/")
        if file.split("-")[0] in NEVER:
            raise PackageError(f"{path.name}: {file} must not travel; Blender has its own or needs none")
        if not file.endswith("-none-any.whl") and systems[platform] not in file.split("-")[-1]:
            raise PackageError(f"{path.name}: {file} is not for {platform}")
    for library in ("meshpose", *LIBRARIES):
        own = [file.removeprefix("wheels/") for file in listed if _library(file) == library]
        for python in PYTHONS:
            if sum(_fits(file, python) for file in own) != 1:
                raise PackageError(f"{path.name}: not exactly one wheel of {library} for Python {python}: {own}")


def _library(wheel: str) -> str:
    return wheel.removeprefix("wheels/").split("-")[0].replace("_", "-")


def main(argv: list[str] | None = None) -> int:
    """Command line; prints each zip with its size. Exit code 2 and one line when it cannot be made."""
    parser = argparse.ArgumentParser(prog="build.py package", description="Make the extension's zips.")
    parser.add_argument("--out", type=Path, default=ROOT / "dist", help="folder of the zips (default: dist)")
    parser.add_argument("--platform", choices=sorted(PLATFORM_TAGS), action="append", help="default: all three")
    options = parser.parse_args(argv)
    try:
        for path in package(options.out, options.platform or tuple(PLATFORM_TAGS)):
            print(f"{path}  {path.stat().st_size / 1e6:.1f} MB")
    except PackageError as error:
        print(f"package: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"package: {error.filename}: {error.strerror}; choose another folder with --out", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
