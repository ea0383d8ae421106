"""Gain of the parallel schedule: each side alone, both schedules, and KVzip.

    python perf/schedules.py models/tiny --tokens 512 --out tiny

The first argument is a folder with a pair in `target/` and `proxy/`. Cases take turns, so that a
busy moment of the machine affects all of them; ratios are taken within a turn. Prints medians
(minimum to maximum), writes them with all timelines to `<out>.json` and a figure to `<out>.svg`.

With both models on the CPU, `parallel` uses twice the threads of `sequential`: it represents two
devices. Cases marked `x2` use as many threads as both sides of `parallel` together.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, get_args

import torch
from matplotlib.figure import Figure
from shapes import Family

from proxykv.config.catalog import methods_of
from proxykv.config.settings.signals import Signal
from proxykv.mapper.hybrid import Mapper, build_mapper, save_mapper
from proxykv.model.loading import load_model
from proxykv.model.model import Model
from proxykv.model.tensors import Ids, Keep, Scores
from proxykv.runtime import files
from proxykv.scoring.contract import MethodContext, ProxyScorer
from proxykv.scoring.engine import ContextAtWork, Engine
from proxykv.scoring.ledger import Ledger
from proxykv.scoring.provenance import commit, device_name
from proxykv.scoring.proxy import Proxy, Schedule
from proxykv.scoring.signals import proxy_signals
from proxykv.scoring.timeline import Timeline

Turn = Mapping[str, Timeline]

RATIOS = {
    "parallel / longer side alone": ("parallel", "longer side"),
    "sequential / parallel": ("sequential", "parallel"),
    "KVzip / sequential, equal threads": ("kvzip", "sequential"),
    "KVzip / parallel, which has one more device": ("kvzip", "parallel"),
    "KVzip x2 / sequential x2, equal threads": ("kvzip x2", "sequential x2"),
    "KVzip x2 / parallel, equal threads": ("kvzip x2", "parallel"),
}
PHASES = {
    "target_prefill": "#0072B2",
    "scoring": "#56B4E9",
    "proxy_prefill": "#D55E00",
    "proxy_scoring": "#E69F00",
    "mapper": "#009E73",
    "select": "#CC79A7",
    "prune": "#000000",
}
SIDES = {"target": {"target_prefill"}, "proxy": {"proxy_prefill", "proxy_scoring", "mapper"}}


class TimedPair:
    """A pair of models and a context of random ids; time does not depend on the text."""

    def __init__(
        self, target: Model, proxy: Model, mapper: Path | Mapper, ids: Ids, retention: float
    ) -> None:
        """Prepare an engine for each schedule.

        Args:
            target: the target.
            proxy: the proxy.
            mapper: folder of a trained mapper, or an untrained mapper, which takes as long.
            ids: token ids of prefix + context (1-D).
            retention: share of the KV pairs to keep.
        """
        self.target, self.proxy, self.ids, self.retention = target, proxy, ids, retention
        self.engines = {s: _engine(proxy, mapper, s) for s in get_args(Schedule)}

    def target_alone(self) -> Timeline:
        """Prefill on the target."""
        return self.engines["sequential"].read(self.target, self.ids, []).timeline

    def proxy_alone(self) -> Timeline:
        """Prefill and score on the proxy, and map the scores."""
        timeline = Timeline()
        ids = self.ids.to(self.proxy.device)
        prefix_len = len(self.target.prefix)
        signals = proxy_signals(self.target, self.proxy, ids, prefix_len, [Signal()], timeline)
        scorer = self.engines["sequential"].scorers["proxykv"]
        assert isinstance(scorer, ProxyScorer)
        with timeline.phase("mapper", self.proxy.device, "proxykv"):
            scorer.map(signals[Signal()])
        return timeline

    def pruned(self, method: str, schedule: Schedule = "sequential") -> Timeline:
        """Read, score, select and prune with a method; return the timeline.

        Args:
            method: id of the method.
            schedule: "sequential" or "parallel".
        """
        return self.work(method, schedule)[0].timeline

    def work(self, method: str, schedule: Schedule = "sequential") -> tuple[ContextAtWork, Keep]:
        """Read, score, select and prune; return the context at work and its kept set.

        Args:
            method: id of the method.
            schedule: "sequential" or "parallel".
        """
        engine = self.engines[schedule]
        work = engine.read(self.target, self.ids, [method])
        _, keep = work.prune(method, self.retention, engine.methods[method].scope)
        return work, keep


def _engine(proxy: Model, mapper: Path | Mapper, schedule: Schedule) -> Engine:
    ledger = Ledger()
    small = Proxy(lambda: proxy, ledger)
    with TemporaryDirectory() as folder:
        if not isinstance(mapper, Path):
            save_mapper(Path(folder), mapper, {"training": {"signal": "kvzip"}})
            mapper = Path(folder)
        methods = methods_of(["snapkv", "kvzip", "proxykv"])
        context = MethodContext({"proxykv": mapper}, small, methods, {}, seed=0, ledger=ledger)
        return Engine(context, small, schedule)


def main() -> None:
    """Measure, write a report and a figure, and print medians."""
    options = parse_options()
    torch.set_num_threads(options.threads)
    pair = load_timed_pair(options)
    for schedule in ("sequential", "parallel"):  # warm up
        pair.pruned("proxykv", schedule)
    turns = [turn(pair, options.threads) for _ in range(options.repeats)]
    summary_of_turns = summary(turns)
    report = {
        "pair": options.pair.name,
        "tokens": options.tokens,
        "threads": options.threads,
        "dtype": options.dtype,
        "devices": [device_name(m.device) for m in (pair.target, pair.proxy)],
        "cores": os.cpu_count(),
        "load": os.getloadavg(),
        "torch": torch.__version__,
        "commit": commit(),
        "same": agreement(pair, options.threads),
        **summary_of_turns,
        "timelines": [{name: timeline.record() for name, timeline in t.items()} for t in turns],
    }
    show(report)
    files.write_json(options.out.with_suffix(".json"), report)
    with files.atomic(options.out.with_suffix(".svg")) as partial:
        draw(turns, options).savefig(partial, format="svg", bbox_inches="tight")


def turn(pair: TimedPair, threads: int) -> Turn:
    """Measure everything once; return the timelines by name.

    Args:
        pair: models and context.
        threads: intra-op threads of a side.
    """
    single = {
        "target alone": pair.target_alone(),
        "proxy alone": pair.proxy_alone(),
        "sequential": pair.pruned("proxykv", "sequential"),
        "parallel": pair.pruned("proxykv", "parallel"),
        "kvzip": pair.pruned("kvzip"),
    }
    torch.set_num_threads(2 * threads)
    double = {
        "sequential x2": pair.pruned("proxykv", "sequential"),
        "kvzip x2": pair.pruned("kvzip"),
    }
    torch.set_num_threads(threads)
    return single | double


def scores_and_keep(pair: TimedPair, schedule: Schedule) -> tuple[Scores, Keep]:
    """ProxyKV's scores of the context, and the set that they keep.

    Args:
        pair: models and context.
        schedule: "sequential" or "parallel".
    """
    work, keep = pair.work("proxykv", schedule)
    return work.scores("proxykv")[0], keep


def agreement(pair: TimedPair, threads: int) -> dict[str, Any]:
    """Compare the scores of both schedules at equal threads, and those at twice the threads.

    Args:
        pair: models and context.
        threads: intra-op threads of a side.
    """
    scores, keep = scores_and_keep(pair, "sequential")
    parallel, _ = scores_and_keep(pair, "parallel")
    torch.set_num_threads(2 * threads)
    other, other_keep = scores_and_keep(pair, "sequential")
    torch.set_num_threads(threads)
    return {
        "bits, at equal threads": torch.equal(scores, parallel),
        "largest difference at twice the threads": (scores - other).abs().max().item(),
        "kept sets at twice the threads": torch.equal(keep, other_keep),
    }


def summary(turns: Sequence[Turn]) -> dict[str, Any]:
    """Summarise the turns: median, minimum and maximum of all phases, totals and ratios."""
    totals = [{name: timeline.end for name, timeline in t.items()} for t in turns]
    for total in totals:
        total["longer side"] = max(total["target alone"], total["proxy alone"])
    phases = {
        f"{name}: {phase}": [s.seconds for t in turns for s in t[name].spans if s.phase == phase]
        for name, timeline in turns[0].items()
        for phase in PHASES
        if any(span.phase == phase for span in timeline.spans)
    }
    ratios = {label: [t[a] / t[b] for t in totals] for label, (a, b) in RATIOS.items()}
    ratios["parallel: share of the shorter side that overlaps"] = [
        t["parallel"].overlap() / min(side_seconds(t["parallel"], side) for side in SIDES)
        for t in turns
    ]
    return {
        "seconds": {name: spread([t[name] for t in totals]) for name in totals[0]},
        "phases": {name: spread(values) for name, values in phases.items()},
        "ratios": {name: spread(values) for name, values in ratios.items()},
    }


def side_seconds(timeline: Timeline, side: str) -> float:
    """Seconds of a side's phases, before the sides join.

    Args:
        timeline: of one request.
        side: "target" or "proxy".
    """
    return sum(s.seconds for s in timeline.spans if s.phase in SIDES[side])


def spread(values: list[float]) -> dict[str, float]:
    """Median, minimum and maximum."""
    return {"median": median(values), "min": min(values), "max": max(values)}


def show(report: dict[str, Any]) -> None:
    """Print the report's summary."""
    for section, unit in (("seconds", " s"), ("phases", " s"), ("ratios", "")):
        print(f"\n{section}")
        for name, s in report[section].items():
            print(f"  {name:48} {s['median']:8.3f}{unit} ({s['min']:.3f} - {s['max']:.3f})")
    print("\nsame scores")
    for name, value in report["same"].items():
        print(f"  {name:48} {value}")


def draw(turns: Sequence[Turn], options: argparse.Namespace) -> Figure:
    """Draw the timelines of the turn whose parallel case takes the median time.

    Args:
        turns: timelines of all turns.
        options: of the command line.
    """
    chosen = sorted(turns, key=lambda t: t["parallel"].end)[len(turns) // 2]
    figure = Figure(figsize=(8, 2.8))
    axes = figure.subplots()
    lanes: list[str] = []
    for name in ("kvzip", "sequential", "parallel"):
        proxy_spans = [s for s in chosen[name].spans if s.phase in SIDES["proxy"]]
        target_spans = [s for s in chosen[name].spans if s not in proxy_spans]
        for side, spans in {"target": target_spans, "proxy": proxy_spans}.items():
            for span in spans:
                color = PHASES[span.phase]
                axes.barh(len(lanes), span.seconds, left=span.start, color=color, height=0.7)
            if spans:
                lanes.append(f"{name}: {side}")
    axes.set_yticks(range(len(lanes)), lanes)
    axes.invert_yaxis()
    axes.set_xlabel(f"seconds ({options.tokens} tokens, {options.threads} thread(s) a side)")
    axes.spines[["top", "right"]].set_visible(False)
    keys = [axes.barh(0, 0, color=color, label=phase) for phase, color in PHASES.items()]
    axes.legend(handles=keys, ncols=4, loc="lower center", bbox_to_anchor=(0.45, 1), frameon=False)
    return figure


def load_timed_pair(options: argparse.Namespace) -> TimedPair:
    """Load the pair and draw a context."""
    places = {"target": options.device, "proxy": options.proxy_device or options.device}
    target, proxy = (
        load_model(next(options.pair.glob(f"{role}*")), dtype=options.dtype, device=places[role])
        for role in ("target", "proxy")
    )
    family = Family(target.net.config, proxy.net.config)
    mapper = options.mapper or build_mapper(family.mapper)
    generator = torch.Generator().manual_seed(0)
    words = torch.randint(len(target.tokenizer), (options.tokens,), generator=generator)
    ids = torch.cat([torch.tensor(target.prefix, dtype=torch.long), words]).to(target.device)
    return TimedPair(target, proxy, mapper, ids, options.retention)


def parse_options() -> argparse.Namespace:
    """Options of the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("pair", type=Path, help="folder with folders target… and proxy…")
    parser.add_argument(
        "--mapper", type=Path, help="folder of a trained mapper (default: an untrained one)"
    )
    parser.add_argument("--tokens", type=int, default=900)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1, help="of each side")
    add_common(parser, dtype="float32", device="cpu")
    return parser.parse_args()


def add_common(parser: argparse.ArgumentParser, dtype: str, device: str) -> None:
    """Add the options that all measurements of requests have.

    Args:
        parser: of the command line.
        dtype: default of `--dtype`.
        device: default of `--device`.
    """
    parser.add_argument("--dtype", default=dtype)
    parser.add_argument("--device", default=device, help="of the target")
    parser.add_argument("--proxy-device", help="of the proxy (default: that of the target)")
    parser.add_argument("--retention", type=float, default=0.3)
    parser.add_argument("--out", type=Path, required=True, help="path without suffix")


if __name__ == "__main__":
    main()
