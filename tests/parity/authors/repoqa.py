"""RepoQA's function match, in each of its six languages.

The authors' grammars come in a package that is no longer kept. Their code runs here on the grammars
of this project, so what is compared is the code.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tree_sitter import Language, Node, Parser, Query, QueryCursor

from proxykv.benchmarks import scbench
from proxykv.benchmarks.scbench import repoqa
from tests.parity.authors.predictions import STARTS, words

BODY = " {{\n    // {note}\n    return {a} + {b} * {number};\n}}\n"
FORMS = {
    "python": "def {name}({a}, {b}):\n    # {note}\n    return {a} + {b} * {number}\n",
    "java": "int {name}(int {a}, int {b})" + BODY,
    "typescript": "function {name}({a}: number, {b}: number): number" + BODY,
    "rust": "fn {name}({a}: i32, {b}: i32) -> i32" + BODY,
    "cpp": "int {name}(int {a}, int {b})" + BODY,
    "go": "func {name}({a} int, {b} int) int" + BODY,
}
NEEDLES = 5
FENCES = ("```", "```{lang}", "```python", "``` ", " ```", "~~~")


class _Captures:
    """A query, called as releases of tree-sitter before 0.22 are: captures as pairs, in order."""

    def __init__(self, language: Language, text: str) -> None:
        self._query = Query(language, text)

    def captures(self, root: Node) -> list[tuple[Node, str]]:
        found = QueryCursor(self._query).captures(root)
        pairs = [(node, name) for name, nodes in found.items() for node in nodes]
        return sorted(pairs, key=lambda pair: pair[0].start_byte)


class _Grammar:
    def __init__(self, lang: str) -> None:
        self.language, _ = repoqa._grammar(lang)

    def query(self, text: str) -> _Captures:
        return _Captures(self.language, text)


GRAMMARS: Mapping[str, Any] = {
    "get_language": _Grammar,
    "get_parser": lambda lang: Parser(_Grammar(lang).language),
}
"""What the authors import from `tree_sitter_languages`."""


def compare_functions(
    authors: Any, count: int, rng: random.Random
) -> Iterator[tuple[str, Any, Any, Any]]:
    """Compare verdicts.

    Args:
        authors: their module.
        count: predictions of each language.
        rng: draws them.

    Yields:
        What was compared, the input, the score here and the authors' score.
    """
    for lang in repoqa.LANGUAGES:
        for _ in range(count):
            needles = [_needle(lang, rng) for _ in range(NEEDLES)]
            needle = rng.choice(needles)
            turn = {"answer": needle["needle"], "name": needle["name"], "input": "which?"}
            turn |= {"lang": lang, "needles": needles}
            prediction = _prediction(lang, needle["needle"], needles, rng)
            verdict, _, similarity = authors.needle_evaluator(
                prediction, {"func_name": needle["name"]}, needles, lang, ignore_comments=False
            )
            # As their compute_score counts, at the threshold that their summary takes.
            theirs = float(verdict == authors.Result.BEST_MATCH and similarity >= repoqa.PASS)
            ours = scbench.score("repoqa", prediction, turn)
            yield f"repoqa score ({lang})", (prediction, turn["name"]), ours, theirs


def _needle(lang: str, rng: random.Random) -> dict[str, str]:
    name, a, b = rng.sample([f"{x}{y}" for x in "fghk" for y in "abcd"], 3)
    note = words(rng, 20).replace("\n", " ")
    text = FORMS[lang].format(name=name, a=a, b=b, note=note, number=rng.randrange(4))
    return {"name": name, "needle": text}


def _prediction(
    lang: str, right: str, needles: Sequence[Mapping[str, str]], rng: random.Random
) -> str:
    """Functions, the right one or another, whole, changed or cut, in fences and outside."""
    parts = [rng.choice(STARTS)]
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        text = rng.choice((right, rng.choice(needles)["needle"]))
        match rng.randrange(6):
            case 0:
                text = text[: rng.randrange(len(text))]
            case 1:
                kept = [word for word in text.split(" ") if rng.random() > 0.1]
                text = " ".join(kept)
            case 2:
                text = words(rng) + "\n" + text
        fence = rng.choice(FENCES).format(lang=lang)
        closing = rng.choice(("```", "```", "```", "", "~~~"))
        parts.append(
            rng.choice((text, f"{fence}\n{text}{closing}\n", f"{fence}\n{text}{closing}\n"))
        )
    return "".join(parts)
