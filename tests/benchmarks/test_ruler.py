"""RULER's thirteen tasks: their prompts, lengths and answers."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import ruler_corpus as corpus
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from proxykv.benchmarks import ruler
from proxykv.benchmarks.examples import Example, read_jsonl, write_jsonl

NIAH = [task for task in ruler.TASKS if task.startswith("niah")]
TOKENS = {"niah": 128, "vt": 30, "cwe": 120, "fwe": 50, "qa": 32}
NOISE = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."
NEEDLE = re.compile(r"One of the special magic (\w+) for (\S+) is: (\S+)\.")
VALUE = {"numbers": r"[1-9]\d{6}", "uuids": r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[0-9a-f-]{17}"}
LIST = "Below is a numbered list of words. In these words, some appear more often than others. "
LIST += "Memorize the ones that appear most often.\n"
TOP = "\nQuestion: What are the 10 most common words in the above list?"
TOP_IS = " Answer: The top 10 words that appear most often in the list are:"
ONLY = (
    "Answer the question based on the given documents. Only give me the answer and do not output "
)
ONLY += "any other words.\n\n"


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    """Byte-level BPE with few merges: pieces cost other tokens together than apart."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore
    tokenizer.decoder = decoders.ByteLevel()  # type: ignore
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=1500, initial_alphabet=alphabet, show_progress=False)
    texts = [text for texts in corpus.paragraphs().values() for text in texts]
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return corpus.write_all(tmp_path_factory.mktemp("ruler"))


@pytest.fixture(scope="module")
def build(tokenizer: Tokenizer, sources: dict[str, Any]) -> Any:
    def built(task: str, *lengths: int, contexts: int = 3, **options: Any) -> list[Example]:
        settings = {"seed": 1, "split": "eval", "sources": sources}
        return ruler.build(
            task, tokenizer=tokenizer, lengths=lengths, contexts=contexts, **{**settings, **options}
        )

    return built


def prompt(example: Example) -> str:
    (question,) = example.questions
    return example.context + question.text + question.answer_start


def outputs(example: Example) -> list[str]:
    return example.questions[0].meta["outputs"]


@pytest.mark.parametrize("task", ruler.TASKS)
def test_prompt_and_answer_fill_the_length(task: str, build: Any, tokenizer: Tokenizer) -> None:
    examples = build(task, 1500, 2500, contexts=4)
    for example, length in zip(examples, [1500, 2500] * 2, strict=True):
        (question,) = example.questions
        assert question.max_new_tokens == TOKENS[task.split("_", maxsplit=1)[0]]
        used = len(tokenizer.encode(prompt(example)).ids) + question.max_new_tokens
        assert length - 120 < used <= length
        assert example.meta == {"length": length}
    assert len({example.id for example in examples}) == 4


def test_tasks_have_the_published_number_of_contexts_and_say_what_is_too_short() -> None:
    assert {task.contexts for task in ruler.TASKS.values()} == {500}
    # Prompts and answers alone take more.
    assert min(task.shortest for task in ruler.TASKS.values()) >= 90


@pytest.mark.parametrize("task", ruler.TASKS)
def test_same_seed_same_contexts_however_many(task: str, build: Any, tmp_path: Path) -> None:
    once = build(task, 1500, contexts=2)
    assert build(task, 1500, contexts=3)[:2] == once
    assert build(task, 1500, contexts=1, seed=2)[0].context != once[0].context
    assert once[0].context != once[1].context
    write_jsonl(tmp_path / "x.jsonl", once)
    assert read_jsonl(tmp_path / "x.jsonl") == once


def test_a_length_may_come_several_times_in_a_turn(build: Any) -> None:
    short, long = build("niah_single_2", 1500, contexts=3), build("niah_single_2", 2000, contexts=2)
    turns = build("niah_single_2", 1500, 2000, 1500, contexts=5)
    assert turns == [short[0], long[0], short[1], short[2], long[1]]


def test_a_chat_template_has_room_in_the_window(build: Any, tokenizer: Tokenizer) -> None:
    (example,) = build("niah_single_2", 1500, contexts=1, max_context=1500)
    assert 1420 < len(tokenizer.encode(prompt(example)).ids) + 128 <= 1436


@pytest.mark.parametrize("task", NIAH)
def test_needles_hold_what_is_asked_and_nothing_else_does(task: str, build: Any) -> None:
    several = task in ("niah_multivalue", "niah_multiquery")
    kind = "uuids" if task in ("niah_single_3", "niah_multikey_3") else "numbers"
    pattern = re.compile(r"\nWhat (?:is|are all) the special magic \w+ for (.+) mentioned in the ")
    for example in build(task, 1500):
        (question,) = example.questions
        name, be = (kind, "are") if several else (kind[:-1], "is")
        some = "Some" if several else "A"
        instruction = (
            f"{some} special magic {name} {be} hidden within the following text. Make sure to "
            f"memorize it. I will quiz you about the {name} afterwards.\n"
        )
        assert example.context.startswith(instruction)
        query = pattern.match(question.text)[1]  # type: ignore[index]
        which = "are all" if several else "is"
        tail = f"the special magic {name} for {query} mentioned in the provided text"
        assert question.text == f"\nWhat {which} {tail}?"
        assert question.answer_start == f" The{tail.removeprefix('the')} {be}"
        planted = [(key, value) for _, key, value in NEEDLE.findall(example.context)]
        keys = re.split(", and |, ", query)
        held = [value for key in keys for k, value in planted if k == key]
        assert sorted(held) == sorted(outputs(example))
        assert all(re.fullmatch(VALUE[kind], value) for value in held)
        spread = {"niah_multivalue": (1, 4), "niah_multiquery": (4, 4)}.get(task, (1, 1))
        assert (len(keys), len(held)) == spread
        if task == "niah_multivalue":  # as a model reads them
            assert question.references == (", ".join(held),)


@pytest.mark.parametrize("task", NIAH)
def test_haystacks(task: str, build: Any) -> None:
    (example,) = build(task, 1500, contexts=1)
    body = example.context.split("\n", 1)[1]
    needles = len(NEEDLE.findall(body))
    rest = NEEDLE.sub("", body)
    if task == "niah_single_1":
        assert (set(rest.split("\n")), needles) == ({NOISE, ""}, 1)
    elif task in ("niah_multikey_2", "niah_multikey_3"):
        assert not rest.strip()
        assert needles > 10
    else:
        words = " ".join(" ".join(texts) for texts in corpus.paragraphs().values()).split()
        assert rest.split() == words[: len(rest.split())]
        expected = {"niah_single_2": 1, "niah_single_3": 1}
        assert needles == expected.get(task, 4)


def test_needles_stand_between_sentences_of_essays_at_all_depths(
    build: Any, tmp_path: Path
) -> None:
    sentences = [f"Sentence number {i} says nothing of note." for i in range(200)]
    (tmp_path / "essays.jsonl").write_text(json.dumps({"text": " ".join(sentences)}))
    depths = []
    sources = {"essays": {"path": str(tmp_path)}}
    for example in build("niah_multikey_1", 1500, contexts=8, sources=sources):
        body = example.context.split("\n", 1)[1].strip()
        before = [NEEDLE.sub("", body[: m.start()]).split() for m in NEEDLE.finditer(body)]
        ends = [" ".join(words[-7:]) for words in before if words]
        assert set(ends) <= {*sentences, " ".join(NEEDLE.sub("", body).split()[-7:])}
        depths += [len(words) / len(NEEDLE.sub("", body).split()) for words in before]
    assert min(depths) < 0.1
    assert max(depths) > 0.9
    assert len(set(depths)) > 16


def test_variables_form_a_chain_after_a_worked_example(build: Any, tokenizer: Tokenizer) -> None:
    head = "Memorize and track the chain(s) of variable assignment hidden in the following text."
    for example in build("vt", 1500):
        (question,) = example.questions
        nothing, shot, task = example.context.split(head)
        assert not nothing
        number = question.text.split("assigned the value ")[1].split(" ")[0]
        assert question.text == (
            "\nQuestion: Find all variables that are assigned the value "
            f"{number} in the text above."
        )
        assert question.answer_start == (
            " Answer: According to the chain(s) of variable assignment in the text above, "
            f"5 variables are assigned the value {number}, they are: "
        )
        assert chain(task) == (number, outputs(example))
        assert question.references == (" ".join(outputs(example)),)
        assert 400 < len(tokenizer.encode(head + shot).ids) < 530
        solved, answer = shot.rsplit("they are: ", 1)
        first, names = chain(solved.split("\nQuestion")[0])
        assert answer == f" {' '.join(names)}\n\n"
        assert f"are assigned the value {first}, " in solved
        assert [len(name) for name in names + outputs(example)] == [3] * 5 + [5] * 5


def chain(text: str) -> tuple[str, list[str]]:
    """The number, and the names in the order of the text, each assigned the one before it."""
    lines = [line for line in text.strip("\n").split("\n") if line != NOISE]
    name, number = lines[0].removeprefix("VAR ").split(" = ")
    names = [name]
    for line in lines[1:]:
        name = line.split(" ")[1]
        assert line == f"VAR {name} = VAR {names[-1]} "
        names.append(name)
    return number, names


@pytest.mark.parametrize(("length", "often", "seldom"), [(2000, 6, 1), (8192, 30, 3)])
def test_common_words_come_most_often(length: int, often: int, seldom: int, build: Any) -> None:
    (example,) = build("cwe", length, contexts=1)
    (question,) = example.questions
    shot, task = example.context.split("\n" + LIST)
    listed, answer = shot.removeprefix(LIST).split(TOP + TOP_IS + " ")
    assert shot.startswith(LIST)
    assert (question.text, question.answer_start) == (TOP, TOP_IS)
    counts = Counter(words(task))
    assert {word for word, count in counts.items() if count == often} == set(outputs(example))
    assert set(counts.values()) == {often, seldom}
    assert words(question.references[0]) == outputs(example)
    shot_often = 3 if length < 4096 else 10
    common = {word for word, count in Counter(words(listed)).items() if count == shot_often}
    assert common == set(words(answer))
    assert len(set(words(listed))) == (20 if length < 4096 else 40)


def words(numbered: str) -> list[str]:
    """The words of `1. one 2. two`; fails if a number is missing."""
    found = re.findall(r"(\d+)\. (\D+?)(?= \d+\. |$)", numbered.strip())
    assert [int(number) for number, _ in found] == list(range(1, len(found) + 1))
    return [word for _, word in found]


def test_frequent_words_follow_the_zeta_distribution(build: Any) -> None:
    (example,) = build("fwe", 4096, contexts=1)
    (question,) = example.questions
    head = "Find the three most frequently appeared coded words. "
    text = example.context.split(head)[1]
    ranked = Counter(text.split(" ")).most_common()
    assert [word for word, _ in ranked[:4]] == ["...", *outputs(example)]
    noise = ranked[0][1]
    assert [count / noise for _, count in ranked[1:4]] == pytest.approx(
        [1 / 4, 1 / 9, 1 / 16], abs=2 / noise
    )
    assert all(re.fullmatch("[a-z]{6}", word) for word, _ in ranked[1:])
    assert question.text.startswith("\nQuestion: Do not provide any explanation. Please ignore ")
    assert question.answer_start.endswith("the three most frequently appeared words are:")


@pytest.mark.parametrize("task", ["qa_1", "qa_2"])
def test_documents_answer_the_question(task: str, build: Any) -> None:
    spots = set()
    for example in build(task, 1500, contexts=8):
        (question,) = example.questions
        given, query = question.text.split("Question: ")
        assert given == "\n\n" + ONLY
        assert example.context.startswith(ONLY + "The following are given documents.\n\nDocument 1")
        assert question.answer_start == " Answer:"
        documents = re.split(r"\n*Document \d+:\n", example.context)[1:]
        quoted = query.split("'")[1] if "'" in query else query.split('"')[1]
        (spot,) = [
            i for i, text in enumerate(documents) if f"{quoted} {outputs(example)[0]}" in text
        ]
        spots.add(spot)
        assert question.references == tuple(outputs(example))
        assert len(documents) == len(set(documents)) >= 3
    assert len(spots) > 2


def test_squad_takes_paragraphs_of_the_article_first(build: Any) -> None:
    (example,) = build("qa_1", 2000, contexts=1)
    article = next(iter(corpus.paragraphs().values()))
    assert all(text in example.context for text in article)
    assert outputs(example)[2] == outputs(example)[0].upper()


@pytest.mark.parametrize("task", ruler.TASKS)
def test_the_reference_scores_full_marks(task: str, build: Any) -> None:
    (example,) = build(task, 1500, contexts=1)
    (question,) = example.questions
    assert ruler.grade(task, question.references[0], question) == {"score": 1.0}
