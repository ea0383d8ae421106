"""Which implementation runs, and what says so."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError

import pytest
import torch
from torch.nn.attention import SDPBackend

from proxykv.kernels import choice
from proxykv.kernels.attention import PLAN_FROM, fused_kernels
from proxykv.kernels.choice import PLACES, VARIABLE, choose
from proxykv.runtime.errors import ConfigError

CPU = torch.device("cpu")


def test_a_cpu_takes_the_reference() -> None:
    assert str(choose(CPU, torch.float32, 64)) == "reference (no NVIDIA GPU)"


@pytest.mark.parametrize(
    ("dtype", "head_size", "tokens", "what"),
    [
        (torch.float64, 64, 0, "float64"),
        (torch.int8, 64, 0, "int8"),
        (torch.float16, 8, 0, "head size 8"),
        (torch.float16, 72, 0, "head size 72"),
        (torch.float16, 144, 0, "head size 144"),
        (torch.float16, 128, 1 << 24, "16777216 tokens"),
        (torch.float32, 64, 1 << 25, "33554432 tokens"),
    ],
)
def test_what_no_kernel_can_do_takes_the_reference(
    dtype: torch.dtype, head_size: int, tokens: int, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, "triton")
    assert choose(CPU, dtype, head_size, tokens) == ("reference", f"no kernel for {what}")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("head_size", [16, 64, 80, 96, 112, 128])
def test_the_kernels_take_heads_in_use(
    dtype: torch.dtype, head_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("triton")
    monkeypatch.setenv(VARIABLE, "triton")
    longest = (PLACES - 1) // head_size
    assert choose(CPU, dtype, head_size, longest).kernels == "triton"


@pytest.mark.parametrize(
    ("capability", "hip", "installed", "expected"),
    [
        ((9, 0), None, True, "triton (Triton 3.6.0)"),
        ((8, 0), None, True, "triton (Triton 3.6.0)"),
        ((7, 5), None, True, "reference (compute capability 7.5 is below 8.0)"),
        ((9, 4), "6.4", True, "reference (no NVIDIA GPU)"),
        ((9, 0), None, False, "reference (triton is not installed)"),
    ],
)
def test_a_gpu_takes_the_kernels_if_it_can(
    capability: tuple[int, int],
    hip: str | None,
    installed: bool,
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setattr(torch.version, "hip", hip)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(choice, "version", release if installed else missing)
    device = torch.device(
        "cuda", 20 + request.node.callspec.indices["capability"]
    )  # none is cached
    assert str(choose(device, torch.bfloat16, 128)) == expected


def release(package: str) -> str:
    return "3.6.0"


def missing(package: str) -> str:
    raise PackageNotFoundError(package)


def test_required_kernels_that_are_not_installed_are_one_clear_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(VARIABLE, "triton")
    monkeypatch.setattr(choice, "version", missing)
    with pytest.raises(ConfigError, match=r"triton is not installed: pip install 'proxykv\[triton"):
        choose(torch.device("cpu", 1), torch.float32, 64)


def test_a_mistyped_override_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "tritn")
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
