"""The tiny language, its benchmark, and the weights shipped for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from proxykv.benchmarks import tiny, tiny_language
from proxykv.runtime.errors import ConfigError

MODELS = Path(__file__).parents[2] / "models" / "tiny"
ROLES = ("target", "proxy")
WHOLE = "\n\nRepeat the previous context exactly."
PART = "\n\nRepeat the part of the previous context exactly, starting with "


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_language.make_tokenizer()


def build(task, tokenizer, **changes):
    options = {"contexts": 4, "lengths": (64, 200), "seed": 1, "split": "eval", **changes}
    return tiny.build(task, tokenizer=tokenizer, **options)


def encode(tokenizer, text):
    return tokenizer.encode(text, add_special_tokens=False).ids


def test_vocabulary_is_512_distinct_words(tokenizer):
    assert (
        len(tiny_language.VOCABULARY)
        == len(set(tiny_language.VOCABULARY))
        == tokenizer.get_vocab_size()
        == 512
    )


def test_tokenizer_covers_kvzips_requests_and_drops_line_breaks(tokenizer):
    unknown = tokenizer.token_to_id(tiny_language.UNK)
    assert tokenizer.encode(WHOLE + "\n").tokens == [
        "Repeat", "the", "previous", "context", "exactly", ".",
    ]  # fmt: skip
    assert unknown not in encode(tokenizer, PART)
    assert len(encode(tokenizer, PART)) == 11
    assert encode(tokenizer, "\n") == encode(tokenizer, "\n\n") == []


def test_decoding_joins_words_and_skips_the_end_token(tokenizer):
    ids = encode(tokenizer, "code Bado 47 83 . </s>")
    assert ids[-1] == tokenizer.token_to_id(tiny_language.EOS)
    assert tokenizer.decode(ids) == "code Bado 47 83 ."


@pytest.mark.parametrize("task", tiny.TASKS)
def test_examples_have_exact_lengths_and_known_words(task, tokenizer):
    unknown = tokenizer.token_to_id(tiny_language.UNK)
    examples = build(task, tokenizer)
    for example, length in zip(examples, (64, 200, 64, 200), strict=True):
        ids = encode(tokenizer, example.context)
        assert len(ids) == length
        assert tokenizer.decode(ids) == example.context
        assert unknown not in ids
        assert example.task == task
        assert example.questions
        for question in example.questions:
            answer = encode(tokenizer, question.references[0])
            assert unknown not in encode(tokenizer, question.text) + answer
            assert question.max_new_tokens == len(answer) + 1
    assert len({example.id for example in examples}) == 4


@pytest.mark.parametrize("task", tiny.TASKS)
def test_answers_stand_in_the_context(task, tokenizer):
    for example in build(task, tokenizer, lengths=(256,)):
        for question in example.questions:
            kind, key = question.text.split()[-2:]
            answer = question.references[0]
            if task == "multivalue":
                facts = [f"code {key} {value} ." for value in answer.split(" , ")]
            elif task == "vt":
                b, a, value = answer.split(" ", 2)
                facts = [f"set {a} {value} .", f"set {b} {a} .", f"set {key} {b} ."]
            else:
                facts = [f"{kind} {key} {answer} ."]
            places = [example.context.index(fact) for fact in facts]
            assert places == sorted(places)


@pytest.mark.parametrize("task", tiny.TASKS)
def test_builds_are_deterministic_and_splits_disjoint(task, tokenizer):
    first = build(task, tokenizer)
    assert first == build(task, tokenizer)
    drawn = {example.context for example in first}
    for changes in ({"split": "train"}, {"seed": 2}):
        assert drawn.isdisjoint(example.context for example in build(task, tokenizer, **changes))


@pytest.mark.parametrize(
    "changes", [{"task": "nope"}, {"split": "test"}, {"lengths": (12,)}], ids=str
)
def test_mistakes_are_named(changes, tokenizer):
    task = changes.pop("task", "multikey")
    with pytest.raises(ConfigError, match="tiny"):
        build(task, tokenizer, **changes)


def test_another_languages_tokenizer_is_refused():
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel

    with pytest.raises(ConfigError, match="models/tiny"):
        build("single", Tokenizer(WordLevel({"<unk>": 0}, unk_token="<unk>")))


@pytest.mark.parametrize(
    ("task", "prediction", "reference", "expected"),
    [
        ("single", "47 83", "47 83", 1.0),
        ("multikey", "47 83 .", "47 83", 1.0),
        ("single", "83 47", "47 83", 0.0),
        ("single", "147 83", "47 83", 0.0),
        ("multivalue", "10 22 , 47 83", "47 83 , 10 22", 1.0),
        ("multivalue", "47 83 , 47 83", "47 83 , 10 22", 0.5),
        ("multivalue", "", "47 83 , 10 22", 0.0),
        ("vt", "v03 v01 12 34", "v03 v01 12 34", 1.0),
        ("vt", "v03 v02 12 35", "v03 v01 12 34", 0.5),
    ],
)
def test_score_by_hand(task, prediction, reference, expected):
    assert tiny.score(task, prediction, (reference,)) == expected


def test_score_takes_the_best_reference():
    assert tiny.score("single", "10 22", ("47 83", "10 22")) == 1.0


def test_shipped_folders_are_small_plain_and_without_paths():
    files = [file for role in ROLES for file in (MODELS / role).iterdir()]
    assert sum(file.stat().st_size for file in files) < 6_000_000
    for role in ROLES:
        names = {file.name for file in (MODELS / role).iterdir()}
        assert {"config.json", "generation_config.json", "model.safetensors", "README.md"} <= names
        config = json.loads((MODELS / role / "config.json").read_text())
        assert config["eos_token_id"] == tiny_language.VOCABULARY.index(tiny_language.EOS)
        assert "_name_or_path" not in config
    assert {file.suffix for file in files} == {".json", ".md", ".safetensors"}


@pytest.mark.parametrize("role", ROLES)
def test_shipped_tokenizer_is_the_languages(role, tokenizer):
    shipped = AutoTokenizer.from_pretrained(MODELS / role)
    assert shipped.get_vocab() == tokenizer.get_vocab()
    assert shipped.eos_token == tiny_language.EOS
    assert shipped.bos_token is None
    assert shipped.chat_template is None
    text = "Question : code Bado"
    assert shipped(text)["input_ids"] == encode(tokenizer, text)


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("task", ["single", "multikey"])
def test_shipped_weights_retrieve_and_stop(role, task, tokenizer):
    torch.set_num_threads(1)
    model: Any = AutoModelForCausalLM.from_pretrained(MODELS / role)
    examples = build(task, tokenizer, contexts=6, lengths=(256,))
    pairs = [(example.context, question) for example in examples for question in example.questions]
    prompts = [encode(tokenizer, context) + encode(tokenizer, q.text) for context, q in pairs]
    generated = model.generate(torch.tensor(prompts), max_new_tokens=3)[:, -3:]
    assert generated[:, -1].eq(model.config.eos_token_id).float().mean() >= 0.8
    scores = [
        tiny.score(task, tokenizer.decode(row.tolist()), question.references)
        for row, (_, question) in zip(generated, pairs, strict=True)
    ]
    assert sum(scores) / len(scores) >= 0.8


@pytest.mark.parametrize("role", ROLES)
def test_shipped_weights_copy_after_kvzips_request(role, tokenizer):
    torch.set_num_threads(1)
    model = AutoModelForCausalLM.from_pretrained(MODELS / role)
    context = encode(tokenizer, build("multikey", tokenizer, lengths=(256,))[0].context)
    ids = torch.tensor([context + encode(tokenizer, WHOLE) + context])
    with torch.inference_mode():
        guesses = model(ids).logits[0, -257:-1].argmax(-1)
    assert (guesses == torch.tensor(context)).float().mean() >= 0.8
