"""A prompt has the ids of its whole text's encoding, but for the seam after the context."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers_fixture import (
    SPECIAL,
    TEMPLATES,
    TOKENIZERS,
    byte_level,
    fast,
    model_of,
)

from proxykv.benchmarks.examples import Question
from proxykv.model.model import Model
from proxykv.model.prompt.template import chat_template
from proxykv.runtime.errors import ConfigError
from proxykv.scoring.rows import tokenized

MODELS = {
    f"{name}, {kind}": model_of(make(), template)
    for name, make in TOKENIZERS.items()
    for kind, template in TEMPLATES.items()
}


def encoded_at_once(model: Model, text: str) -> list[int]:
    """What the tokenizer itself makes of a prompt."""
    if not model.template:
        return model.tokenizer.encode(text)
    conversation = model.tokenizer.apply_chat_template(
        [{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True
    )
    return model.tokenizer.encode(conversation, add_special_tokens=False)


words = st.sampled_from(
    ["The", " pass", "key", " ", "  ", "\n", "\n\n", ".", " is", "4711", "Größe", "鍵", ":", " a"]
)
texts = st.lists(words, min_size=1, max_size=12).map("".join).filter(str.strip)
ends = st.sampled_from(["", "", *SPECIAL, "<|im_end|> "])


@pytest.mark.parametrize("name", MODELS)
@settings(max_examples=30)
@given(text=texts, end=ends, question=texts)
def test_a_prompts_ids_are_those_of_its_whole_text_but_for_the_seam(
    name: str, text: str, end: str, question: str
) -> None:
    model, context = MODELS[name], text + end
    ids = [*model.context(context), *model.question(question, context=context)]
    expected = encoded_at_once(model, context + question)
    assert model.tokenizer.decode(ids) == model.tokenizer.decode(expected)
    special = set(model.tokenizer.convert_tokens_to_ids(SPECIAL))
    assert [i for i in ids if i in special] == [i for i in expected if i in special]
    # What differs is in the word, and the blanks, on either side of the seam.
    left = re.sub(r"\S+\s*$", "", context) if context.strip() else ""
    right = re.sub(r"^\s*\S+", "", question)
    same = 0
    while same < min(len(ids), len(expected)) and ids[same] == expected[same]:
        same += 1
    back = 0
    while back < min(len(ids), len(expected)) - same and ids[-1 - back] == expected[-1 - back]:
        back += 1
    differing = model.tokenizer.decode(expected[same : len(expected) - back])
    seam = (context + question)[len(left) : len(context + question) - len(right)]
    assert differing.strip() in seam


@pytest.mark.parametrize("name", MODELS)
def test_nothing_differs_where_the_seam_is_between_tokens(name: str) -> None:
    model = MODELS[name]
    context, question = "The pass key is 4711. Remember it", "\n\nQuestion: What is it?"
    ids = [*model.context(context), *model.question(question)]
    assert ids == encoded_at_once(model, context + question)
    # A tokenizer may join the last blank of the opening to the context's first word.
    assert tuple(ids[: len(model.prefix)])[:-1] == model.prefix[:-1]


@pytest.mark.parametrize("name", MODELS)
def test_a_context_is_cut_where_its_tokens_begin(name: str) -> None:
    model, context = MODELS[name], "The pass key is 4711.  Größe\n\n鍵 a"
    pieces = model.context_pieces(context)
    assert len(pieces) == len(model.context(context)) - len(model.prefix)
    text = "".join(pieces)
    assert (model.template.context(context) if model.template else context).endswith(text)
    # The first word may be in a token that counts as the prefix's.
    assert text.strip() == context or name in ("sentencepiece, instruction", "legacy, instruction")
    assert "is 4711.  Größe\n\n鍵 a" in text


@pytest.mark.parametrize(
    ("context", "question"), [("The pass key ", "</s>"), ("The </", "s>"), ("<|im_start|", ">")]
)
def test_a_special_token_over_the_seam_is_one_line(context: str, question: str) -> None:
    model = MODELS["special tokens that take blanks, system"]
    with pytest.raises(ConfigError, match=r"the special token .* would begin in") as refused:
        model.question(question, context=context)
    assert "\n" not in str(refused.value)


def test_a_reference_after_a_special_token_has_the_blank_of_the_whole_prompt() -> None:
    model = model_of(TOKENIZERS["legacy"](), "{{ messages[0].content }}<|im_start|>")
    tokens = tokenized(model, Question("?", ("4711",), 4), "The pass key")
    ids = [*model.context("The pass key"), *tokens.prompt, *tokens.reference]
    at_once = model.tokenizer.encode("The pass key?<|im_start|>4711", add_special_tokens=False)
    assert ids == at_once


@pytest.mark.parametrize("name", TOKENIZERS)
def test_an_answers_start_is_part_of_the_prompt(name: str) -> None:
    model = MODELS[f"{name}, none"]
    ids = [*model.context("The pass key"), *model.question("\nWhat?", start=" Answer: 4711")]
    assert ids == encoded_at_once(model, "The pass key\nWhat? Answer: 4711")


@pytest.mark.parametrize(
    ("start", "written"),
    [("", "4711"), (" Answer:", " 4711"), (" Answer: ", "4711"), (" Answer:\n", "4711")],
)
def test_a_reference_is_measured_as_the_text_after_the_answers_start(
    start: str, written: str
) -> None:
    model = MODELS["byte-level, none"]
    question = Question("\nWhat?", ("4711",), 4, answer_start=start)
    assert model.decode(list(tokenized(model, question, "").reference)) == written


@pytest.mark.parametrize(
    ("answer", "written"),
    [
        ("4711", "\nWhat? 4711\n\nAgain? Answer:"),
        (" 4711", "\nWhat? 4711\n\nAgain? Answer:"),
        ("", "\nWhat?\n\nAgain? Answer:"),
    ],
)
def test_without_a_template_a_blank_precedes_an_answer_and_an_empty_line_follows(
    answer: str, written: str
) -> None:
    model = MODELS["byte-level, none"]
    ids = model.question("Again?", history=(("\nWhat?", answer),), start="Answer:")
    assert model.decode(list(ids)) == written


QWEN3 = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n"
    "{% endif %}{% endif %}"
)


def test_a_history_is_what_the_template_makes_of_the_conversation() -> None:
    """Qwen3 opens an answer with an empty think block, and writes earlier answers without it."""
    tokenizer = fast(byte_level())
    tokenizer.chat_template = QWEN3
    bare = Model(None, tokenizer, prefix=(), suffix=(), digest="")  # type: ignore[arg-type]
    model = bare.with_template({"enable_thinking": False})
    context = "The pass key is 4711."
    second_question = Question("\nAgain?", ("b",), 4, history=(("\nWhat is it?", "4711"),))
    conversation = [
        ("user", context + "\nWhat is it?"),
        ("assistant", "4711"),
        ("user", "\nAgain?"),
    ]
    expected = tokenizer.apply_chat_template(
        [{"role": role, "content": text} for role, text in conversation],
        tokenize=False,
        add_generation_prompt=True,
        enable_thinking=False,
    )
    ids = [*model.context(context), *tokenized(model, second_question, context).prompt]
    assert tokenizer.decode(ids) == expected
    assert ids == tokenizer.encode(str(expected), add_special_tokens=False)


DATED = "{% if date is not defined %}{% set date = strftime_now('%d %b') %}{% endif %}{{ date }}"
SAYS = "{{ messages[0].content }}"


@pytest.mark.parametrize(
    ("template", "options", "message"),
    [
        (DATED + SAYS, {}, "today's date"),
        ("{{ ['a', 'b', 'c'] | random }}" + SAYS, {}, "at random"),
        ("{{ ['b'] | map('random') | first if 0 else '' }}" + SAYS, {}, "at random"),
        ("{% if range(10 ** 5) | random == 7 %}b{% endif %}" + SAYS, {}, "at random"),
        (
            "{{ 'b' if ([range(10 ** 5)] | map('ran' ~ 'dom') | first) == 7 }}" + SAYS,
            {},
            "at random",
        ),
        ("{% set now = strftime_now %}{{ now('%d %b') }}" + SAYS, {}, "today's date"),
        (
            "{% macro a() %}{{ strftime_now('%d') }}{% endmacro %}{{ a() }}" + SAYS,
            {},
            "today's date",
        ),
        ("{{ [''] | map('for' ~ 'mat', strftime_now('%d')) | first }}" + SAYS, {}, "today's date"),
        ("{{ joiner() }}" + SAYS, {}, "its address in memory"),
        ("{{ raise_exception }}" + SAYS, {}, "its address in memory"),
        ("{{ lipsum() if messages | length > 9 }}" + SAYS, {}, "at random"),
        ("{% if strftime_now('%d %b') == '25 Dec' %}Merry{% endif %}" + SAYS, {}, "today's date"),
        ("{{ strftime_now(format='%d %b') }}" + SAYS, {}, "today's date"),
        ("{{ raise_exception('no system role') }}", {}, "no system role"),
        ("Hello", {}, "leaves out"),
        ("{{ messages[0].content | upper }}", {}, "leaves out the user's text, or changes it"),
        (SAYS + " again: " + SAYS, {}, "repeats the user's text"),
        ("{{ messages[0].content[:40] }}", {}, "changes, measures or repeats"),
        ("{{ messages[0].content | replace('  ', ' ') }}", {}, "changes, measures or repeats"),
        ("{{ messages[0].content.split() | join(' ') }}", {}, "changes, measures or repeats"),
        ("{{ messages[0].content.split('</think>')[-1] }}", {}, "before questions are known"),
        (SAYS + "{{ messages[0].content | length }}", {}, "changes, measures or repeats"),
        (
            "{% if messages[0].content | length > 99 %}Long: {% endif %}" + SAYS,
            {},
            "before questions are known",
        ),
        ("{% for i in range(10 ** 9) %}{% endfor %}" + SAYS, {}, "fails: Range too big"),
        ("{{ 1 // 0 }}" + SAYS, {}, "fails: .*by zero"),
        ("{% if %}", {}, "fails"),
        (None, {}, "chat_template is not set"),
    ],
)
def test_a_template_that_cannot_be_used_is_one_line(
    template: str | None, options: dict[str, Any], message: str
) -> None:
    tokenizer = fast(byte_level())
    tokenizer.chat_template = template
    with pytest.raises(ConfigError, match=message) as refused:
        chat_template(tokenizer, options)
    assert "\n" not in str(refused.value)


def test_a_date_can_be_pinned() -> None:
    tokenizer = fast(byte_level())
    tokenizer.chat_template = DATED + SAYS
    assert chat_template(tokenizer, {"date": "26 Jul"}).opening == "26 Jul"


def test_a_template_may_begin_with_a_line_break_and_say_random() -> None:
    tokenizer = fast(byte_level())
    tokenizer.chat_template = "\nA random text: " + SAYS
    template = chat_template(tokenizer, {})
    assert template.opening == "\nA random text: "
    assert template.after_context("?") == "?"
