"""Decodes many image files in parallel, in order, with only a few runs (lists of files) of them in memory at a time."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from pathlib import Path
from types import FrameType

from resnet_exp.data.decoding import Decoded, decode_run
from resnet_exp.data.image_file import MAX_MEGAPIXELS
from resnet_exp.interfaces import STOP_SIGNALS, RunError

# 30,000 JPEGs of 32×32 on 2 busy cores, median of 4: one after another 4.8 s, 2 threads 5.3 s (Pillow releases the GIL
# only briefly), 2 processes 3.5 s. Starting processes takes half a second: for few files that costs more than it saves.
FILES_WORTH_PROCESSES = 2000
RUN_BYTES = 4 << 20  # pixels of one run at most, so that the waiting runs of large images fit in memory
MOST_WORKERS = 16

_Submit = Callable[[list[Path]], "Future[Decoded]"]


def decode_all(
    paths: list[Path], image_size: int, channels: int, workers: int | None, max_megapixels: int = MAX_MEGAPIXELS
) -> Generator[Decoded, None, None]:
    """Yields the images of these files in order, one run at a time; close it if you leave it before its end.

    Args:
        paths: The files.
        image_size: Pixels of a side.
        channels: 1 or 3.
        workers: Processes or threads; None: one for each CPU, 16 at most.
        max_megapixels: An image of more is unreadable.

    Raises:
        RunError: A process that decodes was killed, or a file needs more memory than there is.
    """
    per_run = max(1, min(256, RUN_BYTES // (image_size**2 * channels)))
    runs = [paths[start : start + per_run] for start in range(0, len(paths), per_run)]
    workers = min(workers or min(len(os.sched_getaffinity(0)), MOST_WORKERS), len(runs))
    decode = partial(decode_run, image_size=image_size, channels=channels, max_megapixels=max_megapixels)
    # A daemonic process, such as a worker of a multiprocessing pool, may not start processes.
    if len(paths) >= FILES_WORTH_PROCESSES and workers > 1 and not multiprocessing.current_process().daemon:
        with _processes(workers) as executor:
            if _can_start(executor):
                yield from _in_order(partial(_submit, executor, decode), runs, workers)
                return
    with _threads(workers) as (executor, stopped):
        yield from _in_order(partial(executor.submit, decode, stopped=stopped), runs, workers)


def _in_order(submit: _Submit, runs: list[list[Path]], workers: int) -> Iterator[Decoded]:
    """Yields each run's result in turn; two a worker may wait for a slow reader, so that memory stays small."""
    waiting: deque[Future[Decoded]] = deque()
    done = 0
    try:
        for run in runs:
            waiting.append(submit(run))
            if len(waiting) > 2 * workers:
                yield waiting.popleft().result()
                done += 1
        while waiting:
            yield waiting.popleft().result()
            done += 1
    except BrokenProcessPool as error:
        raise RunError(
            "A process that decodes images was killed: by the system, if memory ran out (fewer processes take less: "
            f"data.workers), or by an image that crashes the decoder: {runs[done][0]} or a later one."
        ) from error


@contextmanager
def _threads(workers: int) -> Iterator[tuple[Executor, Callable[[], bool]]]:
    """Threads, and whether they are to stop: at the end of the block each decodes no more than the image it is at."""
    stop = threading.Event()
    executor = ThreadPoolExecutor(workers)
    try:
        yield executor, stop.is_set
    finally:
        stop.set()
        executor.shutdown(cancel_futures=True)


@contextmanager
def _processes(workers: int) -> Iterator[Executor]:
    """New (spawned) processes, which end with the block or with this process, whatever they are doing then.

    One that is forked while torch's threads run can deadlock.
    """
    context = multiprocessing.get_context("spawn")
    read_end, write_end = context.Pipe(duplex=False)
    with _signals_are_ours():
        executor = ProcessPoolExecutor(workers, context, _start_worker, (read_end,))
    try:
        yield executor
        executor.shutdown()
    finally:
        write_end.close()  # the workers wait for that; a killed process closes it as well
        executor.shutdown(cancel_futures=True)
        read_end.close()


def _submit(executor: Executor, decode: Callable[[list[Path]], Decoded], run: list[Path]) -> Future[Decoded]:
    with _signals_are_ours():  # the executor starts its processes one by one, as they are needed
        return executor.submit(decode, run)


def _can_start(executor: Executor) -> bool:
    """Whether the processes start: they cannot where the program's main file cannot be imported."""
    try:
        with _signals_are_ours():
            first = executor.submit(os.getpid)
        return first.result() > 0
    except BrokenProcessPool:
        return False


@contextmanager
def _signals_are_ours() -> Iterator[None]:
    """A block in which processes are started that take none of the signals that ask to stop, from the first moment on.

    A terminal or a batch system signals all processes of a group; this one handles that, and ends the others. A signal
    that comes within the block is handled at its end, though another thread may take it.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        with _handlers_wait():
            resource_tracker.ensure_running()  # lets two of the signals through again, the first time
            signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
            yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _handlers_wait() -> Iterator[None]:
    """A block at whose end the handlers of these signals are called, where one came.

    Python calls them in the main thread whichever thread takes the signal. An exception between the start of a process
    and the message of what it shall do would leave it without one.
    """
    came: list[tuple[int, FrameType | None]] = []
    handlers = {n: handler for n in STOP_SIGNALS if callable(handler := signal.getsignal(n))}

    def deliver() -> None:
        for number, frame in came:
            handlers[signal.Signals(number)](number, frame)

    if threading.current_thread() is not threading.main_thread():  # Python changes handlers there alone
        yield
        return
    with ExitStack() as at_end:
        at_end.callback(deliver)  # the last, when all handlers are back
        for number, handler in handlers.items():
            at_end.callback(signal.signal, number, handler)
            signal.signal(number, lambda number, frame: came.append((number, frame)))
        yield


def _start_worker(read_end: Connection) -> None:
    threading.Thread(target=_end_with_the_pool, args=(read_end,), daemon=True).start()


def _end_with_the_pool(read_end: Connection) -> None:
    """Ends this process when the other end of the pipe is closed, in the middle of an image if need be."""
    with suppress(EOFError, OSError):
        read_end.recv()
    os._exit(1)
