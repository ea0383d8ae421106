"""lm-eval's command line with the model `proxykv` and this project's tasks.

lm-eval finds models in a registry in memory, so `lm_eval --model proxykv` cannot find this one;
`proxykv lm-eval …` registers it and calls lm-eval's own command line.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import proxykv.integrations.lm_eval  # noqa: F401 (registers the model)
from proxykv.integrations.documents import reading, write_task_files
from proxykv.runtime.errors import ConfigError


def run(arguments: Sequence[str]) -> None:
    """Run lm-eval's command line with this model and this project's tasks.

    Raises:
        ConfigError: if an argument, a task's data set or a prompt cannot be used.
    """
    from lm_eval.__main__ import cli_evaluate  # noqa: PLC0415 (it reads its arguments when it runs)

    _require_limit(arguments)
    settings = ["run", "--model", "proxykv"]
    if not any(argument.partition("=")[0] == "--device" for argument in arguments):
        settings += ["--device", "auto"]  # lm-eval's own default is cuda:0
    with TemporaryDirectory() as folder:
        write_task_files(Path(folder))
        sys.argv = ["lm_eval", *settings, "--include_path", folder, *arguments]
        with reading():
            cli_evaluate()


def _require_limit(arguments: Sequence[str]) -> None:
    """Raise ConfigError if the limit is no positive number: lm-eval takes 0 for no limit."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--limit", "-L")
    limit = parser.parse_known_args(arguments)[0].limit
    try:
        usable = limit is None or 0 < float(limit) < math.inf
    except ValueError:
        usable = False
    if not usable:
        raise ConfigError(f"--limit is {limit}; give a number of documents, or a share below 1")
