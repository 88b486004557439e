#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Fetch a real Blender into a cache folder, for the tests, without touching the machine's own packages.

    python3 tools/get_blender.py              # prints the launcher, e.g. ~/.cache/meshpose/blender-4.3/blender
    python3 tools/get_blender.py --version 5  # Debian's newest instead (a moving target)

The ``bpy`` wheel is not the program that artists run: it has no extension commands, no window and another Python.
So the tests also want Debian's Blender, on a machine that may have an older Debian and no user account but root's.
apt resolves the whole closure of packages against an *empty* package list and another suite of the machine's own
mirror; ``dpkg -x`` unpacks it; no package script runs. At run time the folder becomes ``/`` in a private mount
namespace, and every other top-level folder of the machine is bound in at its usual path.

The folder is ``$MESHPOSE_BLENDER_DIR``, else ``$XDG_CACHE_HOME/meshpose/blender-<version>``. A finished folder
is kept as it is; a second caller waits for the first. Beside ``blender`` lies ``enter``: ``enter CMD ...`` runs any
other program of the folder (Xvfb, xdotool, import, python3).
"""

from __future__ import annotations

import argparse
import fcntl
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

SUITES = {"4.3": "trixie", "5": "sid"}
PACKAGES = """
    blender python3 python3-numpy python3-requests python3-cattr python3-zstandard
    libgl1 libegl1 libgl1-mesa-dri libglx-mesa0 libegl-mesa0 fonts-dejavu-core
    xvfb xauth x11-xkb-utils xkb-data xdotool imagemagick
    base-files bash coreutils dash findutils libc-bin util-linux ca-certificates
""".split()
RECIPE = 2  # grows when a folder must be made anew because this script makes it otherwise
TRIPLETS = {"x86_64": "x86_64-linux-gnu", "aarch64": "aarch64-linux-gnu"}
FALLBACK_KEYS = "/usr/share/keyrings/debian-archive-keyring.gpg"
FALLBACK_SOURCE = f"deb [signed-by={FALLBACK_KEYS}] http://deb.debian.org/debian {{}} main\n"

ENTER = """\
#!/bin/bash
# enter CMD ARGS...: run a program of this folder; the machine's other folders are at their usual paths.
folder=$(dirname "$(readlink -f "$0")")
export INSIDE_ROOT=$folder/root INSIDE_PWD=$PWD
spaces=(--mount --propagation private)
[ "$(id -u)" = 0 ] || spaces+=(--user --map-root-user)
exec unshare "${spaces[@]}" /bin/bash -c '
    for top in /*; do
        case ${top#/} in bin|sbin|lib*|usr|etc|var|boot|lost+found) continue ;; esac
        if [ -d "$top" ] && [ ! -L "$top" ]; then
            mkdir -p "$INSIDE_ROOT$top" && mount --rbind "$top" "$INSIDE_ROOT$top" || exit 97
        fi
    done
    exec chroot "$INSIDE_ROOT" /bin/bash -c '"'"'
        cd "$INSIDE_PWD" 2>/dev/null || cd /tmp
        unset INSIDE_ROOT INSIDE_PWD
        export PATH=/usr/bin:/usr/sbin LC_ALL=C.UTF-8
        exec "$@"
    '"'"' inside "$@"
' inside "$@"
"""
BLENDER = """\
#!/bin/bash
exec "$(dirname "$(readlink -f "$0")")/enter" /usr/bin/blender "$@"
"""


class FetchError(Exception):
    """The folder could not be made; the text is one line for people."""


def default_folder(version: str = "4.3") -> Path:
    """The cache folder: ``$MESHPOSE_BLENDER_DIR``, else ``<user's cache>/meshpose/blender-<version>``."""
    override = os.environ.get("MESHPOSE_BLENDER_DIR")
    if override:
        return Path(override).resolve()
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(cache) / "meshpose" / f"blender-{version}"


def launcher(version: str = "4.3", folder: Path | None = None) -> Path | None:
    """The launcher of a finished folder, or None."""
    folder = folder or default_folder(version)
    return folder / "blender" if (folder / _marker(version)).is_file() else None


def _marker(version: str) -> str:
    """The file that says that a folder is finished."""
    return f".done-{SUITES[version]}-{RECIPE}"


def fetch(version: str = "4.3", folder: Path | None = None) -> Path:
    """Make the folder if it is not there yet and return its launcher.

    Raises:
        FetchError: not Linux with apt, no network, or the unpacked Blender does not start.
    """
    folder = folder or default_folder(version)
    for program in ("apt-get", "dpkg", "unshare", "chroot"):
        if platform.system() != "Linux" or shutil.which(program, path=_search_path()) is None:
            raise FetchError(f"this script needs a Debian-like Linux: {program} is missing")
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = launcher(version, folder)
        if done is not None:
            return done
        start = time.monotonic()
        shutil.rmtree(folder / "root", ignore_errors=True)
        archives = _download(folder / "apt", SUITES[version])
        _say(f"{len(archives)} packages after {time.monotonic() - start:.0f} s")
        _unpack(archives, folder / "root")
        _finish(folder)
        shutil.rmtree(folder / "apt")
        _say(f"{_version_line(folder)} is ready after {time.monotonic() - start:.0f} s: {folder}")
        (folder / _marker(version)).touch()
    return folder / "blender"


def _say(text: str) -> None:
    print(f"get_blender: {text}", file=sys.stderr, flush=True)


def _search_path() -> str:
    """chroot lies in /usr/sbin, which is not on every user's path."""
    return os.environ.get("PATH", "/usr/bin:/bin") + ":/usr/sbin:/sbin"


def _call(*command: str | Path, quiet: bool = False) -> None:
    """Run a command with its output on stderr (stdout is for the launcher's path)."""
    sink = subprocess.DEVNULL if quiet else sys.stderr
    env = os.environ | {"PATH": _search_path(), "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}
    words = [str(part) for part in command]
    result = subprocess.run(words, stdout=sink, stderr=sink, stdin=subprocess.DEVNULL, env=env)
    if result.returncode != 0:
        raise FetchError(f"{words[0]} failed with exit code {result.returncode} (see above)")


def debian_sources(suite: str, etc: Path = Path("/etc")) -> str:
    """The machine's Debian sources as one-line entries, with ``suite`` in place of the machine's own.

    Its mirror, proxy and keys are what works on this machine; only the suite differs. Falls back to deb.debian.org.
    """
    release = (etc / "os-release").read_text()
    match = re.search(r"^VERSION_CODENAME=\"?(\w+)", release, re.MULTILINE)
    host = match.group(1) if match else ""
    lines: list[str] = []
    for path in sorted((etc / "apt/sources.list.d").glob("*.sources")):
        for paragraph in path.read_text().split("\n\n"):
            fields = dict(re.findall(r"^([\w-]+):[ \t]*(.+)$", paragraph, re.MULTILINE))
            if host and host in fields.get("Suites", "").split() and "deb" in fields.get("Types", "").split():
                key = f"[signed-by={fields['Signed-By']}] " if "Signed-By" in fields else ""
                lines += [f"deb {key}{uri} {suite} main" for uri in fields["URIs"].split()]
    for path in [etc / "apt/sources.list", *sorted((etc / "apt/sources.list.d").glob("*.list"))]:
        for line in path.read_text().splitlines() if path.is_file() else []:
            match = re.match(r"deb\s+(\[[^\]]*\]\s+)?(\S+)\s+(\S+)\s", line)
            if match and host and match.group(3) == host:
                lines.append(f"deb {match.group(1) or ''}{match.group(2)} {suite} main")
    return "".join(f"{line}\n" for line in lines) or FALLBACK_SOURCE.format(suite)


def _download(work: Path, suite: str) -> list[Path]:
    """Let apt download Blender's whole closure of packages; returns the .deb files."""
    for name in ("etc/sources.list.d", "etc/preferences.d", "state/lists/partial", "cache/archives/partial"):
        (work / name).mkdir(parents=True, exist_ok=True)
    (work / "state/status").write_text("")  # an empty package list: everything down to libc is wanted
    (work / "etc/sources.list").write_text(debian_sources(suite))
    options = {
        "Dir::Etc": work / "etc",
        "Dir::Etc::parts": "/etc/apt/apt.conf.d",  # the machine's proxy settings
        "Dir::Etc::trusted": "/etc/apt/trusted.gpg",
        "Dir::Etc::trustedparts": "/etc/apt/trusted.gpg.d",
        "Dir::State": work / "state",
        "Dir::State::status": work / "state/status",
        "Dir::Cache": work / "cache",
        "Debug::NoLocking": "1",
        "Acquire::Retries": "3",
        "Binary::apt-get::APT::Keep-Downloaded-Packages": "true",
        "DPkg::Post-Invoke": "",  # images for containers delete downloads in these hooks
        "APT::Update::Post-Invoke": "",
    }
    if os.getuid() == 0:
        options["APT::Sandbox::User"] = "root"  # the folder may lie where the user _apt cannot read
    apt = ["apt-get", *(part for key, value in options.items() for part in ("-o", f"{key}={value}"))]
    _say(f"package list of Debian {suite}")
    _call(*apt, "-qq", "update")
    _say("downloading (about 330 MB)")
    _call(*apt, "-qq", "-y", "--no-install-recommends", "--download-only", "install", *PACKAGES)
    archives = sorted((work / "cache/archives").glob("*.deb"))
    if not archives:
        raise FetchError("apt downloaded no packages; look for a hook in /etc/apt/apt.conf.d that deletes them")
    return archives


def _unpack(archives: list[Path], root: Path) -> None:
    """Unpack the packages into ``root`` (merged /usr, as Debian has it), each deleted once it is out."""
    for name in ("usr/bin", "usr/sbin", "usr/lib", "usr/lib64", "proc", "sys", "dev", "tmp", "run"):
        (root / name).mkdir(parents=True, exist_ok=True)
    for name in ("bin", "sbin", "lib", "lib64"):
        if not (root / name).is_symlink():
            (root / name).symlink_to(f"usr/{name}")
    for archive in archives:
        _call("dpkg", "-x", archive, root)
        archive.unlink()
    for name in ("doc", "man", "info", "lintian", "gtk-doc"):
        shutil.rmtree(root / "usr/share" / name, ignore_errors=True)
    for path in (root / "usr/share/locale").glob("*/LC_MESSAGES/*"):
        if path.name != "blender.mo":  # the interface in other languages, without those of all other programs
            path.unlink()


def _finish(folder: Path) -> None:
    """Do what the package scripts would have done, and write the launchers."""
    root = folder / "root"
    triplet = TRIPLETS.get(platform.machine(), "")
    # blas and lapack are alternatives in Debian; without them numpy does not load
    (root / "etc/ld.so.conf.d/00-blas.conf").write_text(f"/usr/lib/{triplet}/blas\n/usr/lib/{triplet}/lapack\n")
    for name in ("passwd", "group", "hosts", "resolv.conf", "nsswitch.conf", "localtime"):
        if (Path("/etc") / name).is_file():
            shutil.copyfile(Path("/etc") / name, root / "etc" / name)
    mtab = root / "etc/mtab"  # Blender lists file systems at start
    if not mtab.is_symlink():
        mtab.symlink_to("/proc/mounts")
    for program in (root / "usr/bin").glob("*-im[67]*"):  # import-im7.q16 -> import
        plain = program.with_name(program.name.split("-im")[0])
        if not plain.exists():
            plain.symlink_to(program.name)
    for name, text in (("enter", ENTER), ("blender", BLENDER)):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    _call(folder / "enter", "/usr/sbin/ldconfig")
    _call(folder / "enter", "/usr/bin/fc-cache", "-s", quiet=True)


def _version_line(folder: Path) -> str:
    """``Blender 4.3.2``: the unpacked program's own answer."""
    result = subprocess.run([folder / "blender", "--version"], capture_output=True, text=True)
    line = (result.stdout.splitlines() or [""])[0]
    if not line.startswith("Blender"):
        tail = " ".join((result.stdout + result.stderr).splitlines()[-2:])
        raise FetchError(f"the unpacked Blender does not start: {tail}")
    return line


def main(argv: list[str] | None = None) -> int:
    """Command line; the launcher's path on stdout, exit code 2 and one line when there is none."""
    parser = argparse.ArgumentParser(description="Fetch a real Blender for the tests.")
    parser.add_argument("--version", choices=sorted(SUITES), default="4.3")
    parser.add_argument("--dir", type=Path, help="folder (default: see the head of this file)")
    options = parser.parse_args(argv)
    try:
        print(fetch(options.version, options.dir.resolve() if options.dir else None))
    except FetchError as error:
        _say(str(error))
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
