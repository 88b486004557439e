# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime on the CPU: a weight file as a session, the same way for every network."""

from __future__ import annotations

import onnxruntime

from . import weights
from .errors import WeightsError


def open_session(name: str, threads: int) -> onnxruntime.InferenceSession:
    """The weight file `name` as a session; `threads`: those of one operator.  Raises WeightsError."""
    file = weights.path(name)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # waiting threads leave the cores free
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises its own unrelated classes, all of them mean the same to a user
        raise WeightsError(f"{file}: ONNX Runtime cannot load it ({error})".splitlines()[0]) from error
