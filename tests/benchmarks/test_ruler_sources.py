"""Where RULER's texts come from, and what is said when one is missing."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import ruler_corpus as corpus
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from proxykv.benchmarks import ruler
from proxykv.benchmarks.examples import Example
from proxykv.benchmarks.ruler.corpora import Corpora, Essays, Words
from proxykv.benchmarks.ruler.sample import Sample, largest_size
from proxykv.runtime.errors import ConfigError


def build(task: str, length: int, contexts: int = 2, **options: Any) -> list[Example]:
    """Contexts measured by a tokenizer that takes words and punctuation for tokens."""
    tokenizer = Tokenizer(WordLevel({"<unk>": 0}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()  # type: ignore
    settings = {"seed": 1, "split": "eval", **options}
    return ruler.build(task, tokenizer=tokenizer, lengths=[length], contexts=contexts, **settings)


def test_essays_have_any_number_of_words_and_start_again() -> None:
    text = "One two three. Four five! Six seven eight."
    essays = Essays([text])
    assert essays.sentences(3) == ["One two three."]
    assert essays.sentences(4) == ["One two three.", "Four"]
    assert essays.sentences(8) == ["One two three.", "Four five!", "Six seven eight."]
    assert essays.sentences(18)[3:] == [*essays.sentences(8), "One two"]
    assert Essays(["Born in\n\n2010.What now?  Go."]).sentences(5) == [
        "Born in 2010.What now?",
        "Go.",
    ]


def test_essays_may_come_from_any_source_of_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("Only a. " * 50)
    (tmp_path / "b.txt").write_text("Only b. " * 50)
    (tmp_path / "c.txt").write_text("Only c. " * 50)
    essays = [{"kind": "folder", "path": str(tmp_path), "files": "*.txt"}]
    (example,) = build("niah_single_2", 400, contexts=1, sources={"essays": essays})
    found = {name for name in "abc" if f"Only {name}." in example.context}
    assert found
    assert found < set("abc")  # the others are there for training


def test_squad_reads_alike_from_its_json_and_from_the_hubs_table(tmp_path: Path) -> None:
    corpus.write_squad(tmp_path / "any-name.json")
    corpus.write_squad_table(tmp_path)
    file = {"squad": {"path": str(tmp_path / "any-name.json")}}
    table = {"squad": {"path": str(tmp_path)}}
    assert build("qa_1", 900, sources=file) == build("qa_1", 900, sources=table)


def test_more_words_than_wonderwords_has(tmp_path: Path) -> None:
    corpus.write_words(tmp_path / "english_words.json", 20_000)
    rng = random.Random(0)
    few = Words(()).most
    many = Corpora({"words": {"path": str(tmp_path)}}, "").words
    assert many.most == 20_000
    assert not any(word.startswith("word0") for word in many.draw(few, rng))
    assert all(word.startswith("word") for word in many.draw(few + 1, rng))
    with pytest.raises(ConfigError, match=r"20001 different words .* english_words.json"):
        many.draw(20_001, rng)
    with pytest.raises(
        ConfigError, match=rf"{few + 1} different words are needed, there are {few}"
    ):
        build("cwe", 4 * 3 * few, contexts=1)


def test_ready_samples_are_taken_as_they_are(tmp_path: Path) -> None:
    corpus.write_ready(tmp_path, tuple(ruler.TASKS))
    samples = {"path": str(tmp_path)}
    for task in ruler.TASKS:
        for number, example in enumerate(build(task, corpus.READY_LENGTH, samples=samples)):
            (question,) = example.questions
            record = corpus.ready_record(task, number)
            assert example.context == record["context"]
            assert (question.text, question.answer_start) == (
                record["question"],
                record["answer_prefix"],
            )
            assert question.max_new_tokens == 30
            assert question.meta == {"outputs": record["answer"]}
    (example, _) = build("niah_multivalue", 4096, samples=samples)
    assert example.questions[0].references == ("11, 13",)
    with pytest.raises(ConfigError, match="2 of task 'vt' in 4096; set `contexts`"):
        build("vt", 4096, contexts=3, samples=samples)
    with pytest.raises(ConfigError, match="no 8192"):
        build("vt", 8192, samples=samples)


@pytest.mark.parametrize(
    ("task", "missing"),
    [
        ("niah_single_2", "baber/paul_graham_essays"),
        ("qa_1", "rajpurkar/squad_v2"),
        ("qa_2", "namlh2004/hotpotqa"),
    ],
)
def test_what_cannot_be_had_is_named(
    task: str, missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ConfigError, match=missing) as error:
        build(task, 1000)
    assert str(error.value).startswith(f"ruler/{task} of 1000 tokens: dataset {missing} at ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("task", "length", "options", "message"),
    [
        ("vt", 900, {"split": "train"}, "no training split"),
        ("vt", 900, {"sources": {"essay": {}}}, "unknown 'essay'; did you mean 'essays'"),
        ("niah_single_1", 150, {}, "niah_single_1 of 150 tokens: the shortest prompt .* take 2"),
        ("fwe", 240, {}, "fwe of 240 tokens: vocabulary of 3 words, 4 are needed"),
        ("qa_2", 900, {"sources": {"hotpotqa": {"path": "nowhere"}}}, "nowhere: no such"),
    ],
)
def test_mistakes_are_one_line(
    task: str, length: int, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        build(task, length, **options)
    assert "\n" not in str(error.value)


class Counter:
    """A tokenizer of which only the number of tokens matters, by the number of characters."""

    def __init__(self, count: Callable[[int], int]) -> None:
        self.count, self.measured = count, 0

    def encode_batch_fast(self, texts: list[str], **_: Any) -> list[range]:
        self.measured += 1
        return [range(self.count(len(text))) for text in texts]


LINES = range(5, sys.maxsize)


@pytest.mark.parametrize(
    ("count", "fits"),
    [
        (lambda n: n // 4, True),
        (lambda n: n**2 // 1000, True),
        (lambda n: 10 * int(n**0.5), True),
        (lambda n: 0 if n < 9000 else 3000, True),  # no size fills the length
        (lambda n: n // 4 + 300 * (n // 100 % 2), True),  # neither grows steadily
        (lambda n: 1, False),  # all text is one unknown token
        (lambda n: min(n // 4, 128), False),  # what is longer is cut
        (lambda n: n.bit_length(), False),
    ],
)
def test_the_search_for_a_size_is_bounded(count: Callable[[int], int], fits: bool) -> None:
    tokenizer = Counter(count)

    def search() -> int:
        draw = lambda size: Sample("a" * 20 * size, "", "", ())  # noqa: E731
        return largest_size(draw, LINES, cast(Tokenizer, tokenizer), 2000)

    if fits:
        assert count(20 * search()) <= 2000
    else:
        with pytest.raises(ConfigError, match=r"the tokenizer makes \d+ tokens of \d+ characters"):
            search()
    assert tokenizer.measured < 100


@pytest.mark.parametrize("task", ["niah_single_1", "vt", "fwe"])
def test_a_tokenizer_that_takes_any_text_for_one_token_is_refused(task: str) -> None:
    tokenizer = Tokenizer(WordLevel({"<unk>": 0}, unk_token="<unk>"))
    with pytest.raises(ConfigError, match=f"ruler/{task} of 900 tokens: the tokenizer makes"):
        ruler.build(task, tokenizer=tokenizer, lengths=[900], contexts=1, seed=1, split="eval")


def test_too_many_contexts_and_records_of_another_kind(tmp_path: Path) -> None:
    corpus.write_hotpotqa(tmp_path / "hotpot_dev_distractor_v1.json", needed=3)
    sources = {"hotpotqa": {"path": str(tmp_path)}}
    with pytest.raises(ConfigError, match="holds 12 questions; set `contexts`"):
        build("qa_2", 900, contexts=13, sources=sources)
    (tmp_path / "essays.json").write_text('[{"text": "A."}, {"body": "B."}]')
    with pytest.raises(
        ConfigError, match=r"essays.json, record 2: text: expected a text .* no such field"
    ):
        build("niah_single_2", 900, sources={"essays": {"path": str(tmp_path)}})
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(ConfigError, match="no records in"):
        build("qa_1", 900, sources={"squad": {"path": str(tmp_path / "empty.jsonl")}})


@pytest.mark.skipif("PROXYKV_DATA" not in os.environ, reason="PROXYKV_DATA names no real samples")
def test_real_questions() -> None:
    squad = {"path": "$PROXYKV_DATA/xquad/xquad.en.json"}
    for example in build("qa_1", 2000, contexts=5, sources={"squad": squad}):
        (question,) = example.questions
        assert question.references[0] in example.context
        assert question.text.endswith("?")
