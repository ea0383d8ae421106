"""The folder that an installed package works in: Snakefile, configs, methods, small models."""

from __future__ import annotations

import shutil
from pathlib import Path

from proxykv.runtime.errors import ConfigError

STARTER = Path(__file__).resolve().parents[1] / "starter"
"""What a wheel brings for it; a checkout is a working directory itself."""


def write_working_directory(folder: Path) -> None:
    """Write the files of a working directory.

    Args:
        folder: a new or empty folder.

    Raises:
        ConfigError: if the folder has files, or the package is not installed but a checkout.
    """
    if not STARTER.is_dir():
        raise ConfigError(f"{STARTER.parents[1]} is a checkout, and a working directory already")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder} exists and is not an empty folder; give a new one")
    shutil.copytree(STARTER, folder, dirs_exist_ok=True)
