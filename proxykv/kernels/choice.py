"""Which implementation of an operation runs: the Triton kernel or the PyTorch reference."""

from __future__ import annotations

import os
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Literal, NamedTuple

import torch

from proxykv.runtime.errors import ConfigError

Implementation = Literal["triton", "reference"]

VARIABLE = "PROXYKV_KERNELS"
"""Environment variable that overrides the choice by device: `triton` or `reference`."""

DTYPES = (torch.bfloat16, torch.float16, torch.float32)
HEAD_SIZES = range(16, 129, 16)
PLACES = 1 << 31
"""Numbers of one head that a kernel can address: its places within a head are 32-bit."""
CAPABILITY = (8, 0)
"""The oldest compute capability of a GPU whose kernels are compiled and checked: Ampere's."""


class Choice(NamedTuple):
    """The implementation that runs.

    Attributes:
        kernels: "triton" or "reference".
        why: the reason in a few words.
    """

    kernels: Implementation
    why: str

    def __str__(self) -> str:
        """Return the text of rows, timings and `proxykv check`."""
        return f"{self.kernels} ({self.why})"


def choose(device: torch.device, dtype: torch.dtype, head_size: int, tokens: int = 0) -> Choice:
    """Choose the implementation for tensors of this device, dtype, head size and length.

    Triton needs an NVIDIA GPU with compute capability 8.0 or newer. Everything else takes the
    reference. With `PROXYKV_KERNELS=triton` a CPU runs the kernels, too, which needs Triton's
    interpreter (`TRITON_INTERPRET=1`): slow, for tests.

    Args:
        device: of the tensors.
        dtype: of the tensors.
        head_size: numbers of a key of one head.
        tokens: the most tokens of one head, where they are known.

    Raises:
        ConfigError: if `PROXYKV_KERNELS` has another value, or requires Triton and Triton is
            missing.
    """
    if dtype not in DTYPES:
        return Choice("reference", f"no kernel for {str(dtype).removeprefix('torch.')}")
    if head_size not in HEAD_SIZES:
        return Choice("reference", f"no kernel for head size {head_size}")
    if tokens * head_size >= PLACES:
        return Choice("reference", f"no kernel for {tokens} tokens")
    return _by_device(device, os.environ.get(VARIABLE, ""))


@cache
def _by_device(device: torch.device, forced: str) -> Choice:
    """Choose by device and by what is installed; `forced`: the environment variable's value."""
    if forced not in ("", "triton", "reference"):
        raise ConfigError(f"{VARIABLE}={forced!r} is not known: set it to triton or to reference")
    if forced == "reference":
        return Choice("reference", f"{VARIABLE}=reference")
    if not forced and (missing := _unfit(device)):
        return Choice("reference", missing)
    try:
        installed = version("triton")
    except PackageNotFoundError:
        if forced:
            raise ConfigError(
                f"{VARIABLE}=triton, but triton is not installed: pip install 'proxykv[triton]'"
            ) from None
        return Choice("reference", "triton is not installed")
    return Choice("triton", f"Triton {installed}")


def _unfit(device: torch.device) -> str:
    """Say why a device does not run the kernels; an empty text if it does."""
    if device.type != "cuda" or torch.version.hip:
        return "no NVIDIA GPU"
    capability = torch.cuda.get_device_capability(device)
    if capability < CAPABILITY:
        return f"compute capability {capability[0]}.{capability[1]} is below 8.0"
    return ""
