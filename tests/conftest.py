"""One thread, offline, and all annotations of code with shapes checked at run time."""

from __future__ import annotations

import os
from collections.abc import Iterator

os.environ.update(HF_HUB_OFFLINE="1", TQDM_DISABLE="1", OMP_NUM_THREADS="1")

import jaxtyping
import pytest
import torch

torch.set_num_threads(1)
SHAPED = [
    *("cache", "decode", "fidelity", "loss", "mapper", "pipeline", "prefill", "pruned"),
    *("select", "sweep"),
]
# Before any test module imports the package.
jaxtyping.install_import_hook(
    ["baselines", *(f"proxykv.{name}" for name in SHAPED)], "shape_check.typechecked"
)


@pytest.fixture
def unchecked() -> Iterator[None]:
    """Annotations go unchecked, as outside the tests: for what callers get wrong at run time."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
