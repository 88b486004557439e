# SPDX-License-Identifier: Apache-2.0
"""In what precision the network computes while it is trained or looked at.

    with mixed_precision():
        features = net.features(crops)
"""

from __future__ import annotations

from functools import cache

import torch


@cache
def has_bfloat16() -> bool:
    """Whether this CPU multiplies in bfloat16 faster than in float32.

    One without instructions for it emulates them: 16 crops forwards and backwards through the heavy encoder took 85
    CPU seconds in place of 5.5 on one that has AVX2 only.
    """
    able = torch.cpu.get_capabilities()
    return bool(able.get("avx512_bf16") or able.get("amx_bf16") or able.get("bf16"))  # the last is ARM's name


def mixed_precision() -> torch.autocast:
    """torch's autocast to bfloat16 where the CPU gains by it, else nothing changes: float32."""
    return torch.autocast("cpu", dtype=torch.bfloat16, enabled=has_bfloat16())
