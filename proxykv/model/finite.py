"""What a model is made of and what it computes are numbers: neither NaN, infinite nor packed."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from proxykv.runtime.errors import ConfigError

FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
"""Types of weights that are not packed."""


def require_numbers(net: PreTrainedModel, folder: Path) -> None:
    """Check the weights of a model.

    Modules of transformers' quantisers unpack weights; torch's own take them for numbers.

    Args:
        net: the model.
        folder: that it was loaded from, for the message.

    Raises:
        ConfigError: if a tensor holds NaN or infinity, or packed numbers that nothing unpacks.
    """
    for name, weight in net.named_parameters():
        module = net.get_submodule(name.rpartition(".")[0])
        if weight.dtype not in FLOATS and type(module) in (nn.Linear, nn.Embedding):
            raise ConfigError(
                f"{folder}: {name} holds {_name(weight.dtype)} that are not unpacked; fetch the "
                "weights again (their scales are missing?), or correct config.json's "
                "quantization_config"
            )
        plain = type(weight.data) is Tensor and weight.dtype in FLOATS and weight.numel()
        if plain and not all(bound.isfinite() for bound in weight.aminmax()):
            raise ConfigError(
                f"{folder}: {name} holds NaN or infinity as {_name(weight.dtype)}; fetch the "
                "weights again, or choose bfloat16 or float32 as `dtype` if they are too large"
            )


def require_finite(values: Tensor, dtype: torch.dtype, where: str) -> None:
    """Check that a model computed finite numbers.

    Args:
        values: what it computed.
        dtype: that it computes in.
        where: after which part of the prompt, for the message.

    Raises:
        ConfigError: if one of them is not finite.
    """
    if not values.isfinite().all():
        raise not_finite(dtype, where)


def not_finite(dtype: torch.dtype, where: str) -> ConfigError:
    """The error of a model that computes NaN or infinite numbers.

    Args:
        dtype: that it computes in.
        where: after which part of the prompt.
    """
    return ConfigError(
        f"{where}, the model's numbers are not finite: they are too large for {_name(dtype)}, or "
        "its config does not fit its weights; choose bfloat16 or float32 as `dtype`, or another "
        "model"
    )


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
