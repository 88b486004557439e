# SPDX-License-Identifier: Apache-2.0
"""build.py: its commands, the environment that it makes and mends, scenes without bpy; the wheel of the core."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]
posix = pytest.mark.skipif(os.name == "nt", reason="POSIX signals and scripts")


@pytest.fixture
def build() -> ModuleType:
    """build.py as a fresh module."""
    spec = importlib.util.spec_from_file_location("checkout_build", ROOT / "build.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def sandbox(build: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """build.py over an empty checkout with a small `a.txt` and `b.txt` in requirements/."""
    (tmp_path / "requirements").mkdir()
    for group in ("a", "b"):
        (tmp_path / "requirements" / f"{group}.txt").write_text("# nothing\n")
    monkeypatch.setattr(build, "ROOT", tmp_path)
    monkeypatch.setattr(build, "VENV", tmp_path / ".venv")
    monkeypatch.setattr(build, "PYTHON", tmp_path / ".venv" / build.PYTHON.relative_to(ROOT / ".venv"))
    return build


# ---------------------------------------------------------------- what users see


@pytest.mark.parametrize(
    ("failing", "words"),
    [(False, "3 tests passed, 0 failed, 1 skipped"), (True, "3 tests passed, 2 failed, 1 skipped")],
)
def test_last_line_counts_all_tests(build: ModuleType, tmp_path: Path, failing: bool, words: str) -> None:
    """Reports of pytest itself: two runs, one of them with what it deselects and, if asked for, what fails."""
    (tmp_path / "test_a.py").write_text(
        "import pytest\n"
        "def test_one(): pass\n"
        "def test_two(): pass\n"
        "def test_skipped(): pytest.skip('no')\n"
        "@pytest.mark.slow\n"
        "def test_slow(): raise SystemError\n"
    )
    broken = "def test_wrong(): assert 0\n@pytest.fixture\ndef no(): raise OSError\ndef test_error(no): pass\n"
    (tmp_path / "test_b.py").write_text("import pytest\ndef test_three(): pass\n" + (broken if failing else ""))
    for name in ("a", "b"):
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "-o",
            "markers=slow: so",
            "-m",
            "not slow",
        ]
        subprocess.run(
            [*command, f"--junitxml={tmp_path / name}.xml", f"test_{name}.py"], cwd=tmp_path, capture_output=True
        )
    assert build.count_tests(tmp_path) == f"{words}, in 2 runs of pytest"


def test_alone_it_prints_help() -> None:
    result = subprocess.run([sys.executable, ROOT / "build.py"], capture_output=True, text=True)
    assert result.returncode == 0
    for command in ("run", "test", "package", "evaluate", "bench", "info"):
        assert f"\n  {command} " in result.stdout


def test_unknown_command_is_one_line(build: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert build.main(["fly"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "'fly'" in error and "run" in error


def test_build_uses_the_standard_library_only() -> None:
    result = subprocess.run([sys.executable, "-I", "-S", ROOT / "build.py"], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    ("given", "clip", "out", "options"),
    [
        ([], None, "out", []),
        (["a b.mp4"], "a b.mp4", "out", []),
        (["--out", "x", "a.mp4"], "a.mp4", "x", []),
        (["--person", "2", "--out=y"], None, "y", ["--person", "2"]),
        (["--no-preview", "a.mp4", "--height", "1.8"], "a.mp4", "out", ["--no-preview", "--height", "1.8"]),
        (["--restart", "a.mp4"], "a.mp4", "out", ["--restart"]),
        (["--restart", "--", "-a.mp4"], "-a.mp4", "out", ["--restart"]),
    ],
)
def test_run_arguments(build: ModuleType, given: list[str], clip: str | None, out: str, options: list[str]) -> None:
    expected = (Path(clip) if clip else None, Path(out), options)
    assert build._split_run(given) == expected


def test_options_of_an_export_go_to_the_scene(build: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["a.mp4", "--export", "fbx", "--height", "1.7", "--rig=mixamo", "--one-file", "--", "--export"]
    rest, exports = build.split_exports(words)
    assert rest == ["a.mp4", "--height", "1.7", "--", "--export"]
    assert exports == ["--export", "fbx", "--rig=mixamo", "--one-file"]
    started: list[list[str]] = []
    codes = [0] * 5

    def call(command: list[object], env: object = None) -> int:
        started.append([*map(str, command)])
        return codes.pop()

    monkeypatch.setattr(build, "environment", lambda *groups: None)
    monkeypatch.setattr(build, "bpy_fits", lambda: True)
    monkeypatch.setattr(build, "call", call)
    monkeypatch.setattr(build, "take_of", lambda clip, out: Path("out") / "a.take")
    assert build.run(["a.mp4", "--export", "fbx", "--no-preview"]) == 0
    check, job, scene = started
    assert check[2:] == ["meshpose_blender", "export", "--check", "--export", "fbx"]
    assert job[2:4] == ["meshpose", "run"] and "--export" not in job and "--no-preview" in job
    take, blend = str(Path("out/a.take")), str(Path("out/a.blend"))
    assert scene[2:] == ["meshpose_blender", take, "--out", blend, "--export", "fbx"]
    started.clear()
    assert build.batch(["a.mp4", "--out", "night", "--export", "fbx", "--preset", "unity"]) == 0
    then = started[1][started[1].index("--then") + 1]
    assert then.endswith("--export fbx --preset unity") and started[1][-3:] == ["a.mp4", "--out", "night"]
    started.clear()
    codes.append(2)
    assert build.run(["a.mp4", "--export", "obj"]) == 2 and len(started) == 1, "refused before the long job"


def test_run_takes_one_clip(build: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert build.main(["run", "a.mp4", "b.mp4"]) == 2
    assert "one clip" in capsys.readouterr().err


# ---------------------------------------------------------------- the environment


def test_environment_installs_what_is_missing_and_mends(sandbox: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []

    def make() -> None:
        done.append("venv")
        sandbox.VENV.mkdir(exist_ok=True)

    monkeypatch.setattr(sandbox, "_make_venv", make)
    monkeypatch.setattr(sandbox, "_install", done.append)
    monkeypatch.setattr(sandbox, "PYTHON", Path(sys.executable))

    def expect(groups: list[str], work: list[str]) -> None:
        done.clear()
        sandbox.environment(*groups)
        assert done == work

    expect(["a"], ["venv", "a"])
    expect(["a"], [])
    expect(["a", "b"], ["b"])
    expect(["b"], [])
    (sandbox.ROOT / "requirements" / "a.txt").write_text("# other pins\n")
    expect(["b"], ["venv", "b"])
    (sandbox.VENV / "stamp.json").unlink()  # as a killed pip leaves it
    expect(["a", "b"], ["venv", "a", "b"])
    monkeypatch.setattr(sandbox, "PYTHON", sandbox.ROOT / "no-python")  # the system's Python was replaced
    expect(["a"], ["venv", "a"])


def test_interrupted_install_leaves_no_stamp(sandbox: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "_make_venv", lambda: sandbox.VENV.mkdir(exist_ok=True))
    monkeypatch.setattr(sandbox, "_install", lambda group: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        sandbox.environment("a")
    assert not (sandbox.VENV / "stamp.json").exists()


def test_real_environment_finds_the_checkout(sandbox: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    (sandbox.ROOT / "core" / "somecore").mkdir(parents=True)
    (sandbox.ROOT / "core" / "somecore" / "__init__.py").write_text("")
    (sandbox.ROOT / "someroot.py").write_text("")
    sandbox.environment("a")
    code = subprocess.run([sandbox.PYTHON, "-c", "import somecore, someroot"], cwd=Path.home()).returncode
    assert code == 0
    assert json.loads((sandbox.VENV / "stamp.json").read_text()) == {"a": sandbox._digest("a")}
    (sandbox.ROOT / "requirements" / "b.txt").write_text("./there-is-no-such-folder\n")
    capsys.readouterr()
    with pytest.raises(sandbox.BuildError, match="requirements/b.txt: ERROR.*there-is-no-such-folder"):
        sandbox.environment("a", "b")


def test_pins_are_exact() -> None:
    for file in (ROOT / "requirements").glob("*.txt"):
        for line in file.read_text("utf-8").splitlines():
            text = line.partition("#")[0].strip()
            assert not text or "==" in text.partition(";")[0], f"{file.name}: {line}"


def test_training_pins_torch_first() -> None:
    lines = (ROOT / "requirements" / "training.txt").read_text("utf-8").splitlines()
    assert next(line for line in lines if not line.startswith("#")) == "torch==2.13.0"


# ---------------------------------------------------------------- starting things


def test_no_wheel_and_no_blender_is_one_line(build: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "bpy_fits", lambda: False)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(build.BuildError, match="x.take is written, but not .*install Blender"):
        build.write_scene(Path("x.take"), Path("x.blend"))


@posix
def test_installed_blender_writes_the_scene(build: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in `blender` writes down how it was called into the file that it was asked to save."""
    fake = tmp_path / "blender"
    fake.write_text(
        f"#!{sys.executable}\nimport json, os, sys\n"
        "json.dump([sys.argv[1:], os.environ['PYTHONPATH']], open(sys.argv[-1], 'w'))\n"
    )
    fake.chmod(0o755)
    monkeypatch.setattr(build, "bpy_fits", lambda: False)
    monkeypatch.setenv("PATH", str(tmp_path))
    blend = tmp_path / "it's a scene.blend"
    assert build.write_scene(tmp_path / "x y.take", blend) == 0
    words, path = json.loads(blend.read_text())
    assert words[0] == "-b" and Path(words[words.index("-P") + 1]).is_file()
    assert words[words.index("--") :] == ["--", str(tmp_path / "x y.take"), "--out", str(blend)]
    assert path.split(os.pathsep)[:2] == [str(ROOT / "core"), str(ROOT)]


def test_blender_of_another_python_gets_opencv_but_no_numpy(
    build: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packages = tmp_path / "lib" / "python3.12" / "site-packages"
    for name in ("cv2", "numpy", "opencv_python_headless.libs"):
        (packages / name).mkdir(parents=True)
    monkeypatch.setattr(build, "VENV", tmp_path)
    for _ in range(2):
        (folder,) = build.opencv_for_blender()
        assert sorted(p.name for p in folder.iterdir()) == ["cv2", "opencv_python_headless.libs"]


@posix
def test_sigterm_lets_the_child_finish(tmp_path: Path) -> None:
    child = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: (print('committed', flush=True), sys.exit(130)))\n"
        "print('ready', flush=True); time.sleep(30)\n"
    )
    code = f"import build, sys; sys.exit(build.call([sys.executable, '-c', {child!r}]))"
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout and parent.stdout.readline() == "ready\n"
        parent.send_signal(signal.SIGTERM)
        assert parent.stdout.read() == "committed\n"
        assert parent.wait(10) == 130


@posix
def test_ci_entry_is_a_sound_script() -> None:
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    subprocess.run(["bash", "-n", ROOT / ".ci" / "run"], check=True)
    assert "build.py test" in (ROOT / ".ci" / "run").read_text()


# ---------------------------------------------------------------- the wheel


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The core's wheel, built from the checkout without network."""
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("wheel")
    command: list[str | Path] = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        folder,
        ROOT,
    ]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    return next(folder.glob("meshpose-*.whl"))


def test_wheel_holds_core_weights_and_licences(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    for file in (ROOT / "weights").iterdir():
        if file.suffix in {".npz", ".onnx", ".json"}:
            assert f"meshpose/weights/{file.name}" in names
    assert "meshpose/convert.py" in names
    for licence in ("LICENSE", "NOTICE", "THIRD_PARTY.md"):
        assert any(n.endswith(f"licenses/{licence}") for n in names), f"{licence} is not in the wheel"
    strangers = [n for n in names if not n.startswith("meshpose")]
    assert not strangers, f"{strangers[:3]}"
    assert wheel.name.endswith("-py3-none-any.whl")


def test_installed_wheel_finds_its_weights(wheel: Path, tmp_path: Path) -> None:
    command: list[str | Path] = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--target",
        tmp_path,
        wheel,
    ]
    subprocess.run(command, check=True, capture_output=True)
    code = "import meshpose; from meshpose import weights; print(weights.path('body.npz'), meshpose.__version__)"
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    file, version = result.stdout.split()
    assert Path(file) == tmp_path / "meshpose" / "weights" / "body.npz"
    assert f"-{version}-" in wheel.name


def test_extras_match_the_pins() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    pins = (ROOT / "requirements" / "blender.txt").read_text("utf-8")
    for requirement in extras["blender"]:
        assert requirement.replace("'", '"') in pins
