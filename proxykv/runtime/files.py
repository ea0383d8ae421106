"""Files that appear whole or not at all, with the permissions that the umask allows."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from proxykv.runtime.errors import ConfigError


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Give a temporary path to write to; the file replaces `path` when the block ends.

    Readers see the old file or the new one. If the block fails, the old file stays. Each call has
    its own temporary file, so several processes may write the same path: the last one wins.

    Args:
        path: the final path; its folder is created.

    Yields:
        A path in the same folder, where the block must write the file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{secrets.token_hex(4)}.partial")
    try:
        yield partial
        obey_umask(partial)
        _sync(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8, atomically.

    Args:
        path: the file; its folder is created.
        text: the content.
    """
    with atomic(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_bytes(path: Path, content: bytes) -> None:
    """Write a binary file, atomically.

    Args:
        path: the file; its folder is created.
        content: the bytes.
    """
    with atomic(path) as partial:
        partial.write_bytes(content)


def write_json(path: Path, value: Any) -> None:
    """Write an indented JSON file, atomically.

    Args:
        path: the file; its folder is created.
        value: anything that JSON can hold.
    """
    write_text(path, json.dumps(value, indent=2) + "\n")


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds an object.

    Raises:
        FileNotFoundError: if there is no such file.
        ConfigError: if it holds anything else.
    """
    try:
        content = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not JSON: {error}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: not a JSON object")
    return content


def obey_umask(path: Path) -> None:
    """Give a file, or every file below a folder, the permissions of a file made by `open`.

    Libraries that write through private temporary files (safetensors, huggingface_hub) leave files
    that only their owner can read.
    """
    # There is no call that only reads the umask.
    umask = os.umask(0o077)
    os.umask(umask)
    for file in (path, *path.rglob("*")):
        if file.is_file() and not file.is_symlink():
            file.chmod(0o666 & ~umask)


def require_readable(path: Path) -> None:
    """Raise PermissionError if a file exists but this user may not read it.

    Libraries such as safetensors report such a file as missing, or do not name it.
    """
    if path.is_file():
        path.open("rb").close()


def require_inside(path: Path, folder: Path) -> None:
    """Refuse a link out of a folder: what it leads to would be published with the folder.

    Args:
        path: a file below the folder.
        folder: of a run.

    Raises:
        ConfigError: if the file lies elsewhere.
    """
    if not path.resolve().is_relative_to(folder.resolve()):
        raise ConfigError(f"{path}: a link out of the run; replace it with a copy, or delete it")


def _sync(path: Path) -> None:
    """Wait until the file's content is on the disk: a rename may reach it earlier."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def missing(path: str) -> str | None:
    """Why nothing is at a path that a user gives, with $VARIABLES or `~`; None if something is."""
    text = os.path.expandvars(path)
    try:
        place = Path(text).expanduser()
        if text and place.exists():
            return None
        broken = text and place.is_symlink()
        return (
            f"a link to {place.readlink()}, which is not there"
            if broken
            else "no such folder or file"
        )
    except (OSError, RuntimeError) as error:  # a name that is too long, a user that is not known
        return str(error)
