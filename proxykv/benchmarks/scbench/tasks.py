"""SCBench's twelve tasks: sizes, instructions, metrics and the records that they are made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from proxykv.benchmarks.contract import Task
from proxykv.benchmarks.record_schema import TEXT, list_of, record
from proxykv.benchmarks.scbench import metrics, repoqa
from proxykv.benchmarks.scbench.metrics import OPTIONS, Metric, Turn, letter

PREFIX = "scbench_"
NUMBER = {"type": "number", "description": "a number"}
QUANTITY = {
    "type": "string",
    "pattern": "The .+ is",
    "description": "a text that says `The <quantity> is`",
}


def _input(turn: Turn) -> str:
    return turn["input"]


def _question(turn: Turn) -> str:
    return f"Question: {turn['input']}\nAnswer:"


def _chinese_question(turn: Turn) -> str:
    return f"问题：{turn['input']}\n答案："


def _choice(turn: Turn) -> str:
    options = "".join(f"{a}. {b}\n" for a, b in zip(OPTIONS, turn["options"], strict=True))
    return f"Question: {turn['input']}\n{options}\nThe the correct answer is"


def _answer(turn: Turn) -> str:
    return str(turn["answer"])


def _in_a_fence(turn: Turn) -> str:
    return f"```{turn['lang']}\n{turn['answer']}\n```"


def _letter_and_text(turn: Turn) -> str:
    return f"{letter(turn)}. {turn['answer']}"


def _listed(turn: Turn) -> str:
    return ", ".join(turn["answer"])


def _turn(**fields: Any) -> dict[str, Any]:
    return record(**{"input": TEXT, "answer": TEXT, **fields})


@dataclass(frozen=True)
class Kind:
    """A kind of question.

    Attributes:
        official: the authors' metric.
        fixed: the metric without its plain mistakes; the official one by default.
        question: the question's text in the prompt, misspellings included.
        reference: what a model that answers right is expected to write.
        turn: JSON schema of an entry of `multi_turns`.
        fields: JSON schemas of further fields of a record.
    """

    official: Metric
    fixed: Metric | None = None
    question: Callable[[Turn], str] = _input
    reference: Callable[[Turn], str] = _answer
    turn: Mapping[str, Any] = field(default_factory=_turn)
    fields: Mapping[str, Any] = field(default_factory=dict)

    def metric(self, variant: str) -> Metric:
        """The metric of a variant, "official" or "fixed"."""
        return self.fixed if variant == "fixed" and self.fixed else self.official


CONTAINED = Kind(metrics.contains)
SUMMARY = Kind(metrics.rouge_lsum)
PASSKEY = Kind(metrics.first_integer)
REPOQA = Kind(
    metrics.function_match,
    reference=_in_a_fence,
    turn=_turn(name=TEXT),
    fields={
        "repo": TEXT,
        "lang": {
            "enum": list(repoqa.LANGUAGES),
            "description": f"one of {', '.join(repoqa.LANGUAGES)}",
        },
    },
)
KINDS = {
    "vt": Kind(metrics.share_found, reference=_listed, turn=_turn(answer=list_of(TEXT))),
    "qa_eng": Kind(metrics.answer_found, question=_question),
    "qa_chn": Kind(
        metrics.answer_character_f1, metrics.whole_answer_f1, question=_chinese_question
    ),
    "choice_eng": Kind(
        metrics.choice,
        metrics.named_choice,
        question=_choice,
        reference=_letter_and_text,
        turn=_turn(options=list_of(TEXT, exactly=len(OPTIONS)))
        | {"memberOf": {"answer": "options"}},
    ),
    "many_shot": Kind(metrics.answer_character_found, metrics.named_shot),
    "mf": Kind(
        metrics.first_number,
        metrics.first_signed_number,
        turn=_turn(input=QUANTITY, answer=NUMBER),
    ),
}


@dataclass(frozen=True, kw_only=True)
class ScbenchTask(Task):
    """A task of SCBench.

    Attributes:
        kind: kind of its questions; None if the task mixes several.
        mixed: kinds of its questions by the name that a turn gives (`task`, without `scbench_`),
            each with the most tokens of an answer.
        instruction: text before the context.
        numbers: whether the context is a list of numbers.
    """

    kind: Kind | None = None
    mixed: Mapping[str, tuple[Kind, int]] = field(default_factory=dict)
    instruction: str = ""
    numbers: bool = False

    @property
    def longest_answer(self) -> int:
        """The most tokens of an answer; a mixed task's `max_new_tokens` is the average of two."""
        return max([limit for _, limit in self.mixed.values()], default=self.max_new_tokens)

    def kind_of(self, turn: Turn) -> Kind:
        """The kind of a question."""
        return self.kind or self.mixed[turn["task"].removeprefix(PREFIX)][0]

    def limit(self, turn: Turn) -> int:
        """The most tokens of the answer to a question."""
        return (
            self.mixed[turn["task"].removeprefix(PREFIX)][1] if self.mixed else self.max_new_tokens
        )

    @property
    def schema(self) -> Mapping[str, Any]:
        """JSON schema of the task's records."""
        kinds = [kind for kind, _ in self.mixed.values()]
        turn = self.kind.turn if self.kind else self._mixed_turn()
        fields = {k: v for kind in kinds or [self.kind] if kind for k, v in kind.fields.items()}
        context = list_of(NUMBER) if self.numbers else TEXT
        return record(context=context, multi_turns=list_of(turn), **fields)

    def _mixed_turn(self) -> Mapping[str, Any]:
        names = [PREFIX + name for name in self.mixed]
        task = {"enum": names, "description": f"one of {', '.join(names)}"}
        return record(task=task) | {
            "allOf": [
                {
                    "if": {"properties": {"task": {"const": PREFIX + name}}},
                    "then": kind.turn,
                }
                for name, (kind, _) in self.mixed.items()
            ]
        }


# Published counts and mean lengths, and questions of a context, of which five are asked at most. An
# answer of a mixed task counts as the average of its two kinds. Instructions are quoted.
TASKS = {
    "kv": ScbenchTask(
        contexts=100,
        context_tokens=125_000,
        questions=5,
        max_new_tokens=150,
        kind=CONTAINED,
        instruction="Extract the value corresponding to the specified key in the JSON object "
        "below.",
    ),
    "prefix_suffix": ScbenchTask(
        contexts=100, context_tokens=112_000, questions=5, max_new_tokens=150, kind=CONTAINED
    ),
    "vt": ScbenchTask(
        contexts=90, context_tokens=124_000, questions=5, max_new_tokens=30, kind=KINDS["vt"]
    ),
    "repoqa": ScbenchTask(
        contexts=88,
        context_tokens=65_000,
        questions=5,
        max_new_tokens=1024,
        kind=REPOQA,
        instruction="Based on the function description and code context, please retrieve and "
        "repeat the exact described function from the code context in a code block wrapped by ```:",
    ),
    "qa_eng": ScbenchTask(
        contexts=69,
        context_tokens=198_000,
        questions=5,
        max_new_tokens=40,
        kind=KINDS["qa_eng"],
        instruction="Read the book and answer the question. Be very concise in your answer.",
    ),
    "qa_chn": ScbenchTask(
        contexts=35,
        context_tokens=1_500_000,
        questions=5,
        max_new_tokens=40,
        kind=KINDS["qa_chn"],
        instruction="阅读以下书籍然后回答问题。",
    ),
    "choice_eng": ScbenchTask(
        contexts=58,
        context_tokens=188_000,
        questions=5,
        max_new_tokens=40,
        kind=KINDS["choice_eng"],
        instruction="Read the book and answer the question.",
    ),
    "many_shot": ScbenchTask(
        contexts=54, context_tokens=22_000, questions=5, max_new_tokens=10, kind=KINDS["many_shot"]
    ),
    "summary": ScbenchTask(
        contexts=70, context_tokens=104_000, questions=5, max_new_tokens=200, kind=SUMMARY
    ),
    "mf": ScbenchTask(
        contexts=100,
        context_tokens=120_000,
        questions=2,
        max_new_tokens=5,
        kind=KINDS["mf"],
        numbers=True,
    ),
    "summary_with_needles": ScbenchTask(
        contexts=70,
        context_tokens=105_000,
        questions=5,
        max_new_tokens=408,
        mixed={"summary": (SUMMARY, 800), "passkey": (PASSKEY, 15)},
    ),
    "repoqa_and_kv": ScbenchTask(
        contexts=88,
        context_tokens=68_000,
        questions=5,
        max_new_tokens=552,
        mixed={"repoqa": (REPOQA, 1024), "kv": (CONTAINED, 80)},
    ),
}
