"""The two sides of a request in two threads; if one fails, the other stops at its next layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from threading import Event
from typing import TypeVar

import torch

from proxykv.runtime.errors import ConfigError

A, B = TypeVar("A"), TypeVar("B")

_stop: ContextVar[Event | None] = ContextVar("stop", default=None)


class SideError(RuntimeError):
    """One side of a request failed; its own error is the cause."""


def out_of_memory(error: BaseException) -> bool:
    """Whether an error, or the one that a side of a request failed with, is of lacking memory."""
    if isinstance(error, SideError) and error.__cause__:
        error = error.__cause__
    typed = isinstance(error, torch.OutOfMemoryError | MemoryError)
    return typed or (isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error))


@contextmanager
def memory_for(what: str, lower: str) -> Iterator[None]:
    """Say in one line what to lower where memory does not suffice for the work inside.

    Args:
        what: the work.
        lower: settings to lower, and what of the work is kept.

    Raises:
        ConfigError: instead of the error of an accelerator, of a side of a request, or of the CPU.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        raise ConfigError(f"{what}: out of memory: lower {lower}") from error


class Cancelled(Exception):  # noqa: N818  (not an error of this thread)
    """The other side failed, so nobody waits for this side's result."""


def check() -> None:
    """Stop this side if the other one has failed. Caches call this at every layer.

    Raises:
        Cancelled: if the other side has failed.
    """
    stop = _stop.get()
    if stop is not None and stop.is_set():
        raise Cancelled


def run_in_parallel(target: Callable[[], A], proxy: Callable[[], B]) -> tuple[A, B]:
    """Run `target` in this thread and `proxy` in another; return both results.

    Both use as many intra-op threads as this thread, so the results equal those of a sequential
    run. The first exception on either side cancels the other side.

    Args:
        target: the target's work.
        proxy: the proxy's work.

    Raises:
        SideError: naming the side that failed first, from its exception.
        ConfigError: if that is one, naming the side, too.
    """
    stop, failures = Event(), _Failures()
    threads = torch.get_num_threads()

    def proxy_side() -> B | None:
        torch.set_num_threads(threads)  # PyTorch's setting is per thread
        with _side("proxy", stop, failures):
            return proxy()

    proxy_future: Future[B | None]
    with ThreadPoolExecutor(1, thread_name_prefix="proxy") as pool:
        proxy_future = pool.submit(proxy_side)
        with _side("target", stop, failures):
            target_result = target()
            # Waiting is part of this side: an interrupt while waiting stops the proxy, too.
            result = proxy_future.result()
    if failures:
        side, error = failures[0]
        if not isinstance(error, Exception):  # an interrupt is not a failure of a side
            raise error
        if isinstance(error, ConfigError):
            raise ConfigError(f"the {side}: {error}") from error
        raise SideError(f"the {side} failed: {type(error).__name__}: {error}") from error
    return target_result, result  # type: ignore[return-value]


class _Failures(list[tuple[str, BaseException]]):
    """Sides and what they raised, in order of time."""


@contextmanager
def _side(name: str, stop: Event, failures: _Failures) -> Iterator[None]:
    """Work that `stop` cancels, and whose own failure sets it."""
    token = _stop.set(stop)
    try:
        yield
    except Cancelled:
        pass
    except BaseException as error:
        failures.append((name, error))
        stop.set()
    finally:
        _stop.reset(token)
