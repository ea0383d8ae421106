"""A family is verified from configs and tokenizers alone."""

from __future__ import annotations

import json
import shutil
import time
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from proxykv.cli import main
from proxykv.config import catalog
from proxykv.model.verify import verify
from proxykv.runtime.errors import ConfigError

TINY = catalog.ROOT / "models" / "tiny"


@pytest.fixture
def family(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The tiny family as `mine`, with separate folders and no weights."""
    entry: dict[str, Any] = deepcopy(dict(catalog.families()["tiny"])) | {"family": "mine"}
    for role in ("target", "proxy"):
        entry[role]["path"] = str(tmp_path / role)
        skipped = shutil.ignore_patterns("*.safetensors")
        shutil.copytree(TINY / role, tmp_path / role, ignore=skipped)
    monkeypatch.setattr(catalog, "families", lambda: {"mine": entry})
    return entry


def shown(capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["check", "--family", "mine"]) == 0
    return capsys.readouterr().out


@pytest.mark.usefixtures("family")
def test_a_good_pair_is_shown_with_its_memory(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Only relative paths are valid in a family's file.
    monkeypatch.setattr("proxykv.config.check.schema_problems", lambda *_: [])
    printed = shown(capsys)
    assert "tokenizers: identical, 512 pieces" in printed
    assert "8,192 tokens" in printed
    assert "16,384 tokens" not in printed  # more than the family may see
    assert "DOES NOT FIT" not in printed


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | changes), "utf-8")


def swap_two_pieces(path: Path) -> None:
    content = json.loads(path.read_text("utf-8"))
    words = content["model"]["vocab"]
    one, other = list(words)[10:12]
    words[one], words[other] = words[other], words[one]
    path.write_text(json.dumps(content), "utf-8")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f, _: swap_two_pieces(f / "proxy" / "tokenizer.json"), "different vocabularies"),
        (lambda f, _: edit(f / "target" / "config.json", model_type="gemma2"), "gemma2"),
        (lambda _, entry: entry["target"].update(shape={"layers": 5}), "shape.layers: 5, but"),
        (lambda f, _: (f / "proxy" / "config.json").unlink(), "not there yet"),
    ],
)
def test_a_bad_pair_is_one_clear_line(
    spoil: Any,
    message: str,
    family: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("proxykv.config.check.schema_problems", lambda *_: [])
    spoil(tmp_path, family)
    with pytest.raises(ConfigError, match=message) as refused:
        list(verify("mine", tmp_path))
    assert "\n" not in str(refused.value)


def test_what_does_not_fit_is_said(
    family: dict[str, Any], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proxykv.config.check.schema_problems", lambda *_: [])
    family["resources"]["mem_mb"] = 10
    assert "DOES NOT FIT" in shown(capsys)


@pytest.mark.parametrize("name", ["qwen-3", "llama-3", "qwen-2.5"])
def test_without_the_hub_the_familys_file_answers_at_once(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    began = time.monotonic()
    first, second, *plan = verify(name, tmp_path)
    assert time.monotonic() - began < 5
    assert first.startswith("hub not reached (")
    assert first.endswith(f"not compared with config/families/{name}.yaml")
    assert "\n" not in first + second
    assert second.startswith("by the shapes in that file, of at most ")
    assert bool(plan) == (name == "qwen-3")  # whose target is on several devices


def test_before_a_model_is_converted_the_familys_file_answers(tmp_path: Path) -> None:
    first, second, *_ = verify("qwen-coder", tmp_path)
    assert first.startswith(f"model not made ({tmp_path}/models/qwen-coder/target-")
    assert "/provenance.json --configfile <file>` makes it" in first
    assert second.startswith("by the shapes in that file, of at most 32,768 tokens: cpu (target")


def test_an_unreachable_hub_is_asked_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing listens at the hub's address."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.hf_api.constants.ENDPOINT", "http://127.0.0.1:9")
    began = time.monotonic()
    first, *_ = verify("qwen-3", tmp_path)
    assert time.monotonic() - began < 8
    assert "refused" in first


def test_the_familys_file_says_what_fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two GPUs share Qwen3-32B; the one that has the proxy, too, holds fewer layers."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    _, line, *_ = verify("qwen-3", tmp_path)
    assert line == (
        "by the shapes in that file, of at most 32,768 tokens: "
        "cuda:0 (37 of the target's 64 layers), 80 GB: 32,768 tokens fit; "
        "cuda:1 (27 of the target's 64 layers + proxy), 80 GB: 32,768 tokens fit"
    )


def test_unknown_family(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--family", "tinny"]) == 2
    assert "did you mean 'tiny'?" in capsys.readouterr().err
