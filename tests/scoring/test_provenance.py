"""Where rows come from, on machines that lack a program."""

from __future__ import annotations

import pytest

from proxykv.scoring.provenance import commit


def test_without_git_the_commit_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert commit() == ""
