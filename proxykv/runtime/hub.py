"""Files of the Hugging Face hub: of pinned commits, checked against their hashes."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from proxykv.runtime.errors import ConfigError

COMMIT = re.compile(r"[0-9a-f]{40}")
TIMEOUT = 3
"""Seconds to wait for the hub's first answer."""


def download(
    repository: str,
    revision: str,
    patterns: Sequence[str],
    *,
    kind: Literal["model", "dataset"],
    folder: Path | None = None,
) -> Path:
    """Download the files of a repository that match, or find them in the hub's cache.

    Every file is compared with the hash under which the hub lists it: SHA-256 for large files,
    git's object id for the others.

    Args:
        repository: organisation/name.
        revision: a commit.
        patterns: globs of the files.
        kind: of the repository.
        folder: where the files go, without those in subfolders; the hub's cache by default.

    Returns:
        The folder of the files.

    Raises:
        ConfigError: if the revision is no commit, or a file is not the published one.
        OSError: for every error of the hub (see `huggingface_hub.errors`).
    """
    from huggingface_hub import snapshot_download  # noqa: PLC0415 (slow, rarely used)

    require_commit(repository, revision)
    place = {} if folder is None else {"local_dir": folder, "ignore_patterns": ["*/*"]}
    found = snapshot_download(
        repository, repo_type=kind, revision=revision, allow_patterns=list(patterns), **place
    )
    for path in sorted(Path(found).rglob("*")):
        listed = _listed_hash(path, Path(found))
        if listed and _hash(path, listed) != listed:
            raise ConfigError(
                f"{repository} at {revision}: {path.name} is not the published file (expected "
                f"hash {listed}); delete {path.resolve()} to download it again"
            )
    return Path(found)


def require_commit(repository: str, revision: str) -> None:
    """Require a full commit as the revision: branches and tags can move.

    Args:
        repository: organisation/name, for the message.
        revision: the revision that a config or a family's file states.

    Raises:
        ConfigError: if the revision is not 40 hexadecimal digits.
    """
    if not COMMIT.fullmatch(revision):
        raise ConfigError(
            f"{repository}: revision {revision!r} is not a commit (40 hexadecimal digits); "
            "branches and tags can move"
        )


def unreachable(repository: str, revision: str) -> str | None:
    """Check with one short attempt whether the hub answers for a model.

    Args:
        repository: organisation/name.
        revision: a commit.

    Returns:
        Why the hub does not answer; None if it answers, even with an error.
    """
    from huggingface_hub import HfApi  # noqa: PLC0415 (slow, rarely used)
    from huggingface_hub.errors import HfHubHTTPError  # noqa: PLC0415
    from huggingface_hub.utils import httpx  # noqa: PLC0415 (another package in its version 2)

    try:
        HfApi().model_info(repository, revision=revision, timeout=TIMEOUT)
    except HfHubHTTPError:
        return None  # an answer, which a download will explain
    except (OSError, httpx.TransportError) as error:
        return " ".join(str(error).split()) or type(error).__name__
    return None


def _listed_hash(path: Path, folder: Path) -> str | None:
    """Hash under which the hub lists a downloaded file; None if the file is not one.

    In the hub's cache, files are links to contents that are named by their hashes. In another
    folder, the hash is the second line of a file of metadata.
    """
    if path.is_symlink():
        listed = path.resolve().name
    else:
        name = path.relative_to(folder)
        about = folder / ".cache" / "huggingface" / "download" / f"{name}.metadata"
        lines = about.read_text("utf-8").splitlines() if about.is_file() else []
        listed = lines[1] if len(lines) > 1 else ""
    return listed if re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", listed) else None


def _hash(path: Path, like: str) -> str:
    """Hash of a file's content, of the kind of another hash: SHA-256 or git's object id."""
    if len(like) == 64:
        digest = hashlib.sha256()
    else:
        digest = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: digest).hexdigest()
