# SPDX-License-Identifier: Apache-2.0
"""The rules of docs/ARCHITECTURE.md, held by reading the sources: imports, sizes, licences, no strange paths."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CORE = ROOT / "core" / "meshpose"
BLENDER = ROOT / "meshpose_blender"

#: Floors of the core, ground first. A module imports only from floors below its own, or as BESIDE allows.
FLOORS: tuple[frozenset[str], ...] = (
    frozenset({"errors"}),
    frozenset({"weights"}),
    frozenset({"crop", "body", "upsample", "raster", "container", "database", "matching", "session", "mapping"}),
    frozenset({"rig_prior"}),
    frozenset({"rig_solve"}),
    frozenset({"rig_start"}),
    frozenset({"video", "detect", "network", "camera", "rig", "rigs", "estimate", "track", "metrics", "coco"})
    | frozenset({"smooth", "repair", "ground", "contact", "feet", "trajectory", "order"}),
    frozenset({"corrections", "depth"}),  # solves with the rig; knows the camera
    frozenset({"likely"}),  # places by the rig's prior, then by the motion
    frozenset({"motion", "retarget"}),  # brings smoothing, floor, feet and the way through space together
    frozenset({"records"}),  # what a Take's values may be
    frozenset({"edits"}),
    frozenset({"take_depth", "take_motion", "take_edits", "take_corrections"}),
    frozenset({"take"}),  # keeps what those make: their dataclasses, none of their work
    frozenset({"convert", "preview", "evaluate", "landmarks", "look", "moving", "smplx"}),
    frozenset({"batch_task", "exporter"}),  # one clip's process; a Blender as a program
    frozenset({"edit_commands", "batch", "ray_batch", "cli"}),
    frozenset({"__init__", "__main__"}),
)
#: The few that know a neighbour on their own floor.
BESIDE = {
    ("estimate", "network"),
    ("track", "detect"),
    ("track", "estimate"),
    ("repair", "smooth"),
    ("contact", "smooth"),
    ("feet", "contact"),
    ("feet", "smooth"),
    ("trajectory", "smooth"),
    ("order", "smooth"),
    ("convert", "preview"),
    ("convert", "moving"),
    ("evaluate", "landmarks"),
    ("cli", "batch"),
    ("cli", "edit_commands"),
    ("batch", "ray_batch"),
    ("__main__", "__init__"),
}
CORE_LIBRARIES = {"numpy", "cv2", "onnxruntime", "threadpoolctl"}
#: Soft dependencies and the one module that each belongs to.
SOFT_LIBRARIES = {
    "cli": {"tqdm"},
    "evaluate": {"tqdm"},
    "coco": {"pycocotools"},
    "metrics": {"pycocotools"},
    "landmarks": {"ai_edge_litert"},
    "batch": {"tqdm"},
    "ray_batch": {"ray"},
}
#: What the extension may know of the core: the Take, the body, and the job; never the network.
NETWORK_SIDE = {"network", "detect", "track", "estimate", "landmarks", "evaluate", "crop"}


def tracked() -> list[Path]:
    """Files that git knows (or would add); outside of a git checkout, everything but caches."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if listed.returncode == 0:
        return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]
    hidden = re.compile(r"(^|/)(\.venv|\.git|\.cache|__pycache__|build|dist|out)/")
    return [p for p in ROOT.rglob("*") if p.is_file() and not hidden.search(p.relative_to(ROOT).as_posix())]


def sources(folder: Path) -> list[Path]:
    """Python files under a folder."""
    return sorted(p for p in tracked() if p.suffix == ".py" and p.is_relative_to(folder))


def imports(file: Path, package: str = "") -> Iterator[tuple[str, bool]]:
    """(full module name, only for type checking) of every import in a file, wherever it stands."""
    tree = ast.parse(file.read_text("utf-8"), str(file))
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for statement in node.body
        for inner in ast.walk(statement)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for name in node.names:
                yield name.name, id(node) in typing_only
        elif isinstance(node, ast.ImportFrom):
            base = f"{package}.{node.module or ''}".rstrip(".") if node.level else (node.module or "")
            yield base, id(node) in typing_only
            for name in node.names:
                yield f"{base}.{name.name}", id(node) in typing_only


def floor(module: str) -> int | None:
    """Number of the floor that a module of the core stands on."""
    return next((n for n, names in enumerate(FLOORS) if module in names), None)


def upward(module: str, others: set[str]) -> list[str]:
    """Those of `others` that `module` must not import."""
    own = floor(module)
    assert own is not None
    return sorted(o for o in others if o != module and (floor(o) or 0) >= own and (module, o) not in BESIDE)


@pytest.mark.parametrize("file", sources(CORE), ids=lambda p: p.name)
def test_core_imports_one_way(file: Path) -> None:
    known = {m for names in FLOORS for m in names}
    assert file.stem in known, f"{file.name} has no floor yet: give it one here and in docs/ARCHITECTURE.md"
    ours: set[str] = set()
    strangers: set[str] = set()
    for name, typing_only in imports(file, "meshpose"):
        top, _, rest = name.partition(".")
        if top == "meshpose":
            inner = rest.partition(".")[0]
            ours |= {inner} & known if inner and not typing_only else set()
        elif top not in sys.stdlib_module_names:
            strangers.add(top)
    strangers -= CORE_LIBRARIES | SOFT_LIBRARIES.get(file.stem, set())
    assert not strangers, f"{file.name} imports {sorted(strangers)}"
    assert not upward(file.stem, ours), f"{file.name} imports upward or sideways: {upward(file.stem, ours)}"


def test_the_import_rule_can_fail(tmp_path: Path) -> None:
    bad = tmp_path / "body.py"
    bad.write_text("def f():\n    from .convert import convert\n    import torch.nn\n")
    names = {name for name, _ in imports(bad, "meshpose")}
    assert {"meshpose.convert", "torch.nn"} <= names
    assert upward("body", {"convert", "errors"}) == ["convert"]
    assert upward("camera", {"rig", "body"}) == ["rig"]
    assert upward("track", {"detect", "estimate", "crop"}) == []


def test_core_loads_without_blender_and_torch() -> None:
    """Every room of the core is really imported, in a process where bpy, torch and the rest cannot be."""
    modules = [f"meshpose.{p.stem}" for p in sources(CORE) if p.stem not in ("__main__", "__init__")]
    code = (
        "import importlib, sys\n"
        "for name in ('bpy', 'torch', 'anny', 'scipy', 'training', 'meshpose_blender'): sys.modules[name] = None\n"
        f"for name in {modules!r}: importlib.import_module(name)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT / "core")
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("file", sources(BLENDER), ids=lambda p: p.name)
def test_extension_knows_the_take_not_the_network(file: Path) -> None:
    for name, _ in imports(file, "meshpose_blender"):
        top, _, rest = name.partition(".")
        assert top not in {"torch", "training", "onnxruntime", "cv2", "anny"}, f"{file.name} imports {name}"
        assert not (top == "meshpose" and rest.partition(".")[0] in NETWORK_SIDE), f"{file.name} imports {name}"


def test_only_the_extension_and_its_tests_know_blender() -> None:
    for file in sources(ROOT):
        if file.is_relative_to(BLENDER) or file.is_relative_to(ROOT / "tests" / "blender"):
            continue
        if file.is_relative_to(ROOT / "tools"):  # the bench and the packager start Blender
            continue
        names = {name.partition(".")[0] for name, _ in imports(file)}
        assert not names & {"bpy", "mathutils"}, f"{file.relative_to(ROOT)} imports Blender"


def test_files_fit_the_head() -> None:
    long = {
        str(p.relative_to(ROOT)): n
        for p in tracked()
        if p.suffix in {".py", ".sh"} and (n := len(p.read_text("utf-8").splitlines())) > 600
    }
    assert not long, f"over 600 lines: {long}"


def test_every_source_says_its_licence() -> None:
    for file in tracked():
        if file.suffix not in {".py", ".sh"}:
            continue
        wanted = "GPL-3.0-or-later" if file.is_relative_to(BLENDER) else "Apache-2.0"
        head = "\n".join(file.read_text("utf-8").splitlines()[:3])
        if wanted == "Apache-2.0" and file.is_relative_to(ROOT / "tests" / "blender"):
            continue  # they run inside Blender and may be either
        assert f"SPDX-License-Identifier: {wanted}" in head, f"{file.relative_to(ROOT)} lacks its SPDX line ({wanted})"


def test_licence_files_are_there() -> None:
    apache, gpl = "Apache License", "GNU GENERAL PUBLIC LICENSE"
    expected = {"LICENSE": apache, "core/LICENSE": apache, "training/LICENSE": apache, "meshpose_blender/LICENSE": gpl}
    for name, words in expected.items():
        text = (ROOT / name).read_text("utf-8")
        assert words in text and len(text) > 10_000, f"{name} is not the whole licence"
    notice = (ROOT / "NOTICE").read_text("utf-8")
    for owner in (
        "BlazePose models, (c) Google",
        "MoveNet MultiPose Lightning, (c) Google",
        "NAVER",
        "mocap.cs.cmu.edu",
    ):
        assert owner in notice, f"NOTICE does not name {owner}"


def test_no_strange_paths() -> None:
    """Nothing that users read or run names a folder of the machines it was made on."""
    machine = re.compile("(?<![A-Za-z0-9_.])/" + r"(work|tmp|root)/(?!\.X11-unix)")
    neighbour = re.compile(r"(\.\./|/)" + "shared" + r"\b")
    for file in tracked():
        if file.suffix not in {".py", ".md", ".toml", ".txt", ".sh", ".json", ".cfg"} and file.name != "run":
            continue
        text = file.read_text("utf-8")
        found = machine.search(text)
        assert not found, f"{file.relative_to(ROOT)} names {found.group(0) if found else ''}"
        if file.relative_to(ROOT).parts[0] not in {"training", "tests"}:
            assert not neighbour.search(text), f"{file.relative_to(ROOT)} names a folder beside the checkout"


@pytest.mark.parametrize(
    "page", [p for p in tracked() if p.suffix == ".md"], ids=lambda p: p.relative_to(ROOT).as_posix()
)
def test_links_lead_somewhere(page: Path) -> None:
    """Relative links and pictures of a page exist."""
    text = re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" not in target and not target.startswith("#"):
            assert (page.parent / target.partition("#")[0]).exists(), f"{page.relative_to(ROOT)} links to {target}"


def test_versions_of_blender_are_asked_in_one_place() -> None:
    """`compat.py` alone decides by the version; texts may say it (`version_string`)."""
    asked = {file.name for file in BLENDER.glob("*.py") if re.search(r"app\.version\b", file.read_text("utf-8"))}
    assert asked == {"compat.py"}
