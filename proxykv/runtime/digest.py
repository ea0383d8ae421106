"""Short digests that name results by what they depend on."""

from __future__ import annotations

import hashlib
import json
from typing import Any


def digest(value: Any) -> str:
    """Return twelve hex digits that change with the value.

    Args:
        value: anything that JSON can hold; the order of keys does not matter.
    """
    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
