"""Copies of model folders on a machine's local disk, made once for all jobs there."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from proxykv.runtime.digest import digest
from proxykv.runtime.errors import ConfigError
from proxykv.runtime.lock import Lock

VARIABLE = "PROXYKV_SCRATCH"
PATIENCE = 3600
"""Seconds to wait for another job's copy."""


def local(folder: Path) -> Path:
    """Copy a model's folder to $PROXYKV_SCRATCH, unless a copy is there.

    Variables in the setting are expanded on this machine. The copy's name depends on the names,
    sizes and times of the files, so changed weights get a new copy.

    Args:
        folder: of the model.

    Returns:
        The copy; `folder` itself where the variable is not set.

    Raises:
        ConfigError: if the copy cannot be written, or is another user's.
    """
    if not (setting := os.environ.get(VARIABLE)):
        return folder
    place = os.path.expandvars(setting)
    if "$" in place:
        raise ConfigError(f"{VARIABLE}={setting}: a variable in it is not set on this machine")
    files = [(p.name, p.stat().st_size, p.stat().st_mtime_ns) for p in sorted(folder.iterdir())]
    copy = Path(place) / f"{folder.parent.name}-{folder.name}-{digest(files)}"
    partial = copy.with_name(copy.name + ".partial")
    try:
        with Lock(copy.with_name(copy.name + ".lock")).held(PATIENCE):
            if not copy.exists():
                shutil.rmtree(partial, ignore_errors=True)  # of a job that was killed
                shutil.copytree(folder, partial)
                partial.rename(copy)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise ConfigError(
            f"{copy}: no copy of {folder} ({error}); make room there, or unset {VARIABLE}"
        ) from error
    if copy.lstat().st_uid != os.getuid():
        # The name can be predicted: someone else's weights could wait there.
        raise ConfigError(f"{copy}: belongs to another user; set {VARIABLE} to a folder of yours")
    return copy
