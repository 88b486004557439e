#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""One entry for people: `python3 build.py COMMAND`. Needs nothing but Python 3.11 or later.

The first use of a command makes `.venv` beside this file with pinned dependencies (`requirements/*.txt`); later uses
find it ready. The commands themselves live in the packages and in `tools/`: this file only prepares and starts them.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
PYTHON = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
SAMPLE = ROOT / "samples" / "turn.mp4"

#: Pythons for which Blender exists as a wheel, and the machines it is built for (requirements/blender.txt).
BPY_PYTHONS = ((3, 11), (3, 13))
BPY_MACHINES = (("linux", "x86_64"), ("darwin", "arm64"), ("darwin", "x86_64"), ("win32", "AMD64"))

#: Options of `run` that stand alone; every other `--option` takes the next argument as its value.
RUN_FLAGS = {"--restart", "--no-preview", "--no-second-look", "--no-lock-feet", "--no-level", "-h", "--help"}
#: Options of an export (meshpose_blender/exporting.py), with a value and without; the scene's command gets them.
EXPORT_OPTIONS, EXPORT_FLAGS = {"--export", "--preset", "--rig", "--smplx-model"}, {"--one-file"}


class BuildError(Exception):
    """Ends the command with one line on stderr and exit code 2."""


# ---------------------------------------------------------------- the environment


def bpy_fits() -> bool:
    """Whether a bpy wheel exists for this Python on this machine."""
    machine = (sys.platform, platform.machine())
    return sys.version_info[:2] in BPY_PYTHONS and machine in BPY_MACHINES


def _digest(group: str) -> str:
    """What an installed group depends on: its pins, the Python, the place of the checkout."""
    text = (ROOT / "requirements" / f"{group}.txt").read_text("utf-8")
    return hashlib.sha256(f"{text}\n{sys.version}\n{ROOT}".encode()).hexdigest()


def environment(*groups: str) -> None:
    """Make or complete `.venv` so that it holds the pinned `groups` (files of requirements/), none half installed.

    `.venv/stamp.json` says which groups are there with which pins. It is taken away while pip works: an environment
    without a readable stamp was interrupted and is made again (pip's own cache spares the download).
    """
    stamp = VENV / "stamp.json"
    try:
        have: dict[str, str] = json.loads(stamp.read_text("utf-8"))
        usable = subprocess.run([PYTHON, "-c", ""], capture_output=True).returncode == 0
    except (OSError, ValueError):
        have, usable = {}, False
    stale = any(digest != _digest(group) for group, digest in have.items())
    missing = [group for group in groups if group not in have]
    if usable and not stale and not missing:
        return
    if not usable or stale:
        print(f"making {VENV} (once; about 1 GB with Blender as a Python module)", file=sys.stderr)
        _make_venv()
        missing = list(groups)
        have = {}
    stamp.unlink(missing_ok=True)
    for group in missing:
        _install(group)
        have[group] = _digest(group)
    stamp.write_text(json.dumps(have, indent=1), "utf-8")


def _make_venv() -> None:
    result = subprocess.run([sys.executable, "-m", "venv", "--clear", VENV], capture_output=True, text=True)
    if result.returncode:
        why = (result.stdout + result.stderr).strip().splitlines() or ["no reason given"]
        raise BuildError(f"cannot make {VENV}: {why[-1]} (on Debian and Ubuntu: apt install python3-venv)")
    site = subprocess.run(
        [PYTHON, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], capture_output=True, text=True
    ).stdout.strip()
    # What an editable install would write: the core's source root, then the checkout (extension, training, tools).
    (Path(site) / "checkout.pth").write_text(f"{ROOT / 'core'}\n{ROOT}\n", "utf-8")


def _install(group: str) -> None:
    """pip install one group; its output goes to `.venv/pip-GROUP.log`, the downloads are named on the way."""
    log = VENV / f"pip-{group}.log"
    requirements = ROOT / "requirements" / f"{group}.txt"
    command: list[str | Path] = [PYTHON, "-m", "pip", "install", "--disable-pip-version-check", "-r", requirements]
    print(f"installing requirements/{group}.txt", file=sys.stderr)
    lines: list[str] = []
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, encoding="utf-8", errors="replace"
    ) as pip:
        for line in pip.stdout or ():
            lines.append(line)
            if line.lstrip().startswith("Downloading"):
                print(f"  {line.strip()}", file=sys.stderr, flush=True)
    log.write_text("".join(lines), "utf-8")
    if pip.returncode:
        why = next((line.strip() for line in reversed(lines) if line.startswith("ERROR")), "pip failed")
        raise BuildError(f"cannot install requirements/{group}.txt: {why} (whole output: {log}; run again when mended)")


# ---------------------------------------------------------------- starting things


def call(command: Sequence[str | Path], env: dict[str, str] | None = None) -> int:
    """Run a command to its end and return its exit code.

    Ctrl-C reaches the child by the terminal, and SIGTERM is handed on: the child finishes its frame and commits, so
    this process only waits.
    """
    child = subprocess.Popen([str(part) for part in command], env={**os.environ, **(env or {})})
    before = {
        signal.SIGINT: signal.signal(signal.SIGINT, signal.SIG_IGN),
        signal.SIGTERM: signal.signal(signal.SIGTERM, lambda *_: child.terminate()),
    }
    try:
        code = child.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return code if code >= 0 else 128 - code


def module(*arguments: str | Path) -> int:
    """`.venv/bin/python -m ARGUMENTS`."""
    return call([PYTHON, "-m", *arguments])


def write_scene(take: Path, blend: Path, exports: Sequence[str] = ()) -> int:
    """Take → .blend, and the files that the options `exports` ask for beside it."""
    try:
        return call(*blender_command(take, "--out", blend, *exports))
    except BuildError as error:
        raise BuildError(f"{take} is written, but not {blend}: {error}") from error


def check_exports(exports: Sequence[str]) -> int:
    """Whether an export with these options can be, before a long job; 0, or 2 after one line on stderr."""
    return call(*blender_command("export", "--check", *exports)) if exports else 0


def blender_command(*arguments: str | Path) -> tuple[list[str | Path], dict[str, str]]:
    """`python -m meshpose_blender ARGUMENTS`, by the bpy wheel in `.venv` or by an installed Blender: the command and
    its environment.
    """
    if bpy_fits():
        return [PYTHON, "-m", "meshpose_blender", *arguments], {}
    blender = shutil.which("blender")
    if blender is None:
        wanted = " or ".join(f"{major}.{minor}" for major, minor in BPY_PYTHONS)
        raise BuildError(
            f"no bpy wheel fits Python {platform.python_version()} on {platform.machine()}, and no `blender` is on the "
            f"PATH; install Blender (4.2 or later) or Python {wanted}"
        )
    options: list[str | Path] = ["-b", "--factory-startup", "--python-use-system-env", "--python-exit-code", "1"]
    path = os.pathsep.join([str(ROOT / "core"), str(ROOT), *map(str, opencv_for_blender())])
    script = ROOT / "meshpose_blender" / "__main__.py"
    return [blender, *options, "-P", script, "--", *arguments], {"PYTHONPATH": path}


def opencv_for_blender() -> list[Path]:
    """A folder with `.venv`'s OpenCV and nothing else, for a Blender of another Python; empty where there is none.

    OpenCV's wheel is made for every Python 3; the numpy beside it is not, and must not hide Blender's own.
    """
    found = [*VENV.glob("lib/python3.*/site-packages/cv2"), *VENV.glob("Lib/site-packages/cv2")]
    if not found:
        return []
    alone = VENV / "opencv_for_blender"
    alone.mkdir(exist_ok=True)
    for part in found[0], found[0].with_name("opencv_python_headless.libs"):
        if part.exists() and not (alone / part.name).exists():
            try:
                (alone / part.name).symlink_to(part, target_is_directory=True)
            except OSError:  # Windows without the right to make links
                shutil.copytree(part, alone / part.name)
    return [alone]


def take_of(clip: Path, out: Path) -> Path:
    """Where `meshpose run` has put the Take; the core names it (a clip may be a folder or a pattern)."""
    code = "import sys; from meshpose.convert import take_path; sys.stdout.write(str(take_path(*sys.argv[1:])))"
    asked = subprocess.run([PYTHON, "-X", "utf8", "-c", code, clip, out], capture_output=True, check=True)
    return Path(asked.stdout.decode("utf-8"))


# ---------------------------------------------------------------- the commands


def _split_run(arguments: Sequence[str]) -> tuple[Path | None, Path, list[str]]:
    """`run`'s arguments → clip (None: the sample), output folder, options that go on to `meshpose run`."""
    clips: list[str] = []
    out = "out"
    options: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        if argument == "--":
            clips.extend(rest)
        elif argument == "--out" or argument.startswith("--out="):
            out = argument[6:] if "=" in argument else next(rest, "")
        elif not argument.startswith("-"):
            clips.append(argument)
        else:
            options.append(argument)
            if argument not in RUN_FLAGS and "=" not in argument:
                options.extend([value] if (value := next(rest, None)) is not None else [])
    if len(clips) > 1:
        raise BuildError(f"one clip at a time, but got {len(clips)}: {', '.join(clips)}")
    if not out:
        raise BuildError("--out needs a folder, for example --out out")
    return (Path(clips[0]) if clips else None), Path(out), options


def split_exports(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Arguments without the options of an export, and those."""
    rest: list[str] = []
    exports: list[str] = []
    left = iter(arguments)
    for argument in left:
        if argument == "--":
            rest += [argument, *left]
        elif argument.partition("=")[0] in EXPORT_OPTIONS | EXPORT_FLAGS:
            exports.append(argument)
            if argument in EXPORT_OPTIONS:
                exports += [value] if (value := next(left, None)) is not None else []
        else:
            rest.append(argument)
    return rest, exports


def run(arguments: list[str]) -> int:
    """[CLIP] [--out DIR] [--export LIST] [options]  clip → DIR/x.take, x.blend, x_preview.mp4 (no CLIP: the sample)"""
    arguments, exports = split_exports(arguments)
    clip, out, options = _split_run(arguments)
    environment("runtime", *(["blender"] if bpy_fits() else []))
    if {"-h", "--help"} & set(options):
        return module("meshpose", "run", "--help")
    if clip is None:
        clip = SAMPLE
    code = check_exports(exports)
    if code:
        return code
    # Absolute, so that no name looks like an option.
    code = module("meshpose", "run", Path(os.path.abspath(clip)), f"--out={out}", *options)
    if code:
        return code
    take = take_of(clip, out)
    return write_scene(take, take.with_name(f"{take.stem}.blend"), exports)


def batch(arguments: list[str]) -> int:
    """CLIPS... --out DIR [options]  many clips, one process each, a folder and a scene for each of them"""
    environment("runtime", *(["blender"] if bpy_fits() else []))
    if {"-h", "--help"} & set(arguments):
        return module("meshpose", "batch", "--help")
    arguments, exports = split_exports(arguments)
    code = check_exports(exports)
    if code:
        return code
    command, env = blender_command("{take}", "--out", "{folder}/{name}.blend", *exports)
    # shlex takes Windows' backslashes for its own.
    scene = shlex.join(part.as_posix() if isinstance(part, Path) else part for part in command)
    return call([PYTHON, "-m", "meshpose", "batch", "--then", scene, *arguments], env)


def test(arguments: list[str]) -> int:
    """[--all] [pytest arguments]  ruff, mypy, pytest, the bpy tests; --all adds the slow ones (installs torch)"""
    everything = "--all" in arguments
    chosen = [argument for argument in arguments if argument != "--all"]
    groups = ["runtime", *(["blender"] if bpy_fits() else []), "evaluate", "package", "test"]
    environment(*groups, *(["training", "ray"] if everything else []))
    marks = [] if everything else ["-m", "not slow"]
    os.chdir(ROOT)
    if chosen:
        return module("pytest", *marks, *chosen)
    results = {"ruff": module("ruff", "check", "."), "mypy": module("mypy")}
    with tempfile.TemporaryDirectory() as reports:
        if bpy_fits():
            # A process can import bpy once, and a crash in one file must not take the others with it.
            for file in sorted(Path("tests/blender").glob("test_*.py")):
                if everything or "\npytestmark = pytest.mark.slow\n" not in file.read_text("utf-8"):
                    code = module("pytest", *marks, f"--junitxml={reports}/{file.stem}.xml", file)
                    results[f"bpy {file.name}"] = 0 if code == 5 else code  # 5: every test of the file is a slow one
        else:
            print("tests/blender left out: no bpy wheel fits this Python", file=sys.stderr)
        # Last: its summary is the one that stands at the end of a log.
        results["pytest"] = module("pytest", *marks, f"--junitxml={reports}/pytest.xml")
        total = count_tests(Path(reports))
    print("\n" + "\n".join(f"{'ok    ' if code == 0 else 'FAILED'}  {name}" for name, code in results.items()))
    print(total)
    return int(any(results.values()))


def count_tests(reports: Path) -> str:
    """One line about all runs of pytest that left a report (JUnit's XML) in the folder."""
    counts = dict.fromkeys(("tests", "failures", "errors", "skipped"), 0)
    runs = sorted(reports.glob("*.xml"))
    for path in runs:
        for suite in ElementTree.parse(path).getroot().iter("testsuite"):
            for name in counts:
                counts[name] += int(suite.get(name, 0))
    failed = counts["failures"] + counts["errors"]
    passed = counts["tests"] - failed - counts["skipped"]
    return f"{passed} tests passed, {failed} failed, {counts['skipped']} skipped, in {len(runs)} runs of pytest"


def package(arguments: list[str]) -> int:
    """[--out DIR] [--platform NAME] [--check ZIP ...]  the extension's zips into dist/; or looks into finished ones"""
    environment("runtime", "package")
    return call([PYTHON, ROOT / "tools" / "package.py", *arguments])


def evaluate(arguments: list[str]) -> int:
    """SET.json --images ZIP_OR_FOLDER [options]  figures on any COCO-format set"""
    environment("runtime", "evaluate")
    return module("meshpose", "evaluate", *arguments)


def bench(arguments: list[str]) -> int:
    """[--long] [CLIP] [--model NAME] [--json FILE]  speed, memory, time of the scene; --long: a clip of ten minutes"""
    long = "--long" in arguments
    environment("runtime", "evaluate", *(["blender"] if bpy_fits() else []), *(["test"] if long else []))
    rest = [argument for argument in arguments if argument != "--long"]
    return call([PYTHON, ROOT / "tools" / ("bench_long.py" if long else "bench.py"), *rest])


def info(arguments: list[str]) -> int:
    """TAKE [--json]  what a Take holds"""
    environment("runtime")
    return module("meshpose", "info", *arguments)


COMMANDS: dict[str, Callable[[list[str]], int]] = {
    command.__name__: command for command in (run, batch, test, package, evaluate, bench, info)
}


def help_text() -> str:
    """The lines that `python3 build.py` prints."""
    lines = ["usage: python3 build.py COMMAND ...", ""]
    for name, command in COMMANDS.items():
        arguments, _, says = (command.__doc__ or "").partition("  ")
        lines += [f"  {name} {arguments}", f"      {says}"]
    return "\n".join(lines)


def main(arguments: Sequence[str]) -> int:
    """Run one command; its exit code, or 2 after one line on stderr."""
    if sys.version_info < (3, 11):  # noqa: UP036 - said here, or an old Python ends in a traceback
        print(f"error: Python {platform.python_version()} is too old; use Python 3.11 or later", file=sys.stderr)
        return 2
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        with contextlib.suppress(BrokenPipeError):  # `python3 build.py | head`
            print(help_text(), flush=True)
        return 0
    name, *rest = arguments
    if name not in COMMANDS:
        print(f"error: no command {name!r}; there are: {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    try:
        return COMMANDS[name](rest)
    except BuildError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
