# SPDX-License-Identifier: Apache-2.0
"""Make the extension's zips: `python3 build.py package [--out DIR] [--platform linux-x64]`; `--check ZIP` only looks.

A zip holds `meshpose_blender/` at its top, the manifest, the notices, and in `wheels/` the core with its weights
(one pure wheel, made here), onnxruntime for each Python that Blender comes with, and opencv. numpy is Blender's own:
a second one would be swapped in under Blender's feet. onnxruntime's other declared dependencies (protobuf,
flatbuffers, packaging) serve tools that we do not call; it runs without them. `tools/wheels.py` says what else stays
out, and what is checked in the wheels of systems that we cannot try.
"""

from __future__ import annotations

import argparse
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
from dataclasses import dataclass
from pathlib import Path

from tools import wheels
from tools.wheels import PackageError, Wheel

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Target:
    """One zip: Blender's name of the platform, the Pythons of its Blenders, what pip may take, newest first."""

    platform: str
    pythons: tuple[str, ...]
    tags: tuple[str, ...]


# The official Blender 4.2 to 5.0 come with Python 3.11, 5.1 and 5.2 with 3.13; so does Debian's 4.3. Debian's Blender 5
# has 3.14, which nobody else needs: a zip of its own keeps the others small.
PYTHONS = ("311", "313")
LINUX = ("manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")
TARGETS = {
    "linux-x64": Target("linux-x64", PYTHONS, LINUX),
    "windows-x64": Target("windows-x64", PYTHONS, ("win_amd64",)),
    "macos-arm64": Target("macos-arm64", PYTHONS, tuple(f"macosx_{major}_0_arm64" for major in (14, 13, 12, 11))),
    "linux-x64-python3.14": Target("linux-x64", ("314",), LINUX),
}
# Written as our users' Blender needs them; the versions come from requirements/runtime.txt.
LIBRARIES = ("onnxruntime", "opencv-python-headless", "threadpoolctl")
NEVER = ("numpy", "torch", "bpy")
NOTICES = {"LICENSE": "LICENSE-APACHE", "NOTICE": "NOTICE", "THIRD_PARTY.md": "THIRD_PARTY.md"}
SKIP = re.compile(r"(^|/)(__pycache__|\..*|.*\.pyc)(/|$)")
LARGEST = 170_000_000  # bytes of a zip


def package(out: Path, targets: Iterable[str] = tuple(TARGETS)) -> list[Path]:
    """Make one zip per name of TARGETS in `out`, check each, write their SHA256SUMS; returns the zips' paths.

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
        zips = [_zip(out, name, manifest, [wheel, *travelling_wheels(name)]) for name in targets]
    finally:
        shutil.rmtree(work, ignore_errors=True)
    sums = "".join(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in zips)
    (out / "SHA256SUMS").write_text(sums)
    return zips


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
    contents[f"{info}/RECORD"] = wheels.record(contents, info)
    out.mkdir(parents=True, exist_ok=True)
    wheel = out / f"meshpose-{version}-py3-none-any.whl"
    wheels.write(wheel, contents)
    return wheel


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


def travelling_wheels(target: str) -> list[Path]:
    """The libraries' wheels for one name of TARGETS and all its Pythons, from pip, slimmed; in the user's cache."""
    platform = TARGETS[target].platform
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "meshpose/wheels" / platform
    cache.mkdir(parents=True, exist_ok=True)
    found: set[Path] = set()
    for name, version in pins().items():
        for python in TARGETS[target].pythons:
            wheel = _kept(cache, name, version, python)
            if wheel is None:
                _download(f"{name}=={version}", python, target, cache)
                wheel = _kept(cache, name, version, python)
            if wheel is None:
                raise PackageError(f"pip fetched no wheel of {name} {version} for Python {python} on {platform}")
            found.add(wheel)
    return [wheels.slim(wheel, cache / "slim") for wheel in sorted(found)]


def _kept(cache: Path, name: str, version: str, python: str) -> Path | None:
    """A wheel that was fetched before."""
    found = sorted(cache.glob(f"{name.replace('-', '_')}-{version}-*.whl"))
    return next((path for path in found if Wheel.parse(path.name).fits(python)), None)


def _download(requirement: str, python: str, target: str, cache: Path) -> None:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
    command += ["--implementation", "cp", "--python-version", python, "--dest", str(cache)]
    for tag in TARGETS[target].tags:
        command += ["--platform", tag]
    result = subprocess.run([*command, requirement], capture_output=True, text=True)
    if result.returncode != 0:
        last = (result.stderr.strip().splitlines() or ["no message"])[-1]
        raise PackageError(f"pip could not fetch {requirement} for Python {python} on {target}: {last}")


def _zip(out: Path, target: str, manifest: str, packed: list[Path]) -> Path:
    """Write and check the zip of one name of TARGETS."""
    listed = "".join(f'\n    "./wheels/{wheel.name}",' for wheel in packed)
    platform = f'platforms = ["{TARGETS[target].platform}"]'
    manifest, changed = re.subn(r"^platforms = \[.*\]$", platform, manifest, flags=re.MULTILINE)
    manifest, filled = re.subn(r"^wheels = \[\]$", f"wheels = [{listed}\n]", manifest, flags=re.MULTILINE)
    if (changed, filled) != (1, 1):
        raise PackageError("blender_manifest.toml needs one line `platforms = [...]` and one line `wheels = []`")
    fields = tomllib.loads(manifest)
    path = out / f"{fields['id']}-{fields['version']}-{target.replace('-', '_')}.zip"
    partial = path.with_suffix(".part")
    with zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("blender_manifest.toml", manifest)
        for name, file in _files(ROOT / "meshpose_blender"):
            archive.write(file, name)
        for name, stored in NOTICES.items():
            archive.write(ROOT / name, stored)
        for wheel in packed:  # a wheel is compressed already
            archive.write(wheel, f"wheels/{wheel.name}", compress_type=zipfile.ZIP_STORED)
    check_zip(partial, target)
    partial.replace(path)
    return path


def check_zip(path: Path, target: str) -> str:
    """Look at a finished zip as the Blenders of a name of TARGETS will, and into its wheels; returns what they need.

    `extension validate` calls a zip valid although a listed wheel is missing, and Blender then installs it and fails.
    Raises PackageError with what is wrong.
    """
    platform, pythons = TARGETS[target].platform, TARGETS[target].pythons
    if path.stat().st_size > LARGEST:
        raise PackageError(f"{path.name}: {path.stat().st_size / 1e6:.1f} MB; at most {LARGEST / 1e6:.0f} are promised")
    with zipfile.ZipFile(path) as archive:
        names = set(archive.namelist())
        if "blender_manifest.toml" not in names:
            raise PackageError(f"{path.name}: this is no extension's zip, or only a part of one; make it again")
        fields = tomllib.loads(archive.read("blender_manifest.toml").decode())
        listed = [str(wheel).removeprefix("./") for wheel in fields["wheels"]]
        packed = {name for name in names if name.endswith(".whl")}
        if sorted(listed) != sorted(packed):
            raise PackageError(f"{path.name}: wheels listed and packed differ: {sorted(set(listed) ^ packed)}")
        for needed in ("__init__.py", "LICENSE", *NOTICES.values()):
            if needed not in names:
                raise PackageError(f"{path.name}: {needed} is missing")
        if fields["platforms"] != [platform]:
            raise PackageError(f"{path.name}: it is not for {platform}, but for {fields['platforms']}")
        parsed = {name: Wheel.parse(name.removeprefix("wheels/")) for name in listed}
        for name, wheel in parsed.items():
            if wheel.name in NEVER:
                raise PackageError(f"{path.name}: {name} must not travel; Blender has its own or needs none")
        oldest = {wheels.check(name.removeprefix("wheels/"), archive.read(name), platform) for name in listed}
    for library in ("meshpose", *LIBRARIES):
        own = [wheel for wheel in parsed.values() if wheel.name == library]
        for python in pythons:
            if sum(wheel.fits(python) for wheel in own) != 1:
                raise PackageError(f"{path.name}: not exactly one wheel of {library} for Python {python}")
    versions = ", ".join(f"{python[0]}.{python[1:]}" for python in pythons)
    return f"Python {versions}; {max(oldest - {'any'}, default='any version of the system')}"


def target_of(path: Path) -> str:
    """Which of TARGETS a zip is for, by its name; PackageError where it is for none."""
    found = [name for name in TARGETS if path.stem.endswith(f"-{name.replace('-', '_')}")]
    if not found:
        raise PackageError(f"{path.name}: its name ends in none of {', '.join(TARGETS)} (with _ for -)")
    return found[0]


def main(argv: list[str] | None = None) -> int:
    """Command line; prints each zip with its size. Exit code 2 and one line when it cannot be made."""
    parser = argparse.ArgumentParser(prog="build.py package", description="Make the extension's zips.")
    parser.add_argument("--out", type=Path, default=ROOT / "dist", help="folder of the zips (default: dist)")
    parser.add_argument("--platform", choices=sorted(TARGETS), action="append", help="default: all of them")
    parser.add_argument("--check", type=Path, nargs="+", metavar="ZIP", help="make nothing, look at these")
    options = parser.parse_args(argv)
    path = options.out
    try:
        for path in options.check or package(options.out, options.platform or tuple(TARGETS)):
            needs = check_zip(path, target_of(path))
            print(f"{path}  {path.stat().st_size / 1e6:.1f} MB  {needs}")
    except PackageError as error:
        print(f"package: {error}", file=sys.stderr)
        return 2
    except zipfile.BadZipFile as error:
        print(f"package: {path}: {error}; make the zip again", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"package: {error.filename}: {error.strerror}; choose another folder with --out", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
