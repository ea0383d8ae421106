"""RepoQA's function match (arXiv 2406.06025): which function of a repository was written?"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import cache
from importlib import import_module
from typing import Any

from proxykv.runtime.errors import ConfigError

PASS = 0.8
"""BLEU from which the most similar function counts as the one that was written."""

_FENCE = re.compile(r"^```(?:\w+)?\s*\n(.*?)(?=^```)```", re.DOTALL | re.MULTILINE)

# language: (package of its grammar, the grammar's name there, query for functions)
_GRAMMARS = {
    "python": ("tree_sitter_python", "language", "(function_definition name: (_)) @f"),
    "java": ("tree_sitter_java", "language", "(method_declaration name: (_)) @f"),
    "typescript": (
        "tree_sitter_typescript",
        "language_typescript",
        "(function_declaration name: (_)) @f",
    ),
    "rust": ("tree_sitter_rust", "language", "(function_item name: (_)) @f"),
    "cpp": (
        "tree_sitter_cpp",
        "language",
        "(function_definition declarator: (function_declarator declarator: (identifier))) @f",
    ),
    "go": ("tree_sitter_go", "language", "(function_declaration name: (_)) @f"),
}

LANGUAGES = tuple(_GRAMMARS)
"""Languages of the repositories."""


def passes(prediction: str, name: str, lang: str, needles: Iterable[Mapping[str, str]]) -> bool:
    """Whether the function in a prediction is most similar to the needle called `name`.

    Similarity is BLEU of words split at white space, smoothed (Chen and Cherry's method 4), and
    must be at least `PASS`. Of equally similar needles the first counts.

    Args:
        prediction: what a model wrote.
        name: name of the function that was asked for.
        lang: language of the repository.
        needles: `name` and source (`needle`) of the functions asked for in this repository.

    Raises:
        ConfigError: for a language without a grammar.
    """
    written = first_function(prediction, lang)
    best, closest = 0.0, None
    for needle in needles:
        similarity = bleu(written, needle["needle"])
        if similarity > best:
            best, closest = similarity, needle["name"]
    return closest == name and best >= PASS


def bleu(candidate: str, reference: str) -> float:
    """BLEU-4 of words split at white space.

    Args:
        candidate: the text to score.
        reference: the right text.
    """
    from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu  # noqa: PLC0415 (slow)

    words = [re.split(r"\s+", text.strip()) for text in (reference, candidate)]
    smooth = SmoothingFunction().method4
    return sentence_bleu(words[:1], words[1], smoothing_function=smooth)  # type: ignore[return-value]


def first_function(text: str, lang: str) -> str:
    """The first function in the code fences of a text.

    Without a function it is the first fence's content, without a fence the whole text.

    Args:
        text: the model's answer.
        lang: language of the code.
    """
    text = text.strip()
    blocks = _FENCE.findall(text)
    for block in blocks:
        source = block.encode()
        if nodes := _functions(source, lang):
            first = min(nodes, key=lambda node: node.start_byte)
            return source[first.start_byte : first.end_byte].decode()
    return blocks[0] if blocks else text


def _functions(source: bytes, lang: str) -> list[Any]:
    from tree_sitter import Parser, QueryCursor  # noqa: PLC0415 (only this task needs it)

    language, query = _grammar(lang)
    root = Parser(language).parse(source).root_node
    return QueryCursor(query).captures(root).get("f", [])


@cache
def _grammar(lang: str) -> tuple[Any, Any]:
    """Language and query for its functions."""
    from tree_sitter import Language, Query  # noqa: PLC0415 (only this task needs it)

    if lang not in _GRAMMARS:
        raise ConfigError(f"repoqa: no grammar for {lang!r}; known: {', '.join(_GRAMMARS)}")
    package, name, query = _GRAMMARS[lang]
    language = Language(getattr(import_module(package), name)())
    return language, Query(language, query)
