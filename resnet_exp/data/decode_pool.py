"""Decodes many image files in parallel, in order, with only a few runs (lists of files) of them in memory at a time."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from resnet_exp.data.decoding import Decoded, decode_run

# 30,000 JPEGs of 32×32 on 2 busy cores, median of 4: one after another 4.8 s, 2 threads 5.3 s (Pillow releases the GIL
# only briefly), 2 processes 3.5 s. Starting processes takes half a second: for few files that costs more than it saves.
FILES_WORTH_PROCESSES = 2000
RUN_BYTES = 4 << 20  # pixels of one run at most, so that the waiting runs of large images fit in memory
MOST_WORKERS = 16


def decode_all(paths: list[Path], image_size: int, channels: int, workers: int | None) -> Iterator[Decoded]:
    """Yields the images of these files in order, one run at a time; `workers` None: one for each CPU, 16 at most."""
    per_run = max(1, min(256, RUN_BYTES // (image_size**2 * channels)))
    runs = [paths[start : start + per_run] for start in range(0, len(paths), per_run)]
    workers = min(workers or min(len(os.sched_getaffinity(0)), MOST_WORKERS), len(runs))
    done = 0
    # A daemonic process, such as a worker of a multiprocessing pool, may not start processes.
    if len(paths) >= FILES_WORTH_PROCESSES and workers > 1 and not multiprocessing.current_process().daemon:
        try:
            for decoded in _in_order(_processes(workers), runs, workers, image_size, channels):
                yield decoded
                done += 1
        except BrokenProcessPool:  # a worker was killed, or could not import the program's main file; threads go on
            pass
    yield from _in_order(ThreadPoolExecutor(workers), runs[done:], workers, image_size, channels)


def _in_order(
    executor: Executor, runs: list[list[Path]], workers: int, image_size: int, channels: int
) -> Iterator[Decoded]:
    """Yields each run's result in turn; two a worker may wait for a slow reader, so that memory stays small."""
    waiting: deque = deque()
    try:
        for run in runs:
            waiting.append(executor.submit(decode_run, run, image_size, channels))
            if len(waiting) > 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        executor.shutdown(cancel_futures=True)


def _processes(workers: int) -> Executor:
    """New (spawned) processes: one that is forked while torch's threads run can deadlock."""
    return ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _start_worker)


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches workers too; the parent handles it and ends them
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Ends this process when its parent ends: a pool's processes would outlive a parent that was killed."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
