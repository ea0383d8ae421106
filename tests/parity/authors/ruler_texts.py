"""RULER's prompts: those of the authors' scripts and ours, of the same sizes.

Both draw their words and places at random, so what is drawn is replaced by what it is: a number, a
key, a word of some frequency. What remains must be equal.
"""

from __future__ import annotations

import json
import logging
import random
import re
import shutil
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any
from unittest.mock import patch

import pandas as pd
import yaml
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from wonderwords import random_word

from proxykv.benchmarks.ruler import TASKS, niah
from proxykv.benchmarks.ruler.corpora import Corpora
from proxykv.benchmarks.ruler.sample import Ingredients, Maker
from tests import ruler_corpus
from tests.parity.authors.loading import importable

Prompt = tuple[str, Sequence[str]]
"""A prompt and its references."""

LENGTHS = (2048, 4096)  # below 4096 tokens, some tasks differ
SIZES = (40, 150, 700)
VOCABULARY = 40  # of fwe
WORDS_OF_A_LIST = 60  # enough for keys; the authors list all pairs
NEEDLE = re.compile(r"One of the special magic (\w+) for (.+?) is: (\S+)\.")
NUMBER, UUID = re.compile(r"\d{7}"), re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
ASKED = re.compile(r"(special magic \w+) for (.+?) mentioned")
NAME = re.compile(r"\b[A-Z]{3,}\b(?<!VAR)")
LISTED = re.compile(r"1\. .+")
ITEM = re.compile(r"(\d+)\. (.+?)\s*(?=\d+\. |$)")
DOCUMENT = re.compile(r"Document (\d+):\n(.*?)\n\n(?=Document \d+:\n|Answer the question)", re.S)


def compare_texts(
    checkout: Path, count: int, rng: random.Random
) -> Iterator[tuple[str, Any, Any, Any]]:
    """Compare prompts.

    Args:
        checkout: the authors' repository.
        count: prompts of each task and size.
        rng: draws ours.

    Yields:
        What was compared, length and size, our prompt's form and that of the authors' prompt.
    """
    with TemporaryDirectory() as folder:
        data, sources = Path(folder, "data"), Path(folder, "sources")
        shutil.copytree(checkout / "scripts" / "data", data)
        sources.mkdir()
        texts = Corpora(_write(sources, data / "synthetic" / "json"), folder)
        settings = yaml.safe_load((checkout / "scripts" / "synthetic.yaml").read_text("utf-8"))
        for task in sorted(TASKS):
            for length in LENGTHS:
                yield from _compare(task, length, settings[task], data, texts, count, rng)


def _compare(
    task: str,
    length: int,
    setting: Mapping[str, Any],
    data: Path,
    texts: Corpora,
    count: int,
    rng: random.Random,
) -> Iterator[tuple[str, Any, Any, Any]]:
    kind, room = setting["task"], length - TASKS[task].max_new_tokens
    given = Ingredients(texts, _tokenizer(), length, room, "a key")
    if kind == "freq_words_extraction":
        given = Ingredients(texts, _tokenizer(), length, VOCABULARY * 50, "a key")
    maker = TASKS[task].maker(given)
    with importable(data / "synthetic", {"tokenizer": {"select_tokenizer": lambda *_: _Words()}}):
        theirs = _script(data / "synthetic", kind, setting["args"], length)
        if kind == "niah":
            yield f"{task} text", "depths", niah.DEPTHS, [int(depth) for depth in theirs.DEPTHS]
        for index in range(min(count, len(theirs.QAS)) if kind == "qa" else count):
            for size in _sizes(task, theirs, index):
                prompt = _theirs(kind, theirs, index, size)
                if kind == "variable_tracking":
                    size = prompt[0].rpartition("Memorize")[2].count(niah.NOISE)
                own = _documents(theirs, index) if kind == "qa" else set()
                form = FORMS[kind]
                ours = _ours(maker, index, size, rng)
                yield f"{task} text", (length, size), form(ours, own), form(prompt, own)


def _write(sources: Path, folder: Path) -> dict[str, Any]:
    """Texts in the published formats for us, and where the authors' scripts look for them."""
    named = ruler_corpus.write_all(sources)
    text = "\n".join(pd.read_parquet(sources / "essays.parquet")["text"])
    (folder / "PaulGrahamEssays.json").write_text(json.dumps({"text": text}), "utf-8")
    ruler_corpus.write_words(folder / "english_words.json", 1)  # more words than any prompt needs
    shutil.copy(named["squad"]["path"], folder / "squad.json")
    shutil.copy(sources / "hotpot_dev_distractor_v1.json", folder / "hotpotqa.json")
    return named


class _Words:
    def text_to_tokens(self, text: str) -> list[str]:
        return text.split()


def _tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    return tokenizer


def _script(folder: Path, kind: str, setting: Mapping[str, Any], length: int) -> ModuleType:
    """A script of the authors, with the arguments that their prepare.py gives it."""
    from constants import TASKS as BASE  # pyright: ignore[reportMissingImports] (theirs)
    from nltk import tokenize

    base, listed = BASE[kind], random_word._get_words_from_text_file
    options = {
        "save_dir": folder,
        "save_name": kind,
        "tokenizer_path": "none",
        "max_seq_length": length,
        "tokens_to_generate": base["tokens_to_generate"],
        "num_samples": 1,
        **setting,
        "template": base["template"] + base["answer_prefix"],
    }
    logging.disable(logging.CRITICAL)  # they log each step of their search
    argv = [kind, *(str(part) for name, value in options.items() for part in (f"--{name}", value))]
    spec = spec_from_file_location(f"authors_{kind}", folder / f"{kind}.py")
    assert spec and spec.loader
    module = module_from_spec(spec)
    most = WORDS_OF_A_LIST if kind == "niah" else None
    with (
        patch.object(sys, "argv", argv),
        patch.object(sys, "path", [*sys.path]),
        patch.object(random_word, "_get_words_from_text_file", lambda name: listed(name)[:most]),
        patch.object(tokenize, "sent_tokenize", lambda text: re.split(r"(?<=[.?!]) ", text)),
    ):
        spec.loader.exec_module(module)
    return module


def _sizes(task: str, theirs: ModuleType, index: int) -> Sequence[int]:
    if task.startswith("qa"):
        own = len(_documents(theirs, index))
        return own, own + 3, len(theirs.DOCS), len(theirs.DOCS) + 5
    return SIZES[:1] if task == "vt" else SIZES


def _theirs(kind: str, script: ModuleType, index: int, size: int) -> Prompt:
    if kind == "qa":
        return script.generate_input_output(index, size)
    if kind == "freq_words_extraction":
        made = script.generate_input_output(sys.maxsize, num_words=size, vocab_size=VOCABULARY)
        return made[:2]
    if kind != "variable_tracking":
        return script.generate_input_output(size)
    while True:  # until no name is drawn twice, in the worked example or in the prompt
        with suppress(IndexError):  # of their script, where it notices one
            prompt = _chain(script)
            if len(set(NAME.findall(prompt[0]))) == 2 * len(prompt[1]):
                return prompt


def _chain(script: ModuleType) -> Prompt:
    chains = {"num_chains": script.args.num_chains, "num_hops": script.args.num_hops}
    make, most = script.sys_vartrack_w_noise_random, script.args.max_seq_length
    (solved,) = make(num_samples=1, max_seq_length=500, incremental=5, **chains)
    (made,) = make(
        num_samples=1, max_seq_length=most, icl_example=solved, final_output=True, **chains
    )
    return made["input"] + made["answer_prefix"], made["outputs"]


def _ours(maker: Maker, index: int, size: int, rng: random.Random) -> Prompt:
    sample = maker.draw(index, size, rng)
    return sample.prompt, sample.outputs


def _documents(script: ModuleType, index: int) -> set[str]:
    """Documents that a question needs, and those of the same article."""
    question = script.QAS[index]
    numbers = [*question["context"], *question.get("more_context", [])]
    return {script.DOCS[number] for number in numbers}


def _needles(prompt: Prompt, _: set[str]) -> Any:
    """Lines without what is drawn and the needles between their words, and the needles."""
    text, outputs = prompt
    lines = Counter(
        " ".join(NEEDLE.sub("", line).split()) for line in ASKED.sub(_count_keys, text).splitlines()
    )
    needles = Counter((kind, _masked(value)) for kind, _, value in NEEDLE.findall(text))
    return lines, needles, [_masked(output) for output in outputs]


def _masked(value: str) -> str:
    return "number" if NUMBER.fullmatch(value) else "UUID" if UUID.fullmatch(value) else value


def _count_keys(found: re.Match[str]) -> str:
    keys = [key for part in found[2].split(", and ") for key in part.split(", ")]
    return f"{found[1]} for {len(keys)} keys mentioned"


def _chains(prompt: Prompt, _: set[str]) -> Any:
    """Lines and their numbers, with names by their order of appearance."""
    text, outputs = prompt
    names: dict[str, str] = {}

    def order(found: re.Match[str]) -> str:
        return names.setdefault(found[0], f"<name {len(names)} of {len(found[0])} letters>")

    text = re.sub(r"\b\d{5}\b", "<number>", NAME.sub(order, text))
    order_of_links = [line for line in text.splitlines() if line.startswith("VAR")]
    return Counter(text.splitlines()), order_of_links, [names[output] for output in outputs]


def _common(prompt: Prompt, _: set[str]) -> Any:
    """The text around lists, each list's numbers, and how often it has its words."""
    text, outputs = prompt
    lists = [ITEM.findall(found) for found in LISTED.findall(text)]
    counts = [Counter(word for _, word in items) for items in lists]
    return (
        LISTED.sub("<list>", text),
        [[int(number) for number, _ in items] == [*range(1, len(items) + 1)] for items in lists],
        [sorted(count.values()) for count in counts],
        [counts[-1][output.strip()] for output in outputs],
    )


def _frequent(prompt: Prompt, _: set[str]) -> Any:
    """The text around the coded words, and how often each occurs."""
    text, outputs = prompt
    before, middle, after = re.split(r"(?<=coded words\. )|(?=\nQuestion:)", text)
    counts = Counter(middle.split(" "))
    lengths = {len(word) for word in counts}
    return (
        before,
        after,
        sorted(counts.values()),
        lengths,
        counts["..."],
        [counts[output] for output in outputs],
    )


def _answered(prompt: Prompt, own: set[str]) -> Any:
    """The text around the documents, their numbers, and those that the question needs."""
    text, outputs = prompt
    found = DOCUMENT.findall(text)
    documents = [document for _, document in found]
    return (
        DOCUMENT.sub("", text),
        [int(number) for number, _ in found],
        Counter(document for document in documents if document in own),
        Counter(Counter(documents).values()),
        list(outputs),
    )


FORMS = {
    "niah": _needles,
    "variable_tracking": _chains,
    "common_words_extraction": _common,
    "freq_words_extraction": _frequent,
    "qa": _answered,
}
