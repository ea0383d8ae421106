"""Training: learns, beats the linear control, is seeded, resumes bit for bit."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from proxykv.config.settings import TrainingSettings
from proxykv.mapper.fidelity import fidelity
from proxykv.mapper.hybrid import load_mapper
from proxykv.mapper.training import (
    Trainer,
    learning_rate,
    split_contexts,
    train_mapper,
)
from proxykv.runtime.errors import ConfigError

IDENTITY = {"family": "toy", "target_hash": "t", "proxy_hash": "p", "vocab_hash": "v"}
SMALL = {"conv_channels": 8, "time_width": 16, "time_dilations": (1, 4), "width": 16}
QUICK = TrainingSettings(
    steps=12,
    warmup=2,
    crop=48,
    val_contexts=2,
    log_every=2,
    eval_every=4,
    device="auto",  # where there is an accelerator, all of this holds there
    mapper=SMALL,
)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def write_scores(folder: Path, contexts: int = 8, n: int = 64) -> list[Path]:
    """Target heads that no linear map of one token can give: products and neighbours."""
    folder.mkdir(exist_ok=True)
    draw = torch.Generator().manual_seed(0)
    files = []
    for index in range(contexts):
        u = torch.randn(4, n, generator=draw)
        gated = [u[0] * u[1], u[2].roll(2), (u[1] * u[3]).roll(-1), u[0].maximum(u[3])]
        target = (2 * torch.stack(gated) - 2).sigmoid().reshape(2, 2, n)
        files.append(folder / f"{index:03d}.safetensors")
        proxy = (2 * u - 3).sigmoid().reshape(2, 2, n)
        stored = {"target": target.half(), "proxy": proxy.half()}
        save_file(stored, files[-1], metadata={"context_id": str(index)})
    return files


def log_lines(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def without_speed(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in line.items() if k != "tokens_per_s"} for line in lines]


def test_learns_and_beats_the_linear_control(tmp_path: Path) -> None:
    files = write_scores(tmp_path / "scores", contexts=16, n=96)
    config = replace(QUICK, steps=120, crop=96, lr=1e-2, val_contexts=4, eval_every=60)
    cards = {
        variant: train_mapper(
            files, tmp_path / variant, replace(config, mapper={**SMALL, "variant": variant}), {}
        )
        for variant in ("hybrid", "linear")
    }
    metrics = {variant: card["metrics"] for variant, card in cards.items()}
    assert metrics["hybrid"]["head_overlap@0.1"] > metrics["linear"]["head_overlap@0.1"] + 0.2
    assert metrics["hybrid"]["mass@0.1"] > max(0.9, metrics["linear"]["mass@0.1"])


def test_writes_mapper_card_and_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    files = write_scores(tmp_path / "scores")
    card = train_mapper(files, tmp_path / "out", replace(QUICK, calibrated=False), IDENTITY)
    mapper, read = load_mapper(tmp_path / "out", expected=IDENTITY)
    assert read == json.loads(json.dumps(card)) and mapper.config.layers == 2
    assert len(card["val_contexts"]) == 2 and len(card["train_contexts"]) == 6
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"weights.safetensors", "card.json", "log.jsonl"}
    lines = log_lines(tmp_path / "out")
    train = [line for line in lines if line["split"] == "train"]
    val = [line for line in lines if line["split"] == "val"]
    assert [line["step"] for line in train] == [*range(1, 13)]
    assert [line["step"] for line in val] == [4, 8, 12]
    assert {line["steps"] for line in lines} == {12}
    losses = {"total", "bin", "mse", "fine", "global", "cos", "lr", "tokens_per_s"}
    metrics = {"mass@0.1", "mass@0.2", "mass@0.3", "mass@0.5", "head_overlap@0.1", "allocation@0.2"}
    assert all(losses <= set(line) for line in train)
    assert [line["step"] for line in train if metrics <= set(line)] == [2, 4, 6, 8, 10, 12]
    assert metrics <= set(val[0])
    told = [
        record.getMessage() for record in caplog.records if record.name == "proxykv.mapper.training"
    ]
    assert [message.split(":")[0] for message in told] == [f"step {n} of 12" for n in (4, 8, 12)]
    best = max(val, key=lambda line: sum(line[f"mass@{r}"] for r in (0.1, 0.2, 0.3)))
    assert card["best_step"] == best["step"] and card["metrics"]["mass@0.2"] == best["mass@0.2"]


def test_same_seed_same_weights(tmp_path: Path) -> None:
    files = write_scores(tmp_path / "scores")
    runs = {"a": (files, 0), "b": (files[::-1], 0), "c": (files, 1)}
    digests = {
        name: train_mapper(order, tmp_path / name, replace(QUICK, seed=seed), IDENTITY)
        for name, (order, seed) in runs.items()
    }
    weights = {name: card["weights_sha256"] for name, card in digests.items()}
    assert weights["a"] == weights["b"] != weights["c"]


@pytest.mark.parametrize("killed_at", [5, 8, 11])
def test_resumes_bit_for_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed_at: int
) -> None:
    files = write_scores(tmp_path / "scores")
    whole = train_mapper(files, tmp_path / "whole", QUICK, IDENTITY)
    step = Trainer.step

    def killed(self: Trainer, at: int, **options: Any) -> Any:
        if at == killed_at:
            raise KeyboardInterrupt
        return step(self, at, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", killed)
        with pytest.raises(KeyboardInterrupt):
            train_mapper(files, tmp_path / "cut", QUICK, IDENTITY)
    seen: list[int] = []
    monkeypatch.setattr(
        Trainer, "step", lambda self, at, **options: (seen.append(at), step(self, at, **options))[1]
    )
    resumed = train_mapper(files, tmp_path / "cut", QUICK, IDENTITY)
    assert seen[0] == {5: 5, 8: 5, 11: 9}[killed_at]
    assert resumed == whole
    log = without_speed(log_lines(tmp_path / "cut"))
    assert log == without_speed(log_lines(tmp_path / "whole"))


def test_another_runs_checkpoint_is_ignored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = write_scores(tmp_path / "scores")
    whole = train_mapper(files, tmp_path / "whole", QUICK, IDENTITY)
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "finish", lambda self: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            train_mapper(files, tmp_path / "other", replace(QUICK, lr=1e-2), IDENTITY)
    assert (tmp_path / "other" / "checkpoint").exists()
    assert train_mapper(files, tmp_path / "other", QUICK, IDENTITY) == whole


def test_stops_when_nothing_improves_any_more(tmp_path: Path) -> None:
    files = write_scores(tmp_path / "scores")
    # A learning rate of nothing: the first evaluation is never improved on.
    config = replace(QUICK, steps=100, lr=1e-30, eval_every=2, patience=3)
    card = train_mapper(files, tmp_path / "out", config, IDENTITY)
    assert card["best_step"] == 2 and log_lines(tmp_path / "out")[-1]["step"] == 8


def test_other_features_of_the_proxy(tmp_path: Path) -> None:
    files = write_scores(tmp_path / "scores")
    config = replace(QUICK, signal="prefill")
    with pytest.raises(ConfigError, match="no 'prefill' signal"):
        train_mapper(files, tmp_path / "out", config, IDENTITY)
    for path in files:
        stored = load_file(path)
        save_file({"target": stored["target"], "proxy_prefill": stored["proxy"]}, path)
    assert train_mapper(files, tmp_path / "out", config, IDENTITY)["best_step"]


def test_a_loss_that_is_not_finite_names_the_context(tmp_path: Path) -> None:
    files = write_scores(tmp_path / "scores")
    with pytest.raises(FloatingPointError, match=r"step \d+ on context 00\d"):
        train_mapper(files, tmp_path / "out", replace(QUICK, lr=1e30, warmup=0), IDENTITY)


def test_a_gradient_that_is_not_finite_names_the_contexts_and_spoils_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stepped: list[int] = []
    monkeypatch.setattr(
        torch.nn.utils, "clip_grad_norm_", lambda parameters, norm: torch.tensor(torch.nan)
    )
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda self: stepped.append(1))
    files = write_scores(tmp_path / "scores")
    with pytest.raises(FloatingPointError, match=r"gradient .* step 1 on contexts 00\d, 00\d"):
        train_mapper(files, tmp_path / "out", QUICK, IDENTITY)
    assert not stepped


def test_variants_see_the_same_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = write_scores(tmp_path / "scores")
    variants = {
        "full": QUICK,
        "mse": replace(QUICK, weights={"mse": 20.0}),
        "linear": replace(QUICK, mapper={"variant": "linear"}),
    }
    original, batches = Trainer._window, {name: [] for name in variants}
    for name, config in variants.items():

        def window(self, path, generator, seen=batches[name]):
            features, target = original(self, path, generator)
            seen.append((path.name, target))
            return features, target

        monkeypatch.setattr(Trainer, "_window", window)
        train_mapper(files, tmp_path / name, replace(config, crop=24), IDENTITY)
    for name in ("mse", "linear"):
        for ours, theirs in zip(batches["full"], batches[name], strict=True):
            assert ours[0] == theirs[0] and torch.equal(ours[1], theirs[1])


def test_bad_files_and_splits_are_refused(tmp_path: Path) -> None:
    files = write_scores(tmp_path / "scores")
    with pytest.raises(ConfigError, match="cannot hold out 8 of 8"):
        split_contexts(files, 8)
    train, held_out = split_contexts(files, 3)
    assert sorted([*train, *held_out]) == sorted(files) and len(held_out) == 3
    assert split_contexts(files[::-1], 3) == (train, held_out)
    zeros = torch.zeros(2, 2, 64).half()
    save_file({"target": zeros, "proxy": zeros + torch.nan}, train[0])
    with pytest.raises(ConfigError, match=r"leave \[0, 1\]"):
        train_mapper(files, tmp_path / "out", replace(QUICK, val_contexts=3), IDENTITY)
    save_file({"target": zeros[:1].clone(), "proxy": zeros}, train[0])
    with pytest.raises(ConfigError, match="another pair's shape"):
        train_mapper(files, tmp_path / "out", replace(QUICK, val_contexts=3), IDENTITY)


def test_learning_rate_warms_up_and_decays() -> None:
    config = TrainingSettings(steps=100, warmup=10, lr=1.0)
    rates = [learning_rate(step, config) for step in range(1, 101)]
    assert rates[0] == pytest.approx(0.1) and rates[9] == max(rates) == 1.0
    assert rates[-1] == pytest.approx(0.05) and rates[9:] == sorted(rates[9:], reverse=True)


def test_fidelity_by_hand() -> None:
    target = torch.tensor([[[0.9, 0.1, 0.0, 0.0]], [[0.8, 0.7, 0.0, 0.0]]])
    assert set(fidelity(target, target).values()) == {1.0}
    predicted = torch.tensor([[[4.0, 3.0, 2.0, 1.0]], [[0.0, 0.0, 0.0, 0.5]]])
    figures = fidelity(predicted, target, retentions=(0.25,))
    # Budget 2 of 8: true {0.9, 0.8}, predicted {0.9, 0.1}; one per head: {0.9} right, {0.0} wrong.
    # Of the two, the first head should get one and gets both, the second gets none.
    assert figures["global_overlap@0.25"] == figures["allocation@0.25"] == 0.5
    assert figures["mass@0.25"] == pytest.approx(1.0 / 1.7)
    assert figures["head_overlap@0.25"] == 0.5
