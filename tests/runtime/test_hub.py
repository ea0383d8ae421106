"""Only commits pin, and offline mode is said at once. Tests against a server are in `tests/hub`."""

from __future__ import annotations

import pytest

from proxykv.runtime import hub
from proxykv.runtime.errors import ConfigError

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    "revision", ["main", "v1.0", "", COMMIT[:12], COMMIT.upper(), COMMIT + "\n"]
)
def test_only_a_commit_pins(revision: str) -> None:
    with pytest.raises(ConfigError, match="is not a commit") as error:
        hub.download("org/name", revision, ["*"], kind="dataset")
    assert len(str(error.value).splitlines()) == 1


def test_offline_the_reason_comes_at_once() -> None:
    with pytest.raises(hub.UnreachableError, match="offline mode is enabled; unset HF_HUB_OFFLINE"):
        hub.download("org/name", COMMIT, ["*"], kind="dataset")


@pytest.mark.parametrize("name", ["org/name\n", "../name", "a/b/c", "-m", "org/na me", "/name", ""])
def test_names_of_no_repository_are_one_line(name: str) -> None:
    with pytest.raises(ConfigError, match="no repository of the hub") as error:
        hub.download(name, COMMIT, ["*"], kind="model")
    assert len(str(error.value).splitlines()) == 1
    with pytest.raises(ConfigError, match="no repository of the hub"):
        hub.upload(name, {}, "message", private=True)
