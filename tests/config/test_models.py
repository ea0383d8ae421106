"""A model's shape comes from its folder, or from the family's file, and the two agree."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from checkout import copy_project

from proxykv.config import catalog
from proxykv.config.models import model_folder, model_shape, positions, stored_shape
from proxykv.runtime.errors import ConfigError

TINY = catalog.ROOT / "models" / "tiny" / "target"
SHAPE = {"layers": 4, "query_heads": 8, "kv_heads": 4, "head_dim": 32, "parameters": 853120}
WHERE = "config/families/mine.yaml.target"


def family(**target: Any) -> dict[str, Any]:
    return {"family": "mine", "target": target}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of a model."""
    return Path(shutil.copytree(TINY, tmp_path / "models" / "mine" / "target"))


def test_the_shape_of_a_local_model_is_read(folder: Path, tmp_path: Path) -> None:
    assert model_shape(family(path=str(folder)), "target", tmp_path) == SHAPE


def test_the_shape_of_a_converted_model_is_read(folder: Path, tmp_path: Path) -> None:
    entry = family(hub="org/name")
    folder.rename(model_folder(entry, "target", tmp_path))
    assert model_shape(entry, "target", tmp_path) == SHAPE


def test_the_familys_file_answers_where_there_is_no_model(tmp_path: Path) -> None:
    assert model_shape(family(hub="org/name", shape=SHAPE), "target", tmp_path) == SHAPE


@pytest.mark.parametrize("key", SHAPE)
def test_a_stated_shape_must_be_the_models(key: str, folder: Path, tmp_path: Path) -> None:
    stated = SHAPE | {key: 7}
    with pytest.raises(ConfigError) as refused:
        model_shape(family(path=str(folder), shape=stated), "target", tmp_path)
    expected = f"{WHERE}.shape.{key}: 7, but {folder} has {SHAPE[key]}; correct it or remove"
    assert str(refused.value).startswith(expected)


def remove(folder: Path, pattern: str) -> None:
    for path in folder.glob(pattern):
        path.unlink()


@pytest.mark.parametrize(
    ("pattern", "lacks"), [("config.json", "config.json"), ("*.safetensors", "weights")]
)
def test_a_model_that_is_not_there_needs_a_stated_shape(
    pattern: str, lacks: str, folder: Path, tmp_path: Path
) -> None:
    remove(folder, pattern)
    with pytest.raises(ConfigError) as refused:
        model_shape(family(path=str(folder)), "target", tmp_path)
    assert str(refused.value).startswith(f"{WHERE}: no `shape`, and {folder} has no {lacks}")
    assert model_shape(family(path=str(folder), shape=SHAPE), "target", tmp_path) == SHAPE


def edit(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | changes), "utf-8")


def test_what_a_config_leaves_out_has_transformers_default(folder: Path) -> None:
    edit(folder, num_key_value_heads=None, head_dim=None)
    assert stored_shape(folder) == SHAPE | {"kv_heads": 8, "head_dim": 128 // 8}


def test_a_tied_embedding_counts_once(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text("utf-8"))
    embedding = config["vocab_size"] * config["hidden_size"]
    tied = config["tie_word_embeddings"]
    edit(folder, tie_word_embeddings=True)
    once = stored_shape(folder)["parameters"]
    assert SHAPE["parameters"] - once == (0 if tied else embedding)


def test_positions_of_a_model(folder: Path, tmp_path: Path) -> None:
    """Those of its config, or those to which RoPE is scaled."""
    entry = {"path": str(folder)}
    assert positions(family(**entry), "target", tmp_path) == 8192
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8192}
    assert positions(family(**entry, rope_scaling=yarn), "target", tmp_path) == 32768
    assert positions(family(hub="org/name"), "target", tmp_path) is None


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"num_attention_heads": "four"}', "\xff"])
def test_a_config_that_cannot_be_read_is_one_line(content: str, folder: Path) -> None:
    (folder / "config.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(ConfigError, match=r"config\.json: cannot be read") as refused:
        stored_shape(folder)
    assert "\n" not in str(refused.value)


def test_weights_that_cannot_be_read_are_one_line(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"not weights at all")
    with pytest.raises(ConfigError, match=r"model\.safetensors: cannot be read") as refused:
        stored_shape(folder)
    assert "\n" not in str(refused.value)


def test_a_family_is_added_without_a_shape(tmp_path: Path) -> None:
    """Both checks pass, and hours are estimated; a wrong shape is refused before any job."""
    project = copy_project(tmp_path / "project")
    entry: dict[str, Any] = dict(catalog.families()["tiny"]) | {"family": "mine"}
    assert "shape" not in {*entry["target"], *entry["proxy"]}
    path = project / "config" / "families" / "mine.yaml"
    path.write_text(yaml.safe_dump(entry), "utf-8")
    config = yaml.safe_load((project / "config.yaml").read_text("utf-8")) | {"families": ["mine"]}
    (project / "mine.yaml").write_text(yaml.safe_dump(config), "utf-8")

    def check(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "proxykv", "check", *arguments],
            cwd=project,
            env={"PYTHONPATH": str(project), "HF_HUB_OFFLINE": "1"},
            capture_output=True,
            text=True,
            check=False,
        )

    assert "shape: {layers: 4, query_heads: 8" in check("--family", "mine").stdout
    assert "the whole run: about" in check("mine.yaml").stdout
    entry["proxy"] = {**entry["proxy"], "shape": SHAPE}
    path.write_text(yaml.safe_dump(entry), "utf-8")
    for arguments in (["--family", "mine"], ["mine.yaml"]):
        done = check(*arguments)
        assert done.returncode == 2
        assert done.stderr.startswith("config/families/mine.yaml.proxy.shape.layers: 4, but ")
        assert len(done.stderr.splitlines()) == 1
