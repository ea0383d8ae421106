"""kvpress on the same card: a process with packages of its own, where it is installed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from perf.gpu.rows import Row
from perf.gpu.sizes import Sizes

VARIABLE = "KVPRESS_PYTHON"
"""Environment variable: an interpreter that imports kvpress."""
ENVIRONMENT = Path(".venv-kvpress/bin/python")
"""What `make parity` installs."""
SIDE = Path(__file__).with_name("kvpress_side.py")
LENGTHS = ("16k", "64k")


def measure(sizes: Sizes) -> Iterator[Row]:
    """Measure prefill and KVzip on a random model of the first pair's target.

    Args:
        sizes: how large the cases are.

    Raises:
        RuntimeError: if its process fails.
    """
    python = interpreter()
    if python is None:
        yield Row(
            "kvpress", "s", note=f"not installed: set {VARIABLE} to a Python that imports kvpress"
        )
        return
    name, family = next(iter(sizes.families.items()))
    settings = {
        "config": family.target.to_dict(),
        "dtype": sizes.dtype,
        "chunk": sizes.chunk,
        "lengths": {f"{name}, {label}": sizes.lengths[label] for label in LENGTHS},
    }
    # Another environment must not see this one's packages.
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH" or python == sys.executable}
    with subprocess.Popen(
        [python, SIDE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env
    ) as process:
        assert process.stdin and process.stdout
        process.stdin.write(json.dumps(settings))
        process.stdin.close()
        for line in process.stdout:
            print(line, end="", flush=True)
            if line.startswith('{"what"'):
                yield Row(unit="s", note="one turn", **json.loads(line))
    if process.returncode:
        raise RuntimeError(f"kvpress' process ended with {process.returncode}; see the log")


def interpreter() -> str | None:
    """The Python that runs kvpress; None if there is none."""
    if VARIABLE in os.environ:
        return os.environ[VARIABLE]
    if ENVIRONMENT.exists():
        return str(ENVIRONMENT)
    return sys.executable if find_spec("kvpress") else None
