# SPDX-License-Identifier: Apache-2.0
"""One thread for numpy's matrix products, where numpy is not loaded yet.

Our matrices are many and small.  OpenBLAS hands each to all cores, which costs more than it brings: the rig fit made 66
frames a second of 300 with two threads and 182 with one, on two cores.  Work is shared out by us instead (`rig.py`).
What the user has set stays; a program that has loaded numpy before us keeps its threads.
"""

from __future__ import annotations

import os
import sys

if "numpy" not in sys.modules:
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
