"""Vocabularies: whether two models can share token ids."""

from __future__ import annotations

import hashlib
import json
from typing import Any, Protocol, runtime_checkable

from proxykv.runtime.errors import ConfigError


@runtime_checkable
class HasVocabulary(Protocol):
    """A tokenizer, of `tokenizers` or of `transformers`."""

    def get_vocab(self) -> dict[str, int]:
        """Every piece, added ones included, with its id."""
        ...


def vocabulary_hash(tokenizer: HasVocabulary) -> str:
    """SHA-256 over the sorted (piece, id) pairs: equal means that token ids can be shared."""
    pairs = sorted(tokenizer.get_vocab().items())
    return hashlib.sha256(json.dumps(pairs, ensure_ascii=False).encode()).hexdigest()


def require_shared_vocabulary(target: Any, proxy: Any) -> None:
    """Check that both tokenizers map the same pieces to the same ids.

    Args:
        target: the target's tokenizer.
        proxy: the proxy's tokenizer.

    Raises:
        ConfigError: if they differ.
    """
    one, other = target.get_vocab(), proxy.get_vocab()
    differing = sorted(p for p in one.keys() | other.keys() if one.get(p) != other.get(p))
    if differing:
        raise ConfigError(
            f"target and proxy have different vocabularies ({len(differing)} pieces, such as "
            f"{differing[0]!r}); a proxy must come from the target's family"
        )
