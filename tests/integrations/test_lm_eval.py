"""lm-eval's own machinery asks our model, and gets what the harness itself would give."""

# lm-eval's decorators hide the signatures behind them.
# pyright: reportCallIssue=false, reportAttributeAccessIssue=false
# pyright: reportTypedDictNotRequiredAccess=false

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lm_eval import simple_evaluate
from lm_eval.tasks import TaskManager
from tokenizers import Tokenizer
from two_devices import FIRST, SECOND, TwoDevices

from proxykv.benchmarks import tiny
from proxykv.benchmarks.examples import Example
from proxykv.cli import main
from proxykv.config import catalog
from proxykv.integrations.lm_eval import PrunedLM
from proxykv.runtime.errors import ConfigError

TARGET = catalog.ROOT / "models" / "tiny" / "target"
PROXY = catalog.ROOT / "models" / "tiny" / "proxy"


@pytest.fixture(scope="module")
def examples() -> list[Example]:
    torch.set_num_threads(1)
    tokenizer = Tokenizer.from_file(str(TARGET / "tokenizer.json"))
    return tiny.build(
        "multikey", tokenizer=tokenizer, contexts=2, lengths=[96], seed=1, split="eval"
    )


def evaluate(
    folder: Path, examples: list[Example], text: str, drop: str = "", **arguments: Any
) -> list[str]:
    """What the model answers to a generative task of these examples, by lm-eval's evaluator."""
    docs = [
        {"context": e.context, "question": q.text, "answer": q.references[0]}
        for e in examples
        for q in e.questions
    ]
    lines = [json.dumps({k: v for k, v in doc.items() if k != drop}) for doc in docs]
    (folder / "docs.jsonl").write_text("\n".join(lines) + "\n", "utf-8")
    task = {
        "task": "mine",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(folder / "docs.jsonl")}},
        "output_type": "generate_until",
        "test_split": "test",
        "doc_to_text": text,
        "doc_to_target": "{{answer}}",
        "generation_kwargs": {"do_sample": False, "max_gen_toks": 4, "until": ["."]},
        "metric_list": [{"metric": "exact_match"}],
    }
    (folder / "mine.yaml").write_text(yaml.safe_dump(task), "utf-8")
    model = PrunedLM(str(TARGET), device="cpu", **arguments)
    tasks = TaskManager(include_path=str(folder), include_defaults=False)
    found = simple_evaluate(
        model, tasks=["mine"], task_manager=tasks, log_samples=True, bootstrap_iters=0
    )
    assert found
    return [sample["resps"][0][0].strip() for sample in found["samples"]["mine"]]


def share_right(examples: list[Example], answers: list[str]) -> float:
    expected = [q.references[0] for e in examples for q in e.questions]
    pairs = zip(answers, expected, strict=True)
    return sum(answer == reference for answer, reference in pairs) / len(expected)


def test_the_full_cache_answers_a_task_of_lm_evals(examples: list[Example], tmp_path: Path) -> None:
    answers = evaluate(tmp_path, examples, "{{context}}{{question}}", method="full")
    assert share_right(examples, answers) >= 0.8


def test_less_is_kept_less_is_known(examples: list[Example], tmp_path: Path) -> None:
    """Random pairs lose the answers; KVzip's, as few, do not; all of them are the full cache."""
    text = "{{context}}{{question}}"
    full = evaluate(tmp_path, examples, text, method="full")
    assert evaluate(tmp_path, examples, text, method="random", retention=1.0) == full
    shares = {
        method: share_right(
            examples, evaluate(tmp_path, examples, text, method=method, retention=0.3)
        )
        for method in ("random", "kvzip")
    }
    assert shares["random"] <= 0.5
    assert shares["kvzip"] >= 0.8


def test_a_marker_splits_where_documents_have_no_context(
    examples: list[Example], tmp_path: Path
) -> None:
    plain = evaluate(tmp_path, examples, "{{context}}{{question}}", method="kvzip", retention=0.3)
    renamed = [Example(e.id, e.task, f"{e.context}<<here>>", e.questions, e.meta) for e in examples]
    pruned = evaluate(
        tmp_path,
        renamed,
        "{{context}}{{question}}",
        method="kvzip",
        retention=0.3,
        marker="<<here>>",
    )
    assert pruned == plain


def test_prompts_that_cannot_be_split_are_refused(examples: list[Example], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="give model_args marker="):
        evaluate(tmp_path, examples, "{{question}}", drop="context", method="kvzip")


def test_a_fitted_method_needs_its_folder() -> None:
    with pytest.raises(ConfigError, match="proxy= and mapper="):
        PrunedLM(str(TARGET), method="proxykv", proxy=str(PROXY))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("method=kvzipp", "unknown method 'kvzipp'; did you mean 'kvzip'"),
        ("method=snapkv,retention=2", "retention is 2; give a number in"),
        ("method=snapkv,retention=nan", "retention is nan"),
        ("method=snapkv,retention=x", "retention is 'x'"),
        ("method=snapkv,seed=x", "seed is 'x', no whole number"),
        ("method=snapkv,chat_options=5", "chat_options is 5, no names"),
        ("method=snapkv,device=gpu0", "device 'gpu0' cannot be used here"),
        ("method=snapkv,device=", "device '' cannot be used here"),
        ("method=snapkv,device=mps:9", "device 'mps:9' cannot be used here"),
        ("method=snapkv,dtype=float99", "dtype 'float99' is none of weights"),
        ("method=snapkv,dtype=int8", "dtype 'int8' is none of weights"),
        ("method=snapkv,dtype=nn", "dtype 'nn' is none of weights"),
    ],
)
def test_arguments_that_cannot_be_are_one_line(arguments: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as refused:
        PrunedLM.create_from_arg_string(f"target={TARGET},{arguments}")
    assert len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize("limit", [["--limit", "0"], ["--limit=-1"], ["-L", "nan"], ["-L", "x"]])
def test_a_limit_of_no_documents_is_one_line(
    limit: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["lm-eval", "--tasks", "longbench_qasper", *limit]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "--limit is " in line and "give a number of documents" in line


def test_devices_share_the_target_as_in_the_workflow() -> None:
    """lm-eval's option names them; `model_args` is split at commas."""
    arguments = f"target={TARGET},method=snapkv"
    with torch.inference_mode(), TwoDevices():
        made = PrunedLM.create_from_arg_string(arguments, {"device": "cpu,cpu:1"})
    assert made.model.layer_devices == [FIRST, FIRST, SECOND, SECOND]
    with pytest.raises(ConfigError, match="device 'mps:9' cannot be used here"):
        PrunedLM.create_from_arg_string(arguments, {"device": "cpu,mps:9"})


def test_a_marker_of_digits_is_a_text() -> None:
    arguments = f"target={TARGET},method=snapkv,device=cpu,marker=5"
    assert PrunedLM.create_from_arg_string(arguments).marker == "5"
