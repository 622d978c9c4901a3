"""The same function on many items, by processes where that is safe, the results in the order in which they come.

A hierarchy is made of the user's functions, which cannot be sent to another process in general, and of compiled
code, which need not be made twice: so processes are forks, which have both already. Forking is safe on Linux where
autograd has not started threads of its own, which it does beside a GPU; elsewhere items run one after another.
"""

from __future__ import annotations

import multiprocessing
import os
import platform
import signal
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from typing import Any, TypeVar

import torch

from bayesmeta.errors import BayesmetaError, BayesmetaWarning, OptionError
from bayesmeta.threads import one_thread

__all__ = ["available_cores", "run_all"]

T = TypeVar("T")
READY = "ready"


def available_cores() -> int:
    """Cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def run_all(work: Callable[[int], T], items: Sequence[int], cores: int | None = None) -> Generator[T, None, None]:
    """`work` of every item. Closing the iterator, or an error or Ctrl-C in between, ends the processes.

    Args:
        work: A function of whole numbers whose results can be pickled.
        items: The numbers.
        cores: Processes at once; all available cores by default. With one, nothing is forked.
    """
    if cores is not None and (not isinstance(cores, int) or isinstance(cores, bool) or cores < 1):
        raise OptionError(f"cores must be a whole number of at least 1, got {cores!r}")
    count = min(cores or available_cores(), len(items))
    if count > 1 and not _can_fork(explicit=cores is not None):
        count = 1
    return _forked(work, list(items), count) if count > 1 else _one_by_one(work, items)


def _one_by_one(work: Callable[[int], T], items: Sequence[int]) -> Generator[T, None, None]:
    for item in items:
        yield work(item)


def _can_fork(*, explicit: bool) -> bool:
    here = platform.system()
    if here != "Linux" and explicit:
        _say(f"processes cannot be forked safely on {here}")
    return here == "Linux"


def _say(reason: str) -> None:
    warnings.warn(f"replications run one after another, on one core: {reason}", BayesmetaWarning, stacklevel=3)


def _forked(work: Callable[[int], T], items: list[int], count: int) -> Generator[T, None, None]:
    with _workers(work, count) as pipes:
        refused = [message for message in [pipe.recv() for pipe in pipes] if message != READY]
        if not refused:
            yield from _served(pipes, items)
            return
    _say(str(refused[0]))
    yield from _one_by_one(work, items)


def _served(pipes: list[Connection], items: list[int]) -> Generator[Any, None, None]:
    """Give each process its next item as soon as it is done with the last."""
    queue = iter(items)
    busy: set[Connection] = set()
    for pipe, item in zip(pipes, queue, strict=False):
        pipe.send(item)
        busy.add(pipe)
    while busy:
        for ready in wait(list(busy)):
            pipe = next(one for one in busy if one is ready)
            result = _received(pipe)
            item = next(queue, -1)
            if item < 0:
                busy.discard(pipe)
            else:
                pipe.send(item)
            yield result


def _received(pipe: Connection) -> Any:
    try:
        fine, result = pipe.recv()
    except (EOFError, ConnectionResetError) as error:
        raise BayesmetaError(
            "a process died in the middle of its work, perhaps for want of memory: use fewer cores"
        ) from error
    if not fine:
        raise BayesmetaError(f"a replication ended in an error that is none of the fit's: {result}")
    return result


@contextmanager
def _workers(work: Callable[[int], Any], count: int) -> Iterator[list[Connection]]:
    context = multiprocessing.get_context("fork")
    ours: list[Connection] = []
    processes = []
    try:
        with one_thread(), warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # newer Pythons', of forking beside threads
            for _ in range(count):
                near, far = context.Pipe()
                process = context.Process(target=_work, args=(work, far, [*ours, near]), daemon=True)
                process.start()
                far.close()
                ours.append(near)
                processes.append(process)
        yield ours
    finally:
        for process in processes:
            process.terminate()
        for process, pipe in zip(processes, ours, strict=False):
            process.join()
            pipe.close()


def _work(work: Callable[[int], Any], pipe: Connection, others: list[Connection]) -> None:
    """What a process does: say whether it can work at all, then one item after another until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent ends it in order
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for other in others:  # else this process would hold open what the parent closes
        other.close()
    torch.set_num_threads(1)
    pipe.send(_probe())
    while True:
        try:
            item = pipe.recv()
        except EOFError:
            return
        pipe.send(_attempt(work, item))


def _probe() -> str:
    """Whether autograd works in this process."""
    try:
        torch.ones(1, requires_grad=True).sum().backward()
    except RuntimeError as error:
        return str(error).strip().splitlines()[0]
    return READY


def _attempt(work: Callable[[int], Any], item: int) -> tuple[bool, Any]:
    try:
        return True, work(item)
    except Exception as error:
        return False, f"{type(error).__name__}: {error}"
