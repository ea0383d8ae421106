"""Training: learns, beats the linear control, is seeded, and uses the data as it should."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from stored_contexts import IDENTITY, QUICK, SMALL, Builder, Reader, log_lines, write_scores
from torch import Tensor, nn

from proxykv.config.settings.training import TrainingSettings
from proxykv.mapper.calibration import QuantileCalibration
from proxykv.mapper.fidelity import fidelity
from proxykv.mapper.hybrid import load_mapper
from proxykv.mapper.loss import hybrid_loss
from proxykv.mapper.stored_scores import initial_mapper, load_scores, signal_file
from proxykv.mapper.training.loop import learning_rate
from proxykv.mapper.training.train import split_contexts, train_mapper
from proxykv.runtime.errors import ConfigError


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    return write_scores(tmp_path / "scores")


def test_learns_and_beats_the_linear_control(tmp_path: Path) -> None:
    files = write_scores(tmp_path / "scores", contexts=16, n=96)
    settings = replace(QUICK, steps=120, crop=96, lr=1e-2, val_contexts=4, eval_every=60)
    cards = {
        variant: train_mapper(
            files, tmp_path / variant, replace(settings, mapper={**SMALL, "variant": variant}), {}
        )
        for variant in ("hybrid", "linear")
    }
    metrics = {variant: card["metrics"] for variant, card in cards.items()}
    assert metrics["hybrid"]["head_overlap@0.1"] > metrics["linear"]["head_overlap@0.1"] + 0.2
    assert metrics["hybrid"]["mass@0.1"] > max(0.9, metrics["linear"]["mass@0.1"])


def test_writes_mapper_card_and_log(
    tmp_path: Path, files: list[Path], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    out = tmp_path / "out"
    card = train_mapper(files, out, replace(QUICK, calibrated=False), IDENTITY)
    mapper, read = load_mapper(out, expected=IDENTITY)
    assert read == json.loads(json.dumps(card)) and mapper.config.layers == 2
    assert len(card["val_contexts"]) == 2 and len(card["train_contexts"]) == 6
    assert sorted(card["val_contexts"] + card["train_contexts"]) == [path.stem for path in files]
    assert {path.name for path in out.iterdir()} == {
        "weights.safetensors",
        "card.json",
        "log.jsonl",
    }
    train, val = log_lines(out, "train"), log_lines(out, "val")
    assert [line["step"] for line in train] == [*range(1, 13)]
    assert [line["step"] for line in val] == [4, 8, 12]
    assert {line["steps"] for line in (*train, *val)} == {12}
    losses = {"total", "bin", "mse", "fine", "global", "cos", "lr"}
    metrics = {"mass@0.1", "mass@0.2", "mass@0.3", "mass@0.5", "head_overlap@0.1", "allocation@0.2"}
    assert all(losses <= set(line) for line in train)
    assert [line["step"] for line in train if metrics <= set(line)] == [2, 4, 6, 8, 10, 12]
    assert metrics <= set(val[0])
    speeds = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert all(line["tokens_per_s"] > 0 for line in speeds if line["split"] == "train")
    messages = [r.getMessage() for r in caplog.records if r.name.startswith("proxykv.mapper")]
    assert [message.split(":")[0] for message in messages] == [
        f"step {step} of 12" for step in (4, 8, 12)
    ]
    best = max(val, key=lambda line: sum(line[f"mass@{r}"] for r in (0.1, 0.2, 0.3)))
    assert card["best_step"] == best["step"] and card["metrics"]["mass@0.2"] == best["mass@0.2"]


def test_the_best_evaluation_is_the_one_that_is_kept(tmp_path: Path, files: list[Path]) -> None:
    """Evaluated by hand: the weights that are written, on the held-out contexts."""
    # Steps that are too large make the evaluations go up and down.
    settings = replace(QUICK, steps=16, lr=0.2, warmup=0, eval_every=1, calibrated=False)
    card = train_mapper(files, tmp_path / "out", settings, IDENTITY)
    records = log_lines(tmp_path / "out", "val")
    quality = [sum(line[f"mass@{r}"] for r in (0.1, 0.2, 0.3)) for line in records]
    assert quality.index(max(quality)) not in (0, len(quality) - 1)
    assert card["best_step"] == quality.index(max(quality)) + 1
    mapper, _ = load_mapper(tmp_path / "out")
    found = []
    for name in card["val_contexts"]:
        proxy, target = load_scores(tmp_path / "scores" / f"{name}.safetensors")
        found.append(fidelity(mapper.score(proxy), target)["mass@0.1"])
    assert card["metrics"]["mass@0.1"] == pytest.approx(sum(found) / len(found))


def test_same_seed_same_weights(tmp_path: Path, files: list[Path]) -> None:
    runs = {"a": (files, 0), "b": (files[::-1], 0), "c": (files, 1)}
    cards = {
        name: train_mapper(order, tmp_path / name, replace(QUICK, seed=seed), IDENTITY)
        for name, (order, seed) in runs.items()
    }
    weights = {name: card["weights_sha256"] for name, card in cards.items()}
    assert weights["a"] == weights["b"] != weights["c"]


def test_the_callers_random_numbers_stay_as_they_were(tmp_path: Path, files: list[Path]) -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    train_mapper(files, tmp_path / "out", replace(QUICK, steps=1), IDENTITY)
    assert torch.equal(torch.rand(3), expected)


def test_stops_when_nothing_improves_any_more(tmp_path: Path, files: list[Path]) -> None:
    # A learning rate of nothing: the first evaluation is never improved on.
    settings = replace(QUICK, steps=100, lr=1e-30, eval_every=2, patience=3)
    card = train_mapper(files, tmp_path / "out", settings, IDENTITY)
    assert card["best_step"] == 2 and log_lines(tmp_path / "out")[-1]["step"] == 8


def test_other_features_of_the_proxy(tmp_path: Path, files: list[Path]) -> None:
    settings = replace(QUICK, signal="prefill")
    with pytest.raises(ConfigError, match="signal 'prefill' is not extracted"):
        train_mapper(files, tmp_path / "out", settings, IDENTITY)
    for path in files:
        stored = load_file(path)
        save_file({"target": stored["target"]}, path)
        save_file({"proxy": stored["proxy"]}, signal_file(path, "prefill"))
    assert train_mapper(files, tmp_path / "out", settings, IDENTITY)["best_step"]


def test_a_loss_that_is_not_finite_names_the_context(tmp_path: Path, files: list[Path]) -> None:
    with pytest.raises(FloatingPointError, match=r"step \d+ on context 00\d"):
        train_mapper(files, tmp_path / "out", replace(QUICK, lr=1e30, warmup=0), IDENTITY)


class Constant(nn.Module):
    """A module with one parameter; every logit is `scale` times a function of it."""

    def __init__(self, scale: float, function: Any = None) -> None:
        super().__init__()
        self.config = QUICK  # any dataclass: it goes into the card
        self.theta = nn.Parameter(torch.ones(()))
        self.scale, self.function = scale, function or (lambda theta: theta)

    def forward(self, features: Tensor) -> Tensor:
        return self.scale * self.function(self.theta) + torch.zeros_like(features)

    def score(self, features: Tensor) -> Tensor:
        return self(features).detach()


def build(module: nn.Module) -> Any:
    return lambda files, settings, signal: module


def test_a_gradient_that_is_not_finite_names_the_contexts_and_spoils_nothing(
    tmp_path: Path, files: list[Path]
) -> None:
    # The root of zero is finite and its slope is not.
    module = Constant(1.0, lambda theta: (theta - 1).sqrt())
    with pytest.raises(FloatingPointError, match=r"gradient .* step 1 on contexts 00\d, 00\d"):
        train_mapper(files, tmp_path / "out", QUICK, IDENTITY, build=build(module))
    assert module.theta.item() == 1


def moved(tmp_path: Path, files: list[Path], scale: float, **changes: Any) -> float:
    """How far one step of AdamW moves the parameter of `Constant`, in learning rates.

    That is |g| / (|g| + 1e-8) for a gradient g: about |g| / 1e-8 if g is much smaller, else 1.
    """
    settings = replace(QUICK, steps=1, warmup=0, weight_decay=0.0, lr=1e-3, calibrated=False)
    settings = replace(settings, weights={"mse": 1.0}, **changes)
    module = Constant(scale)
    out = tmp_path / f"{scale}-{len(list(tmp_path.iterdir()))}"
    train_mapper(files, out, settings, {}, build=build(module))
    rate = log_lines(out, "train")[0]["lr"]
    return abs(module.theta.item() - 1) / rate


def test_a_batch_is_the_mean_of_its_contexts(tmp_path: Path) -> None:
    files = write_scores(tmp_path / "scores", contexts=4)
    for path in files[1:]:  # all the same, so that a batch of any size has the same mean
        path.write_bytes(files[0].read_bytes())
    one, three = (moved(tmp_path, files, 3e-8, lr=1e3, batch=batch, crop=64) for batch in (1, 3))
    assert 0.01 < one < 0.5  # far from the 1 that any large gradient gives
    assert three == pytest.approx(one, rel=1e-3)


def test_gradients_are_cut_to_the_norm_of_the_settings(tmp_path: Path, files: list[Path]) -> None:
    assert moved(tmp_path, files, 1.0) == pytest.approx(1, rel=1e-2)
    assert moved(tmp_path, files, 1.0, clip=1e-8) == pytest.approx(0.5, rel=1e-2)
    # The norm is that of all gradients together.
    builder = Builder()
    settings = replace(QUICK, steps=1, warmup=0, lr=1.0, weight_decay=0.0, clip=1e-9)
    train_mapper(files, tmp_path / "out", settings, IDENTITY, build=builder)
    squares = sum(distance.square().sum().item() for distance in builder.moved().values())
    assert 0 < math.sqrt(squares) < 0.11


def test_gradients_of_earlier_steps_are_forgotten(tmp_path: Path, files: list[Path]) -> None:
    """A target that turns round: with a sum of gradients the parameter would not follow."""
    module = Constant(1.0)
    passed: list[float] = []
    module.theta.register_hook(lambda gradient: passed.append(gradient.item()))
    gradients: list[float] = []
    module.theta.register_post_accumulate_grad_hook(
        lambda parameter: gradients.append(parameter.grad.item())
    )
    settings = replace(QUICK, steps=4, batch=1, calibrated=False)
    train_mapper(files, tmp_path / "out", settings, {}, build=build(module))
    assert gradients == passed and len(passed) == 4


def test_the_weights_of_the_loss_are_the_settings(tmp_path: Path, files: list[Path]) -> None:
    weights = {"mse": 2.0, "cos": 0.5}
    train_mapper(files, tmp_path / "out", replace(QUICK, weights=weights), IDENTITY)
    for line in log_lines(tmp_path / "out", "train"):
        assert line["total"] == pytest.approx(2 * line["mse"] + 0.5 * line["cos"], rel=1e-5)


def test_logged_losses_are_means_over_the_batch(tmp_path: Path, files: list[Path]) -> None:
    """Computed again from the windows that the first step read."""
    reader = Reader()
    settings = replace(QUICK, steps=1, weights={"mse": 1.0}, mapper={"variant": "linear"})
    train_mapper(files, tmp_path / "out", settings, IDENTITY, load=reader)
    train, _ = split_contexts(files, settings.val_contexts)
    bias = initial_mapper(train, settings.mapper).bias  # a linear mapper begins with it alone
    losses = []
    for _, target in reader.windows:
        logits = bias.detach().reshape(2, 2, 1).expand_as(target)
        losses.append(hybrid_loss(logits, target, {"mse": 1.0}, torch.Generator())[0].item())
    (line,) = log_lines(tmp_path / "out", "train")
    assert len(losses) == 2 and line["mse"] == pytest.approx(sum(losses) / 2, rel=1e-5)


def test_variants_see_the_same_batches(tmp_path: Path, files: list[Path]) -> None:
    variants = {
        "full": QUICK,
        "mse": replace(QUICK, weights={"mse": 20.0}),
        "linear": replace(QUICK, mapper={"variant": "linear"}),
    }
    batches = {}
    for name, settings in variants.items():
        reader = Reader()
        train_mapper(files, tmp_path / name, replace(settings, crop=24), IDENTITY, load=reader)
        batches[name] = reader.windows
    assert len(batches["full"]) == 24
    for name in ("mse", "linear"):
        for (path, target), (other_path, other) in zip(batches["full"], batches[name], strict=True):
            assert path == other_path and torch.equal(target, other)


def test_every_epoch_is_a_new_order_of_all_training_contexts(
    tmp_path: Path, files: list[Path]
) -> None:
    orders = {}
    for seed in (0, 1):
        reader = Reader()
        out = tmp_path / str(seed)
        card = train_mapper(files, out, replace(QUICK, seed=seed), IDENTITY, load=reader)
        names = [Path(name).stem for name, _ in reader.windows]
        epochs = [names[i : i + 6] for i in range(0, 24, 6)]
        assert all(sorted(epoch) == card["train_contexts"] for epoch in epochs)
        assert len({tuple(epoch) for epoch in epochs}) == 4
        orders[seed] = names
    assert orders[0] != orders[1]


def test_windows_are_as_long_as_the_settings_say_and_differ(
    tmp_path: Path, files: list[Path]
) -> None:
    reader = Reader()
    train_mapper(files, tmp_path / "out", replace(QUICK, crop=24), IDENTITY, load=reader)
    assert {target.shape for _, target in reader.windows} == {(2, 2, 24)}
    full = {path.name: load_scores(path)[1] for path in files}
    starts = {
        int((full[name].unfold(-1, 24, 1) == target[..., None, :]).all(-1).all(0).all(0).nonzero())
        for name, target in reader.windows
    }
    assert len(starts) > 8


def test_another_seed_draws_other_windows(tmp_path: Path) -> None:
    files = write_scores(tmp_path / "scores", contexts=2)  # one of them is trained on
    windows = {}
    for seed in (0, 1):
        reader = Reader()
        settings = replace(QUICK, seed=seed, crop=24, val_contexts=1, steps=4)
        train_mapper(files, tmp_path / str(seed), settings, IDENTITY, load=reader)
        windows[seed] = [target for _, target in reader.windows]
    assert not any(map(torch.equal, windows[0], windows[1]))


def test_held_out_contexts_are_drawn_by_name_and_never_trained_on(
    tmp_path: Path, files: list[Path]
) -> None:
    train, held_out = split_contexts(files, 3)
    by_hash = {hashlib.sha256(path.name.encode()).hexdigest(): path for path in files}
    assert held_out == [by_hash[key] for key in sorted(by_hash)][:3]
    assert held_out not in (files[:3], files[-3:])
    assert split_contexts(files[::-1], 3) == (train, held_out)
    assert sorted([*train, *held_out]) == files

    reader, builder = Reader(), Builder()
    settings = replace(QUICK, val_contexts=3)
    card = train_mapper(files, tmp_path / "out", settings, IDENTITY, builder, reader)
    assert {name for name, _ in reader.windows} == {path.name for path in train}
    assert card["val_contexts"] == sorted(path.stem for path in held_out)
    # Read whole: the held-out ones in each of three evaluations, the others for the calibration,
    # the held-out ones again for the metrics after it.
    names = [path.name for path in held_out]
    assert reader.read_fully == [*names * 3, *(path.name for path in train), *names]
    mean = torch.cat([load_scores(path)[0] for path in train], dim=-1).flatten(0, 1).double()
    expected = ((mean + 1e-4).log() - (1 - mean + 1e-4).log()).mean(dim=-1)
    assert torch.allclose(builder.module.get_buffer("mean").cpu().double(), expected, atol=1e-4)


def test_each_head_gets_the_distribution_of_its_scores_in_the_training_contexts(
    tmp_path: Path, files: list[Path]
) -> None:
    train, held_out = split_contexts(files, 2)
    for path in held_out:  # contexts of another kind, which the calibration may not see
        stored = load_file(path)
        save_file({**stored, "target": 1 - stored["target"] / 4}, path)
    card = train_mapper(files, tmp_path / "out", QUICK, IDENTITY)
    mapper, _ = load_mapper(tmp_path / "out")
    assert isinstance(mapper.calibration, QuantileCalibration)
    pairs = [(mapper.score(proxy), target) for proxy, target in map(load_scores, train)]
    logits, target = (torch.cat(parts, dim=-1).flatten(0, 1) for parts in zip(*pairs, strict=True))
    levels = torch.tensor([0.2, 0.35, 0.5, 0.65, 0.8])
    found, true = (t.quantile(levels, dim=-1) for t in (logits, target.logit(eps=1e-6)))
    assert torch.allclose(found, true, atol=0.2)
    assert sorted(card["train_contexts"]) == sorted(path.stem for path in train)
    # The card's metrics are those after the calibration.
    overlaps = [fidelity(mapper.score(proxy), y) for proxy, y in map(load_scores, held_out)]
    expected = sum(found["allocation@0.1"] for found in overlaps) / len(overlaps)
    assert card["metrics"]["allocation@0.1"] == pytest.approx(expected)


def test_evaluation_is_without_dropout(tmp_path: Path, files: list[Path]) -> None:
    settings = replace(QUICK, steps=4, lr=1e-30, eval_every=1, patience=9)
    settings = replace(settings, mapper={**SMALL, "dropout": 0.5})
    train_mapper(files, tmp_path / "out", settings, IDENTITY)
    values = [line["mass@0.1"] for line in log_lines(tmp_path / "out", "val")]
    assert len(values) == 4 and len(set(values)) == 1


def test_training_is_with_dropout_that_the_seed_and_the_step_decide(
    tmp_path: Path, files: list[Path]
) -> None:
    for path in files[1:]:
        path.write_bytes(files[0].read_bytes())
    settings = replace(QUICK, lr=1e-30, batch=1, crop=64, weights={"mse": 1.0})
    losses = {}
    for dropout in (0.0, 0.5):
        out = tmp_path / str(dropout)
        mapper = {**SMALL, "dropout": dropout}
        train_mapper(files, out, replace(settings, mapper=mapper), IDENTITY)
        losses[dropout] = {line["mse"] for line in log_lines(out, "train")}
    assert len(losses[0.0]) == 1 and len(losses[0.5]) == 12


def test_weight_decay_is_that_of_the_settings(tmp_path: Path, files: list[Path]) -> None:
    """One step of AdamW: with decay λ and rate r, a weight θ of 1 loses r·λ besides its update."""
    kept = moved(tmp_path, files, 1e-30, lr=0.5)
    decayed = Constant(1e-30)
    settings = replace(QUICK, steps=1, warmup=0, lr=0.5, weight_decay=0.2, calibrated=False)
    train_mapper(files, tmp_path / "decayed", settings, {}, build=build(decayed))
    rate = log_lines(tmp_path / "decayed", "train")[0]["lr"]
    assert kept == 0 and decayed.theta.item() == pytest.approx(1 - rate * 0.2)


def test_bad_files_and_splits_are_refused(tmp_path: Path, files: list[Path]) -> None:
    for held_out in (0, 8, 9):
        with pytest.raises(ConfigError, match=f"cannot hold out {held_out} of 8"):
            split_contexts(files, held_out)
    train, _ = split_contexts(files, 3)
    settings = replace(QUICK, val_contexts=3)
    zeros = torch.zeros(2, 2, 64).half()
    for stored in (
        {"target": zeros, "proxy": zeros + torch.nan},
        {"target": zeros, "proxy": zeros - 0.1},
        {"target": zeros + 1.1, "proxy": zeros},
    ):
        save_file(stored, train[0])
        with pytest.raises(ConfigError, match=r"leave \[0, 1\]"):
            train_mapper(files, tmp_path / "out", settings, IDENTITY)
    save_file({"target": zeros[:1].clone(), "proxy": zeros}, train[0])
    with pytest.raises(ConfigError, match="another pair's shape"):
        train_mapper(files, tmp_path / "out", settings, IDENTITY)


def test_learning_rate_warms_up_and_decays(tmp_path: Path, files: list[Path]) -> None:
    settings = TrainingSettings(steps=100, warmup=10, lr=1.0)
    rates = [learning_rate(step, settings) for step in range(1, 101)]
    assert rates[:10] == pytest.approx([step / 10 for step in range(1, 11)])
    assert rates[54] == pytest.approx(0.05 + 0.95 / 2)  # half of the way down
    assert rates[-1] == pytest.approx(0.05) and rates[9:] == sorted(rates[9:], reverse=True)
    assert learning_rate(1, replace(settings, warmup=0)) < 1
    train_mapper(files, tmp_path / "out", QUICK, IDENTITY)
    logged = [line["lr"] for line in log_lines(tmp_path / "out", "train")]
    assert logged == [learning_rate(step, QUICK) for step in range(1, 13)]


def test_fidelity_by_hand() -> None:
    target = torch.tensor([[[0.9, 0.1, 0.0, 0.0]], [[0.8, 0.7, 0.0, 0.0]]])
    assert set(fidelity(target, target).values()) == {1.0}
    predicted = torch.tensor([[[4.0, 3.0, 2.0, 1.0]], [[0.0, 0.0, 0.0, 0.5]]])
    metrics = fidelity(predicted, target, retentions=(0.25,))
    # Budget 2 of 8: true {0.9, 0.8}, predicted {0.9, 0.1}; one per head: {0.9} right, {0.0} wrong.
    # Of the two, the first head should get one and gets both, the second gets none.
    assert metrics["global_overlap@0.25"] == metrics["allocation@0.25"] == 0.5
    assert metrics["mass@0.25"] == pytest.approx(1.0 / 1.7)
    assert metrics["head_overlap@0.25"] == 0.5
