# SPDX-License-Identifier: Apache-2.0
"""Two checkpoints of one network, one trained on from the other, become one: the weighted mean of their weights.

    python -m training.mix FORMER/last.pt LATER/last.pt --share 0.75 --out RUN/last.pt

Along the way from one to the other the loss hardly rises, and the mean has less of what each learnt by heart
(stochastic weight averaging, Izmailov et al. 2018; model soups, Wortsman et al. 2022).
`training.lift` goes on from it.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


def mixed(former: dict[str, Any], later: dict[str, Any], share: float) -> dict[str, Any]:
    """The later checkpoint with `share` of its averaged weights and the rest of the former's.

    Raises ValueError where the two are not checkpoints of one network.
    """
    first, second = former["averaged"], later["averaged"]
    if former["encoder"] != later["encoder"] or {k: v.shape for k, v in first.items()} != {
        k: v.shape for k, v in second.items()
    }:
        raise ValueError("the checkpoints are not of one network")
    averaged: dict[str, Tensor] = {name: torch.lerp(first[name], weights, share) for name, weights in second.items()}
    return later | {"averaged": averaged}


def main() -> None:
    """Command line: see the module's docstring."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("former", type=Path)
    parser.add_argument("later", type=Path)
    parser.add_argument("--share", type=float, default=0.75, help="of the later one's weights")
    parser.add_argument("--out", type=Path, required=True)
    a = parser.parse_args()
    try:
        former, later = (torch.load(file, weights_only=False, map_location="cpu") for file in (a.former, a.later))
        state = mixed(former, later, a.share)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    a.out.parent.mkdir(parents=True, exist_ok=True)
    torch.save(state, a.out)


if __name__ == "__main__":
    main()
