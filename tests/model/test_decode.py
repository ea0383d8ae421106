"""Answers from full and pruned caches, against transformers and a model without any cache."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import pytest
import torch
from random_models import VOCABULARY, random_ids, random_net
from torch import Tensor, nn
from transformers import AttentionInterface, GenerationConfig, PreTrainedModel

from proxykv.model.caches.context import ATTENTION
from proxykv.model.caches.pruned import PrunedCache
from proxykv.model.decode import Answer, TokenizedQuestion, answer
from proxykv.model.model import Model
from proxykv.model.prefill import Prefill, prefill
from proxykv.model.tensors import Keep
from proxykv.scoring.selection import select

CONTEXT = 90
STEPS = 40
# Answered together: prompts and references of different lengths, down to a single token.
LENGTHS = ((5, 3), (11, 2), (1, 6))


def masked_attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, mask: None, *, scaling: float, **_: Any
) -> tuple[Tensor, None]:
    """Softmax over a whole text; `module.hidden_keys` [kv_head, query, key] get minus infinity."""
    group = query.shape[1] // key.shape[1]
    key, value = (t.repeat_interleave(group, dim=1) for t in (key, value))
    logits = (query @ key.mT * scaling).masked_fill(
        module.hidden_keys.repeat_interleave(group, dim=0), -torch.inf
    )
    return (logits.softmax(dim=-1) @ value).transpose(1, 2), None


AttentionInterface.register("masked_reference", masked_attention)


@dataclass(frozen=True)
class Case:
    """A prefilled context, with the same weights in two models that know nothing of our caches."""

    model: Model
    plain: Any
    masked: Any
    prefilled: Prefill

    @property
    def context(self) -> Tensor:
        return self.prefilled.input_ids

    def reference_logits(self, keep: Keep, text: Sequence[int]) -> Tensor:
        """Logits after each token of a text that follows the pruned context; one cacheless run."""
        ids = torch.cat([self.context, torch.tensor(text)])
        first, total = len(self.context), len(ids)
        causal = torch.ones(total, total, dtype=torch.bool).triu(1)
        for layer, kept in zip(self.masked.model.layers, keep, strict=True):
            hidden = causal.expand(kept.shape[0], -1, -1).clone()
            hidden[:, first:, self.prefilled.prefix_len : first] |= ~kept[:, None]
            layer.self_attn.hidden_keys = hidden
        return self.masked(ids[None], use_cache=False).logits[0, first:]


CASES = [("llama", 0), ("llama", 1), ("llama", 7), ("qwen2", 7), ("qwen3", 0)]


@pytest.fixture(scope="module", params=CASES, ids="{0[0]}-prefix{0[1]}".format)
def case(request: pytest.FixtureRequest) -> Case:
    architecture, prefix_len = request.param
    model = bare(random_net(architecture, ATTENTION))
    prefilled = prefill(model, random_ids(prefix_len + CONTEXT, seed=1), prefix_len)
    plain, masked = (random_net(architecture, name) for name in ("eager", "masked_reference"))
    return Case(model, plain, masked, prefilled)


@pytest.fixture(scope="module")
def llama() -> Case:
    model = bare(random_net("llama", ATTENTION))
    prefilled = prefill(model, random_ids(3 + CONTEXT, seed=1), 3)
    net = random_net("llama", "eager")
    return Case(model, net, net, prefilled)


def bare(net: PreTrainedModel) -> Model:
    """A model without a tokenizer."""
    return Model(net, tokenizer=None, prefix=(), suffix=(), digest="")


def questions(steps: int = STEPS) -> list[TokenizedQuestion]:
    return [
        TokenizedQuestion(
            tuple(random_ids(prompt, seed=10 + i).tolist()),
            tuple(random_ids(reference, seed=20 + i).tolist()),
            steps,
        )
        for i, (prompt, reference) in enumerate(LENGTHS)
    ]


def ragged_keeps(prefilled: Prefill) -> list[Keep]:
    """Budgets that differ between heads; the last leaves some heads nothing, and one everything."""
    scores = torch.rand(prefilled.shape, generator=torch.Generator().manual_seed(2))
    scores = scores * torch.linspace(0.3, 1, scores.shape[0] * scores.shape[1]).view(-1, 2, 1)
    uneven = select(scores, 0.3, "head")
    uneven[0, 1] = False
    uneven[1] = False
    uneven[2, 0] = True
    return [*(select(scores, retention, "global") for retention in (0.02, 0.1, 0.5)), uneven]


def same(ours: Answer, theirs: Answer) -> bool:
    """Equal but for time and the size of the batch."""
    likelihoods = (ours.nll, ours.kl), (theirs.nll, theirs.kl)
    return ours.ids == theirs.ids and likelihoods[0] == pytest.approx(likelihoods[1], abs=1e-5)


@torch.inference_mode()
def pruned_logits(model: Model, cache: PrunedCache, first: int, text: Sequence[int], read: int):
    """Logits after each of a text's tokens: `read` tokens at once, then one by one."""
    parts, pieces = [], [text[:read], *([token] for token in text[read:])]
    for piece in pieces:
        where = torch.arange(first, first + len(piece))[None]
        parts.append(model.logits(model.hidden(torch.tensor(piece)[None], where, cache))[0])
        first += len(piece)
    return torch.cat(parts)


@torch.inference_mode()
def test_the_full_cache_answers_as_generate_does(case: Case) -> None:
    asks = questions()
    given = answer(case.prefilled, ragged_keeps(case.prefilled), asks, batch_rows=5)
    for ask, answers in zip(asks, given, strict=True):
        ids = torch.cat([case.context, torch.tensor(ask.prompt)])[None]
        generated = case.plain.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=STEPS,
            do_sample=False,
            pad_token_id=0,
        )
        assert list(answers[0].ids) == generated[0, ids.shape[1] :].tolist()
        text = torch.cat([ids[0], torch.tensor(ask.reference)])[None]
        logits = case.plain(text).logits[0, ids.shape[1] - 1 : -1]
        nll = nn.functional.cross_entropy(logits, torch.tensor(ask.reference))
        assert answers[0].nll == pytest.approx(nll.item(), abs=1e-4)
        assert answers[0].kl == pytest.approx(0, abs=1e-6)


@torch.inference_mode()
def test_pruned_caches_equal_minus_infinity_masks(case: Case) -> None:
    """Over 40 steps: the sweep's tokens, NLL and KL, and every logit of `PrunedCache`."""
    asks, keeps = questions(), ragged_keeps(case.prefilled)
    given = answer(case.prefilled, keeps, asks, batch_rows=7)
    everything = torch.ones_like(keeps[0])
    for ask, answers in zip(asks, given, strict=True):
        start = len(ask.prompt) - 1
        full = case.reference_logits(everything, [*ask.prompt, *ask.reference])[start:-1]
        for keep, one in zip(keeps, answers[1:], strict=True):
            assert len(one.ids) == STEPS
            text = [*ask.prompt, *one.ids]
            expected = case.reference_logits(keep, text)
            assert expected[start:-1].argmax(dim=-1).tolist() == list(one.ids)

            cache = PrunedCache(case.prefilled.cache, case.prefilled.prefix_len, keep)
            ours = pruned_logits(case.model, cache, len(case.context), text, len(ask.prompt))
            torch.testing.assert_close(ours, expected, atol=1e-4, rtol=0)

            pruned = case.reference_logits(keep, [*ask.prompt, *ask.reference])[start:-1]
            nll = nn.functional.cross_entropy(pruned, torch.tensor(ask.reference))
            assert one.nll == pytest.approx(nll.item(), abs=1e-4)
            log_p, log_full = pruned.log_softmax(dim=-1), full.log_softmax(dim=-1)
            kl = nn.functional.kl_div(log_p, log_full, log_target=True, reduction="none")
            assert one.kl == pytest.approx(kl.sum(dim=-1).mean().item(), abs=1e-4)


def test_answers_depend_neither_on_the_batch_nor_on_other_rows(llama: Case) -> None:
    asks, keeps = questions(12), ragged_keeps(llama.prefilled)
    run_in_parallel = answer(llama.prefilled, keeps, asks, batch_rows=64)
    for rows in (1, 4):
        split = answer(llama.prefilled, keeps, asks, batch_rows=rows)
        for ours, theirs in zip(split, run_in_parallel, strict=True):
            assert all(map(same, ours, theirs))
    alone = answer(llama.prefilled, keeps[1:2], asks[2:], batch_rows=64)
    assert same(alone[0][0], run_in_parallel[2][0])
    assert same(alone[0][1], run_in_parallel[2][2])


def test_questions_leave_no_trace(llama: Case) -> None:
    """The context's cache is as before, and the same question twice gets the same answer."""
    asks, keeps = questions(12), ragged_keeps(llama.prefilled)
    before = [(layer.keys.clone(), layer.values.clone()) for layer in llama.prefilled.cache.layers]
    first = answer(llama.prefilled, keeps, asks[:1], batch_rows=64)
    again = answer(llama.prefilled, keeps, [asks[0], asks[1], asks[0]], batch_rows=64)
    for ours in (again[0], again[2]):
        assert all(map(same, ours, first[0]))
    for layer, (keys, values) in zip(llama.prefilled.cache.layers, before, strict=True):
        assert torch.equal(layer.keys, keys)
        assert torch.equal(layer.values, values)

    cache = PrunedCache(llama.prefilled.cache, llama.prefilled.prefix_len, keeps[1])
    start, prompts = len(llama.context), [list(ask.prompt) for ask in asks]
    clean = pruned_logits(llama.model, cache, start, prompts[0], 1)
    cache.reset()
    pruned_logits(llama.model, cache, start, prompts[1], 3)
    cache.reset()
    assert torch.equal(pruned_logits(llama.model, cache, start, prompts[0], 1), clean)


@pytest.mark.parametrize("listed", [False, True])
def test_stop_ids_end_an_answer_and_are_not_part_of_it(
    llama: Case, listed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    keeps, asks = ragged_keeps(llama.prefilled), questions(24)
    free = answer(llama.prefilled, keeps, asks, batch_rows=64)
    # Tokens in the middle of some answers, and one that opens an answer.
    stops = sorted({free[0][0].ids[9], free[1][2].ids[4], free[2][1].ids[0]})
    eos = stops if listed else stops[0]
    stops = stops if listed else stops[:1]
    monkeypatch.setattr(llama.model.net, "generation_config", GenerationConfig(eos_token_id=eos))
    stopped = answer(llama.prefilled, keeps, asks, batch_rows=64)
    for unbounded, bounded in zip(chain(*free), chain(*stopped), strict=True):
        ends = [i for i, token in enumerate(unbounded.ids) if token in stops]
        assert bounded.ids == unbounded.ids[: ends[0] if ends else None]
        assert bounded.nll == pytest.approx(unbounded.nll, abs=1e-5)


@pytest.mark.parametrize("steps", [1, 3])
def test_each_question_has_its_own_limit(llama: Case, steps: int) -> None:
    first, second, _ = questions()
    asks = [TokenizedQuestion(first.prompt, first.reference, steps), second]
    for answers, limit in zip(
        answer(llama.prefilled, ragged_keeps(llama.prefilled), asks, 64),
        (steps, STEPS),
        strict=True,
    ):
        assert {len(one.ids) for one in answers} == {limit}


@torch.inference_mode()
def test_generate_runs_on_a_pruned_cache(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers' own loop, whatever its generation config says, answers as the sweep does."""
    asks, keeps = questions(16)[:2], ragged_keeps(case.prefilled)[-1:]
    everything = torch.ones_like(keeps[0])
    free = answer(case.prefilled, keeps, asks, batch_rows=64)
    stops = sorted({answers[1].ids[7] for answers in free})
    settings = GenerationConfig(eos_token_id=stops, pad_token_id=0, repetition_penalty=1.1)
    monkeypatch.setattr(case.model.net, "generation_config", settings)
    given = answer(case.prefilled, keeps, asks, batch_rows=64)
    net: Any = case.model.net
    for column, keep in enumerate([everything, *keeps]):
        cache = PrunedCache(case.prefilled.cache, case.prefilled.prefix_len, keep)
        for ask, answers in zip(asks, given, strict=True):
            ids = torch.cat([case.context, torch.tensor(ask.prompt)])[None]
            generated = net.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                past_key_values=cache,
                max_new_tokens=16,
                do_sample=False,
                repetition_penalty=1.0,
            )[0, ids.shape[1] :].tolist()
            cache.reset()
            written = generated[:-1] if generated[-1] in stops else generated
            assert written == list(answers[column].ids)


def test_an_empty_context_is_refused(llama: Case) -> None:
    with pytest.raises(ValueError, match="the context is empty"):
        prefill(llama.model, torch.arange(1, 4), 3)


def test_vocabulary_is_covered(llama: Case) -> None:
    """The random models do not answer with one token over and over: equal tokens mean something."""
    given = answer(llama.prefilled, ragged_keeps(llama.prefilled), questions(), batch_rows=64)
    answer_tokens = {token for answers in given for one in answers for token in one.ids}
    assert len(answer_tokens) > VOCABULARY / 4
    assert len({one.ids for answers in given for one in answers}) > 10
