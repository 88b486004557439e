# SPDX-License-Identifier: Apache-2.0
"""Stand-ins for the tests of the panel and of its jobs: a process that says what it is told, a layout that takes notes.

Imports bpy: only files of tests/blender/ use it.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import bpy

from meshpose_blender.job import Job

PROGRESS = {
    "event": "progress",
    "stage": "find",
    "frame": 3,
    "frames": 12,
    "fps": 8.0,
    "seconds_left": 1.1,
    "people": 2,
}
DONE = {"event": "done", "take": "/x/a.take", "preview": None, "people": 2}
LOOK = {
    "event": "look", "clip": "/x/a.mp4", "frame": 7, "frames": 90, "width": 360, "height": 480, "fps": 30.0,
    "picture": None,
    "people": [
        {"number": 1, "box": [10.0, 20.0, 30.0, 90.0], "score": 0.93},
        {"number": 2, "box": [150.0, 25.0, 32.0, 88.0], "score": 0.41},
    ],
}  # fmt: skip


def fake(*events: dict[str, Any] | str, then: str = "") -> Job:
    """A job whose process prints these events (or raw lines) and then runs the code `then`."""
    lines = [event if isinstance(event, str) else json.dumps(event) for event in events]
    code = f"import os, sys, time\nfor line in {lines!r}: print(line, flush=True)\n{then}"
    return Job([sys.executable, "-c", code])


def until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    """Wait for something that another process does."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


class Layout:
    """Stands in for Blender's layout and notes what a panel shows: (kind, text, property or operator).

    It is as strict as Blender: properties, operators and icons have to exist, and operators take only what they have.
    """

    def __init__(self, shown: list[tuple[str, str]] | None = None) -> None:
        self.shown: list[tuple[str, str]] = [] if shown is None else shown
        self.scale_y = 1.0
        self.use_property_split = self.use_property_decorate = False
        self.operator_context = ""

    def column(self, align: bool = False, heading: str = "") -> Layout:
        return Layout(self.shown)

    def row(self, align: bool = False) -> Layout:
        return Layout(self.shown)

    def grid_flow(self, **options: Any) -> Layout:
        return Layout(self.shown)

    def box(self) -> Layout:
        return Layout(self.shown)

    def separator(self) -> None:
        """Nothing to note."""

    def label(self, text: str, icon: str = "NONE") -> None:
        _known(icon)
        self.shown.append(("label", text))

    def progress(self, factor: float, text: str) -> None:
        self.shown.append(("progress", f"{text} {factor:.2f}"))

    def prop(self, data: Any, name: str, text: str | None = None, **options: Any) -> None:
        getattr(data, name)
        self.shown.append(("prop", name if name != "default_value" else str(text)))

    def menu(self, name: str, icon: str = "NONE") -> None:
        _known(icon)
        getattr(bpy.types, name)
        self.shown.append(("menu", name))

    def popover(self, panel: str, **options: Any) -> None:
        self.shown.append(("popover", panel))

    def template_icon(self, icon_value: int, scale: float = 1.0) -> None:
        assert icon_value > 0
        self.shown.append(("picture", ""))

    def operator(self, name: str, text: str = "", icon: str = "NONE", **options: Any) -> Any:
        _known(icon)
        module, function = name.split(".")
        known = getattr(getattr(bpy.ops, module), function).get_rna_type().properties.keys()
        self.shown.append(("operator", f"{name} {text}".strip()))
        return _Strict(set(known))


class _Strict(SimpleNamespace):
    """The settings of an operator's button."""

    def __init__(self, known: set[str]) -> None:
        super().__init__()
        object.__setattr__(self, "known", known)

    def __setattr__(self, name: str, value: Any) -> None:
        assert name in self.known, name
        super().__setattr__(name, value)


def _known(icon: str) -> None:
    assert icon in bpy.types.UILayout.bl_rna.functions["label"].parameters["icon"].enum_items, icon


class Context:
    """What a panel asks of its context."""

    class region:
        width = 400

    def __init__(self) -> None:
        self.scene, self.view_layer = bpy.context.scene, bpy.context.view_layer
        self.space_data, self.area = None, None
        self.preferences = SimpleNamespace(system=SimpleNamespace(ui_scale=1.0))  # 0 without a window

    def __getattr__(self, name: str) -> Any:
        """Everything else is Blender's own."""
        return getattr(bpy.context, name)


def drawn(panel: type) -> list[tuple[str, str]]:
    """What a panel shows now."""
    layout = Layout()
    panel.draw(SimpleNamespace(layout=layout), Context())  # type: ignore[attr-defined]
    return layout.shown
