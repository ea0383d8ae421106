"""A model's tokenizer, loaded one way for measuring and for running."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from proxykv.runtime.errors import ConfigError

ANCHORS = ("a\n", "a", "\n", ".", "0")
"""Texts to put before a text from the middle of a prompt, so that it is encoded as there. The first
is used that shares no token with it. None ends in a blank, which some tokenizers join to a word."""

BEFORE = 200
"""Characters before a seam in which an added token that touches it is looked for."""

TOKENIZER_FILES = (("tokenizer.json",), ("vocab.json", "merges.txt"), ("tokenizer.model",))
"""Files of which a tokenizer is made: one of these groups."""


def load_tokenizer(folder: Path) -> Any:
    """Load a tokenizer, with truncation and padding off.

    Args:
        folder: a transformers folder.

    Returns:
        A fast tokenizer of transformers; its `backend_tokenizer` gives the same ids.

    Raises:
        ConfigError: if the folder holds no tokenizer, or one that cannot be read.
    """
    if not any(all((folder / n).is_file() for n in group) for group in TOKENIZER_FILES):
        known = ", or ".join(" and ".join(group) for group in TOKENIZER_FILES)
        raise ConfigError(f"{folder}: no tokenizer; expected {known}")
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
    except Exception as error:  # whatever a parser of some format may raise
        why = " ".join(str(error).split())
        raise ConfigError(f"{folder}: the tokenizer cannot be read: {why}") from error
    if not getattr(tokenizer, "is_fast", False):
        raise ConfigError(f"{folder}: {type(tokenizer).__name__} is slow; add a tokenizer.json")
    if not (folder / "tokenizer.json").is_file():
        _require_pieces(tokenizer, folder / "vocab.json")
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()
    _require_blanks(tokenizer, folder)
    return tokenizer


def _require_pieces(tokenizer: Any, path: Path) -> None:
    """Raise ConfigError if the tokenizer lacks pieces of its vocabulary file.

    Some of transformers' classes ignore the file and start with an empty vocabulary.
    """
    if path.is_file() and json.loads(path.read_text("utf-8")).keys() - tokenizer.get_vocab().keys():
        name = type(tokenizer).__name__
        raise ConfigError(
            f"{path}: {name} does not read it; name the right `tokenizer_class` in "
            "tokenizer_config.json, or add a tokenizer.json"
        )


def _require_blanks(tokenizer: Any, folder: Path) -> None:
    """Raise ConfigError if blanks are dropped at the end of a text, or where two texts meet."""
    for left, right in (("a ", "b"), ("a\n\n", "b"), ("a", "  b"), ("a  ", " b"), ("a \n", "\nb")):
        try:
            continuation(tokenizer, right, left, exact=True)
        except ConfigError:
            raise ConfigError(
                f"{folder}: the tokenizer drops or joins blanks at the end of a text (a `Strip` or "
                "`Replace` normalizer in tokenizer.json?), but contexts are read before questions "
                "are known; use a tokenizer without it"
            ) from None


def special_ids(tokenizer: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Ids that the tokenizer itself puts before and after a text (BOS, EOS, or none)."""
    coded = tokenizer.backend_tokenizer.encode("a")
    marks = coded.special_tokens_mask
    before = len(list(takewhile(bool, marks)))
    after = len(list(takewhile(bool, reversed(marks))))
    return tuple(coded.ids[:before]), tuple(coded.ids[len(marks) - after :])


def opening_ids(tokenizer: Any, text: str) -> tuple[int, ...]:
    """Ids of a text at the start of a prompt that end before the word which follows it.

    Args:
        tokenizer: a fast tokenizer of transformers.
        text: the start of a prompt.
    """
    coded = tokenizer.backend_tokenizer.encode(text + "a", add_special_tokens=False)
    spans = zip(coded.ids, coded.offsets, strict=True)
    return tuple(id_ for id_, (_, end) in spans if end <= len(text))


def continuation(
    tokenizer: Any, text: str, before: str = "", *, exact: bool = False
) -> tuple[int, ...]:
    """Ids of a text in the middle of a prompt: without special tokens or a blank put before it.

    They are those of the whole prompt's encoding if one of its tokens begins with the text.

    Args:
        tokenizer: a fast tokenizer of transformers.
        text: the text.
        before: what precedes it. Some tokenizers put a blank before a text that follows an added
            token, a number or a punctuation mark.
        exact: refuse what does not continue `before` letter by letter. A question must; an answer
            need not, since a model's own answer is not encoded again.

    Raises:
        ConfigError: if an added token begins in one text and ends in the other, or if `exact` and
            the tokenizer writes the two texts in another way than their whole, such as with a
            blank between them.
    """
    if not text:
        return ()
    encode = partial(tokenizer.backend_tokenizer.encode, add_special_tokens=False)
    decode = partial(tokenizer.backend_tokenizer.decode, skip_special_tokens=False)
    before = before[-BEFORE:]
    left, coded, seam = list(encode(before).ids), encode(before + text), len(before)
    whole, spans = decode(coded.ids), zip(coded.ids, coded.offsets, strict=True)
    over = {id_ for id_, (start, end) in spans if start < seam < end}
    possible = list(_continuations(tokenizer, text, before))
    for ids in possible:
        if not before or decode(left + ids) == whole:
            return tuple(ids)
    # An unknown word says nothing of its letters, so nothing can be compared.
    if not exact or tokenizer.unk_token_id in over:
        return tuple(possible[0])
    raise ConfigError(
        f"the tokenizer writes {before[-20:]!r} and {text[:20]!r} in another way than their whole "
        "(it puts a blank between them?), but a context is read before its questions are known; "
        "change the end of the context or the start of the question, or use another tokenizer"
    )


def _continuations(tokenizer: Any, text: str, before: str) -> Iterator[list[int]]:
    """What the ids of a text in the middle of a prompt may be, best first.

    Raises:
        ConfigError: if an added token begins in one text and ends in the other.
    """
    encode = partial(tokenizer.backend_tokenizer.encode, add_special_tokens=False)
    added = tokenizer.backend_tokenizer.get_added_tokens_decoder()
    both, seam = before + text, len(before)
    coded = encode(both)
    spans = list(zip(coded.ids, coded.offsets, strict=True))
    over = [(id_, start, end) for id_, (start, end) in spans if start < seam < end]
    if before and not over:
        yield [id_ for id_, (start, _) in spans if start >= seam]
    for id_, start, end in over:
        # An unknown word has an added token's id, too.
        if id_ in added and added[id_].content in both[start:end]:
            anchor = before[start:]
            if encode(anchor).ids != [id_] or encode(anchor + text).ids[:1] != [id_]:
                raise ConfigError(
                    f"the special token {added[id_].content!r} would begin in {before[-20:]!r} and "
                    f"end in {text[:20]!r}, but a context is read before its questions are known; "
                    "change the end of the context or the start of the question"
                )
            yield list(encode(anchor + text).ids[1:])
    for anchor in ANCHORS:
        coded, seam = encode(anchor + text), len(anchor)
        if not any(start < seam < end for start, end in coded.offsets):
            spans = zip(coded.ids, coded.offsets, strict=True)
            yield [id_ for id_, (_, end) in spans if end > seam]
    yield list(encode(text).ids)
