# SPDX-License-Identifier: GPL-3.0-or-later
"""Exports from a shell: the options that say what is written, and a Take made into those files.

    wanted = parse(["--export", "fbx,abc", "--preset", "unreal"])
    produce(Path("dancer.take"), Path("dancer.blend"), wanted)         # the scene, and the files beside it
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import bpy

from meshpose.errors import InputError
from meshpose.take import Take

from . import formats
from .export import ExportSettings, export_people, write_blend
from .keys import KeySettings
from .presets import PRESETS, preset
from .scene import BuiltTake, build_scene

SMPLX = "smplx"
"""The format that needs no Blender: parameters of the SMPL-X body, fitted to the Take by the core."""


@dataclass(frozen=True)
class Request:
    """What a shell asked for: formats of Blender and their settings (None: none of them), whether SMPL-X parameters
    with the model in the file `model`, rig: of `meshpose.rigs`, only_turns: see `keys.KeySettings`.
    """

    settings: ExportSettings | None = None
    smplx: bool = False
    model: Path | None = None
    rig: str = "default"
    only_turns: bool = False

    def __bool__(self) -> bool:
        return self.settings is not None or self.smplx


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of an export; `request` reads them."""
    names = ",".join([*formats.FORMATS, SMPLX])
    programs = ", ".join(sorted(filter(None, PRESETS)))
    parser.add_argument("--export", metavar="LIST", help=f"formats, beside the .blend: {names}")
    parser.add_argument("--preset", metavar="PROGRAM", default="", help=f"made for a program: {programs}")
    parser.add_argument("--rig", metavar="NAME", default="default", help="bones: default, mixamo, game_engine, rigify")
    parser.add_argument("--one-file", action="store_true", help="all people in one file, not one file each")
    parser.add_argument("--only-turns", action="store_true", help="bones do not shift against their parents")
    parser.add_argument("--smplx-model", type=Path, metavar="FILE", help="your SMPLX_NEUTRAL.npz, for --export smplx")


def parse(words: Sequence[str]) -> Request:
    """What words of a command line ask for.  InputError where they cannot be."""
    parser = Parser(prog="--export", add_help=False, allow_abbrev=False)
    add_options(parser)
    return request(parser.parse_args(words))


def request(options: argparse.Namespace) -> Request:
    """What the options of `add_options` say.  InputError where it cannot be."""
    chosen = preset(options.preset)
    if options.rig != "default":
        _check_rig(options.rig)
    if options.export is None and not options.preset:
        return Request(rig=options.rig, only_turns=options.only_turns)
    names = formats.parse(options.export or chosen.formats, more=[SMPLX])
    ours = tuple(name for name in names if name != SMPLX)
    wants_smplx = SMPLX in names
    if wants_smplx:
        from meshpose.smplx import Model

        if options.smplx_model is None:
            raise InputError("--export smplx: give your own model file with --smplx-model SMPLX_NEUTRAL.npz")
        Model.load(options.smplx_model)
    settings = ExportSettings(ours, options.preset, options.one_file) if ours else None
    return Request(settings, wants_smplx, options.smplx_model, options.rig, options.only_turns)


def _check_rig(name: str) -> None:
    from meshpose import rigs

    if name not in rigs.names():
        raise InputError(f"--rig {name}: there are {', '.join(rigs.names())}")


def produce(
    take: Path, blend: Path | None, wanted: Request, stem: Path | None = None, footage: Path | None = None,
    into: Path | None = None,
) -> tuple[BuiltTake, list[Path]]:  # fmt: skip
    """Write the .blend (None: none) and the files that are wanted; the scene, and the paths of the files.

    stem: path of the files without `_person01.fbx` (default: that of the .blend, else of the Take).  The .blend is
    there even when an export fails.  Raises MeshPoseError.
    """
    if wanted:
        _ready(take)
    stem = stem or (blend or take).with_suffix("")
    keys = KeySettings(only_turns=wanted.only_turns)
    if blend is not None:
        built = write_blend(take, blend, footage, into, wanted.rig, keys)
        return built, _export(take, built, stem, wanted)
    with tempfile.TemporaryDirectory() as folder:  # where a copy of the footage would go
        bpy.ops.wm.read_homefile(use_empty=True, use_factory_startup=True)
        built = build_scene(take, footage, folder, rig=wanted.rig, keys=keys)
        return built, _export(take, built, stem, wanted)


def _ready(path: Path) -> None:
    """InputError where there is nothing to be exported (yet)."""
    with Take.open(path) as take:
        if not take.finished:
            raise InputError(f"{path}: this Take is not finished; give the same `run` again, and it goes on")
        if not take.people:
            raise InputError(f"{path}: there is nobody in it to be exported")


def _export(take: Path, built: BuiltTake, stem: Path, wanted: Request) -> list[Path]:
    if not wanted:
        return []
    also: Callable[[Path], None] | None = None
    if wanted.smplx and wanted.model is not None:
        also = smplx_writer(take, stem.name, wanted.model)
    return export_people(built, stem, wanted.settings, also=also)


def smplx_writer(path: Path, name: str, model: Path) -> Callable[[Path], None]:
    """Writes `name_personNN_smplx.npz` of everybody in the Take into a folder.  InputError for another model file."""
    from meshpose.smplx import Model, fit_person

    loaded = Model.load(model)

    def write(folder: Path) -> None:
        with Take.open(path) as take:
            for number in take.people:
                parameters = fit_person(take.person(number), loaded)
                if parameters is not None:
                    parameters.save(folder / f"{name}_person{number:02d}_smplx.npz")

    return write


def main(words: Sequence[str]) -> int:
    """`export TAKE --export LIST [--out DIR]`: the files alone, without a .blend.  Raises MeshPoseError.

    `export --check --export LIST ...` says at once whether such an export can be, for who has a long job before it.
    """
    parser = Parser(prog="export", allow_abbrev=False, description="Write a Take's people in other programs' formats.")
    parser.add_argument("take", type=Path, nargs="?")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder of the files (default: beside the Take)")
    parser.add_argument("--check", action="store_true", help="only say whether these options can be")
    add_options(parser)
    options = parser.parse_args(words)
    wanted = request(options)
    if options.check:
        return 0
    if not wanted:
        raise InputError(f"--export: say which formats: {','.join([*formats.FORMATS, SMPLX])}")
    if options.take is None:
        raise InputError("export: which Take? (a .take file)")
    folder = options.out or Path(os.path.abspath(options.take)).parent
    built, files = produce(options.take, None, wanted, folder / options.take.stem)
    tell(built, files)
    return 0


def tell(built: BuiltTake, files: Sequence[Path]) -> None:
    """Warnings on stderr, one path a line on stdout."""
    for note in built.notes:
        print(f"warning: {note}", file=sys.stderr)
    for file in files:
        print(file, flush=True)


VALUED, FLAGS = ("--export", "--preset", "--rig", "--smplx-model"), ("--one-file", "--only-turns")
"""Names of `add_options`' options, with and without a value."""


def split(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Words of a command line without those of `add_options`, and those."""
    rest: list[str] = []
    ours: list[str] = []
    left = iter(words)
    for word in left:
        name, equals, _ = word.partition("=")
        if word == "--":
            rest += [word, *left]
        elif name in VALUED:
            ours += [word] if equals else [word, *([value] if (value := next(left, None)) is not None else [])]
        else:
            (ours if word in FLAGS else rest).append(word)
    return rest, ours


class Parser(argparse.ArgumentParser):
    """argparse whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; `{self.prog} --help` says what there is")
