"""What a question asks of its answer, and what a protocol lets a scorer see."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest
import torch
from tokenizers import Tokenizer

from proxykv.benchmarks import tiny
from proxykv.benchmarks.examples import Example, Question, write_jsonl
from proxykv.config import catalog
from proxykv.config.run import Run
from proxykv.model.decode import TokenizedQuestion, answer, rows_that_fit
from proxykv.model.loading import load_model
from proxykv.model.parallel import SideError, out_of_memory
from proxykv.model.prefill import Prefill, prefill
from proxykv.model.tensors import Scores
from proxykv.runtime.errors import ConfigError
from proxykv.runtime.journal import Journal
from proxykv.scoring.contract import MethodContext
from proxykv.scoring.rows import LEVELS, tokenized
from proxykv.steps.context_records import READABLE
from proxykv.steps.generate import generate
from proxykv.steps.grade import grade

MODELS = catalog.ROOT / "models"


@pytest.fixture(autouse=True)
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Paths of a run are relative to the folder it runs in."""
    (tmp_path / "models").symlink_to(MODELS)
    monkeypatch.chdir(tmp_path)
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def examples() -> list[Example]:
    tokenizer = Tokenizer.from_file(str(MODELS / "tiny" / "target" / "tokenizer.json"))
    return tiny.build(
        "single", tokenizer=tokenizer, contexts=4, lengths=[256], seed=3, split="eval"
    )


def rows(examples: list[Example], **settings: Any) -> pd.DataFrame:
    """Rows of a run over these examples."""
    dataset = {"benchmark": "tiny", "tasks": ["single"], "contexts": len(examples)}
    config: Mapping[str, Any] = {
        "run": "one",
        "families": ["tiny"],
        "retentions": [0.3, 1.0],
        "methods": ["full", "snapkv"],
        "benchmarks": [{**dataset, "lengths": [256]}],
        **settings,
    }
    run = Run(config)
    (job,) = run.jobs()
    write_jsonl(job.dataset.path, examples)
    generate(run, job)
    return pd.read_parquet(grade(job))


def with_question(example: Example, **changes: Any) -> Example:
    return replace(example, questions=tuple(replace(q, **changes) for q in example.questions))


def full(table: pd.DataFrame) -> Any:
    return table[table.method == "full"].reset_index(drop=True)


def test_a_stop_ends_the_answer_but_not_before_it_has_a_token(examples: list[Example]) -> None:
    plain = full(rows(examples[:1]))
    words = plain.prediction[0].split()
    assert len(words) > 1
    stopped = full(rows([with_question(examples[0], stop=(words[1],))]))
    assert stopped.prediction[0].split() == words[:1]
    refused = full(rows([with_question(examples[0], stop=(words[0],))]))
    assert refused.new_tokens[0] >= 1
    assert refused.prediction[0].split()[0] != words[0]


def test_an_answer_goes_on_from_its_start(examples: list[Example]) -> None:
    first, second = examples[0].questions[0].references[0].split()
    started = full(rows([with_question(examples[0], answer_start=first, references=(second,))]))
    plain = full(rows(examples[:1]))
    assert started.prediction[0].split()[0] == second
    assert (started.question_tokens == plain.question_tokens + 1).all()


def test_bytes_and_achieved_retention_are_counted(examples: list[Example]) -> None:
    table = rows(examples[:2], methods=["full", "snapkv", "kvzip"], retentions=[0.3, 1.0])
    model = load_model(MODELS / "tiny" / "target")
    config = model.net.config
    heads = config.num_hidden_layers * config.num_key_value_heads
    for row in table.to_dict("records"):
        tokens = next(len(model.encode(e.context)) for e in examples if e.id == row["context_id"])
        assert row["context_tokens"] == tokens
        budget = {"none": heads * tokens, "global": int(0.3 * heads * tokens)}
        pairs = budget.get(row["scope"], heads * int(0.3 * tokens))
        assert row["kv_bytes"] == pairs * 2 * config.head_dim * 4  # keys and values, float32
        assert row["kv_bytes_full"] == heads * tokens * 2 * config.head_dim * 4
        assert row["achieved_retention"] == pairs / (heads * tokens)
    assert (table.query("method == 'snapkv'").achieved_retention < 0.3).all()


def test_rows_tell_kept_sets_apart(examples: list[Example]) -> None:
    table = rows(examples[:1], methods=["full", "snapkv", "kvzip"], retentions=[0.2, 0.3, 1.0])
    per_set = table.groupby(["method", "retention"]).kept_digest.unique()
    assert (per_set.map(len) == 1).all()  # questions share a context's kept set
    assert table.kept_digest.nunique() == len(per_set) == 5


def test_a_cut_context_is_marked(examples: list[Example]) -> None:
    cut = replace(examples[0], meta={**examples[0].meta, "truncated": True})
    table = rows([cut, examples[1]])
    assert table[table.context_id == cut.id].truncated.all()
    assert not table[table.context_id == examples[1].id].truncated.any()


def test_what_the_journal_holds_is_not_computed_again(
    examples: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = rows(examples[:2])
    monkeypatch.setattr(
        "proxykv.steps.generate.load", lambda *_: pytest.fail("a model was loaded for nothing")
    )
    again = rows(examples[:2])
    assert again.equals(first)


def test_a_question_that_is_new_in_a_context_is_answered(examples: list[Example]) -> None:
    one = replace(examples[0], questions=examples[0].questions[:1])
    assert list(full(rows([one])).question) == [0]
    assert list(full(rows(examples[:1])).question) == list(range(len(examples[0].questions)))


def test_every_question_has_its_own_answer_and_reference(examples: list[Example]) -> None:
    table = full(rows(examples[:1]))
    references = [list(q.references) for q in examples[0].questions]
    assert [list(r) for r in table.references] == references
    assert list(table.question) == list(range(len(references)))
    assert table.prediction.nunique() > 1


def test_without_a_reference_there_are_no_likelihoods(examples: list[Example]) -> None:
    table = rows([with_question(examples[0], references=("",))])
    assert table.nll.isna().all()
    assert table.kl.isna().all()


def test_a_query_aware_scorer_sees_the_question(examples: list[Example]) -> None:
    blind, seeing = rows(examples), rows(examples, protocol="query_aware")
    assert set(seeing.protocol) == {"query_aware"}
    pruned = [table[table.method == "snapkv"].kl.mean() for table in (blind, seeing)]
    assert pruned[1] < 0.7 * pruned[0]
    # The full cache answers alike, and its budget is the context's alone.
    assert full(blind).prediction.tolist() == full(seeing).prediction.tolist()
    assert (seeing.achieved_retention <= seeing.retention).all()
    assert (blind.kv_bytes == seeing.kv_bytes).all()


def test_templates_open_and_close_the_users_text_unless_a_task_forgoes_them(tmp_path: Path) -> None:
    folder = shutil.copytree(MODELS / "tiny" / "target", tmp_path / "chatty")
    template = "{% for m in messages %}code {{ m.content }} ?{% endfor %}"
    (folder / "chat_template.jinja").write_text(template, "utf-8")
    model = load_model(folder, chat=True)
    assert model.prefix == model.encode("code")
    assert model.suffix == model.encode("?")
    plain = model.without_template()
    assert (plain.prefix, plain.suffix) == ((), ())


def test_rope_scaling_reaches_the_model() -> None:
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
    scaled = load_model(MODELS / "tiny" / "target", rope_scaling=yarn)
    plain = load_model(MODELS / "tiny" / "target")
    assert scaled.net.config.rope_parameters["rope_theta"] == 500000.0
    # YaRN slows the long waves by its factor and leaves the short ones.
    rotary: list[Any] = [model.net.base_model.rotary_emb for model in (plain, scaled)]
    slower = rotary[0].inv_freq / rotary[1].inv_freq
    assert slower[0] == pytest.approx(1)
    assert slower[-1] == pytest.approx(4)


def test_a_history_is_written_as_the_chat_template_writes_it(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for path in (MODELS / "tiny" / "target").iterdir():
        (folder / path.name).symlink_to(path)
    (folder / "chat_template.jinja").write_text(
        "{% for m in messages %}{{ 'Question' if m.role == 'user' else 'Repeat' }} : "
        "{{ m.content }} . {% endfor %}{% if add_generation_prompt %}Repeat : {% endif %}"
    )
    follow_up = Question("set v02", ("56",), 2, answer_start="the", history=(("set v01", "12 34"),))
    conversation = "Question : set v01 . Repeat : 12 34 . Question : set v02 . Repeat : the"
    model = load_model(folder, chat=True)
    assert model.decode([*model.prefix, *tokenized(model, follow_up, "").prompt]) == conversation
    model = model.without_template()
    assert model.decode(list(tokenized(model, follow_up, "").prompt)) == "set v01 12 34 set v02 the"


class DonorRecorder:
    """A scorer that records which other context it was given."""

    donors: ClassVar[list[list[int]]] = []

    def __init__(self, context: MethodContext) -> None: ...

    def score(self, prefill: Prefill) -> Scores:
        assert prefill.donor is not None
        self.donors.append(prefill.donor.tolist())
        return torch.zeros(prefill.shape)


@pytest.mark.parametrize("contexts", [1, 2])
def test_a_control_has_another_context_even_in_a_task_of_one(
    contexts: int, examples: list[Example], trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(trained)
    dataset = {"benchmark": "tiny", "tasks": ["single"], "contexts": 2, "lengths": [256]}
    run = Run(
        {
            "run": f"donors{contexts}",
            "families": ["tiny"],
            "retentions": [0.3, 1.0],
            "methods": ["full", "proxykv", {"id": "donor", "base": f"{__name__}:DonorRecorder"}],
            "benchmarks": [dataset],
            "corpus": [dataset],
            "training": {"val_contexts": 1},
        }
    )
    run.dir.mkdir(parents=True)
    (run.dir / "mappers").symlink_to(trained / "results" / "tiny" / "mappers")
    (job,) = run.jobs()
    write_jsonl(run.datasets("tiny", "train")[0].path, examples[2:])
    write_jsonl(job.dataset.path, examples[:contexts])
    DonorRecorder.donors.clear()
    generate(run, job)
    expected = [examples[2]] if contexts == 1 else [examples[1], examples[0]]
    tokenizer = load_model(MODELS / "tiny" / "target").tokenizer
    assert DonorRecorder.donors == [tokenizer.encode(e.context) for e in expected]


@pytest.mark.parametrize("reordered", [True, False])
def test_rows_of_a_control_depend_on_the_other_context(
    reordered: bool, examples: list[Example], trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two contexts in another order keep their donors; a third one changes one of them."""
    monkeypatch.chdir(trained)
    first, second, third = examples[:3]
    dataset = {"benchmark": "tiny", "tasks": ["single"], "contexts": 3, "lengths": [256]}
    run = Run(
        {
            "run": f"donor-rows-{reordered}",
            "families": ["tiny"],
            "retentions": [0.3, 1.0],
            "methods": ["full", "kvzip", "proxykv", "proxykv_shuffled"],
            "benchmarks": [dataset],
            "corpus": [dataset],
            "training": {"val_contexts": 1},
        }
    )
    run.dir.mkdir(parents=True)
    (run.dir / "mappers").symlink_to(trained / "results" / "tiny" / "mappers")
    (job,) = run.jobs()
    write_jsonl(job.dataset.path, [first, second])
    generate(run, job)
    before = len(list(Journal(job.journal).read()))
    write_jsonl(job.dataset.path, [second, first] if reordered else [first, second, third])
    generate(run, job)
    rows = list(Journal(job.journal).read())[before:]
    made = {(row["context_id"], row["method"]) for row in rows}
    new = {(third.id, m) for m in run.methods}
    assert made == (set() if reordered else {*new, (first.id, "proxykv_shuffled")})


def test_a_greater_limit_answers_what_is_new_and_a_smaller_one_nothing(
    examples: list[Example],
) -> None:
    """So a run that was stopped in a round can be reported with the contexts of the last one."""
    first = rows(examples, limit=1)
    two = rows(examples, limit=2)
    assert [list(table.context_id.unique()) for table in (first, two)] == [
        [example.id for example in examples[:count]] for count in (1, 2)
    ]
    again = rows(examples, limit=1)
    shared = two.query("context_id == @first.context_id[0]")
    expected = list(map(str, first.to_dict("records")))
    for table in (shared, again):
        assert list(map(str, table.to_dict("records"))) == expected


def test_too_little_memory_loses_no_finished_context(
    examples: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error names the context and what to lower; a rerun answers what is missing."""
    answered: list[int] = []

    def tight(prefill: Prefill, *rest: Any) -> Any:
        answered.append(len(prefill.context))
        if len(answered) == 3:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")
        return answer(prefill, *rest)

    monkeypatch.setattr("proxykv.scoring.engine.answer", tight)
    with pytest.raises(ConfigError, match=r"context .*: out of memory: lower `batch_rows` .*5"):
        rows(examples, batch_rows=5)
    table = rows(examples, batch_rows=4)
    assert len(answered) == len(examples) + 1
    assert set(table.context_id) == {example.id for example in examples}


@pytest.mark.parametrize(
    ("error", "lacking"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), True),
        (MemoryError(), True),
        (RuntimeError("shapes do not match"), False),
        (SideError("the proxy's side failed"), False),
    ],
)
def test_every_devices_lack_of_memory_is_known(error: Exception, lacking: bool) -> None:
    """Also where it ended one side of a request."""
    side = SideError("a side failed")
    side.__cause__ = error
    assert [out_of_memory(error), out_of_memory(side)] == [lacking, lacking]


def test_rows_follow_from_free_memory() -> None:
    """Twice the memory, twice the rows; none at all still lets one row decode."""
    model = load_model(MODELS / "tiny" / "target")
    prefilled = prefill(model, torch.arange(1, 200), 3)
    asks = [TokenizedQuestion((5, 6, 7), (8,), 20)]
    layers = len(prefilled.cache.layers)
    assert rows_that_fit(prefilled, asks, 0, layers) == 1
    some, more = (rows_that_fit(prefilled, asks, free, layers) for free in (1 << 28, 1 << 29))
    assert 1.8 < more / some < 2.2
    longer = [replace(asks[0], max_new_tokens=2000)]
    assert rows_that_fit(prefilled, longer, 1 << 28, layers) < some / 4
    keys = prefilled.cache.layers[0].keys
    slots = 2 * layers * keys[0, :, 0].nbytes * 2004
    assert rows_that_fit(prefilled, longer, 1 << 28, layers) * slots < 1 << 28
    # A device with half of the layers has room for more rows.
    half = rows_that_fit(prefilled, longer, 1 << 28, layers // 2)
    assert half > 1.5 * rows_that_fit(prefilled, longer, 1 << 28, layers)


@pytest.mark.parametrize("protocol", ["query_agnostic", "query_aware"])
def test_kept_tokens_of_the_first_contexts_are_recorded(
    examples: list[Example], protocol: str
) -> None:
    more = [*examples, replace(examples[0], id="last")]
    table = rows(more, protocol=protocol)
    folder = Path("results/one/predictions/tiny/tiny")
    contexts = Journal(folder / "single.contexts.jsonl").read()
    assert [line["context_id"] for line in contexts] == [example.id for example in more]
    assert ["windows" in line for line in contexts] == [True] * READABLE + [False]
    for line, example in zip(contexts[:READABLE], more, strict=False):
        (window,) = line["windows"]
        assert "".join(window[1]) == example.context
        assert line["depths"] == [
            round(example.context.index(q.references[0]) / len(example.context), 4)
            for q in example.questions
        ]
    kept = Journal(folder / "single.kept.jsonl").read()
    asked = {line.get("question") for line in kept}
    assert asked == ({None} if protocol == "query_agnostic" else {0, 1, 2})
    assert len(kept) == len(more) * len(asked)
    for line in kept[: READABLE * len(asked)]:
        tokens = table.context_tokens[table.context_id == line["context_id"]].iloc[0]
        levels = np.array([LEVELS.index(level) for level in line["tokens"]]) / 63
        assert len(levels) == tokens
        assert levels.mean() == pytest.approx(np.mean(line["heads"]), abs=1 / 63)
        for tokens, heads in zip(line["layers"], line["heads"], strict=True):
            of_layer = [LEVELS.index(level) / 63 for level in tokens]
            assert np.mean(of_layer) == pytest.approx(np.mean(heads), abs=1 / 63)
        (context,) = [c for c in contexts if c["context_id"] == line["context_id"]]
        for places, by_layer in zip(context["answers"], line["answers"], strict=True):
            of_answer = [levels[first:end] for first, end in places]
            assert np.mean(by_layer) == pytest.approx(np.mean(of_answer), abs=1 / 63)
    assert not any("tokens" in line for line in kept[READABLE * len(asked) :])
