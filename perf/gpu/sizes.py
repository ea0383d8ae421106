"""What is measured: the paper's pairs on a GPU, or everything in miniature on any machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from transformers import LlamaConfig

from perf.shapes import FAMILIES, Family, shape


@dataclass(frozen=True)
class Sizes:
    """How large the cases are; the cases themselves have the same names in every size.

    Attributes:
        families: pairs, the most interesting one first.
        lengths: tokens of a context, by the name of the length.
        dtype: of weights and caches.
        chunk: tokens that KVzip replays at a time.
        question: tokens of a question.
        reference: tokens of a reference answer.
        tokens: decoded tokens that are timed.
        repeats: times that a case is measured.
        square: rows of the matrices whose product gives the peak.
        copied: bytes whose copy gives the bandwidth.
        tests: what pytest runs.
    """

    families: Mapping[str, Family]
    lengths: Mapping[str, int]
    dtype: str
    chunk: int
    question: int
    reference: int
    tokens: int
    repeats: int
    square: int
    copied: int
    tests: tuple[str, ...]


FULL = Sizes(
    families=FAMILIES,
    lengths={"4k": 4096, "16k": 16_384, "64k": 65_536, "128k": 131_072},
    dtype="bfloat16",
    chunk=2000,
    question=40,
    reference=16,
    tokens=64,
    repeats=3,
    square=8192,
    copied=1 << 32,
    tests=(
        "tests/model/test_accelerator.py",
        "tests/kernels",
        "--deselect=tests/kernels/test_replay_scores.py::test_kernels_compile_for_gpus_that_are_not_here",
        "--deselect=tests/kernels/test_split_attention.py::test_kernels_compile_for_gpus_that_are_not_here",
    ),
)
SMALL = shape(LlamaConfig, 512, 32, 64, 2, 4, 2, 16)
MINIATURE = Sizes(
    families={next(iter(FAMILIES)): Family(SMALL, SMALL)},
    lengths={"4k": 32, "16k": 48, "64k": 64, "128k": 80},
    dtype="float32",
    chunk=24,
    question=5,
    reference=2,
    tokens=4,
    repeats=1,
    square=128,
    copied=1 << 16,
    tests=("--noconftest", "tests/kernels/test_linear.py"),
)
"""For machines without a GPU: every section runs, no number means anything."""
