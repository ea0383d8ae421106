"""Rows of predictions: the tokenized question, an answer's columns, and a row's key."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from torch import Tensor

from proxykv.benchmarks.examples import Example, Question
from proxykv.benchmarks.excerpt import Excerpt
from proxykv.model.decode import Answer, TokenizedQuestion
from proxykv.model.model import Model
from proxykv.model.tensors import Keep
from proxykv.runtime.digest import digest

REFERENCE_TOKENS = 128
"""Tokens of the reference answer along which NLL and KL are measured."""

POSITIONS = 20
"""Equal parts of a context for which the share of kept pairs is recorded."""

LEVELS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
"""Characters of a token's kept share, from none to all of its pairs."""

Key = tuple[str, str, str, float]
"""A row's key: (context id, prompt hash, method digest, retention)."""


def tokenized(model: Model, question: Question, context: str) -> TokenizedQuestion:
    """Tokenize a question: everything between the context and the answer, and the reference.

    Args:
        model: the target.
        question: the question.
        context: the context it is about.

    Raises:
        ConfigError: if a special token begins in the context and ends in the question.
    """
    start = question.answer_start
    prompt = model.question(question.text, question.history, start, context)
    gap = " " if start and not start[-1].isspace() else ""
    # Without both, the answer begins a new word, whatever the question ends with.
    before = start or (model.template.closing if model.template else "")
    reference = model.encode(gap + question.references[0], before)[:REFERENCE_TOKENS]
    # A tokenizer may put something before a lone line break (the last id is the break itself), or
    # have no break at all: then the model cannot write one.
    stop = frozenset(ids[-1] for text in question.stop if (ids := model.encode(text)))
    return TokenizedQuestion(prompt, reference, question.max_new_tokens, stop)


def outcome(
    model: Model, question: Question, tokens: TokenizedQuestion, one: Answer
) -> dict[str, Any]:
    """Return the columns of a row that an answer fills.

    Args:
        model: the target.
        question: the question.
        tokens: the same question, tokenized.
        one: the answer.
    """
    return {
        "prediction": model.decode(list(one.ids)),
        "references": list(question.references),
        "nll": one.nll,
        "kl": one.kl,
        "decode_seconds": one.seconds,
        "decode_rows": one.rows,
        "question_tokens": len(tokens.prompt),
        "new_tokens": len(one.ids),
    }


def key_of(row: Mapping[str, Any]) -> Key:
    """Return the key of a row."""
    return row["context_id"], row["prompt_hash"], row["method_digest"], row["retention"]


def prompt_hash(example: Example, question: Question, donor: str | None = None) -> str:
    """Digest of all texts that decide an answer and its likelihoods.

    Args:
        example: the context.
        question: one of its questions.
        donor: the other context, of a control that reads one.
    """
    others = [] if donor is None else [donor]
    return digest([example.context, example.chat, asdict(question), *others])


def kept_where(keep: Keep, oracle: Keep | None) -> dict[str, Any]:
    """Where the kept pairs lie: shares of a head's, a part's and the oracle's pairs.

    Args:
        keep: the kept set [layer, kv_head, token].
        oracle: what the oracle keeps at the same retention; None if it was not computed with it.

    Returns:
        `heads`: kept share by layer and head. `positions`: by part of the context, from its start.
        `overlap`: by layer, the share of the oracle's kept pairs that are kept here, too; None
        where the oracle keeps none.
    """
    parts = keep.tensor_split(min(POSITIONS, keep.shape[-1]), dim=-1)
    found: dict[str, Any] = {
        "heads": [
            [round(share, 4) for share in layer] for layer in keep.double().mean(-1).tolist()
        ],
        "positions": [round(float(part.double().mean()), 4) for part in parts],
    }
    if oracle is not None:
        both, own = ((kept.sum(dim=(1, 2))).tolist() for kept in (keep & oracle, oracle))
        found["overlap"] = [round(b / o, 4) if o else None for b, o in zip(both, own, strict=True)]
    return found


def kept_tokens(keep: Keep, excerpt: Excerpt, *, by_layer: bool) -> dict[str, Any]:
    """Which tokens of an excerpt are kept, and which of the answers to its questions.

    Args:
        keep: the kept set [layer, kv_head, token].
        excerpt: of the context.
        by_layer: whether to tell the layers apart, too.

    Returns:
        `tokens`: a character of `LEVELS` for each token that is shown: the share of its pairs, over
        all layers and heads, that is kept. `layers`: the same of each layer's pairs, if asked for.
        `answers`: by question, the kept share of the answer's pairs in each layer; None where the
        answer is not in the context.
    """
    shares = keep.double().mean(dim=1)[:, excerpt.shown]
    found: dict[str, Any] = {"tokens": _levels(shares.mean(dim=0))}
    if by_layer:
        found["layers"] = [_levels(layer) for layer in shares]
    answers = []
    for places in excerpt.answers:
        tokens = [token for place in places for token in place]
        of_layers = keep[..., tokens].double().mean(dim=(1, 2)).tolist()
        answers.append([round(share, 4) for share in of_layers] if tokens else None)
    return found | {"answers": answers}


def _levels(shares: Tensor) -> str:
    """Shares of tokens as characters."""
    return "".join(LEVELS[level] for level in (shares * (len(LEVELS) - 1)).round().long().tolist())
