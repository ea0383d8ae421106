"""Load a target or a proxy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from proxykv.config.cost.placement import devices_of, layer_devices
from proxykv.config.keys.model_files import weights_digest
from proxykv.config.run import Run
from proxykv.kernels.linear import for_few_rows
from proxykv.model.architecture import load_config
from proxykv.model.caches.context import ATTENTION
from proxykv.model.devices import device_of, spread
from proxykv.model.finite import require_numbers
from proxykv.model.model import Model, eos_ids
from proxykv.model.prompt.tokenizer import load_tokenizer
from proxykv.runtime.errors import ConfigError
from proxykv.runtime.files import require_readable
from proxykv.runtime.scratch import local


def load_model(
    folder: Path,
    *,
    dtype: str = "float32",
    device: str = "cpu",
    layers: Sequence[str] = (),
    chat: bool = False,
    chat_options: Mapping[str, Any] | None = None,
    rope_scaling: Mapping[str, Any] | None = None,
) -> Model:
    """Load a transformers folder (safetensors) for pruning.

    Args:
        folder: config.json, *.safetensors and tokenizer files.
        dtype: name of a torch dtype.
        device: a device string, or `auto` for the machine's accelerator if it has one.
        layers: device of each layer, where they are not all on `device`.
        chat: put the prompt into the tokenizer's chat template.
        chat_options: variables for the template (for example `enable_thinking: false`).
        rope_scaling: changes the config's `rope_parameters` (for example YaRN's).

    Raises:
        ConfigError: if the folder, its architecture, the dtype or a device cannot be used.
        PermissionError: if this user may not read one of its files.
    """
    for path in folder.iterdir() if folder.is_dir() else ():
        require_readable(path)  # first: safetensors calls such a file missing
    config = load_config(folder, rope_scaling)
    digest = weights_digest(folder)
    tokenizer = load_tokenizer(folder)
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            config=config,
            dtype=number_type(dtype),
            attn_implementation=ATTENTION,
            use_safetensors=True,
            ignore_mismatched_sizes=True,  # they are refused below, by name
            output_loading_info=True,
        )
        net, report = loaded
    except Exception as error:  # whatever an architecture, a format or another package may raise
        why = " ".join(str(error).split())
        raise ConfigError(f"{folder}: the weights cannot be read: {why}") from error
    if problem := next(_weight_problems(report), None):
        raise ConfigError(f"{folder}: config.json and the weights differ: {problem}")
    with torch.no_grad():
        for name in report["missing_keys"]:  # biases: some versions leave them as memory was
            net.get_parameter(name).zero_()
    embeddings: Any = net.get_input_embeddings()
    if not all(type(end) is int and 0 <= end < embeddings.num_embeddings for end in eos_ids(net)):
        raise ConfigError(
            f"{folder}: generation_config.json: eos_token_id is {eos_ids(net)}; give token ids "
            f"below {embeddings.num_embeddings}"
        )
    spread(net, device_of(device), [device_of(each) for each in layers])
    require_numbers(net, folder)
    net = net.eval().requires_grad_(False)
    if net.device.type == "cpu":
        for_few_rows(net)
    model = Model(net, tokenizer, prefix=(), suffix=(), digest=digest)
    return model.with_template(chat_options) if chat else model.without_template()


def _weight_problems(report: Mapping[str, Any]) -> Iterator[str]:
    """Weights that transformers made up at random, or left out. A missing bias is zero."""
    for name, found, expected in sorted(report["mismatched_keys"]):
        yield f"{name} has the shape {list(found)}, the model needs {list(expected)}"
    for name in sorted(n for n in report["missing_keys"] if not n.endswith(".bias")):
        yield f"the model needs {name}, which no safetensors file (or no index of them) holds"
    for name in sorted(report["unexpected_keys"]):
        yield f"the model has no place for {name}; correct model_type or the number of layers"


def number_type(name: str) -> torch.dtype:
    """The named dtype of weights.

    Raises:
        ConfigError: if torch has no such dtype of floating-point numbers.
    """
    found = getattr(torch, name, None)
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise ConfigError(f"dtype {name!r} is none of weights; choose float32, bfloat16 or float16")
    return found


def load(run: Run, family: str, role: str, device: str | None = None) -> Model:
    """Load a family's target or proxy as its file says.

    Args:
        run: the run.
        family: name of the family.
        role: "target" or "proxy".
        device: where to load it, if not where the family's file says.
    """
    model = run.family(family)[role]
    home, layers = placed(run, family, role, device)
    return load_model(
        local(run.model(family, role).folder),
        dtype=model["dtype"],
        device=home,
        layers=layers,
        chat=model["chat"],
        chat_options=model.get("chat_options"),
        rope_scaling=model.get("rope_scaling"),
    )


def placed(
    run: Run, family: str, role: str, device: str | None = None
) -> tuple[str, Sequence[str]]:
    """Where a family's target or proxy is.

    Args:
        run: the run.
        family: name of the family.
        role: "target" or "proxy".
        device: where all of it is to be, if not where the family's file says.

    Returns:
        The device where forwards begin and end; and each layer's where several share them.
    """
    home, *others = [device] if device else devices_of(run.family(family)[role])
    return home, layer_devices(run.with_shapes(family)) if others else ()
