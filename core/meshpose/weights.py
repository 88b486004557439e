# SPDX-License-Identifier: Apache-2.0
"""Where the weight files are, and whether they are the right ones.

    from meshpose import weights
    body_file = weights.path("body.npz")

In an installed package the files lie in `meshpose/weights/` (package data); in a checkout in `weights/` at the top.
`weights/sha256.json` names every file and its SHA-256.  `python -m meshpose.weights` writes it anew after a change.

    weights.models()                            # ["accurate", "fast"]: the sizes of the network that are here
"""

from __future__ import annotations

import functools
import hashlib
import json
from importlib import resources
from pathlib import Path

from .errors import InputError, WeightsError

LIST = "sha256.json"
SIZES = ("accurate", "fast")
"""The sizes in which the network is shipped, in the order in which they are offered."""
DEFAULT = SIZES[0]
HELPERS = ("people.onnx", "depth.onnx")
"""Networks of the folder that find people, and that know motion; every other one makes meshes."""


def folder() -> Path:
    """The folder of the weight files: package data when installed, the checkout's `weights/` otherwise."""
    packed = Path(str(resources.files(__package__))) / "weights"
    return packed if packed.is_dir() else Path(__file__).resolve().parents[2] / "weights"


@functools.cache
def path(name: str) -> Path:
    """Path of the weight file `name`, checked against its SHA-256 once per process.

    Raises WeightsError when the file is missing or its content is not the expected one.
    """
    file = folder() / name
    listed = _listed()
    if name not in listed:
        known = ", ".join(sorted(listed))
        raise WeightsError(f"{name}: not a weight file of this version (there are: {known})")
    try:
        found = digest(file)
    except OSError as error:
        raise WeightsError(f"{file}: cannot be read ({error.strerror}); install MeshPose again") from error
    if found != listed[name]:
        raise WeightsError(f"{file}: the file is damaged (its SHA-256 is not the listed one); install MeshPose again")
    return file


def models() -> list[str]:
    """Names of the networks that can be chosen: the sizes of SIZES that are here, then others by name.

    `sha256.json` says what is here: a file that lies in the folder unlisted is none of this version's.  Raises
    WeightsError when that list cannot be read.
    """
    found = {name.removesuffix(".onnx") for name in _listed() if name.endswith(".onnx") and name not in HELPERS}
    return [*(size for size in SIZES if size in found), *sorted(found.difference(SIZES))]


def model_file(model: str) -> str:
    """The weight file of the network called `model`.  InputError where there is none of that name."""
    there = models()
    if model not in there:
        raise InputError(f"--model {model}: this MeshPose has no such network; choose {' or '.join(there)}")
    return f"{model}.onnx"


def _listed() -> dict[str, str]:
    """Weight file -> its SHA-256, from the list."""
    try:
        listed: dict[str, str] = json.loads((folder() / LIST).read_text())
    except (OSError, ValueError) as error:
        raise WeightsError(f"{folder() / LIST}: cannot be read ({error}); install MeshPose again") from error
    return listed


def digest(file: Path) -> str:
    """SHA-256 of a file as hex."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_list() -> dict[str, str]:
    """Write `sha256.json` for all `.npz` and `.onnx` files of the folder and its folders; returns what was written."""
    files = sorted(p for p in folder().rglob("*") if p.suffix in (".npz", ".onnx"))
    listed = {p.relative_to(folder()).as_posix(): digest(p) for p in files}
    (folder() / LIST).write_text(json.dumps(listed, indent=1) + "\n")
    return listed


if __name__ == "__main__":
    for name, value in write_list().items():
        print(value, name)
