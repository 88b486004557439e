# SPDX-License-Identifier: Apache-2.0
"""Wheels as they travel in the extension's zip: what is left out of them, and what must be true of them.

Only Linux can be tried on our machines. So every wheel is read as a file, for whatever system it is: the hashes of its
RECORD, its tags, and inside its libraries the processor, the oldest macOS or glibc, and what they link to.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import os
import re
import zipfile
from dataclasses import dataclass
from email.parser import Parser
from pathlib import Path

import lief

BUILD = "1meshpose"
"""The build tag (PEP 427) of a wheel that we have taken something out of: it is not its author's file any more."""

# onnxruntime brings its library twice: inside the Python module, and once more for programs in C. Python code never
# loads the second one (`slim` makes sure of that by what the module links to); it is half of the wheel.
UNUSED = {
    "onnxruntime": re.compile(
        r"onnxruntime/capi/(libonnxruntime\.so\.[\d.]+|libonnxruntime\.[\d.]+\.dylib|onnxruntime\.dll)"
    )
}
LIBRARY = re.compile(r"\.(so|dylib|dll|pyd)(\.[\d.]+)?$")
EPOCH = (1980, 1, 1, 0, 0, 0)  # a wheel made twice is the same file


class PackageError(Exception):
    """The zip cannot be made or is not as it must be; the text is one line for people."""


@dataclass(frozen=True)
class Wheel:
    """A wheel's file name, taken apart (PEP 427): `name-version[-build]-pythons-abis-platforms.whl`."""

    name: str
    version: str
    build: str
    pythons: tuple[str, ...]
    abis: tuple[str, ...]
    platforms: tuple[str, ...]

    @classmethod
    def parse(cls, file: str) -> Wheel:
        """From a file name; PackageError where it is not one of a wheel."""
        parts = file.removesuffix(".whl").split("-")
        if not file.endswith(".whl") or len(parts) not in (5, 6):
            raise PackageError(f"{file}: this is not the file name of a wheel")
        tags = [tuple(part.split(".")) for part in parts[-3:]]
        return cls(parts[0].replace("_", "-"), parts[1], parts[2] if len(parts) == 6 else "", *tags)

    def tags(self) -> set[str]:
        """All combinations, as the wheel's own file WHEEL lists them."""
        return {f"{p}-{a}-{s}" for p in self.pythons for a in self.abis for s in self.platforms}

    def fits(self, python: str) -> bool:
        """Whether it runs on this CPython (`"311"`): made for it, for the stable ABI of an older one, or pure."""
        if "abi3" in self.abis:
            return any(tag.startswith("cp3") and int(tag[3:]) <= int(python[1:]) for tag in self.pythons)
        own = f"cp{python}"
        return (own in self.pythons and bool({own, "none"} & set(self.abis))) or "py3" in self.pythons


def digest(data: bytes) -> str:
    """A file's hash as RECORD has it."""
    return "sha256=" + base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()


def record(contents: dict[str, bytes], info: str) -> bytes:
    """The text of RECORD for these files of a wheel; `info` is the name of its .dist-info folder."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerows((name, digest(data), len(data)) for name, data in contents.items())
    rows.writerow((f"{info}/RECORD", "", ""))
    return text.getvalue().encode()


def write(path: Path, contents: dict[str, bytes]) -> None:
    """Write a wheel; the same files give the same bytes."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in contents.items():
            entry = zipfile.ZipInfo(name, EPOCH)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = (0o755 if LIBRARY.search(name) else 0o644) << 16
            archive.writestr(entry, data)


def slim(wheel: Path, out: Path) -> Path:
    """The wheel without what UNUSED names, in the folder `out` and under a build tag; itself where there is nothing.

    What was made before is kept: `check` looks at it again wherever it travels. Raises PackageError when another
    library of the wheel links to what would be left out.
    """
    parsed = Wheel.parse(wheel.name)
    pattern = UNUSED.get(parsed.name)
    start, tags = wheel.name[: wheel.name.index(f"-{parsed.version}-")], "-".join(wheel.name.split("-")[-3:])
    result = out / f"{start}-{parsed.version}-{BUILD}-{tags}"
    if result.exists():
        return result
    with zipfile.ZipFile(wheel) as archive:
        names = [entry.filename for entry in archive.infolist() if not entry.is_dir()]
        gone = [name for name in names if pattern is not None and pattern.fullmatch(name)]
        if not gone:
            return wheel
        contents = {name: archive.read(name) for name in names if name not in gone}
        missing = {Path(name).name.split(".")[0] for name in gone}
    for name, data in contents.items():
        linked = {Path(library).name.split(".")[0] for library in _linked(name, data)}
        if linked & missing:
            raise PackageError(f"{wheel.name}: {name} links to {', '.join(linked & missing)}, so it must stay")
    info = _info(wheel.name, names)
    contents.pop(f"{info}/RECORD")
    contents[f"{info}/WHEEL"] = contents[f"{info}/WHEEL"].rstrip() + f"\nBuild: {BUILD}\n".encode()
    contents[f"{info}/RECORD"] = record(contents, info)
    out.mkdir(parents=True, exist_ok=True)
    partial = result.with_suffix(f".{os.getpid()}.part")
    write(partial, contents)
    partial.replace(result)
    return result


def _info(wheel: str, names: list[str]) -> str:
    found = {name.split("/")[0] for name in names if name.split("/")[0].endswith(".dist-info")}
    if len(found) != 1:
        raise PackageError(f"{wheel}: not one .dist-info folder, but {sorted(found)}")
    return found.pop()


def _parse(name: str, data: bytes) -> lief.Binary | None:
    """A library read by lief; None where the name is not a library's."""
    if not LIBRARY.search(name):
        return None
    binary = lief.parse(data)
    if not isinstance(binary, lief.Binary):
        raise PackageError(f"{name}: no library of a system that we know")
    return binary


def _linked(name: str, data: bytes) -> list[str]:
    """What a library wants to be loaded with it, also when first used (Windows' delayed imports)."""
    binary = _parse(name, data)
    if binary is None:
        return []
    if isinstance(binary, lief.PE.Binary):
        return [str(name) for name in (*binary.libraries, *(library.name for library in binary.delay_imports))]
    return [str(getattr(library, "name", library)) for library in binary.libraries]


def check(wheel: str, data: bytes, system: str) -> str:
    """Look at one wheel made for `system` (`linux-x64`, ...) or for every one; returns the oldest system it runs on.

    Raises PackageError for a file that RECORD does not know or knows otherwise, for a name, version or tag that differs
    inside and outside, for a library of another processor or of a newer system than the tag says.
    """
    parsed = Wheel.parse(wheel)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            contents = {e.filename: archive.read(e) for e in archive.infolist() if not e.is_dir()}
    except (zipfile.BadZipFile, EOFError) as error:
        raise PackageError(f"{wheel}: this wheel cannot be read ({error})") from error
    info = _info(wheel, list(contents))
    _check_record(wheel, contents, info)
    metadata = Parser().parsestr(contents[f"{info}/METADATA"].decode())
    tags = Parser().parsestr(contents[f"{info}/WHEEL"].decode())
    name = metadata["Name"].replace("_", "-")
    said = (name, metadata["Version"], tags.get("Build", ""), set(tags.get_all("Tag") or []))
    if said != (parsed.name, parsed.version, parsed.build, parsed.tags()):
        raise PackageError(f"{wheel}: inside, it calls itself {said}")
    oldest = _oldest(parsed.platforms)
    for name, content in contents.items():
        if (binary := _parse(name, content)) is not None:
            _check_library(f"{wheel}: {name}", binary, system, oldest)
    word = {"linux-x64": "glibc", "macos-arm64": "macOS"}.get(system)
    return f"{word} {'.'.join(map(str, oldest))}" if word and oldest != (0, 0) else "any"


def _check_record(wheel: str, contents: dict[str, bytes], info: str) -> None:
    rows = list(csv.reader(io.StringIO(contents[f"{info}/RECORD"].decode())))
    known = {row[0]: row[1] for row in rows if row}
    if set(known) != set(contents):
        raise PackageError(f"{wheel}: RECORD and files differ: {sorted(set(known) ^ set(contents))[:5]}")
    for name, data in contents.items():
        if name != f"{info}/RECORD" and known[name] != digest(data):
            raise PackageError(f"{wheel}: {name} is not the file that RECORD knows")


def _oldest(platforms: tuple[str, ...]) -> tuple[int, int]:
    """The oldest glibc or macOS that the tags promise; (0, 0) where they promise none."""
    versions = [match.groups() for tag in platforms if (match := re.match(r"(?:manylinux|macosx)_(\d+)_(\d+)_", tag))]
    return min(((int(major), int(minor)) for major, minor in versions), default=(0, 0))


def _check_library(where: str, binary: lief.Binary, system: str, oldest: tuple[int, int]) -> None:
    built_for, newest = "", (0, 0)
    if isinstance(binary, lief.ELF.Binary) and binary.header.machine_type == lief.ELF.ARCH.X86_64:
        built_for, newest = "linux-x64", _newest_glibc(binary)
    elif isinstance(binary, lief.MachO.Binary) and binary.header.cpu_type == lief.MachO.Header.CPU_TYPE.ARM64:
        built_for = "macos-arm64"
        newest = (binary.build_version.minos[0], binary.build_version.minos[1]) if binary.build_version else newest
    elif isinstance(binary, lief.PE.Binary) and binary.header.machine == lief.PE.Header.MACHINE_TYPES.AMD64:
        built_for = "windows-x64"
    if built_for != system:
        raise PackageError(f"{where} is no library for {system}")
    if newest > oldest:
        raise PackageError(f"{where} needs {newest}, but the tag of the wheel says {oldest}")


def _newest_glibc(binary: lief.ELF.Binary) -> tuple[int, int]:
    """The newest GLIBC_x.y that an ELF file asks for."""
    wanted = [str(aux.name) for need in binary.symbols_version_requirement for aux in need.get_auxiliary_symbols()]
    found = [match.groups() for name in wanted if (match := re.match(r"GLIBC_(\d+)\.(\d+)", name))]
    return max(((int(major), int(minor)) for major, minor in found), default=(0, 0))
