"""Training of the tiny family: what a batch asks for, what is measured, and that a step learns."""

from __future__ import annotations

import math
import random
from pathlib import Path

import pytest
import torch
from transformers import AttentionInterface

from proxykv.benchmarks import tiny_language
from proxykv.pretrain import report
from proxykv.pretrain.data import IGNORE, PART, WHOLE, make_batch
from proxykv.pretrain.losses import ContextMass, losses
from proxykv.pretrain.network import Role, make_model
from proxykv.pretrain.report import write_card
from proxykv.pretrain.train import train

SMALL = Role(width=64, layers=2, heads=2, kv_heads=1, mlp=64, stages=((48, 2, 26),))
TOKENIZER = tiny_language.make_tokenizer()


def test_a_batch_labels_answers_and_replays_and_nothing_of_the_requests() -> None:
    kinds = set()
    for seed in range(12):
        batch = make_batch(64, 2, random.Random(seed), TOKENIZER)
        assert batch.context == 64 and not batch.after_context[:, :64].any()
        assert torch.equal(batch.labels["context"][:, :64], batch.ids[:, :64])
        assert (batch.labels["context"][:, 64:] == IGNORE).all()
        for name in ("answer", "copy"):
            labelled = batch.labels[name] != IGNORE
            assert torch.equal(batch.labels[name][labelled], batch.ids[labelled])
            assert batch.after_context[labelled].all()
            kinds |= {name} if labelled.any() else set()
        for ids, copy in zip(batch.ids, batch.labels["copy"], strict=True):
            # A replay ends as its context does, whether it repeats all or a part of it.
            replayed = copy[copy != IGNORE].tolist()
            if replayed:
                assert replayed[-1] == TOKENIZER.token_to_id(tiny_language.EOS)
                context = ids[:64].tolist()
                assert context[-8:] == replayed[:-1][-8:]
    assert kinds == {"answer", "copy"}


def test_requests_are_kvzips() -> None:
    texts = set()
    for seed in range(12):
        batch = make_batch(64, 1, random.Random(seed), TOKENIZER)
        texts.add(TOKENIZER.decode(batch.ids[0].tolist(), skip_special_tokens=False))
    for request in (WHOLE, PART):
        words = TOKENIZER.decode(TOKENIZER.encode(request, add_special_tokens=False).ids)
        assert any(words in text for text in texts)


def test_the_attention_mass_on_the_context_is_measured() -> None:
    """A model that attends evenly: token t puts 16 / (t + 1) of its attention on 16 tokens."""
    mass = ContextMass()
    mass.reset(16)
    query, key = torch.zeros(1, 2, 40, 32), torch.randn(1, 2, 40, 32)
    value = torch.randn(1, 2, 40, 32)
    out, _ = mass(torch.nn.Module(), query, key, value)
    expected = torch.tensor([min(16 / (t + 1), 1.0) for t in range(40)])
    assert torch.allclose(mass.masses[0], expected.expand(1, 2, 40), atol=1e-5)
    running = value.cumsum(2) / torch.arange(1, 41)[:, None]
    assert torch.allclose(out, running.transpose(1, 2), atol=1e-5)


def test_training_lowers_the_loss_and_is_seeded() -> None:
    records = []
    for _ in range(2):
        torch.manual_seed(0)
        model = make_model(SMALL)
        records.append(list(train(model, SMALL, 0, TOKENIZER)))
    (first,), (second,) = records
    assert first["step"] == 25 and first["tokens"] == 48 and 0 < first["mass"] < 1
    assert {k: v for k, v in first.items() if k != "seconds"} == {
        k: v for k, v in second.items() if k != "seconds"
    }
    assert first["context"] < math.log(len(tiny_language.VOCABULARY))


def test_losses_are_those_of_transformers() -> None:
    torch.manual_seed(0)
    model, mass = make_model(SMALL), ContextMass()
    batch = make_batch(48, 2, random.Random(3), TOKENIZER)
    with torch.no_grad():
        expected = {
            name: model(batch.ids, labels=labels, use_cache=False).loss
            for name, labels in batch.labels.items()
            if (labels != IGNORE).any()
        }
        AttentionInterface.register("context_mass", mass)
        model.set_attn_implementation("context_mass")
        found = losses(model, mass, batch)
    for name, loss in expected.items():
        assert found[name].item() == pytest.approx(loss.item(), rel=1e-4)


def test_the_card_states_accuracy_and_how_the_model_was_made(tmp_path: Path) -> None:
    model = make_model(SMALL)
    accuracy = {str(length): {"single": 0.5, "copy": 0.25} for length in report.LENGTHS}
    command = "python -m proxykv.pretrain.train --role proxy --out proxy --seed 0"
    facts = {"role": "proxy", "seed": 0, "command": command, "steps": 26, "minutes": 0.1}
    write_card(tmp_path, model, {**facts, "accuracy": accuracy})
    card = (tmp_path / "README.md").read_text("utf-8")
    assert "| 256 | 0.500 | 0.250 |" in card and command in card
    assert f"{model.num_parameters():,} parameters (2 layers, 2 query and\n1 KV heads)" in card
