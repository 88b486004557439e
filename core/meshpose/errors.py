# SPDX-License-Identifier: Apache-2.0
"""The few error classes.  Every one of them is a single line for the user and exit code 2; a traceback is a bug."""

from __future__ import annotations


class MeshPoseError(Exception):
    """Something the user can mend.  The text names what was given, what is wrong with it and what to do."""

    exit_code = 2


class InputError(MeshPoseError):
    """A clip, picture, data set or option cannot be used as it is."""


class OutputError(MeshPoseError):
    """A result cannot be written where it was asked for."""


class WeightsError(MeshPoseError):
    """A weight file is missing, or is not the one that this version was made with."""


class TakeError(MeshPoseError):
    """A Take cannot be read, continued or written."""


class Cancelled(MeshPoseError):
    """The user stopped the job; finished work is kept."""

    exit_code = 130
