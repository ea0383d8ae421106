"""Keys hold every part of a model that decides a number, and results no other part."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from valid_config import valid

from proxykv.config import catalog, paths
from proxykv.config.keys.model_files import (
    ANSWERING,
    MEASURING,
    PROXY,
    SCORING,
    ModelFiles,
    weights_digest,
)
from proxykv.config.run import Run
from proxykv.runtime.errors import ConfigError

TINY = catalog.ROOT / "models" / "tiny"
CHAT = {"path": "here", "dtype": "float32", "chat": True, "chat_options": {"date": "1 May"}}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model with a chat template."""
    copy = Path(shutil.copytree(TINY / "target", tmp_path / "model"))
    change(copy / "tokenizer_config.json", chat_template="{{ messages[0].content }}")
    return copy


def change(path: Path, **entries: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), **entries}), "utf-8")


def replace(path: Path, old: bytes, new: bytes) -> None:
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new))


def other_weights(folder: Path) -> None:
    """One bit of the last weight; size and time stay."""
    path = folder / "model.safetensors"
    before = path.stat()
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def yarn(folder: Path) -> None:
    rope = {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 512}
    change(folder / "config.json", rope_parameters=rope)


PARTS = {"data": MEASURING, "proxy": PROXY, "scores": SCORING, "answers": ANSWERING}
EDITS: dict[str, tuple[Callable[[Path], object], set[str]]] = {
    "weights": (other_weights, {"proxy", "scores", "answers"}),
    "index of the weights": (
        lambda f: (f / "model.safetensors.index.json").write_text('{"weight_map": {}}'),
        {"proxy", "scores", "answers"},
    ),
    "rope_theta": (
        lambda f: change(f / "config.json", rope_theta=5e5), {"proxy", "scores", "answers"}
    ),
    "yarn": (yarn, {"proxy", "scores", "answers"}),
    "tokenizer.json": (lambda f: replace(f / "tokenizer.json", b'"gold"', b'"tin"'), {*PARTS}),
    "a tokenizer setting": (
        lambda f: change(f / "tokenizer_config.json", add_bos_token=True), {*PARTS}
    ),
    "special tokens": (
        lambda f: (f / "special_tokens_map.json").write_text('{"bos_token": "a"}'), {*PARTS}
    ),
    "template": (
        lambda f: change(f / "tokenizer_config.json", chat_template="{{ messages }}"),
        {"scores", "answers"},
    ),
    "template in a file": (
        lambda f: (f / "chat_template.jinja").write_text("{{ messages }}"), {"scores", "answers"}
    ),
    "EOS": (lambda f: change(f / "generation_config.json", eos_token_id=[1, 2]), {"answers"}),
    "sampling, which is never used": (
        lambda f: change(f / "generation_config.json", temperature=0.3), set()
    ),
    "a version": (lambda f: change(f / "config.json", transformers_version="1"), set()),
    "a new time": (lambda f: os.utime(f / "model.safetensors"), set()),
    "another file": (lambda f: (f / "README.md").write_text("# Tiny"), set()),
}  # fmt: skip


@pytest.mark.parametrize("name", EDITS)
def test_an_edit_changes_the_keys_of_what_depends_on_it(
    folder: Path, tmp_path: Path, name: str
) -> None:
    edit, concerned = EDITS[name]

    def keys() -> dict[str, str]:
        files = ModelFiles(folder, CHAT, tmp_path / "memo")
        return {what: files.key(parts) for what, parts in PARTS.items()}

    before = keys()
    assert keys() == before
    edit(folder)
    assert {what for what, key in keys().items() if key != before[what]} == concerned


@pytest.mark.parametrize(
    ("settings", "concerned"),
    [
        ({"chat_options": {"date": "2 May"}}, {"scores", "answers"}),
        ({"chat": False}, {"scores", "answers"}),
        ({"dtype": "bfloat16"}, {"proxy", "scores", "answers"}),
        ({"rope_scaling": {"rope_type": "linear", "factor": 2.0}}, {"proxy", "scores", "answers"}),
        ({"device": "cuda"}, set()),
        ({"shape": {"layers": 4}}, set()),
    ],
)
def test_a_setting_changes_the_keys_of_what_depends_on_it(
    folder: Path, settings: dict[str, Any], concerned: set[str]
) -> None:
    one, other = ModelFiles(folder, CHAT), ModelFiles(folder, {**CHAT, **settings})
    assert {what for what, p in PARTS.items() if one.key(p) != other.key(p)} == concerned


def test_without_a_template_its_text_does_not_count(folder: Path) -> None:
    plain = {**CHAT, "chat": False}
    before = ModelFiles(folder, plain).key(ANSWERING)
    change(folder / "tokenizer_config.json", chat_template="{{ messages }}")
    assert ModelFiles(folder, plain).key(ANSWERING) == before


def test_large_files_are_read_once(folder: Path, tmp_path: Path) -> None:
    memo = tmp_path / "memo"
    digest = weights_digest(folder, memo)
    (note,) = memo.iterdir()
    note.write_text(note.read_text("utf-8").replace(digest, "of the memo"), "utf-8")
    assert weights_digest(folder, memo) == "of the memo"
    assert weights_digest(folder) == digest
    note.write_text("damaged", "utf-8")
    assert weights_digest(folder, memo) == digest


@pytest.mark.parametrize(
    ("name", "message"),
    [("config.json", "no config.json"), ("model.safetensors", "no safetensors")],
)
def test_a_missing_file_is_named(folder: Path, name: str, message: str) -> None:
    (folder / name).unlink()
    with pytest.raises(ConfigError, match=f"{folder}: {message}"):
        ModelFiles(folder, CHAT).key(SCORING, planned=True)


def test_a_damaged_file_is_named(folder: Path) -> None:
    (folder / "generation_config.json").write_text("{", "utf-8")
    with pytest.raises(ConfigError, match=r"generation_config.json: not JSON"):
        ModelFiles(folder, CHAT).key(SCORING)


HUB = {"hub": "an/llm", "revision": "0" * 40, "dtype": "float32", "chat": True, "device": "cpu"}


@pytest.fixture
def hub_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Run]:
    """A run of a family on the hub, whose target has these settings."""
    monkeypatch.chdir(tmp_path)
    families = catalog.families()

    def run(**changes: Any) -> Run:
        tiny = {**families["tiny"], "target": {**HUB, **changes}}
        shape = {"layers": 2, "query_heads": 2, "kv_heads": 2, "head_dim": 8, "parameters": 9}
        tiny["target"]["shape"] = shape
        monkeypatch.setattr(catalog, "families", lambda: {**families, "tiny": tiny})
        if not (tmp_path / "models").exists():
            (tmp_path / "models").symlink_to(TINY.parent)
        return Run(valid())

    return run


def planned(run: Run) -> list[Path]:
    data = run.datasets("tiny", "eval")[0].path
    return [*paths.conversion(run, "tiny", "target"), data, *paths.score_lists(run, "tiny")]


def convert(run: Run) -> Path:
    """What the conversion would leave."""
    model = run.model("tiny", "target")
    shutil.copytree(TINY / "target", model.folder)
    digests = vars(ModelFiles(model.folder, HUB).digests)
    (model.folder / "provenance.json").write_text(json.dumps({"digests": digests}), "utf-8")
    return model.folder


def test_another_revision_has_another_folder_and_other_data(
    hub_run: Callable[..., Run],
) -> None:
    one, other = planned(hub_run()), planned(hub_run(revision="1" * 40))
    assert all(a != b for a, b in zip(one, other, strict=True))


def test_what_is_planned_does_not_change_with_the_conversion(hub_run: Callable[..., Run]) -> None:
    run = hub_run()
    before = planned(run)
    convert(run)
    assert planned(hub_run()) == before


def test_a_converted_folder_that_was_edited_is_refused(hub_run: Callable[..., Run]) -> None:
    folder = convert(hub_run())
    yarn(folder)
    with pytest.raises(ConfigError, match=f"{folder}: config not as converted; delete the folder"):
        hub_run().require_models()


def test_a_local_folder_is_converted_by_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(catalog.ROOT)
    assert paths.conversion(Run(valid()), "tiny", "target") == []
