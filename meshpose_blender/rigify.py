# SPDX-License-Identifier: GPL-3.0-or-later
"""Keys on the controls of a generated Rigify rig."""

from __future__ import annotations


def missing() -> str:
    """Empty where Rigify is there, else one line that says what to do."""
    return "rig rigify: soon"
