"""Weights say their values, and what a model computes is a number: else there is one line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from random_models import random_ids, random_net
from safetensors.torch import load_file, save_file
from torch import Tensor

from proxykv.config import catalog
from proxykv.config.keys.model_files import weights_digest
from proxykv.model.caches.context import ATTENTION
from proxykv.model.caches.pruned import PrunedCache
from proxykv.model.decode import TokenizedQuestion, answer, answer_from
from proxykv.model.loading import load_model
from proxykv.model.model import Model, bare_model
from proxykv.model.parallel import run_in_parallel
from proxykv.model.prefill import prefill
from proxykv.model.tensors import Keep
from proxykv.runtime.errors import ConfigError

Q_PROJ = "model.layers.3.self_attn.q_proj.weight"
NORM = "model.norm.weight"
EMBEDDING = "model.embed_tokens.weight"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(catalog.ROOT / "models" / "tiny" / "target", tmp_path / "model"))


def store(folder: Path, changed: dict[str, Tensor], quantised: str = "", shards: int = 1) -> None:
    """Store some of a model's weights in another way."""
    weights = {**load_file(folder / "model.safetensors"), **changed}
    (folder / "model.safetensors").unlink()
    names = sorted(weights)
    index: dict[str, Any] = {"metadata": {}, "weight_map": {}}
    for number in range(shards):
        part = {name: weights[name] for name in names[number::shards]}
        file = f"model-{number + 1:05}-of-{shards:05}.safetensors"
        save_file(part, folder / file, {"format": "pt"})
        index["weight_map"] |= dict.fromkeys(part, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), "utf-8")
    if quantised:
        config = json.loads((folder / "config.json").read_text("utf-8"))
        method = {"quant_method": quantised, "weight_block_size": [128, 128]}
        config["quantization_config"] = method | {"activation_scheme": "dynamic"}
        (folder / "config.json").write_text(json.dumps(config), "utf-8")


def weight(folder: Path, name: str = Q_PROJ) -> Tensor:
    return load_file(folder / "model.safetensors")[name]


@pytest.mark.parametrize(
    ("dtype", "kind"),
    [
        (torch.int8, "I8"),
        (torch.uint8, "U8"),
        (torch.int64, "I64"),
        (torch.bool, "BOOL"),
        (torch.complex64, "C64"),
        (torch.float8_e4m3fn, "F8_E4M3"),
        (torch.float8_e5m2, "F8_E5M2"),
    ],
)
def test_weights_that_do_not_say_their_values_are_refused(
    dtype: torch.dtype, kind: str, folder: Path
) -> None:
    """From their headers, so that nothing is planned with them."""
    store(folder, {Q_PROJ: weight(folder).to(dtype)}, shards=3)
    for use in (weights_digest, load_model):
        with pytest.raises(ConfigError, match=rf"\.safetensors: {Q_PROJ} holds {kind}, and") as no:
            use(folder)
        assert "\n" not in str(no.value)


def test_floating_point_weights_are_read(folder: Path) -> None:
    before = weight(folder)
    others = {NORM: weight(folder, NORM).double(), EMBEDDING: weight(folder, EMBEDDING).bfloat16()}
    store(folder, {Q_PROJ: before.half(), **others})
    found = load_model(folder).net.get_parameter(Q_PROJ)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.data, before.half().float())


def packed(folder: Path) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """All projections in eight bits, and their scales."""
    weights = load_file(folder / "model.safetensors")
    scales = {n: each.abs().max() / 448 for n, each in weights.items() if "_proj" in n}
    blocks = {n: [-(-size // 128) for size in weights[n].shape] for n in scales}
    return (
        {n: (weights[n] / scale).to(torch.float8_e4m3fn) for n, scale in scales.items()},
        {f"{n}_scale_inv": scale.expand(blocks[n]).clone() for n, scale in scales.items()},
    )


def test_what_transformers_unpacks_is_used(folder: Path) -> None:
    """Eight bits of floating point, as DeepSeek publishes them."""
    before = weight(folder)
    weights, scales = packed(folder)
    store(folder, weights | scales, quantised="fp8")
    found = load_model(folder).net.get_parameter(Q_PROJ)
    torch.testing.assert_close(found.data, before, rtol=0.1, atol=0.01)


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("fp8", "_proj.weight holds F8_E4M3, and no file holds its scale"),
        ("four", "quant_method 'four'"),
    ],
)
def test_what_transformers_does_not_unpack_is_refused(
    method: str, message: str, folder: Path
) -> None:
    store(folder, packed(folder)[0], quantised=method)
    with pytest.raises(ConfigError, match=message):
        load_model(folder)


@pytest.mark.parametrize(
    ("name", "value", "dtype"),
    [
        (Q_PROJ, torch.nan, "float32"),
        (NORM, -torch.inf, "float32"),
        (EMBEDDING, torch.nan, "bfloat16"),
        (Q_PROJ, 1e6, "float16"),
    ],
)
def test_weights_that_are_not_finite_are_named(
    name: str, value: float, dtype: str, folder: Path
) -> None:
    """Also those that only this type cannot hold."""
    spoilt = weight(folder, name)
    spoilt.view(-1)[5] = value
    store(folder, {name: spoilt}, shards=2)
    with pytest.raises(ConfigError, match=f"{name} holds NaN or infinity as {dtype}; fetch"):
        load_model(folder, dtype=dtype)


CONTEXT = random_ids(40, seed=1).clamp(max=90)
PROMPT, REFERENCE, STRANGE = (1, 2, 3), (4, 5, 6), 95


def model(too_large: int | None = None) -> Model:
    """A model, which cannot compute with one of its tokens."""
    net = random_net("llama", ATTENTION)
    if too_large is not None:
        net.get_input_embeddings().weight[too_large] = torch.inf  # type: ignore[index,operator]
    return bare_model(net)


def ask(model: Model, prompt: tuple[int, ...], reference: tuple[int, ...]) -> list[int]:
    """What the full cache answers."""
    question = TokenizedQuestion(prompt, reference, 12)
    ((full, _),) = answer(prefill(model, CONTEXT, 1), [half()], [question])
    return [*full.ids]


def ask_one(model: Model, prompt: tuple[int, ...]) -> list[int]:
    cache = PrunedCache(prefill(model, CONTEXT, 1).cache, 1, torch.ones_like(half()))
    return answer_from(model, cache, len(CONTEXT), prompt, 12)


def half() -> Keep:
    return (torch.arange(39) % 2 == 0).expand(3, 2, -1)


@pytest.mark.parametrize(
    ("run", "where"),
    [
        (lambda: prefill(model(int(CONTEXT[7])), CONTEXT, 1), "after the context"),
        (lambda: ask(model(STRANGE), (1, STRANGE, 3), ()), "after the question"),
        (lambda: ask_one(model(STRANGE), (1, STRANGE, 3)), "after the question"),
        (lambda: ask(model(STRANGE), PROMPT, (4, STRANGE, 6)), "along the reference answer"),
    ],
)
@torch.inference_mode()
def test_what_is_no_number_is_no_result(run: Callable[[], object], where: str) -> None:
    with pytest.raises(ConfigError, match=f"{where}, the model's numbers .* too large for float32"):
        run()


@torch.inference_mode()
def test_an_answer_ends_where_its_numbers_do() -> None:
    """With the error, not with a token that nothing chose."""
    written = ask(model(), PROMPT, REFERENCE)
    assert ask_one(model(), PROMPT) == written
    seen = {*PROMPT, *REFERENCE, *CONTEXT.tolist()}
    later = next(token for token in written[:-1] if token not in seen)
    for run in (
        lambda: ask(model(later), PROMPT, REFERENCE),
        lambda: ask_one(model(later), PROMPT),
    ):
        with pytest.raises(ConfigError, match="within an answer, the model's numbers"):
            run()


@torch.inference_mode()
def test_a_row_that_has_ended_ends_no_other() -> None:
    """Rows of a batch decode on together."""
    written = ask(model(), PROMPT, REFERENCE)
    seen = {*PROMPT, *REFERENCE, *CONTEXT.tolist()}
    later = next(token for token in written[:-1] if token not in seen)
    until = TokenizedQuestion(PROMPT, REFERENCE, written.index(later) + 1)
    ((full, _),) = answer(prefill(model(later), CONTEXT, 1), [half()], [until])
    assert [*full.ids] == written[: until.max_new_tokens]


@pytest.mark.parametrize("side", ["target", "proxy"])
def test_in_parallel_the_line_names_the_side(side: str) -> None:
    def fail() -> None:
        raise ConfigError("not finite")

    sides: dict[str, Callable[[], None]] = {"target": lambda: None, "proxy": lambda: None}
    with pytest.raises(ConfigError, match=f"^the {side}: not finite$"):
        run_in_parallel(**{**sides, side: fail})
