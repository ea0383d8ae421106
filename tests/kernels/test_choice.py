"""Which implementation runs, and what says so."""

from __future__ import annotations

import pytest
import torch
from torch.nn.attention import SDPBackend

from proxykv.kernels.attention import PLAN_FROM, fused_kernels
from proxykv.kernels.choice import choose
from proxykv.runtime.errors import ConfigError

CPU = torch.device("cpu")


def test_a_cpu_takes_the_reference() -> None:
    assert str(choose(CPU, torch.float32, 64)) == "reference (no NVIDIA GPU)"


@pytest.mark.parametrize(("dtype", "head_size"), [(torch.float64, 64), (torch.float16, 72)])
def test_what_no_kernel_can_do_takes_the_reference(
    dtype: torch.dtype, head_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROXYKV_KERNELS", "triton")
    choice = choose(CPU, dtype, head_size)
    assert choice.kernels == "reference" and "no kernel for" in choice.why


def test_a_mistyped_override_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROXYKV_KERNELS", "tritn")
    with pytest.raises(ConfigError, match="triton or to reference"):
        choose(CPU, torch.float32, 64)


@pytest.mark.parametrize(
    ("device", "queries", "keys", "first"),
    [
        ("cpu", PLAN_FROM, PLAN_FROM, None),
        ("cuda", 2024, PLAN_FROM, None),  # a replay: no kernel but one has this mask
        ("cuda", PLAN_FROM - 1, PLAN_FROM - 1, SDPBackend.FLASH_ATTENTION),
        ("cuda", PLAN_FROM, PLAN_FROM, SDPBackend.CUDNN_ATTENTION),
    ],
)
def test_only_long_texts_pay_for_a_plan(
    device: str, queries: int, keys: int, first: SDPBackend | None
) -> None:
    kernels = fused_kernels(torch.device(device), queries, keys)
    assert (kernels[0] if kernels else None) == first
    assert not kernels or SDPBackend.MATH in kernels  # float32 finds a kernel, too
    assert first == SDPBackend.CUDNN_ATTENTION or SDPBackend.CUDNN_ATTENTION not in kernels
