# SPDX-License-Identifier: Apache-2.0
"""Where the weight files are, and whether they are the right ones.

    from meshpose import weights
    body_file = weights.path("body.npz")

In an installed package the files lie in `meshpose/weights/` (package data); in a checkout in `weights/` at the top.
`weights/sha256.json` names every file and its SHA-256.  `python -m meshpose.weights` writes it anew after a change.
"""

from __future__ import annotations

import functools
import hashlib
import json
from importlib import resources
from pathlib import Path

from .errors import WeightsError

LIST = "sha256.json"


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
    try:
        listed = json.loads((folder() / LIST).read_text())
    except (OSError, ValueError) as error:
        raise WeightsError(f"{folder() / LIST}: cannot be read ({error}); install MeshPose again") from error
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
