# SPDX-License-Identifier: Apache-2.0
"""A batch's tasks on a Ray cluster that is there already (`pip install 'meshpose[ray]'`).

    meshpose batch *.mp4 --out DIR --ray auto          # or the head's address: 10.0.0.5:6379, ray://10.0.0.5:10001

MeshPose has to be installed on every node, and clips and DIR have to lie where all nodes see them under one path.
A task is one clip; where its worker or its node dies, Ray gives it to another one, which goes on in the clip's Take.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator, Sequence
from typing import Any

from .batch_task import Result, Task, run_task
from .errors import InputError

RETRIES = 5
"""Workers that may die under one clip before the clip is given up."""
THREADS = 2
"""Cores of a task (its network's threads), where the nodes have so many."""
LOOK_SECONDS = 0.5
CONNECT_SECONDS = 10.0


def run_on_ray(tasks: Sequence[Task], address: str, cancelled: threading.Event) -> Iterator[Result]:
    """Run tasks on the cluster at `address`; gives the results as they come, after a stop none.

    InputError where Ray is not installed or no cluster answers at the address.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise InputError(f"--ray {address}: Ray is missing ({error}); pip install 'meshpose[ray]'") from error
    _check_address(address)
    ours = not ray.is_initialized()
    if ours:
        try:
            ray.init(address=address, logging_level="ERROR", log_to_driver=False, configure_logging=False)
        except Exception as error:  # Ray and gRPC raise many classes of their own
            why = str(error).strip().split("\n")[0]
            text = f"--ray {address}: no Ray cluster answers there ({why}); `ray start --head` begins one"
            raise InputError(text) from error
    try:
        yield from _gather(ray, tasks, cancelled)
    finally:
        if ours:
            ray.shutdown()


def _check_address(address: str) -> None:
    """InputError where nobody listens at HOST:PORT: Ray itself tries for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdecimal():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        text = f"--ray {address}: no Ray cluster answers there ({error}); `ray start --head` begins one"
        raise InputError(text) from error


def _gather(ray: Any, tasks: Sequence[Task], cancelled: threading.Event) -> Iterator[Result]:
    largest = max((node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"]), default=0)
    remote = ray.remote(max_retries=RETRIES, num_cpus=min(THREADS, max(1, int(largest))))(_work)
    waiting = {remote.remote(task): task for task in tasks}
    while waiting and not cancelled.is_set():
        ready, _ = ray.wait(list(waiting), num_returns=1, timeout=LOOK_SECONDS)
        for reference in ready:
            yield _result(ray, reference, waiting.pop(reference))
    for reference in waiting:
        # Killed, not asked: its process sees its stdin end, finishes the frame and keeps it.
        ray.cancel(reference, force=True)


def _work(task: Task) -> Result | None:
    """What a worker runs."""
    return run_task(task, lambda clip, part: None, threading.Event())


def _result(ray: Any, reference: Any, task: Task) -> Result:
    try:
        result: Result = ray.get(reference)
    except ray.exceptions.RayError as error:
        last = [line.strip() for line in str(error).splitlines() if line.strip()] or ["no reason given"]
        why = f"Ray gave the clip up ({type(error).__name__}: {last[-1]}); --resume tries it again"
        return Result(task.clip, "failed", why)
    return result
