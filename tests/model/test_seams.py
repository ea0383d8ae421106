"""Tokenizers that split a text first, and then put a blank before every piece."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from ruler_corpus import ready_record
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from tokenizers_fixture import QWEN, TOKENIZERS, model_of, pieces
from transformers import PreTrainedTokenizerFast
from valid_config import valid

from proxykv.benchmarks.longbench.truncation import cut_middle
from proxykv.config import catalog
from proxykv.config.run import Run
from proxykv.model.prompt.tokenizer import continuation, load_tokenizer
from proxykv.runtime.errors import ConfigError
from proxykv.steps.prepare import prepare

SPLITS: dict[str, list[Any]] = {
    "digits": [pre_tokenizers.Digits(individual_digits=True)],
    "numbers": [pre_tokenizers.Digits()],
    "punctuation": [pre_tokenizers.Punctuation()],
    "white space": [pre_tokenizers.WhitespaceSplit()],
    "BERT": [pre_tokenizers.BertPreTokenizer()],
    "lines": [pre_tokenizers.Split("\n", "isolated")],
    "Qwen": [pre_tokenizers.Split(QWEN, "isolated")],
    "scripts": [pre_tokenizers.UnicodeScripts()],
    "blanks": [pre_tokenizers.Split(" ", "merged_with_next")],
}
SCHEMES = ("always", "first", "never")
LEFT = ("pass key", "47", "key.", "a ", "a\n\n", "(", "鍵", "a\t", "😀")
RIGHT = ("b", " b", "7", ".", "\n\nQ", "  b", "鍵", "'s", "4711 is")


def split_tokenizer(split: str, scheme: str, folder: Path) -> Any:
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    blanks = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*SPLITS[split], blanks])
    PreTrainedTokenizerFast(tokenizer_object=pieces(tokenizer)).save_pretrained(folder)
    return load_tokenizer(folder)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("split", SPLITS)
def test_a_seam_has_the_blanks_of_the_whole_text_or_is_one_line(
    split: str, scheme: str, tmp_path: Path
) -> None:
    tokenizer = split_tokenizer(split, scheme, tmp_path)
    equal = 0
    for left in LEFT:
        for right in RIGHT:
            whole = tokenizer.encode(left + right, add_special_tokens=False)
            try:
                ids = continuation(tokenizer, right, left, exact=True)
            except ConfigError as error:
                assert repr(left) in str(error)
                assert "\n" not in str(error)
                continue
            ids = [*tokenizer.encode(left, add_special_tokens=False), *ids]
            assert tokenizer.decode(ids) == tokenizer.decode(whole), (left, right)
            equal += ids == whole
    assert equal > 20, "where no token spans the seam, the ids are those of the whole text"


def test_a_seam_that_cannot_be_written_is_refused_while_data_are_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full stop and two line breaks are one piece, before which the tokenizer puts no blank."""
    shutil.copytree(catalog.ROOT / "models" / "tiny", tmp_path / "models" / "tiny")
    split_tokenizer("Qwen", "always", tmp_path / "models" / "tiny" / "target")
    monkeypatch.chdir(tmp_path)
    options = {"source": {"path": str(tmp_path)}}
    entry = {"benchmark": "longbench", "tasks": ["repobench-p"], "options": options}
    run = Run(valid() | {"benchmarks": [entry]})
    (dataset,) = run.datasets("tiny", "eval")
    record = {"answers": ["a"], "all_classes": None, "context": "a key.", "_id": "one"}
    records = tmp_path / "repobench-p.jsonl"
    records.write_text(json.dumps(record | {"input": "A key."}), "utf-8")
    prepare(run, dataset)
    records.write_text(json.dumps(record | {"input": "\n\nA key."}), "utf-8")
    with pytest.raises(ConfigError) as error:
        prepare(run, dataset)
    assert str(error.value).startswith(
        "longbench/repobench-p: example repobench-p-one, question 1: the tokenizer writes"
    )


NORMALIZERS = {
    "none": [],
    "lower case": [normalizers.Lowercase()],
    "NFKC": [normalizers.NFKC()],
    "no accents": [normalizers.NFD(), normalizers.StripAccents()],
}
KINDS = ("byte-level", "sentencepiece", "legacy", "a blank before every text")


def normalized(name: str, changes: list[Any]) -> Tokenizer:
    tokenizer = TOKENIZERS[name]().backend_tokenizer
    own = [tokenizer.normalizer] if tokenizer.normalizer else []
    tokenizer.normalizer = normalizers.Sequence([*changes, *own])
    return tokenizer


@pytest.mark.parametrize("changes", NORMALIZERS.values(), ids=list(NORMALIZERS))
@pytest.mark.parametrize("name", KINDS)
def test_what_is_cut_out_of_a_prompt_is_context(name: str, changes: list[Any]) -> None:
    """No part of the context, which methods prune, goes to the question, which they do not."""
    tokenizer = normalized(name, changes)
    words = " ".join(f"Sentence {number} tells of fish ½ and Größe." for number in range(40))
    for context in (words, f"{words}\n", words[:-1]):
        for question in ("\n\nQuestion: What?\nAnswer:", " Now", "x", "鍵?"):
            begins, asked, cut = cut_middle(tokenizer, context, question, 120)
            assert cut and asked == question
            last = tokenizer.decode(tokenizer.encode(context).ids[-5:]).strip()
            assert begins.endswith(context[-3:]) or begins.strip().endswith(last[-3:])
            assert len(tokenizer.encode(begins).ids) <= 125


@pytest.mark.parametrize("changes", NORMALIZERS.values(), ids=list(NORMALIZERS))
@pytest.mark.parametrize("name", KINDS)
def test_normalized_prompts_are_those_of_the_whole_text_or_one_line(
    name: str, changes: list[Any], tmp_path: Path
) -> None:
    PreTrainedTokenizerFast(tokenizer_object=normalized(name, changes)).save_pretrained(tmp_path)
    model = model_of(load_tokenizer(tmp_path), None)
    equal = 0
    for left in ("The KEY", "GRÖSSE e", "½ ﬁ", "Key.", "한", "a\n"):
        for right in (" B", "\u0301 x", "ﬁn", "\n\nQuestion", "\u11a8", "ß"):
            try:
                ids = [*model.context(left), *model.question(right, context=left)]
            except ConfigError as error:
                assert "\n" not in str(error)
                continue
            whole = model.tokenizer.encode(left + right)
            assert model.tokenizer.decode(ids) == model.tokenizer.decode(whole), (left, right)
            equal += ids == whole
    assert equal > 15


@pytest.mark.parametrize("template", [None, "{{ messages[0].content }}"])
def test_a_question_at_such_a_seam_is_refused(template: str | None, tmp_path: Path) -> None:
    """From Python, where no data are made before."""
    model = model_of(split_tokenizer("Qwen", "always", tmp_path), template)
    assert model.question("A key.", context="a key.")
    with pytest.raises(ConfigError, match="in another way than their whole"):
        model.question("\n\nA key.", context="a key.")


def test_an_answer_need_not_go_on_as_one_text() -> None:
    """The embedded tokenizer knows whole words: `code16` is unknown, `16` is not."""
    tokenizer = load_tokenizer(catalog.ROOT / "models" / "tiny" / "target")
    assert continuation(tokenizer, "16 83", "code") == continuation(tokenizer, "16 83")
    # `code16` is one unknown word, of which no letters can be compared.
    assert continuation(tokenizer, "16 83", "code", exact=True) == continuation(tokenizer, "16 83")


def test_a_prompt_that_is_longer_than_the_target_may_see_is_refused_while_data_are_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "models").symlink_to(catalog.ROOT / "models")
    monkeypatch.chdir(tmp_path)
    samples = [ready_record("vt", number) for number in range(2)]
    samples[1]["context"] = "apple " * 9000
    (tmp_path / "4096.jsonl").write_text("\n".join(map(json.dumps, samples)), "utf-8")
    options = {"samples": {"path": str(tmp_path)}}
    entry = {"benchmark": "ruler", "tasks": ["vt"], "lengths": [4096], "options": options}
    run = Run(valid() | {"benchmarks": [entry | {"contexts": 2}]})
    (dataset,) = run.datasets("tiny", "eval")
    with pytest.raises(ConfigError) as error:
        prepare(run, dataset)
    assert "example ruler-vt-4096-0001: prompt and answer take 90" in str(error.value)
    assert "max_context is 8192; leave the example out" in str(error.value)
