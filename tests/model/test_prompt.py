"""A prompt has the ids of its whole text's encoding, but for the seam after the context."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast

from proxykv.benchmarks.examples import Question
from proxykv.config import catalog
from proxykv.model.loading import load_model
from proxykv.model.model import Model
from proxykv.model.prompt.template import chat_template
from proxykv.model.prompt.tokenizer import load_tokenizer
from proxykv.runtime.errors import ConfigError
from proxykv.scoring.rows import tokenized

CORPUS = [
    "The pass key is 4711. Remember it.\n\nQuestion: What is the pass key?\nAnswer: 4711",
    "  indented text, with  double blanks\n\n\nand empty lines; 12345678 numbers",
    "User and assistant, system: you are a helpful assistant. [INST] Größe 鍵 [/INST]",
] * 4
SPECIAL = ["<s>", "</s>", "<|im_start|>", "<|im_end|>"]
QWEN = Regex(r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")


def byte_level() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(QWEN, "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    return trained(
        tokenizer,
        trainers.BpeTrainer(vocab_size=420, initial_alphabet=alphabet, special_tokens=SPECIAL),
    )


def sentencepiece() -> Tokenizer:
    """A blank before the first text, as Llama's tokenizers put it."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    return pieces(tokenizer)


def legacy() -> Tokenizer:
    """A blank before every text between special tokens."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    return pieces(tokenizer)


def spaced() -> Tokenizer:
    """Byte-level, with a blank before every text between special tokens."""
    tokenizer = byte_level()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    return tokenizer


def taking_blanks() -> Tokenizer:
    """One special token takes the blanks before it, another one those after it."""
    tokenizer = byte_level()
    tokenizer.add_special_tokens([AddedToken("</s>", lstrip=True, normalized=False)])
    tokenizer.add_special_tokens([AddedToken("<|im_end|>", rstrip=True, normalized=False)])
    return tokenizer


def pieces(tokenizer: Tokenizer) -> Tokenizer:
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback()])
    fallback = [f"<0x{byte:02X}>" for byte in range(256)]
    special = ["<unk>", *SPECIAL, *fallback]
    made = trained(tokenizer, trainers.BpeTrainer(vocab_size=500, special_tokens=special))
    # The trainer makes the bytes special tokens, which texts would be cut at.
    content = json.loads(made.to_str())
    content["added_tokens"] = content["added_tokens"][: 1 + len(SPECIAL)]
    return Tokenizer.from_str(json.dumps(content))


def trained(tokenizer: Tokenizer, trainer: Any) -> Tokenizer:
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.add_special_tokens([AddedToken(text, normalized=False) for text in SPECIAL])
    return tokenizer


def adding(tokenizer: Tokenizer, *, end: bool = False) -> Tokenizer:
    """The same, which puts a BOS before a text (and an EOS behind it)."""
    ids = [(text, tokenizer.token_to_id(text)) for text in ("<s>", "</s>")]
    form = "<s> $A </s>" if end else "<s> $A"
    tokenizer.post_processor = processors.TemplateProcessing(single=form, special_tokens=ids)
    return tokenizer


def fast(tokenizer: Tokenizer, **named: str) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **named)


TOKENIZERS = {
    "byte-level": lambda: fast(byte_level()),
    "a BOS that is named, not added": lambda: fast(byte_level(), bos_token="<|im_start|>"),
    "a BOS that is added, not named": lambda: fast(adding(byte_level())),
    "a BOS and an EOS": lambda: fast(adding(byte_level(), end=True), bos_token="<s>"),
    "sentencepiece": lambda: fast(adding(sentencepiece()), bos_token="<s>"),
    "legacy": lambda: fast(adding(legacy()), bos_token="<s>"),
    "a blank before every text": lambda: fast(spaced()),
    "special tokens that take blanks": lambda: fast(taking_blanks()),
}
TEMPLATES = {
    "none": None,
    "system": (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% for m in messages %}"
        "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ),
    "instruction": (
        "{% for m in messages %}{% if m.role == 'user' %}<s>[INST] {{ m.content }} [/INST]"
        "{% else %} {{ m.content }} </s>{% endif %}{% endfor %}"
    ),
    "trimming": (
        "<s>{% for m in messages %}<|im_start|>{{ m.role }}\n\n{{ m.content | trim }}<|im_end|>"
        "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n\n{% endif %}"
    ),
}


def model_of(tokenizer: Any, template: str | None) -> Model:
    bare = Model(None, tokenizer, prefix=(), suffix=(), digest="")  # type: ignore[arg-type]
    if template is None:
        return bare.without_template()
    tokenizer.chat_template = template
    return bare.with_template()


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


TINY = catalog.ROOT / "models" / "tiny" / "target"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(TINY, tmp_path / "model"))


def edit(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    content = json.loads(path.read_text("utf-8"))
    change(content)
    path.write_text(json.dumps(content), "utf-8")


def test_truncation_and_padding_of_the_file_are_off(folder: Path) -> None:
    cut = {"max_length": 4, "direction": "Right", "strategy": "LongestFirst", "stride": 0}
    edit(folder / "tokenizer.json", lambda content: content.update(truncation=cut))
    tokenizer = load_tokenizer(folder)
    text = "set v02 12 34 . item apple . code"
    measured = tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids
    assert measured == tokenizer.encode(text, add_special_tokens=False)
    assert len(measured) == 9


STRIP_LEFT = normalizers.Strip(left=True, right=False)
STRIP_RIGHT = normalizers.Strip(left=False, right=True)
JOIN = normalizers.Replace(Regex(" {2,}"), " ")


@pytest.mark.parametrize("normalizer", [STRIP_RIGHT, normalizers.Strip(), JOIN])
def test_a_tokenizer_that_drops_blanks_is_one_line(normalizer: Any, folder: Path) -> None:
    tokenizer = byte_level()
    tokenizer.normalizer = normalizer
    tokenizer.save(str(folder / "tokenizer.json"))
    with pytest.raises(ConfigError, match="drops or joins blanks at the end of a text"):
        load_tokenizer(folder)


@pytest.mark.parametrize("normalizer", [STRIP_LEFT, normalizers.NFC()])
def test_a_tokenizer_that_leaves_the_end_of_a_text_alone_works(
    normalizer: Any, folder: Path
) -> None:
    tokenizer = byte_level()
    tokenizer.normalizer = normalizer
    tokenizer.save(str(folder / "tokenizer.json"))
    model = model_of(load_tokenizer(folder), None)
    ids = [*model.context(" a "), *model.question(" b")]
    assert ids == model.tokenizer.encode(" a  b")


def test_a_tokenizer_in_two_files_works(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    byte_level().model.save(str(folder))
    named = {"tokenizer_class": "Qwen2Tokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(named), "utf-8")
    tokenizer = load_tokenizer(folder)
    assert tokenizer.decode(tokenizer.encode("The pass key")) == "The pass key"


Q_PROJ = "model.layers.3.self_attn.q_proj.weight"


def reweighted(folder: Path, sizes: dict[str, int | None]) -> None:
    """Give tensors another size, or take them away."""
    tensors = load_file(folder / "model.safetensors")
    for name, size in sizes.items():
        tensors.pop(name, None)
        if size:
            tensors[name] = torch.ones(size)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def in_two_files(folder: Path) -> None:
    """Weights in two files, the second of which is not in their index."""
    first = load_file(folder / "model.safetensors")
    second = {Q_PROJ: first.pop(Q_PROJ)}
    (folder / "model.safetensors").unlink()
    for number, tensors in enumerate((first, second), start=1):
        save_file(tensors, folder / f"model-0000{number}-of-00002.safetensors", {"format": "pt"})
    weight_map = dict.fromkeys(first, "model-00001-of-00002.safetensors")
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), "utf-8")


def layers(folder: Path, count: int) -> None:
    edit(folder / "config.json", lambda config: config.update(num_hidden_layers=count))


def empty(path: Path) -> None:
    path.write_text("{}", "utf-8")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: (f / "tokenizer.json").unlink(), "no tokenizer; expected tokenizer.json"),
        (lambda f: empty(f / "tokenizer.json"), "cannot be read"),
        (lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"), "pytorch_model.bin"),
        (lambda f: (f / "adapter_config.json").write_text("{}"), "merge both into one model"),
        (
            lambda f: (f / "generation_config.json").write_text('{"eos_token_id": "x"}'),
            "give token",
        ),
        (lambda f: (f / "generation_config.json").write_text('{"eos_token_id": [1.5]}'), "give to"),
        (
            lambda f: (f / "generation_config.json").write_text('{"eos_token_id": 512}'),
            "give token ids below 512",
        ),
        (lambda f: reweighted(f, {Q_PROJ: None}), f"the model needs {Q_PROJ}, which no"),
        (
            lambda f: reweighted(f, {f"{Q_PROJ}.bias": 1}),
            f"has no place for {Q_PROJ}.bias; correct",
        ),
        (
            lambda f: reweighted(f, {Q_PROJ: 1}),
            r"has the shape \[1\], the model needs \[256, 128\]",
        ),
        (lambda f: layers(f, 5), "the model needs model.layers.4"),
        (lambda f: layers(f, 3), "the model has no place for model.layers.3"),
        (in_two_files, f"the model needs {Q_PROJ}, which no safetensors file"),
        (
            lambda f: edit(f / "config.json", lambda c: c.update(quantization_config={"a": 1})),
            "weights cannot be read|config.json cannot be used",
        ),
        (lambda f: (f / "model.safetensors").unlink(), "no safetensors"),
        (
            lambda f: (f / "model.safetensors").write_bytes(b"cut"),
            "model.safetensors: cannot be read",
        ),
        (lambda f: (f / "config.json").unlink(), "no config.json"),
    ],
)
def test_a_spoilt_folder_is_one_line(
    spoil: Callable[[Path], None], message: str, folder: Path
) -> None:
    spoil(folder)
    with pytest.raises(ConfigError, match=message) as refused:
        load_model(folder)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("rope", "usable"),
    [
        ({"rope_type": "default"}, True),
        ({"rope_type": "linear", "factor": 2.0}, True),
        ({"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 64}, True),
        (
            {"rope_type": "llama3", "factor": 2.0, "original_max_position_embeddings": 64}
            | {"low_freq_factor": 1.0, "high_freq_factor": 4.0},
            True,
        ),
        ({"rope_type": "dynamic", "factor": 2.0}, False),
        (
            {"rope_type": "longrope", "factor": 2.0, "original_max_position_embeddings": 64}
            | {"long_factor": [1.0] * 16, "short_factor": [1.0] * 16},
            False,
        ),
    ],
)
@pytest.mark.parametrize("key", ["rope_parameters", "rope_scaling"])
def test_rope_that_depends_on_the_lengths_seen_is_refused(
    key: str, rope: dict[str, Any], usable: bool, folder: Path
) -> None:
    def scale(config: dict[str, Any]) -> None:
        old = config.pop("rope_parameters")
        config |= {key: rope, "rope_theta": old["rope_theta"]}

    edit(folder / "config.json", scale)
    if usable:
        load_model(folder)
        return
    with pytest.raises(ConfigError, match=f"rope_type '{rope['rope_type']}'"):
        load_model(folder)


@pytest.mark.parametrize(
    ("rope", "message"),
    [
        ({"rope_type": "ntk", "factor": 2.0}, "rope_type 'ntk'"),
        ({"rope_type": 3}, "rope_type 3"),
        ({"rope_type": "yarn", "factor": 0}, "RoPE's factor is 0; give a number above 0"),
        ({"rope_type": "yarn", "factor": "4"}, "factor|config.json cannot be used"),
        ({"rope_type": "linear", "factor": -1.0}, "RoPE's factor is -1.0"),
        ({"rope_type": "linear", "factor": float("nan")}, "RoPE's factor is nan"),
        ({"rope_type": "linear"}, "config.json cannot be used"),
        ({"rope_type": "default", "rope_theta": 0}, "RoPE's rope_theta is 0"),
        ({"rope_type": "default", "partial_rotary_factor": 0.5}, "a part of each head only"),
        ({"full_attention": {"rope_type": "dynamic", "factor": 2.0}}, "has 'full_attention'"),
        ({"full_attention": {"rope_type": "default", "rope_theta": 1e4}}, "differs between layers"),
        ({"rope_type": "default", "type": "dynamic", "factor": 2.0}, "its type 'dynamic'; remove"),
        ({"rope_type": "proportional", "partial_rotary_factor": 0.5}, "rope_type 'proportional'"),
        ({"type": "su", "factor": 2.0}, "rope_type 'su'"),
        ([1], "config.json cannot be used"),
    ],
)
def test_rope_that_no_model_has_is_one_line(rope: Any, message: str, folder: Path) -> None:
    def scale(config: dict[str, Any]) -> None:
        given = {"rope_theta": 1e4, **rope} if isinstance(rope, dict) else rope
        config["rope_parameters"] = given

    edit(folder / "config.json", scale)
    with pytest.raises(ConfigError, match=message) as refused:
        load_model(folder)
    assert "\n" not in str(refused.value)


def test_a_window_in_no_layer_is_no_window(folder: Path) -> None:
    def windowed(config: dict[str, Any]) -> None:
        layers = config["num_hidden_layers"]
        config |= {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]}
        config |= {"use_sliding_window": True, "max_window_layers": layers, "sliding_window": 16}

    edit(folder / "config.json", windowed)
    load_model(folder)
    edit(folder / "config.json", lambda config: config.update(max_window_layers=1))
    with pytest.raises(ConfigError, match="sliding-window"):
        load_model(folder)
