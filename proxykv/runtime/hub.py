"""The model hub: files of pinned commits, checked against their hashes; its errors in one line."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from proxykv.runtime.errors import ConfigError

COMMIT = re.compile(r"[0-9a-f]{40}")
NAME = re.compile(
    r"(?=.{1,96}$)(?!.*(--|\.\.))[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)?"
)
TIMEOUT = 3
"""Seconds to wait for the hub's first answer."""

CONFIG_FILES = ("*.json", "*.txt", "*.model", "*.jinja")
"""Files of a model besides its weights, such as its config and its tokenizer."""
NOTES = ".cache"
"""What the hub's client notes about a folder's files, in that folder."""

Kind = Literal["model", "dataset"]


class UnreachableError(ConfigError):
    """The hub does not answer, and what is asked for is not in its cache."""


def download(
    repository: str,
    revision: str,
    patterns: Sequence[str],
    *,
    kind: Kind,
    folder: Path | None = None,
) -> Path:
    """Download the files of a repository that match, or find them in the hub's cache.

    Every file is compared with the hash under which the hub lists it: SHA-256 for large files,
    git's object id for the others. Files that an earlier call has completed are not fetched again.

    Args:
        repository: organisation/name.
        revision: a commit.
        patterns: globs of the files. Subfolders of models hold other formats and are left out.
        kind: of the repository.
        folder: where the files go; the hub's cache by default.

    Returns:
        The folder of the files.

    Raises:
        UnreachableError: if the hub does not answer.
        ConfigError: if the hub refuses, a transfer breaks off, the revision is no commit, or a file
            is not the published one.
    """
    from huggingface_hub import snapshot_download  # noqa: PLC0415 (slow, rarely used)

    require_name(repository)
    require_commit(repository, revision)
    refusal = _refusal(repository, revision, kind)
    if refusal and folder is not None:
        raise refusal
    try:
        found = Path(
            snapshot_download(
                repository,
                repo_type=kind,
                revision=revision,
                allow_patterns=list(patterns),
                ignore_patterns=["*/*"] if kind == "model" else None,
                local_dir=folder,
                local_files_only=refusal is not None,
            )
        )
    except _errors() as error:
        raise refusal or explained(error, f"{kind} {repository} at {revision}") from error
    found.mkdir(parents=True, exist_ok=True)  # not there if no file matches
    for path in sorted(found.rglob("*")):
        listed = _listed_hash(path, found)
        if listed and _hash(path, listed) != listed:
            raise ConfigError(
                f"{repository} at {revision}: {path.name} is not the published file (expected "
                f"hash {listed}); delete {path.resolve()} to download it again"
            )
    return found


def upload(repository: str, files: Mapping[str, Path | bytes], message: str, private: bool) -> str:
    """Make files a commit of a model repository, which is created if there is none.

    Args:
        repository: organisation/name.
        files: by name in the repository. Other files there stay.
        message: of the commit.
        private: whether a repository that is created is private.

    Returns:
        The commit.

    Raises:
        UnreachableError: if the hub does not answer.
        ConfigError: if the hub refuses, or a transfer breaks off.
    """
    from huggingface_hub import CommitOperationAdd, HfApi  # noqa: PLC0415 (slow, rarely used)

    require_name(repository)
    refusal = _refusal(repository, None, "model")
    if isinstance(refusal, UnreachableError):
        raise refusal
    additions = [
        CommitOperationAdd(name, str(content) if isinstance(content, Path) else content)
        for name, content in files.items()
    ]
    try:
        HfApi().create_repo(repository, private=private or None, exist_ok=True)
        return HfApi().create_commit(repository, additions, commit_message=message).oid
    except _errors() as error:
        raise explained(error, f"model {repository}") from error


def give_up_at_once() -> None:
    """Let the hub's client, and `datasets` with it, fail at once while the hub does not answer.

    The client would try each request for 23 s. It obeys offline mode at once, and takes from its
    cache what is there.
    """
    from huggingface_hub import get_session, set_client_factory  # noqa: PLC0415 (slow, rarely used)

    hooks = get_session().event_hooks
    set_client_factory(lambda: _impatient_client(hooks))


def require_name(repository: str) -> None:
    """Require the name of a repository; the hub's client would say it in several lines.

    Raises:
        ConfigError: if the text is none.
    """
    if not NAME.fullmatch(repository):
        raise ConfigError(f"{repository!r}: no repository of the hub; give organisation/name")


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


def explained(error: BaseException, what: str) -> ConfigError:
    """An error of the hub's client as one line that says how to remedy it.

    Args:
        error: one of `_errors`.
        what: was asked for, such as "model org/name at <commit>".
    """
    from huggingface_hub import constants, errors, get_token  # noqa: PLC0415
    from huggingface_hub.utils import httpx  # noqa: PLC0415 (another package in its version 2)

    hides = (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled)
    if isinstance(error, hides) and error.__cause__:
        return explained(error.__cause__, what)
    hub, token = constants.ENDPOINT, get_token()
    account = "the token's account (HF_TOKEN)" if token else "HF_TOKEN"
    why = " ".join(str(error).split()) or type(error).__name__
    kind = ConfigError
    match error:
        case errors.OfflineModeIsEnabled():
            kind = UnreachableError
            why = "not in the hub's cache, and offline mode is enabled; unset HF_HUB_OFFLINE"
        case errors.GatedRepoError() if token:
            why = f"gated, and {account} may not read it; ask for access on its page at {hub}"
        case errors.GatedRepoError():
            remedy = f"accept its conditions on its page at {hub}, then set HF_TOKEN"
            why = f"gated, and there is no token; {remedy}"
        case errors.RepositoryNotFoundError():
            remedy = f"correct the name, or give {account} access if it is private"
            why = f"{hub} has no such repository; {remedy}"
        case errors.RevisionNotFoundError():
            why = "the repository has no such commit; correct `revision`"
        case errors.HfHubHTTPError(response=httpx.Response(status_code=401)):
            remedy = "replace it" if token else "set it to a token that may do this"
            why = f"{hub} does not accept HF_TOKEN; {remedy}"
        case errors.HfHubHTTPError(response=httpx.Response(status_code=403)):
            why = f"{account} may not do this at {hub}; give it the right"
        case httpx.RemoteProtocolError() | httpx.ReadError() | httpx.WriteError():
            remedy = "run the command again; files that are complete are not fetched again"
            why = f"the transfer broke off ({why}); {remedy}"
        case RuntimeError() | ConnectionError():  # of hf_xet
            remedy = "run the command again, or set HF_HUB_DISABLE_XET=1"
            why = f"the hub's Xet storage failed ({why}); {remedy}"
        case httpx.TransportError():
            kind = UnreachableError
            why = f"{hub} does not answer ({why}); check the network and HF_ENDPOINT"
    return kind(f"{what}: {why}")


def _impatient_client(hooks: Any) -> Any:
    """A client of HTTP for which a hub that cannot be reached is offline mode."""
    from huggingface_hub.errors import OfflineModeIsEnabled  # noqa: PLC0415 (slow, rarely used)
    from huggingface_hub.utils import httpx  # noqa: PLC0415

    class Client(httpx.Client):
        def send(self, request: Any, **options: Any) -> Any:
            request.extensions["timeout"]["connect"] = TIMEOUT
            try:
                return super().send(request, **options)
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                raise OfflineModeIsEnabled(f"{request.url.host} does not answer") from error

    return Client(event_hooks=hooks, follow_redirects=True, timeout=None)


def _refusal(repository: str, revision: str | None, kind: Kind) -> ConfigError | None:
    """Ask the hub for a repository, once: its client would try for half a minute.

    Returns:
        Why it cannot be had; None if it can.
    """
    from huggingface_hub import HfApi  # noqa: PLC0415 (slow, rarely used)

    try:
        HfApi().repo_info(repository, repo_type=kind, revision=revision, timeout=TIMEOUT)
    except _errors() as error:
        where = f" at {revision}" if revision else ""
        return explained(error, f"{kind} {repository}{where}")
    return None


def _errors() -> tuple[type[Exception], ...]:
    """What the hub's client raises: for answers, networks and names; RuntimeError for Xet."""
    from huggingface_hub.errors import HFValidationError  # noqa: PLC0415 (slow, rarely used)
    from huggingface_hub.utils import httpx  # noqa: PLC0415

    return (OSError, httpx.HTTPError, HFValidationError, RuntimeError)


def _listed_hash(path: Path, folder: Path) -> str | None:
    """Hash under which the hub lists a downloaded file; None if the file is not one.

    In the hub's cache, files are links to contents that are named by their hashes. In another
    folder, the hash is the second line of a file of metadata.
    """
    if path.is_symlink():
        listed = path.resolve().name
    else:
        name = path.relative_to(folder)
        about = folder / NOTES / "huggingface" / "download" / f"{name}.metadata"
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
