# SPDX-License-Identifier: Apache-2.0
"""Types of command line arguments."""

from __future__ import annotations

from argparse import ArgumentTypeError
from pathlib import Path


def existing_file(text: str) -> Path:
    """The path of a file that is there; argparse says the rest in a line and exits with 2."""
    if not (path := Path(text)).is_file():
        raise ArgumentTypeError(f"{path}: there is no such file")
    return path


def existing_folder(text: str) -> Path:
    """The path of a folder that is there."""
    if not (path := Path(text)).is_dir():
        raise ArgumentTypeError(f"{path}: there is no such folder")
    return path
