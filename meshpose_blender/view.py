# SPDX-License-Identifier: GPL-3.0-or-later
"""The legend in the 3D view, drawn by the GPU over everything else; without a GPU (background) nothing is drawn."""

from __future__ import annotations

from typing import Any

import bpy
import numpy as np

from . import looks, people
from .legend import ENDS, TITLE

STRIPES = 32
BAR = (14.0, 150.0)
MARGIN, PAD = 16.0, 10.0
TEXT = 11.0
"""Pixels at the interface's normal scale."""
PANEL, LETTERS = (0.1, 0.1, 0.1, 0.75), (0.9, 0.9, 0.9, 1.0)

_handlers: list[Any] = []


def words(name: str, near: float, far: float, window: float) -> tuple[str, str, str]:
    """Title, lower end and upper end of a mode's scale."""
    values = {"near": near, "far": far, "window": window}
    lower, upper = (text.format(**values) for text in ENDS[name])
    return TITLE[name].format(**values), lower, upper


def wanted(context: bpy.types.Context) -> tuple[str, tuple[str, str, str]] | None:
    """Mode and words of the legend that the view in `context` should show; None where it should show none."""
    space = context.space_data
    if space is None or space.type != "VIEW_3D" or not space.overlay.show_overlays:
        return None
    if not context.scene.meshpose_looks.legend:
        return None
    built = people.active_take(context)
    settings, name = looks.settings_in(built), looks.mode(built)
    if settings is None or name not in TITLE:
        return None
    values = (float(looks.socket(settings, key).default_value) for key in ("Near", "Far", "Window"))
    return name, words(name, *values)


def bar(name: str, left: float, low: float, scale: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The bar as stripes: corners (2 n, 2) pixels, colours (2 n, 4) as shown, triangles (2 (n - 1), 3)."""
    amount = np.linspace(0.0, 1.0, STRIPES)
    shown = np.ones((STRIPES, 4), np.float32)
    shown[:, :3] = _srgb(looks.palette(name, amount))
    corners = np.empty((STRIPES, 2, 2), np.float32)
    corners[:, 0, 0], corners[:, 1, 0] = left, left + BAR[0] * scale
    corners[:, :, 1] = (low + amount * BAR[1] * scale)[:, None]
    first = 2 * np.arange(STRIPES - 1)[:, None]
    triangles = np.concatenate([first + (0, 1, 2), first + (1, 3, 2)]).astype(np.int32)
    return corners.reshape(-1, 2), np.repeat(shown, 2, 0), triangles


def _srgb(linear: np.ndarray) -> np.ndarray:
    """Linear colours as a display shows them (IEC 61966-2-1)."""
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * np.maximum(linear, 0.0) ** (1 / 2.4) - 0.055)


def draw() -> None:
    """Blender's draw handler of 3D views."""
    import blf
    import gpu
    from gpu_extras.batch import batch_for_shader

    context = bpy.context
    found = wanted(context)
    if found is None:
        return
    name, (title, lower, upper) = found
    scale = context.preferences.system.ui_scale
    blf.size(0, TEXT * scale)
    wide = max(blf.dimensions(0, title)[0], (BAR[0] + PAD) * scale + blf.dimensions(0, upper)[0], 60 * scale)
    tools = next((r.width for r in context.area.regions if r.type == "TOOLS" and r.width > 1), 0)
    left, low, pad = tools + MARGIN * scale, MARGIN * scale, PAD * scale
    width, height = wide + 2 * pad, BAR[1] * scale + 3 * pad + TEXT * scale
    gpu.state.blend_set("ALPHA")
    flat = gpu.shader.from_builtin("UNIFORM_COLOR")
    corners = [(left, low), (left + width, low), (left, low + height), (left + width, low + height)]
    flat.uniform_float("color", PANEL)
    batch_for_shader(flat, "TRIS", {"pos": corners}, indices=[(0, 1, 2), (1, 3, 2)]).draw(flat)
    places, colours, triangles = bar(name, left + pad, low + pad, scale)
    smooth = gpu.shader.from_builtin("SMOOTH_COLOR")
    content = {"pos": places.tolist(), "color": colours.tolist()}
    batch_for_shader(smooth, "TRIS", content, indices=triangles.tolist()).draw(smooth)
    gpu.state.blend_set("NONE")
    blf.color(0, *LETTERS)
    beside = left + 1.6 * pad + BAR[0] * scale
    top = low + pad + BAR[1] * scale
    for text, x, y in ((lower, beside, low + pad), (upper, beside, top - TEXT * scale), (title, left + pad, top + pad)):
        blf.position(0, x, y, 0)
        blf.draw(0, text)


def register() -> None:
    """Begin to draw; in background mode there is nothing to draw on."""
    if not bpy.app.background:
        _handlers.append(bpy.types.SpaceView3D.draw_handler_add(draw, (), "WINDOW", "POST_PIXEL"))


def unregister() -> None:
    """Draw no more."""
    while _handlers:
        bpy.types.SpaceView3D.draw_handler_remove(_handlers.pop(), "WINDOW")
