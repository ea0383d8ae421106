"""Where the layers of a target are, and what every device must hold."""

from __future__ import annotations

import json
from itertools import product
from typing import Any

import pytest
from valid_config import valid

from proxykv.cli import main
from proxykv.config import catalog, check
from proxykv.config.cost.placement import (
    HEADROOM,
    balanced,
    fits,
    layer_devices,
    local_layer_devices,
    memory_table,
    needs,
)
from proxykv.config.models import stored_shape
from proxykv.runtime.errors import ConfigError

SHAPE = {"layers": 4, "query_heads": 4, "kv_heads": 2, "head_dim": 8, "parameters": 10_000}
WIDTHS = {"hidden_size": 20, "intermediate_size": 100, "vocab_size": 50}


def family(target: str, proxy: str, max_context: int = 64, **changes: Any) -> dict[str, Any]:
    model = {"shape": SHAPE, "architecture": WIDTHS, "dtype": "bfloat16"}
    return {
        "family": "mine",
        "max_context": max_context,
        "resources": {"gpu": 2, "gpu_mb": 1, "mem_mb": 1},
        "target": model | {"device": target},
        "proxy": model | {"device": proxy},
        **changes,
    }


def test_bytes_by_hand() -> None:
    target, proxy = needs(family("cuda:0", "cuda:1"), 10)
    activations = 10 * (2 * 20 + 3 * 100) * 2  # the MLP's are wider than queries
    cache, scores = 2 * (4 * 2) * 10 * 8 * 2, 4 * (4 * 2) * 10
    assert target.parts == {
        "weights": 20_000, "cache": cache, "activations": activations, "scores": scores
    }  # fmt: skip
    assert target.total == HEADROOM * (20_000 + cache + activations + scores)
    # Everything of the proxy is in one part.
    assert proxy.parts == {"proxy": 20_000 + cache + activations + scores}
    (shared,) = needs(family("auto", "auto"), 10)
    assert shared.total == pytest.approx(target.total + proxy.total)


def test_several_devices_hold_together_what_one_holds() -> None:
    (alone, _), (first, second, _) = (
        list(needs(family(target, "cuda:9"), 10)) for target in ("cuda:0", "cuda:0,cuda:1")
    )
    assert (first.layers, second.layers) == (2, 2)
    for part in ("weights", "cache", "scores"):
        assert getattr(first, part) + getattr(second, part) == pytest.approx(getattr(alone, part))
    # Embeddings and LM head are where forwards begin and end.
    assert first.weights - second.weights == 2 * 20 * 50 * 2
    # Each device runs whole layers.
    assert first.activations == second.activations == alone.activations


@pytest.mark.parametrize("held", list(product([0, 3, 10], repeat=2)))
def test_no_other_split_has_a_less_full_device(held: tuple[int, int]) -> None:
    for layers in range(1, 12):
        first, second = balanced(layers, 2, held)
        assert first + second == layers
        found = max(held[0] + 2 * first, held[1] + 2 * second)
        all_splits = range(layers + 1)
        best = min(max(held[0] + 2 * n, held[1] + 2 * (layers - n)) for n in all_splits)
        assert found == max(best, *held)


def test_layers_of_a_device_are_consecutive_and_the_proxys_device_has_fewer() -> None:
    alone = layer_devices(family("cuda:0,cuda:1", "cuda:2"))
    assert alone == ["cuda:0", "cuda:0", "cuda:1", "cuda:1"]
    shared = layer_devices(family("cuda:0,cuda:1", "cuda:1"))
    assert shared.count("cuda:1") < 2
    assert layer_devices(family("cpu", "cpu")) == ["cpu"] * 4


@pytest.mark.parametrize(
    ("tokens", "proxy", "fitting"),
    [
        (32768, "cuda:1", True),
        (65536, "cuda:1", True),
        (131072, "cuda:1", False),
        (131072, "cuda:2", True),
    ],
)
def test_a_32b_model_on_two_gpus_of_80_gb(tokens: int, proxy: str, fitting: bool) -> None:
    known = catalog.families()["qwen-3-long"]
    planned = {**known, "max_context": tokens, "proxy": {**known["proxy"], "device": proxy}}
    assert fits(planned, tokens) == fitting
    whole = {**planned, "target": {**known["target"], "device": "cuda:0"}}
    assert not fits(whole, tokens)  # one GPU is not enough for any of these lengths


def test_a_family_on_several_gpus_asks_for_as_many() -> None:
    for name, known in catalog.families().items():
        devices = {d for role in ("target", "proxy") for d in known[role]["device"].split(",")}
        if len(devices) > 1:
            assert known["resources"]["gpu"] == len(devices), name
            assert fits(known, known["max_context"]), name


def test_fewer_gpus_than_devices_are_a_mistake_of_the_family(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    known = catalog.families()
    changed = {**known["qwen-3"], "resources": {**known["qwen-3"]["resources"], "gpu": 1}}
    monkeypatch.setattr(catalog, "families", lambda: {**known, "qwen-3": changed})
    problems = check.config_problems(valid() | {"families": ["qwen-3"]})
    assert problems == [
        "config/families/qwen-3.yaml.resources.gpu: 1, but the models are on cuda:0, cuda:1; "
        "ask for 2"
    ]


def test_what_does_not_fit_names_what_to_lower() -> None:
    *_, last = memory_table(catalog.families()["qwen-3-long"])
    assert last.startswith("  131,072 tokens do not fit: lower `max_context` to ")
    most = int(last.split(" to ")[1].split()[0].replace(",", ""))
    longer = catalog.families()["qwen-3-long"]
    assert fits({**longer, "max_context": most}, most)
    assert not fits({**longer, "max_context": most + 1024}, most + 1024)


def test_check_prints_the_plan(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(catalog.ROOT / "config" / "paper.yaml")]) == 0
    lines = capsys.readouterr().out.splitlines()
    plan = [line.split()[:3] for line in lines if " cuda:" in line]
    assert plan[:2] == [["32768", "cuda:0", "37"], ["32768", "cuda:1", "27"]]
    assert [tokens for tokens, *_ in plan] == [str(n) for n in (32768, 65536, 131072) for _ in "01"]


TINY = {role: catalog.ROOT / "models" / "tiny" / role for role in ("target", "proxy")}


@pytest.mark.parametrize("proxy", ["cpu", "cpu:1", "cpu:2"])
def test_local_folders_are_planned_as_a_family_is(proxy: str) -> None:
    models: dict[str, Any] = {role: {"dtype": "float32", "device": proxy} for role in TINY}
    models["target"]["device"] = "cpu,cpu:1"
    described: dict[str, Any] = {
        role: models[role] | {
            "shape": stored_shape(folder),
            "architecture": json.loads((folder / "config.json").read_text("utf-8")),
        }
        for role, folder in TINY.items()
    }  # fmt: skip
    window = described["target"]["architecture"]["max_position_embeddings"]
    planned = local_layer_devices(TINY, models)
    assert planned == layer_devices({**described, "max_context": window})
    assert len(planned) == described["target"]["shape"]["layers"]


def test_a_target_without_a_proxy_is_shared_alike() -> None:
    target = {"target": TINY["target"]}
    assert local_layer_devices(target, {"target": {"device": "cpu,cpu:1"}}) == [
        *["cpu"] * 2, *["cpu:1"] * 2
    ]  # fmt: skip
    assert local_layer_devices(target, {"target": {"device": "cpu"}}) == []
    missing = {"target": TINY["target"] / "nothing"}  # loading says so
    assert local_layer_devices(missing, {"target": {"device": "cpu,cpu:1"}}) == []
    with pytest.raises(ConfigError, match="dtype 'float64': several devices share models of float"):
        local_layer_devices(target, {"target": {"device": "cpu,cpu:1", "dtype": "float64"}})
