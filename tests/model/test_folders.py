"""A model's folder is loaded as its files say, or refused in one line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Regex, normalizers
from tokenizers_fixture import byte_level, model_of

from proxykv.config import catalog
from proxykv.model.loading import load_model
from proxykv.model.prompt.tokenizer import load_tokenizer
from proxykv.runtime.errors import ConfigError

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
