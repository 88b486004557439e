#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Fetch Blender as a Python module, of a version of one's choice, into a cache folder, for the tests.

    python3 tools/get_bpy.py 4.2.23            # prints a launcher: ~/.cache/meshpose/bpy-4.2.23/python SCRIPT ...

Two versions cannot share an environment, and each wants its Python: 3.11 up to Blender 5.0, 3.13 from 5.1 on. Where
the machine has no 3.13, that of Debian's Blender 4.3 serves (tools/get_blender.py). Nothing of the machine is changed;
a finished folder is kept as it is, and a second caller waits for the first.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

from tools import get_blender
from tools.get_blender import FetchError

ROOT = Path(__file__).resolve().parents[1]
VERSIONS = ("4.2.23", "4.5.15", "5.0.1", "5.2.3")
"""The oldest that we support, the two between, the newest: what `build.py test --all` runs."""
NUMPY = {"3.11": "1.26.4", "3.13": "2.5.5"}
"""As the official builds have it: 1.26 with Python 3.11."""
SYSTEMS = [f"{tag}_{platform.machine()}" for tag in ("manylinux_2_28", "manylinux_2_27", "manylinux2014")]


def python_of(version: str) -> str:
    """The Python that a version of bpy is made for."""
    return "3.11" if tuple(map(int, version.split(".")[:2])) < (5, 1) else "3.13"


def default_folder(version: str) -> Path:
    """``<user's cache>/meshpose/bpy-<version>``."""
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(cache) / "meshpose" / f"bpy-{version}"


def fetch(version: str, folder: Path | None = None) -> Path:
    """Make the folder if it is not there yet; returns the launcher of a Python that can ``import bpy``.

    Raises FetchError: no such version for this machine, no network, no Python for it, or it does not start.
    """
    folder = folder or default_folder(version)
    launcher, done = folder / "python", folder / ".done"
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if done.is_file():
            return launcher
        start = time.monotonic()
        interpreter = _interpreter(python_of(version))
        shutil.rmtree(folder / "site", ignore_errors=True)
        get_blender._say(f"bpy {version} (about 370 MB)")
        _install(folder / "site", python_of(version), [f"bpy=={version}"])
        _install(folder / "site", python_of(version), [f"numpy=={NUMPY[python_of(version)]}", *_needed()])
        words = " ".join(shlex.quote(str(word)) for word in interpreter)
        launcher.write_text(f'#!/bin/sh\nPYTHONPATH={shlex.quote(str(folder / "site"))} exec {words} "$@"\n')
        launcher.chmod(0o755)
        code = "import bpy, numpy; print(bpy.app.version_string, numpy.__version__)"
        result = subprocess.run([launcher, "-c", code], capture_output=True, text=True)
        if not result.stdout.startswith(".".join(version.split(".")[:2])):
            last = (result.stdout + result.stderr).strip().splitlines()[-1:]
            raise FetchError(f"bpy {version} does not start: {last}")
        get_blender._say(f"bpy {result.stdout.strip()} is ready after {time.monotonic() - start:.0f} s: {folder}")
        done.touch()
    return launcher


def _interpreter(python: str) -> list[str | Path]:
    """The command that starts this Python here."""
    if f"{sys.version_info[0]}.{sys.version_info[1]}" == python:
        return [getattr(sys, "_base_executable", sys.executable)]
    found = shutil.which(f"python{python}")
    if found and subprocess.run([found, "-c", ""], capture_output=True).returncode == 0:
        return [found]
    if python == "3.13":
        return [get_blender.fetch("4.3").with_name("enter"), "python3"]
    raise FetchError(f"no Python {python} on this machine; install it (python{python})")


def _needed() -> list[str]:
    """What bpy's own add-ons import, at the pins of requirements/blender.txt."""
    lines = (ROOT / "requirements/blender.txt").read_text().splitlines()
    pins = [line.split(";")[0].strip() for line in lines if re.match(r"[A-Za-z]", line)]
    return [pin for pin in pins if not pin.startswith(("bpy==", "Cython=="))]


def _install(site: Path, python: str, requirements: list[str]) -> None:
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    # The running pip would hold the packages' wishes against its own Python.
    command += ["--only-binary", ":all:", "--ignore-requires-python", "--python-version", python, "--upgrade"]
    for tag in SYSTEMS:
        command += ["--platform", tag]
    result = subprocess.run([*command, "--target", str(site), *requirements], capture_output=True, text=True)
    if result.returncode != 0:
        errors = [line for line in result.stderr.splitlines() if line.startswith("ERROR")]
        raise FetchError(f"pip could not fetch {' '.join(requirements)}: {(errors or ['no message'])[-1]}")


def main(argv: list[str] | None = None) -> int:
    """Command line; the launcher's path on stdout, exit code 2 and one line when there is none."""
    parser = argparse.ArgumentParser(description="Fetch Blender as a Python module for the tests.")
    parser.add_argument("version", help=f"for example {', '.join(VERSIONS)}")
    options = parser.parse_args(argv)
    try:
        print(fetch(options.version))
    except FetchError as error:
        get_blender._say(str(error))
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
