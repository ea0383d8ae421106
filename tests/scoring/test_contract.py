"""Every method honours the scorer contract: the catalogue's, a user's own, presses of kvpress."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from method_fixture import METHODS, RETENTION, fill

from proxykv.config import catalog
from proxykv.config.catalog import Method
from proxykv.config.run import Run
from proxykv.model.decode import TokenizedQuestion, answer
from proxykv.model.model import Model
from proxykv.model.prefill import Prefill
from proxykv.model.tensors import Keep, Scores
from proxykv.runtime.errors import ConfigError
from proxykv.scoring.contract import MethodContext, ProxyScorer, Scorer, build, kept_by, scores_of
from proxykv.scoring.selection import budget, select


def kept(method: Method, scorer: Scorer, prefill: Prefill, retention: float) -> Keep:
    if method.scope == "custom":
        return kept_by(scorer, prefill, retention)
    scope = "global" if method.scope == "none" else method.scope
    return select(scores_of(scorer, prefill), retention, scope)  # type: ignore[arg-type]


def test_every_file_of_the_folder_is_a_method() -> None:
    files = {path.stem for path in (catalog.ROOT / "baselines").glob("[!_]*.py")}
    assert {settings["base"] for settings in catalog.variants().values()} == {*files, "proxykv"}


@pytest.mark.parametrize("method_id", METHODS)
def test_scores(
    method_id: str,
    method_context: MethodContext,
    run: Run,
    prefilled: Prefill,
    scores: Mapping[str, Scores],
) -> None:
    method = run.methods[method_id]
    scorer = build(method, method_context)
    if method.scope == "custom":
        assert torch.equal(kept_by(scorer, prefilled, 0.3), kept_by(scorer, prefilled, 0.3))
        return
    result = scorer.score(prefilled)
    assert tuple(result.shape) == prefilled.shape
    assert result.dtype == torch.float32
    assert torch.isfinite(result).all()
    # Deterministic, and the same whether or not other methods scored the context before.
    assert torch.equal(result, scorer.score(prefilled))
    assert torch.equal(result, scores[method_id])


def test_scoring_ahead_gives_the_same(
    method_context: MethodContext, run: Run, prefilled: Prefill, scores: Mapping[str, Scores]
) -> None:
    scorers = {method.id: build(method, method_context) for method in run.methods.values()}
    during_prefill = {
        m: s for m, s in scorers.items() if isinstance(s, ProxyScorer) and s.during_prefill
    }
    assert {"proxykv", "kvzip_iam", "kvzip_iam_rescaled"} <= during_prefill.keys()
    for method, scorer in during_prefill.items():
        signal = method_context.proxy.scores(prefilled, prefilled.input_ids, scorer.signal)
        assert torch.equal(scorer.map(signal).expand(prefilled.shape), scores[method])
        # What was scored ahead is found, and charged.
        ledger = method_context.ledger
        ledger.put(prefilled, scorer.key, scores[method] + 1, seconds=2.5)
        found, seconds = ledger.timed(prefilled, lambda s=scorer: s.score(prefilled))
        assert torch.equal(found, scores[method] + 1)
        assert seconds >= 2.5


@pytest.mark.parametrize("method_id", [m for m in METHODS if m != "full"])
def test_budget(
    method_id: str, method_context: MethodContext, run: Run, prefilled: Prefill
) -> None:
    method = run.methods[method_id]
    scorer = build(method, method_context)
    layers, heads, n = prefilled.shape
    for retention in (0.05, RETENTION, 0.5, 0.9):
        keep = kept(method, scorer, prefilled, retention)
        if method.scope == "custom":  # it counts in tokens, the prefix among them
            assert abs(keep.sum() / (layers * heads) - budget(retention, n)) < 1
            continue
        size = {"global": layers * heads * n, "layer": heads * n, "head": n}[method.scope]
        assert (keep.reshape(-1, size).sum(dim=1) == budget(retention, size)).all()


def test_every_method_answers_as_the_full_cache_where_it_keeps_all_and_only_there(
    method_context: MethodContext, run: Run, prefilled: Prefill
) -> None:
    ask = TokenizedQuestion(tuple(range(20, 26)), reference=(30, 31), max_new_tokens=5)
    scorers = [(m, build(m, method_context)) for m in run.methods.values() if m.id != "full"]
    everything = [kept(m, scorer, prefilled, 1) for m, scorer in scorers if m.scope != "custom"]
    pruned = [kept(m, scorer, prefilled, 0.1) for m, scorer in scorers]
    ((full, *others),) = answer(prefilled, [*everything, *pruned], [ask], batch_rows=64)
    for other in others[: len(everything)]:
        assert other.ids == full.ids
        assert other.kl == pytest.approx(0, abs=1e-6)
    for (method, _), other in zip(scorers, others[len(everything) :], strict=True):
        assert other.kl is not None and other.kl > 1e-3, method.id


@pytest.mark.parametrize(
    "method_id", [m for m in METHODS if m not in ("full", "streaming", "method_fixture:Latest")]
)
def test_what_is_kept_depends_on_the_context(
    method_id: str,
    method_context: MethodContext,
    run: Run,
    target: Model,
    contexts: list[str],
    prefilled: Prefill,
) -> None:
    other = fill(target, contexts[4], contexts[7])
    assert other.shape == prefilled.shape
    method = run.methods[method_id]
    scorer = build(method, method_context)
    same = torch.equal(*(kept(method, scorer, context, 0.45) for context in (prefilled, other)))
    # The control sees its donor only, which is the same one here.
    assert same == (method_id == "proxykv_shuffled")


class Broken:
    """A scorer that breaks the contract in a chosen way."""

    def __init__(self, context: MethodContext, fault: str) -> None:
        self.fault = fault

    def score(self, prefill: Prefill) -> Scores:
        faulty = torch.zeros(prefill.shape)
        if self.fault == "shape":
            return faulty[:, :, 1:]
        faulty[0, 0, 0] = torch.nan if self.fault == "nan" else -torch.inf
        return faulty


@pytest.mark.parametrize(
    ("fault", "message"), [("shape", "returned shape"), ("nan", "NaN"), ("inf", "infinite")]
)
def test_a_users_own_class_is_checked(
    fault: str, message: str, method_context: MethodContext, prefilled: Prefill
) -> None:
    base = f"{__name__}:Broken"
    method = Method("mine", base, "head", {"fault": fault}, fitted_id=None, uses=())
    with pytest.raises(ValueError, match=message):
        scores_of(build(method, method_context), prefilled)


def test_only_what_can_choose_has_the_scope_own(
    method_context: MethodContext, prefilled: Prefill
) -> None:
    with pytest.raises(ConfigError, match="its scope cannot be `custom`"):
        kept_by(Broken(method_context, "shape"), prefilled, 0.3)
