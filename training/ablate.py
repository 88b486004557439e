# SPDX-License-Identifier: Apache-2.0
"""What each part of the data and of the losses is worth: short runs of the same length, one thing left out in each.

    python -m training.ablate --data DATA --synth RENDERS --models MODELS --out RUNS [--only VARIANT ...] [--threads 1]
                              [--start weights/fast.onnx] [--bodies BODIES.npy] [--fits FOLDER]
    python -m training.ablate --out RUNS --table          # of the runs that are there

Every variant begins at BlazePose's encoder and an untrained head, sees the same number of crops in the same order of
phases (encoder frozen, then not) and is judged on the same persons, who are never trained on.  The regression branch is
left out of most: it reads what the heatmaps say.  The last variants have it, as the paper's Table 2.  With --start all
begin at a trained file instead.  With --fits the photographs that are trained on have the fits of another folder
(`training.fit --without …`); those set apart keep DATA's, so that all are judged alike.  A run's length is counted in
steps, so that a busy machine changes nothing.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from .arguments import existing_file, existing_folder
from .checkpoint import AnotherNetwork, build, read_back
from .data import Change, Person, photographs, renders, set_apart, some_meshes
from .held import Held
from .paste import Crowd
from .second_look import SecondLook
from .train import Config, Geometry, Trainer, batches

STEP = 0.1
"""Minutes that a step counts in `Config`'s terms."""
FROZEN, STEPS = 60, 160
COMMON = {
    "encoder": "full", "minutes": STEP * STEPS, "head_minutes": STEP * FROZEN, "ramp_minutes": 1.0, "regression": 0.0,
    "head_rate_tuned": 1e-3, "encoder_rate": 1e-4, "average": 0.98,
}  # fmt: skip
WITHOUT_2D: dict[str, object] = {
    "heat": 0.0, "barycentric": 0.0, "consistency": 0.0, "joint": 0.0, "mask": 0.0,
    "regression": 0.25, "visibility": 0.0,
}  # fmt: skip

Choice = Callable[[Person], bool]


@dataclass(frozen=True)
class Variant:
    """One run: what of `Config` is other than COMMON, which persons are trained on, whether photographs have the
    vertices of their fits (without them they have joints alone: labels, or the fit's where there are none), whether
    crops stand as the picture does, what of `SecondLook` corrects the mesh."""

    config: dict[str, object] = field(default_factory=dict)
    people: Choice = lambda person: True
    fits: bool = True
    upright: bool = False
    second: tuple[str, ...] = ()


@dataclass(frozen=True)
class Setting:
    """What all variants have in common: the encoders' folder, threads, the exported file to begin at, posed bodies for
    the regression, who is put before photographed persons, and persons to train on with other fits (the folder's name,
    persons)."""

    models: Path
    threads: int = 1
    start: Path | None = None
    bodies: Tensor | None = None
    crowd: Change | None = None
    fits: tuple[str, list[Person]] | None = None

    def trained_on(self, people: list[Person]) -> tuple[list[Person], list[Person]]:
        """(to train on, set apart): with other fits the same persons are set apart, with their own."""
        chosen, apart = set_apart(people)
        if self.fits is not None:
            known = {p.jpeg for p in apart}
            chosen = [p for p in self.fits[1] if p.jpeg not in known]
        return chosen, apart


class Impossible(Exception):
    """A variant leaves nobody to train on, or has another network than the file it is to begin at."""


def _without(*sources: str) -> Choice:
    return lambda person: not person.source.startswith(sources)


VARIANTS = {
    "everything": Variant(),
    "heatmaps' loss alone": Variant({"barycentric": 0.0, "consistency": 0.0, "joint": 0.0, "mask": 0.0}),
    "without the surface's losses (equations 3 and 4)": Variant({"barycentric": 0.0, "consistency": 0.0}),
    "without the joints' loss": Variant({"joint": 0.0}),
    "without the distance of the argsoftmax": Variant({"localisation": 0.0}),
    "renders alone": Variant(people=lambda person: person.exact),
    "photographs alone": Variant(people=lambda person: not person.exact),
    "without lspet": Variant(people=_without("lspet")),
    "without stanford40": Variant(people=_without("stanford40")),
    "without ccp": Variant(people=_without("ccp")),
    "photographs' joints without vertices": Variant(fits=False),
    "upright crops": Variant(upright=True),
    "the heavy encoder": Variant({"encoder": "heavy"}),
    "with others before the photographed": Variant({"crowded": 0.35}),
    "with the regression, 3D losses alone": Variant(WITHOUT_2D),
    "with the regression, all but its visibility": Variant({"regression": 0.25, "visibility": 0.0}),
    "with the regression": Variant({"regression": 0.25}),
    "with the regression and the silhouette": Variant({"regression": 0.25, "silhouette": 3.0}),
    "with the regression and feedback": Variant({"regression": 0.25}, second=("feedback",)),
    "with the regression and graph convolutions": Variant({"regression": 0.25}, second=("graph",)),
    "with the regression, graph convolutions and feedback": Variant({"regression": 0.25}, second=("feedback", "graph")),
}


def run(name: str, people: list[Person], setting: Setting) -> dict[str, object]:
    """Train a variant; its figures.  Raises Impossible."""
    variant, start = VARIANTS[name], setting.start
    frozen = {"head_minutes": 0.0} if start else {}
    config = Config(**(COMMON | frozen | variant.config), threads=setting.threads)  # type: ignore[arg-type]
    torch.manual_seed(config.seed)
    geometry = Geometry(some_meshes(people))
    geometry.bodies, geometry.crowd = setting.bodies, setting.crowd
    chosen, apart = setting.trained_on(people)
    chosen = [p if variant.fits or p.exact else replace(p, vertices=None, visibility=None) for p in chosen]
    chosen = [p for p in chosen if variant.people(p) and (p.vertices is not None or p.joints[:, 2].any())]
    if not chosen:
        raise Impossible(f"{name}: nobody is left to train on")
    apart = [apart[i] for i in np.random.default_rng(0).permutation(len(apart))]
    shape = (geometry.mirror, geometry.regressor)
    held = Held(apart, *shape, count=384, upright=variant.upright)
    net = build(setting.models, config.encoder)
    if start is not None:
        try:
            read_back(net, start)
        except AnotherNetwork as error:
            raise Impossible(f"{name}: {error}") from error
    if variant.second:
        net = SecondLook(net, "feedback" in variant.second, "graph" in variant.second)
    trainer = Trainer(net, config, Path())
    stream = batches(chosen, geometry, config, 0, upright=variant.upright)
    if start is None:
        trainer.net.standardise([next(stream)["crop"] for _ in range(6)])
    trainer.net.train()
    began = time.process_time()
    for sample in stream:
        trainer.step(sample, geometry)
        trainer.minutes += STEP
        if trainer.steps == STEPS:
            break
    seconds = (time.process_time() - began) / STEPS  # the loader's own not among them
    with trainer.with_average() as net:
        figures: dict[str, object] = {**held.look(net), **held.surface(net)}
        if config.regression:
            figures |= held.mesh(net)
        if setting.crowd is not None:
            photographed = [p for p in apart if not p.exact]
            crowded = Held(photographed, *shape, upright=variant.upright, crowd=setting.crowd)
            figures |= {k.replace("photographs", "crowded"): v for k, v in crowded.look(net).items()}
    label = name if setting.fits is None else f"{name}, fits of {setting.fits[0]}"
    return {"variant": label, "people": len(chosen), "CPU seconds a step": round(seconds, 2)} | figures


KINDS = ("renders", "photographs", "crowded")
COLUMNS = {"vertices, px": ("mean", ".1f"), "joints": ("joints", ".3f"), "surface, cm": ("surface", ".1f")}
OF_THE_MESH = {
    "IoU": ("IoU", ".3f"),
    "hidden, px": ("hidden", ".1f"),
    "depth": ("depth", ".3f"),
    "visibility": ("visibility", ".3f"),
}
"""Heading -> figure of `Held`, and its form."""


def table(out: Path) -> str:
    """The runs in a folder as Markdown: the heatmaps of all, the mesh of those that have a regression; on renders,
    photographs, and photographs with others before the person."""
    rows = {r["variant"]: r for file in out.glob("*.json") for r in [json.loads(file.read_text("utf-8"))]}
    known = [row for name in VARIANTS for label, row in rows.items() if label.split(", fits of ")[0] == name]
    parts = [_table(known, COLUMNS)]
    if meshes := [r for r in known if any("IoU" in key for key in r)]:
        parts.append(_table(meshes, OF_THE_MESH))
    return "\n\n".join(parts)


def _table(rows: list[dict], columns: dict[str, tuple[str, str]]) -> str:
    known = {key for r in rows for key in r}
    kinds = {kind: {k: v for k, v in columns.items() if f"{kind} {v[0]}" in known} for kind in KINDS}
    keys = [(f"{kind} {what}", form) for kind, some in kinds.items() for what, form in some.values()]
    each = " | ".join(f"{kind}: {' | '.join(some)}" for kind, some in kinds.items() if some)
    lines = [f"| | persons | {each} | CPU s a step |", "|" + "---|" * (3 + len(keys))]
    for r in rows:
        cells = [format(r[key], form) if key in r else "–" for key, form in keys]
        lines.append(f"| {r['variant']} | {r['people']} | {' | '.join(cells)} | {r['CPU seconds a step']} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--synth", type=Path)
    parser.add_argument("--models", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="+", choices=list(VARIANTS), default=list(VARIANTS), metavar="VARIANT")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--start", type=existing_file, help="an exported file that every variant begins at")
    parser.add_argument("--bodies", type=existing_file, help="posed bodies that training.lift has made (a .npy)")
    parser.add_argument("--fits", type=existing_folder, help="folder of other fit files than DATA's to train on")
    parser.add_argument("--table", action="store_true", help="show the runs that are there")
    a = parser.parse_args()
    a.out.mkdir(parents=True, exist_ok=True)
    if not a.table:
        if None in (a.data, a.synth, a.models):
            parser.error("a run needs --data, --synth and --models")
        torch.set_num_threads(a.threads)
        cv2.setNumThreads(1)
        people = photographs(a.data, cache=a.out / "photographs.pickle") + renders(a.synth)
        if not people:
            parser.error(f"{a.data} has no photographs, {a.synth} no renders: nothing to train on")
        bodies = torch.from_numpy(np.load(a.bodies)) if a.bodies else None
        other = None
        if a.fits:
            shown = photographs(a.data, cache=a.out / f"{a.fits.name}.pickle", fits=a.fits)
            other = (a.fits.name, shown + renders(a.synth))
        setting = Setting(a.models, a.threads, a.start, bodies, Crowd.load(a.data).before, other)
        for name in a.only:
            label = f"{name} {a.fits.name}" if a.fits else name
            file = a.out / ("".join(c if c.isalnum() else "_" for c in label) + ".json")
            if file.exists():
                continue
            try:
                found = run(name, people, setting)
            except Impossible as error:
                print(error, flush=True)
                continue
            file.write_text(json.dumps(found), "utf-8")
            print(found, flush=True)
    print(table(a.out))


if __name__ == "__main__":
    main()
