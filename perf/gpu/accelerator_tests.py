"""The tests that an accelerator runs differently from a CPU."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from itertools import groupby

from perf.gpu.rows import Row
from perf.gpu.sizes import Sizes

RESULT = re.compile(r"^(\S+)::(\S.*?) (PASSED|FAILED|ERROR|SKIPPED|XFAIL)\b")


def measure(sizes: Sizes) -> Iterator[Row]:
    """Run the tests; a row for each file.

    Args:
        sizes: names the tests.

    Raises:
        RuntimeError: if a test fails, or pytest does not get as far.
    """
    command = [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", *sizes.tests]
    env = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # a machine may have any
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env
    ) as process:
        yield from rows(process.stdout or ())
    if process.returncode:
        raise RuntimeError(f"pytest ended with {process.returncode}; its output is in the log")


def rows(lines: Iterator[str] | tuple[str, ...]) -> Iterator[Row]:
    """Rows of pytest's output, each as soon as its file is done.

    Args:
        lines: what pytest prints.
    """
    for file, results in groupby(_results(lines), key=lambda result: result[0]):
        outcomes = [(test, outcome) for _, test, outcome in results]
        failed = [test for test, outcome in outcomes if outcome in ("FAILED", "ERROR")]
        passed = sum(outcome == "PASSED" for _, outcome in outcomes)
        skipped = len(outcomes) - passed - len(failed)
        note = f"{passed} passed, {skipped} skipped, {len(failed)} failed"
        yield Row(file, "tests", [passed], note=": ".join([note, *failed[:5]]))


def _results(lines: Iterator[str] | tuple[str, ...]) -> Iterator[tuple[str, str, str]]:
    """File, test and outcome of each finished test; everything is printed to the log, too."""
    for line in lines:
        print(line, end="", flush=True)
        if found := RESULT.match(line):
            yield found[1], found[2], found[3]
