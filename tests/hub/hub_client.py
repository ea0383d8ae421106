"""A process whose `huggingface_hub` was imported under the stand-in's address."""

from __future__ import annotations

import io
import logging
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stderr, redirect_stdout
from typing import Any, NamedTuple

import pytest

from proxykv.runtime.errors import ConfigError


class Outcome(NamedTuple):
    """What a call gave: its value, or the line of its ConfigError; and the seconds it took."""

    value: Any
    line: str | None
    seconds: float
    printed: str


class Client:
    """Runs functions in the other process, under environment variables that a call may add."""

    def __init__(self, pool: ProcessPoolExecutor, transcript: list[str]) -> None:
        self._pool = pool
        self._transcript = transcript

    def call(self, function: Callable[..., Any], *args: Any, **options: Any) -> Outcome:
        """Call with positional arguments; `env` holds variables, the other options go on."""
        env = options.pop("env", {})
        outcome = self._pool.submit(_called, env, function, args, options).result()
        said = outcome.line or outcome.printed.strip() or "done"
        self._transcript.append(f"    {outcome.seconds:.1f} s: {said}")
        return outcome


def _called(
    env: Mapping[str, str], function: Callable[..., Any], args: Any, options: Any
) -> Outcome:
    with pytest.MonkeyPatch.context() as patch:
        for name, text in env.items():
            patch.setenv(name, text)
        value, line, printed = None, None, io.StringIO()
        start = time.monotonic()
        try:
            with redirect_stdout(printed), redirect_stderr(printed):
                value = function(*args, **options)
        except ConfigError as error:
            line = str(error)
        return Outcome(value, line, time.monotonic() - start, printed.getvalue())


def ready() -> None:
    """Import what every call needs, so that no call's time includes it; be quiet."""
    import huggingface_hub.hf_api  # noqa: F401 (not in the tests' own process)

    logging.disable()
