"""A record as published, and the line with which a spoilt one is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from proxykv.runtime.errors import ConfigError

RECORD: dict[str, Any] = {
    "input": "Which?",
    "context": "An apple and a pear.",
    "answers": ["pear"],
    "all_classes": None,
    "_id": "q7",
}


def refused(make: Callable[[], Any]) -> str:
    """The one line with which something is refused."""
    with pytest.raises(ConfigError) as error:
        make()
    assert "\n" not in str(error.value)
    return str(error.value)
