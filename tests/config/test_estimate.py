"""Estimated hours grow with the work as they must, and are printed before anything runs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from checkout import Checkout, forget_files

from proxykv.cli import main
from proxykv.config import catalog
from proxykv.config.benchmarks import tasks
from proxykv.config.cost.estimate import estimate, total
from proxykv.config.cost.measured import measured_table
from proxykv.config.cost.operations import Operations
from proxykv.config.cost.requests import LENGTHS, SIGNALS, request
from proxykv.config.cost.speed import CPU, GPU, ModelCost
from proxykv.config.run import Run
from proxykv.runtime.parquet import write_parquet

SHAPE = {"layers": 2, "query_heads": 4, "kv_heads": 2, "head_dim": 8, "parameters": 1000}
NET = ModelCost(SHAPE, "bfloat16")
BIG, SMALL, QWEN = (
    ModelCost(catalog.families()[family][role]["shape"], "bfloat16")
    for family, role in (("llama-3", "target"), ("llama-3", "proxy"), ("qwen-2.5", "target"))
)
H100 = replace(GPU, flops={2: 989e12}, bandwidth=3.35e12)


def run(**changes: Any) -> Run:
    tasks = {"benchmark": "ruler", "tasks": ["vt"], "contexts": 1000, "lengths": [4096]}
    corpus = {"benchmark": "tiny", "tasks": ["single"], "contexts": 100, "lengths": [512]}
    settings: dict[str, Any] = {
        "run": "estimate",
        "families": ["llama-3"],
        "retentions": [0.1, 1.0],
        "methods": ["full", "kvzip", "proxykv"],
        "benchmarks": [tasks | changes.pop("tasks", {})],
        "corpus": [corpus],
    }
    return Run(settings | changes)


def hours(step: str, **changes: Any) -> float:
    return sum(part.hours for part in estimate(run(**changes)) if part.step == step)


def test_operations_and_bytes_by_hand() -> None:
    # 2 x 1000 parameters a token; 2 layers x 4 heads x 8 wide, twice, 2 operations each, per key.
    assert NET.flops(3, 5) == 2 * 1000 * 3 + 4 * 2 * 4 * 8 * 3 * 5
    assert NET.cache(10) == 2 * (2 * 2 * 8) * 10 * 2  # keys and values, two bytes a number
    assert NET.weights == 2000
    assert NET.prefill(10, GPU) == (2 * 1000 * 10 + 256 * 10 * 5) / (312e12 * 0.6)
    # Attention of ten queries to ten keys, and for the scores half of its operations again over
    # the chunk and the replay of it (15 keys a query). Heads below 64 count as heads of 64.
    attention = (256 * 10 * 10 + 128 * 10 * 15) / (312e12 * 0.41)
    assert NET.replay(10, GPU) == pytest.approx(2 * 1000 * 10 / (312e12 * 0.6) + attention)
    # A step of three rows reads the weights, then the context's keys and values, once.
    moved = (2000 + NET.cache(1e6)) / (2e12 * 0.73)
    assert NET.step(1e6, 3, GPU) == pytest.approx(moved + 2 * 6.5e-5)


def test_operations_of_methods_by_hand() -> None:
    signal = {"signal": "windowed", "signal_chunk": 100}
    made = run(
        methods=[
            "full",
            "kvzip",
            {"id": "local", "base": "kvzip_local", "params": {"chunk": 100}},
            "proxy_tokens",
            {"id": "windows", "base": "proxy_tokens", "params": signal},
            {"id": "half", "base": "proxy_tokens", "params": {"proxy_layers": 0.5}},
            "proxykv",
            "cross_kvzip_budget",
        ]
    )
    count = Operations.of(made, "llama-3")
    target, proxy = count.target, count.proxy
    added = {
        name: count.request(method, 1000) - target.flops(1000, 500)
        for name, method in made.methods.items()
    }
    assert added["full"] == 0
    assert added["kvzip"] == target.flops(1000, 1000)
    # A replayed token sees its chunk of 100 and, on average, half of the replay.
    assert added["local"] == target.flops(1000, 150)
    assert added["proxy_tokens"] == proxy.flops(1000, 500) + proxy.flops(1000, 1000)
    assert added["half"] == added["proxy_tokens"] / 2
    # Ten windows: each token sees half of its window in the prefill.
    assert added["windows"] == proxy.flops(1000, 50) + proxy.flops(1000, 150)
    assert added["proxykv"] > added["proxy_tokens"]  # and the mapper
    assert added["cross_kvzip_budget"] == added["kvzip"] + added["proxykv"]


def test_a_prefill_on_an_h200_takes_what_was_measured() -> None:
    """Seconds of docs/results/efficiency.md, from 16k tokens up."""
    h200 = replace(GPU, flops={2: 989e12}, bandwidth=4.8e12)
    measured = {(BIG, 16384): 0.55, (BIG, 65536): 3.63, (SMALL, 65536): 0.98}
    measured |= {(QWEN, 16384): 0.47, (QWEN, 65536): 3.02}
    for (net, tokens), seconds in measured.items():
        assert net.prefill(tokens, h200) == pytest.approx(seconds, rel=0.25)


@pytest.mark.parametrize(
    ("net", "tokens", "milliseconds"),
    [(BIG, 65536, 4.46), (BIG, 16384, 1.21), (SMALL, 65536, 2.68), (SMALL, 16384, 0.77)],
)
def test_a_replay_takes_what_its_kernels_took(
    net: ModelCost, tokens: int, milliseconds: float
) -> None:
    """One layer and chunk of 2000 tokens on an H100, times layers and chunks."""
    kernels = milliseconds / 1000 * net.layers * tokens / 2000
    linear = net.flops(tokens, 0) / (989e12 * 0.6)
    assert net.replay(tokens, H100) == pytest.approx(linear + kernels, rel=0.07)


@pytest.mark.parametrize(
    ("tokens", "rows", "milliseconds"),
    [(65536, 1, 11.2), (131072, 1, 14.1), (16384, 10, 10.0), (65536, 10, 12.2)],
)
def test_a_step_takes_what_a_graph_took(tokens: int, rows: int, milliseconds: float) -> None:
    """Llama-3.1 8B on an H100, a CUDA graph of the kernels; ten rows are a sweep's."""
    assert BIG.step(tokens, rows, H100) * 1000 == pytest.approx(milliseconds, rel=0.12)


def test_a_step_that_the_host_starts_takes_as_long_as_its_launches() -> None:
    assert BIG.step(4096, 1, GPU) < BIG.step(4096, 1, GPU, captured=False) == 32e-3
    assert BIG.step(4096, 1, CPU) == BIG.step(4096, 1, CPU, captured=False)


def test_a_cpu_thread_is_as_fast_as_one_was_in_either_type() -> None:
    """92 and 188 G of linear layers, 70 G of attention in both."""
    shape = {"layers": 28, "query_heads": 12, "kv_heads": 2, "head_dim": 128}
    for dtype, linear in (("float32", 92e9), ("bfloat16", 188e9)):
        net = ModelCost({**shape, "parameters": 1_777_088_000}, dtype)
        attended = net.flops(8192, 4096) - net.flops(8192, 0)
        seconds = net.flops(8192, 0) / linear + attended / 70e9
        assert net.prefill(8192, CPU) == pytest.approx(seconds, rel=0.02)


def test_twice_the_context_is_more_than_twice_the_prefill() -> None:
    assert BIG.prefill(65536, GPU) > 2.2 * BIG.prefill(32768, GPU)
    assert BIG.replay(32768, GPU) > BIG.prefill(32768, GPU)


def test_rows_that_decode_together_share_weights_and_context() -> None:
    one, ten = (BIG.step(4096, rows, GPU) for rows in (1, 10))
    assert one <= ten < 1.5 * one < BIG.step(4096, 1000, GPU)
    # Reading the weights takes most of a step.
    assert one > BIG.weights / GPU.bandwidth


def test_more_threads_take_less_time() -> None:
    assert NET.prefill(100, CPU.times(2)) == NET.prefill(100, CPU) / 2


def test_twice_the_contexts_are_twice_the_work() -> None:
    once, twice = (hours("generate", tasks={"contexts": count}) for count in (10000, 20000))
    assert twice == pytest.approx(2 * once, rel=0.01)
    assert hours("fit", tasks={"contexts": 2000}) == hours("fit")


def test_a_limit_takes_the_first_lengths_of_every_benchmark() -> None:
    tasks = {"contexts": 30, "lengths": [2048, 4096]}
    again = {"benchmark": "tiny", "tasks": ["single"], "contexts": 1, "lengths": [64]}
    other = {"benchmark": "ruler", "tasks": ["cwe"], "contexts": 1, "lengths": [2048]}
    ruler, only = (
        {"benchmarks": [{"benchmark": "ruler", "tasks": ["vt"], **entry}, again, other]}
        for entry in (tasks, {"contexts": 1, "lengths": [2048]})
    )
    assert hours("generate", **ruler, limit=1) == hours("generate", **only)
    assert hours("generate", **ruler, limit=2) > hours("generate", **only)
    counts = {part.benchmark: part.contexts for part in estimate(run(**ruler, limit=2))}
    assert counts == {"": counts[""], "ruler": 3, "tiny": 1}


def test_nine_retentions_cost_far_less_than_nine_times_one() -> None:
    nine = hours("generate", retentions=[0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0])
    assert hours("generate") < nine < 3 * hours("generate")


def test_methods_are_charged_for_what_they_run() -> None:
    snapkv, kvzip, both, iam = (
        hours("generate", methods=["full", *methods])
        for methods in (["snapkv"], ["kvzip"], ["kvzip", "kvzip_head"], ["kvzip", "kvzip_iam"])
    )
    assert kvzip > 1.3 * snapkv  # a second pass over the context
    assert both < 1.1 * kvzip  # one pass serves both
    assert iam > both  # the proxy's passes
    assert hours("extract", methods=["full", "kvzip"]) == 0  # nothing is fitted


@pytest.fixture
def made_up_kvpress(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "kvpress.py").write_text("class KnormPress: ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    forget_files()
    yield
    forget_files()


@pytest.mark.usefixtures("made_up_kvpress")
def test_a_method_that_selects_by_itself_is_charged_a_prefill_for_each_retention() -> None:
    """Presses work while their model prefills, at one ratio; scores serve all retentions."""

    def added(scope: str, retentions: list[float]) -> float:
        method = {"id": "press", "base": "kvpress:KnormPress", "scope": scope}
        without, with_press = (
            hours("generate", methods=["full", "random", last], retentions=retentions)
            for last in ("streaming", method)
        )
        return with_press - without

    one, three = [0.1, 1.0], [0.1, 0.2, 0.3, 1.0]
    assert added("custom", three) == pytest.approx(3 * added("custom", one))
    assert added("head", three) == pytest.approx(added("head", one))


def test_each_question_is_scored_where_methods_see_it() -> None:
    entry = {"benchmark": "scbench", "tasks": ["kv"]}
    agnostic, aware = (
        hours("generate", benchmarks=[entry], protocol=protocol)
        for protocol in ("query_agnostic", "query_aware")
    )
    assert aware > 2 * agnostic


def test_what_the_config_leaves_open_is_the_benchmarks() -> None:
    (part,) = estimate(
        run(methods=["full"], benchmarks=[{"benchmark": "scbench", "tasks": ["kv", "vt"]}])
    )
    assert (part.contexts, part.jobs) == (190, 2)
    assert hours("generate", benchmarks=[{"benchmark": "scbench", "tasks": ["qa_chn"]}]) < 100


def test_every_gpu_of_a_job_is_counted() -> None:
    one, two = (
        {p.step: p.gpus for p in estimate(run(families=[f]))} for f in ("llama-3", "qwen-3")
    )
    assert one == {"extract": 1, "fit": 1, "generate": 1}
    assert two == {"extract": 2, "fit": 1, "generate": 2}
    assert "GPU hours" in total(estimate(run()))
    assert "GPU" not in total(estimate(run(families=["tiny"])))


def test_the_paper_takes_half_of_what_it_took_before_the_kernels() -> None:
    config = yaml.safe_load((catalog.ROOT / "config" / "paper.yaml").read_text("utf-8"))
    added = ("kvzip_local", "local", "windowed")  # there were none of them then
    config["methods"] = [
        method
        for method in config["methods"]
        if (method["id"] if isinstance(method, dict) else method) not in added
    ]
    parts = estimate(Run(config))
    assert 400 < sum(part.hours for part in parts) < 500
    answering = sum(part.hours for part in parts if part.step == "generate")
    assert answering > 0.95 * sum(part.hours for part in parts)


def test_every_task_says_what_it_is_like() -> None:
    for benchmark, rows in tasks().items():
        for name, row in rows.items():
            assert row.max_new_tokens > 0 or benchmark == "text", name
            published = benchmark in ("longbench", "scbench", "ruler")
            assert (row.contexts is not None) == published
            assert (row.context_tokens is not None) == (benchmark in ("longbench", "scbench"))


def test_a_proxy_of_two_targets_is_charged_once() -> None:
    def scoring(*families: str) -> dict[str, float]:
        parts = estimate(run(families=list(families)))
        return {part.family: part.hours for part in parts if part.step == "extract"}

    both = scoring("qwen-3-8b", "qwen-3-14b")
    assert both["qwen-3-8b"] == scoring("qwen-3-8b")["qwen-3-8b"]
    assert both["qwen-3-14b"] < scoring("qwen-3-14b")["qwen-3-14b"]
    others = scoring("qwen-3-8b", "qwen-3-8b-large-proxy")  # another proxy
    assert (
        others["qwen-3-8b-large-proxy"] == scoring("qwen-3-8b-large-proxy")["qwen-3-8b-large-proxy"]
    )


def test_settings_of_training_change_the_hours_of_fitting() -> None:
    half, usual, twice = (hours("fit", training={"steps": n}) for n in (250, 500, 1000))
    assert half < usual == hours("fit") < twice


def test_check_and_dry_runs_print_hours(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = yaml.safe_load((catalog.ROOT / "config.yaml").read_text("utf-8"))
    assert main(["check", str(catalog.ROOT / "config.yaml")]) == 0
    printed = capsys.readouterr().out.splitlines()
    end = next(i for i, line in enumerate(printed) if line.startswith("the whole run"))
    first, *parts, last = printed[: end + 1]
    assert "4 jobs" in first
    assert [part.split()[:2] for part in parts] == [
        ["tiny", "extract"], ["tiny", "fit"], ["tiny", "generate"]
    ]  # fmt: skip
    assert last == total(estimate(Run(config)))
    assert Checkout(tmp_path, config).snakemake("-n").splitlines()[-1] == last


def test_a_request_with_each_signal() -> None:
    cost = Operations.of(run(), "llama-3")
    short, long = 4000, 128000  # whole windows
    kvzip, local, windowed, prefill = (
        [request(cost, signal, n, GPU) for n in (short, long)] for signal in SIGNALS
    )
    # Cheaper signals are cheaper, the more the longer the context.
    for n in (0, 1):
        assert kvzip[n].proxy > local[n].proxy > windowed[n].proxy
        assert local[n].proxy > prefill[n].proxy
        assert kvzip[n].kvzip > kvzip[n].kvzip_local
    assert windowed[1].sequential < windowed[0].sequential
    # Windows and mapper are linear in the context; a prefill of the whole text is not.
    assert windowed[0].proxy > prefill[0].proxy
    assert windowed[1].proxy < prefill[1].proxy
    assert windowed[1].proxy == pytest.approx(32 * windowed[0].proxy, rel=0.05)
    assert windowed[1].mapper == pytest.approx(32 * windowed[0].mapper)
    for one in (*kvzip, *windowed):
        assert one.sequential == pytest.approx(1 + (one.proxy + one.mapper) / one.prefill)
        # A proxy that is larger than the room for it makes the target wait.
        assert (one.parallel > 1) == (one.room < 1)


def test_what_was_measured_stands_next_to_what_is_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    made = run(families=["llama-3"], methods=["full", "random", "kvzip", "proxykv"])
    assert list(measured_table(made, "llama-3")) == []
    (job,) = made.jobs()
    rows = [
        (f"{tokens}-{method}", tokens, method, retention)
        for tokens in (4000, 4050, 8000)
        for method in ("random", "kvzip")
        for retention in (0.1, 0.2)
    ]
    table = pd.DataFrame(rows, columns=["context_id", "context_tokens", "method", "retention"])
    table = table.assign(device="cuda: A card", threads=8, prefill_seconds=1.5, score_seconds=2.5)
    write_parquet(job.file("rows"), table)
    head, heads, *lines = measured_table(made, "llama-3")
    assert "measured on cuda: A card with 8 threads, and computed for: A100" in head
    assert heads.split()[:3] == ["tokens", "contexts", "method"]
    short, long = (
        [BIG.prefill(n, GPU), BIG.replay(n, GPU)]
        for n in (4025, 8000)  # means of the two classes
    )
    for line, start, (prefill, replay) in zip(
        lines,
        (["4025", "2", "kvzip", "1.5"], ["8000", "1", "kvzip", "1.5"]),
        (short, long),
        strict=True,
    ):
        cells = line.split()
        assert cells[:4] == start and cells[5] == "2.5"
        assert float(cells[4]) == pytest.approx(prefill, rel=0.01)
        assert float(cells[6]) == pytest.approx(replay, rel=0.01)
    # Threads of a CPU count.
    write_parquet(job.file("rows"), table.assign(device="cpu: x86_64", threads=2))
    head, *_ = measured_table(made, "llama-3")
    assert head.endswith("computed for: 2 x CPU thread with AVX-512. Mean seconds of a context")


def test_check_prints_a_request_for_each_family_length_and_signal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["check", str(catalog.ROOT / "config" / "paper.yaml")]) == 0
    printed = capsys.readouterr().out
    assert printed.count("computed for: A100") == 3
    families = [catalog.families()[name] for name in ("llama-3", "qwen-2.5", "qwen-3")]
    seen = [n for family in families for n in LENGTHS if n <= family["max_context"]]
    assert sum(" windowed " in line for line in printed.splitlines()) == len(seen) > 3
