import ast
import gzip
import re
import shutil
import subprocess
from collections.abc import Iterable
from itertools import pairwise

import huggingface_hub
import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Digits, Punctuation, Sequence, WhitespaceSplit

from proxykv.benchmarks import needles, text
from proxykv.benchmarks import sources as text_sources
from proxykv.benchmarks.examples import Question, read_jsonl, write_jsonl
from proxykv.benchmarks.haystack import count_tokens
from proxykv.benchmarks.needle_forms import ADJECTIVES, CHAINS, FORMS, NOUNS, WORDS
from proxykv.benchmarks.sources import Document, pieces, split_of
from proxykv.runtime.errors import ConfigError
from proxykv.runtime.wheels import file_sha256

SENTENCE = "In file {i} of the folder, sentence number {j} says nothing of note. "
CODE = '''"""Module {i}."""


def function_{i}(x):
    """Does nothing.

    But says much about it.
    """
    if x:
        y = x
    elif x is None:
        y = 0
    else:
        y = -x
    return y


'''


@pytest.fixture(scope="module")
def tokenizer():
    """Words, punctuation and digits are tokens; all are unknown, which does not matter here."""
    tokenizer = Tokenizer(WordLevel({"<unk>": 0}, unk_token="<unk>"))
    splitters = [WhitespaceSplit(), Punctuation(), Digits(individual_digits=True)]
    tokenizer.pre_tokenizer = Sequence(splitters)  # type: ignore[assignment]
    return tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("texts")
    for i in range(12):
        paragraph = "".join(SENTENCE.format(i=i, j=j) for j in range(60))
        (root / f"essay{i}.txt").write_text(paragraph)
        (root / f"module{i}.py").write_text("".join(CODE.format(i=10 * i + j) for j in range(12)))
    return root


@pytest.fixture(scope="module")
def options(tokenizer, folder):
    return {
        "tokenizer": tokenizer,
        "contexts": 4,
        "lengths": [400, 600],
        "seed": 1,
        "sources": [
            {"kind": "folder", "path": str(folder), "files": "*.txt"},
            {"kind": "folder", "path": str(folder), "files": "*.py"},
        ],
    }


CELLS = [(task, split) for task in needles.TASKS for split in ("train", "eval")]


@pytest.mark.parametrize(("task", "split"), CELLS)
def test_contexts_have_their_length_and_both_styles(task, split, options):
    examples = needles.build(task, split=split, **options)
    assert [example.meta["style"] for example in examples] == ["prose", "prose", "code", "code"]
    for example, length in zip(examples, [400, 600, 400, 600], strict=True):
        assert length - 16 <= count_tokens(options["tokenizer"], example.context) <= length
        assert len(example.questions) == 3
        assert all(question.text.startswith("\n\n") for question in example.questions)
    assert len({example.id for example in examples}) == 4


@pytest.mark.parametrize("task", needles.TASKS)
def test_deterministic_and_stable_when_contexts_are_added(task, options, tmp_path):
    once = needles.build(task, split="eval", **options)
    again = needles.build(task, split="eval", **{**options, "contexts": 6})
    assert again[:4] == once
    other = needles.build(task, split="eval", **{**options, "seed": 2})
    assert other[0].context != once[0].context
    write_jsonl(tmp_path / "x.jsonl", once)
    assert read_jsonl(tmp_path / "x.jsonl") == once


@pytest.mark.parametrize("split", ["train", "eval"])
@pytest.mark.parametrize("task", ["single", "multikey", "multivalue"])
def test_needles_tie_each_value_to_its_key(task, split, options):
    for example in needles.build(task, split=split, **options):
        planted = _planted(example.context, task, split, example.meta["style"])
        assert len(planted) == {"single": 3, "multikey": 8, "multivalue": 9}[task]
        for question in example.questions:
            values = question.references[0].split(", ")
            keys = {key for key, _ in planted if key in question.text}
            assert len(keys) == 1
            assert [value for key, value in planted if key in keys] == values
            assert all(example.context.count(value) == 1 for value in values)


def _planted(context: str, task: str, split: str, style: str) -> list[tuple[str, str]]:
    """(key, value) of every needle, in the order of the context."""
    found: list[tuple[int, str, str]] = []
    for form in FORMS[split][task]:
        template = re.escape(getattr(form, style))
        template = template.replace(r"\{name\}", r"[A-Z_]+")
        template = template.replace(r"\{value\}", r"(?P<value>\w+)")
        template = template.replace(r"\{key\}", r"(?P<key>\w+ \w+)", 1)
        template = template.replace(r"\{key\}", r"(?P=key)")
        matches = re.finditer(template, context)
        found += [(m.start(), m["key"], m["value"]) for m in matches]
    return [(key, value) for _, key, value in sorted(found)]


@pytest.mark.parametrize("split", ["train", "eval"])
def test_chains_lead_from_the_number_to_every_name(split, options):
    for example in needles.build("vt", split=split, **options):
        style = example.meta["style"]
        for question in example.questions:
            *names, number = question.references[0].split(CHAINS[split].joint)
            assert names[0] in question.text
            assert not any(part in question.text for part in (*names[1:], number))
            names.reverse()
            chain = [CHAINS[split].first[style].format(key=names[0], value=number)]
            for old, new in pairwise(names):
                chain.append(CHAINS[split].next[style].format(key=new, value=old))
            places = [example.context.index(needle) for needle in chain]
            assert places == sorted(places)


@pytest.mark.parametrize("task", needles.TASKS)
def test_code_with_needles_is_still_code(task, options):
    for example in needles.build(task, split="eval", **options):
        if example.meta["style"] == "code":
            program = example.context[: example.context.rindex("\n\n\ndef ")]
            assert ast.parse(program[program.index("\ndef ") :]).body


def test_splits_share_no_template_no_word_and_no_name():
    def strings(split: str) -> set[str]:
        forms = [form for task in FORMS[split].values() for form in task]
        chain = CHAINS[split]
        found = [s for form in forms for s in (form.prose, form.code, form.question)]
        return {*found, *chain.first.values(), *chain.next.values(), chain.question}

    assert not strings("train") & strings("eval")
    for pool in (ADJECTIVES, NOUNS, WORDS):
        assert not set(pool["train"].split()) & set(pool["eval"].split())


def test_splits_share_no_file_even_from_one_source(options):
    def documents(split: str, build: Iterable[tuple]) -> set[str]:
        built = [m.build(t, split=split, **{**options, "contexts": 12}) for m, t in build]
        return {name for examples in built for e in examples for name in e.meta["documents"]}

    train = documents("train", [(needles, "vt"), (text, "prose"), (text, "code")])
    held_out = documents("eval", [(needles, task) for task in needles.TASKS])
    assert train
    assert held_out
    assert not train & held_out
    assert {split_of(name) for name in train} == {"train"}


def test_text_has_no_questions(options):
    for task in text.TASKS:
        for example in text.build(task, split="train", **options):
            assert example.questions == ()
            assert count_tokens(options["tokenizer"], example.context) <= example.meta["length"]
    with pytest.raises(ConfigError, match="no questions"):
        text.grade("prose", "", Question("", ("",), 1))


@pytest.mark.parametrize(
    ("task", "prediction", "reference", "expected"),
    [
        ("single", "12345", "12345", 1.0),
        ("single", "The number is 12345.", "12345", 1.0),
        ("single", "1234", "12345", 0.0),
        ("multikey", "MAPLE", "maple", 1.0),
        ("multikey", "maple", "MAPLE", 1.0),
        ("multivalue", "3, 1 and 2", "1, 2, 3", 1.0),
        ("multivalue", "1, 2", "1, 2, 3", 2 / 3),
        ("multivalue", "", "1, 2", 0.0),
        ("vt", "c = b = a = 12345", "c = b = a = 12345", 1.0),
        ("vt", "C = B = X = 54321", "c = b = a = 12345", 1 / 3),
        ("vt", "c = y = x = 54321", "c = b = a = 12345", 0.0),
        ("vt", "c, b, 12345", "c is b is a is 12345", 2 / 3),
    ],
)
def test_score_by_hand(task, prediction, reference, expected):
    assert needles.score(task, prediction, [reference]) == pytest.approx(expected)


def test_best_reference_counts():
    assert needles.score("single", "blue", ["red", "blue"]) == 1.0


def test_pieces_of_code_start_where_a_line_can_be_added():
    found = pieces(Document("m.py", CODE.format(i=0), "code"))
    assert [piece.text.strip().split("\n")[0] for piece in found] == [
        "def function_0(x):",
        "if x:",
        "y = x",
        "y = 0",
        "y = -x",
        "return y",
    ]
    assert [len(piece.indent) for piece in found] == [0, 4, 8, 8, 8, 4]


def test_pieces_of_prose_are_sentences():
    prose = "Title\n\nOne thing\nis wrapped. (It is so.) Really?Yes.\n\n    code = 1.\n\nLast one."
    found = pieces(Document("t.txt", prose, "prose"))
    assert [piece.text for piece in found] == [
        "One thing is wrapped. ",
        "(It is so.) ",
        "Really? ",
        "Yes.\n\n",
        "Last one.\n\n",
    ]


def test_chinese_prose_is_cut_at_its_full_stops():
    prose = "第一句在这里，\n换了一行。他说：“真的？”是的！\n\n最后。"
    found = [piece.text for piece in pieces(Document("t.txt", prose, "prose"))]
    assert found == ["第一句在这里，换了一行。", "他说：“真的？”是的！\n\n", "最后。\n\n"]


def test_joined_stretches_are_of_different_documents(options):
    (single, *_), (three, *_) = (
        text.build("prose", split="train", **{**options, "joined": joined, "lengths": [300]})
        for joined in (1, 3)
    )
    assert len(set(three.meta["documents"])) == 3 > len(set(single.meta["documents"]))
    assert 280 < count_tokens(options["tokenizer"], three.context) <= 300


@pytest.mark.skipif(not shutil.which("dpkg-deb"), reason="reads Debian packages")
def test_debian_packages_are_read_and_checked(tmp_path):
    (tmp_path / "tree/DEBIAN").mkdir(parents=True)
    control = "Package: my-text\nVersion: 1:2-3\nArchitecture: all\nMaintainer: m\nDescription: d\n"
    (tmp_path / "tree/DEBIAN/control").write_text(control)
    folder = tmp_path / "tree/usr/share/doc"
    folder.mkdir(parents=True)
    for i in range(6):
        (folder / f"{i}.rst").write_text("Plain.")
        (folder / f"{i}.txt.gz").write_bytes(gzip.compress("Gepäckt.".encode()))
    deb = tmp_path / "my-text_1%3a2-3_all.deb"
    build = ["dpkg-deb", "--root-owner-group", "--build", tmp_path / "tree", deb]
    subprocess.run(build, check=True, capture_output=True)
    source = {"kind": "debian", "name": "my-text", "version": "1:2-3", "files": "usr/share/doc/*"}
    source["sha256"] = file_sha256(deb)
    found = [d for split in ("train", "eval") for d in text_sources.load([source], split, tmp_path)]
    assert len(found) == 12
    assert {(d.name[-4:], d.text) for d in found} == {(".rst", "Plain."), (".txt", "Gepäckt.")}
    with pytest.raises(ConfigError, match="has SHA-256"):
        text_sources.load([{**source, "sha256": "0"}], "train", tmp_path)


def test_fields_of_a_hub_data_sets_records_are_texts(monkeypatch, tmp_path):
    requests = []
    texts = [f"Text {i}." for i in range(9)]

    def download(repository, *, repo_type, revision, **options):
        requests.append((repository, repo_type, revision))
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    (tmp_path / "train.jsonl").write_text("".join(f'{{"text": "{text}"}}\n' for text in texts))
    source = {"kind": "hub", "name": "a/b", "revision": "0" * 40, "files": "train", "field": "text"}
    found = [d for split in ("train", "eval") for d in text_sources.load([source], split, tmp_path)]
    assert set(requests) == {("a/b", "dataset", "0" * 40)}
    assert {d.text for d in found} == set(texts)
    with pytest.raises(ConfigError, match=r"record 1: txt: .* no such field; there are text"):
        text_sources.load([{**source, "field": "txt"}], "train", tmp_path)


def test_other_kinds_of_sources(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "One."}\n{"text": "Two."}\n' * 8)
    source = {"kind": "folder", "path": str(tmp_path), "files": "*.jsonl"}
    found = [text_sources.load([source], split, tmp_path) for split in ("train", "eval")]
    assert sum(map(len, found)) == 16
    topics = text_sources.load(
        [{"kind": "stdlib", "files": "pydoc_data/topics.py"}], "eval", tmp_path
    )
    assert len(topics) > 20
    assert {document.style for document in topics} == {"prose"}
    package = {"kind": "package", "name": "pyyaml", "files": "yaml/*.py"}
    with pytest.raises(ConfigError, match="pip install pyyaml==0"):
        text_sources.load([{**package, "version": "0"}], "eval", tmp_path)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            {"kind": "web", "files": "*"},
            "expected one of wheel, package, debian, hub, stdlib, folder",
        ),
        ({"kind": "folder", "pth": "x", "files": "*"}, "needs exactly the keys kind, files, path"),
        ({"kind": "folder", "path": "nowhere", "files": "*"}, "nowhere does not exist"),
        ({"kind": "stdlib", "files": "no/such/*.py"}, "0 documents match"),
        ({"kind": "package", "name": "no-such", "version": "1", "files": "*"}, "not installed"),
    ],
)
def test_mistaken_sources_are_one_line(source, message, tmp_path):
    with pytest.raises(ConfigError, match=re.escape(message)) as error:
        text_sources.load([source], "eval", tmp_path)
    assert "\n" not in str(error.value)


def test_too_little_text_and_too_short_contexts(options):
    with pytest.raises(ConfigError, match="name more sources"):
        needles.build("single", split="eval", **{**options, "lengths": [10**6]})
    with pytest.raises(ConfigError, match="use longer contexts"):
        needles.build("vt", split="eval", **{**options, "lengths": [60]})
