"""Latency and peak memory of a request against context length, on the shapes of the paper's pairs.

    python perf/efficiency.py --lengths 8192 32768 131072 --out results/efficiency

Weights and ids are random: time depends on neither. A request ends when the pruned cache is ready;
`full` prefills and prunes nothing. At every length, cases take turns. The proxy runs on the
target's device unless `--proxy-device` names another. Peak memory is that of the target's device,
with the proxy's weights in the cases that need them. Decoding is for a batch of one: `full` with
the attention and the cache of transformers, the others with a pruned cache. A case that runs out of
memory is marked. Writes `<out>.csv`, one measurement a line, and `<out>.svg`; prints medians.
"""

from __future__ import annotations

import argparse
import gc
from collections.abc import Callable, Iterator
from statistics import median
from typing import Any

import pandas as pd
import seaborn as sns
import torch
from matplotlib.figure import Figure
from schedules import PHASES, TimedPair, add_common
from shapes import FAMILIES, random_model
from transformers import DynamicCache

from proxykv.mapper.hybrid import build_mapper
from proxykv.model.devices import clock, device_of
from proxykv.model.loading import Model
from proxykv.model.parallel import SideError
from proxykv.model.prefill import Prefill, prefill
from proxykv.model.pruned_cache import PrunedCache
from proxykv.runtime import files
from proxykv.scoring.provenance import commit, device_name
from proxykv.scoring.selection import select
from proxykv.scoring.timeline import Timeline

GIB = 2**30
WARM_UP = 512
"""Tokens of the requests that warm up and are not reported."""
DECODED = 16
"""Tokens that are decoded, after two that warm up; their median is reported."""
DECODE_AT = (0.1, 0.3)
OUT_OF_MEMORY = "out of memory"
WITH_PROXY = ("proxykv", "proxykv, parallel")
Line = dict[str, Any]


class Requests(TimedPair):
    """Requests of one length."""

    def cases(self) -> dict[str, Callable[[], Timeline]]:
        """Functions that run a request and return its timeline, by case."""
        return {
            "full": self.target_alone,
            "snapkv": lambda: self.pruned("snapkv"),
            "kvzip": lambda: self.pruned("kvzip"),
            "proxykv": lambda: self.pruned("proxykv", "sequential"),
            "proxykv, parallel": lambda: self.pruned("proxykv", "parallel"),
        }


def main() -> None:
    """Measure all families; write a table and a figure."""
    options = parse_options()
    lines: list[Line] = []
    for name in options.families:
        for line in measure_family(name, options):
            lines.append(line)
            table = pd.DataFrame(lines).to_csv(index=False)
            files.write_text(options.out.with_suffix(".csv"), table)
    frame = pd.DataFrame(lines)
    medians = frame.groupby(["family", "tokens", "case", "what"], sort=False).value.median()
    print(medians.unstack("what").round(3).to_string())
    with files.atomic(options.out.with_suffix(".svg")) as partial:
        draw(frame).savefig(partial, format="svg", bbox_inches="tight")


def measure_family(name: str, options: argparse.Namespace) -> Iterator[Line]:
    """Measure the requests of a family at every length.

    Args:
        name: of the family.
        options: of the command line.

    Yields:
        A line of the table for every measurement: `what` was measured, and its `value`.
    """
    family = FAMILIES[name]
    device = device_of(options.device)
    places = device, device_of(options.proxy_device or options.device)
    target, proxy = (
        random_model(config, options.dtype, place)
        for config, place in zip((family.target, family.proxy), places, strict=True)
    )
    mapper = build_mapper(family.mapper)
    about = {
        "family": name,
        "dtype": options.dtype,
        "device": device_name(target.device),
        "proxy_device": device_name(proxy.device),
        "retention": options.retention,
        "torch": torch.__version__,
        "commit": commit(),
    }

    def requests_of(tokens: int) -> Requests:
        ids = torch.randint(500, (tokens,), generator=torch.Generator().manual_seed(0))
        return Requests(target, proxy, mapper, ids.to(target.device), options.retention)

    for run in requests_of(WARM_UP).cases().values():
        run()
    for tokens in options.lengths:
        requests = requests_of(tokens)
        for turn in range(options.repeats):
            for case, run in requests.cases().items():
                place = {"tokens": tokens, "turn": turn, "case": case}
                for what, value in measure_request(run, case in WITH_PROXY, target, proxy):
                    yield {**about, **place, "what": what, "value": value}
        for case, what, value in measure_decoding(requests):
            place = {"tokens": tokens, "turn": 0, "case": case}
            yield {**about, **place, "what": what, "value": value}


def measure_request(
    run: Callable[[], Timeline], with_proxy: bool, target: Model, proxy: Model
) -> Iterator[tuple[str, float]]:
    """Run a request and measure it.

    Args:
        run: runs it.
        with_proxy: whether it needs the proxy's weights.
        target: the target.
        proxy: the proxy.

    Yields:
        Seconds of every phase, seconds in `total`, and peak memory in GiB on an accelerator; or
        `OUT_OF_MEMORY`.
    """
    accelerated = target.device.type != "cpu"
    if accelerated:
        free_memory()
        torch.accelerator.reset_peak_memory_stats(target.device)
    try:
        timeline = run()
    except (torch.OutOfMemoryError, SideError) as error:
        if not isinstance(error.__cause__ or error, torch.OutOfMemoryError):
            raise
        yield OUT_OF_MEMORY, 1.0
        return
    for span in timeline.spans:
        yield span.phase, span.seconds
    yield "total", timeline.end
    if accelerated:
        peak = torch.accelerator.max_memory_allocated(target.device)
        if not with_proxy and proxy.device == target.device:
            peak -= sum(p.nbytes for p in proxy.net.parameters())
        yield "peak GiB", peak / GIB


@torch.inference_mode()
def measure_decoding(requests: Requests) -> Iterator[tuple[str, str, float]]:
    """Decode with pruned caches and with the full one.

    Args:
        requests: of one length; its context is prefilled.

    Yields:
        The case, what was measured, and the seconds of one token.
    """
    target = requests.target
    for retention in (*DECODE_AT, 1.0):
        case = "full" if retention == 1 else f"pruned to {retention}"
        free_memory()
        try:
            prefilled = prefill(target, requests.ids, len(target.prefix))
            if retention == 1:
                yield case, "decode", token_seconds_of_transformers(target, prefilled)
            else:
                noise = torch.rand(prefilled.shape, device=target.device)
                keep = select(noise, retention, "global")
                cache = PrunedCache(prefilled.cache, len(target.prefix), keep)
                yield case, "decode", token_seconds(target, cache, prefilled)
        except torch.OutOfMemoryError:
            yield case, OUT_OF_MEMORY, 1.0


def token_seconds_of_transformers(target: Model, prefilled: Prefill) -> float:
    """Seconds of a decoded token with the full cache and the attention of transformers.

    Args:
        target: the target.
        prefilled: its prefill of the context.
    """
    cache = DynamicCache()
    for index, layer in enumerate(prefilled.cache.layers):
        cache.update(layer.keys, layer.values, index)
    attention = target.net.config._attn_implementation or "eager"
    target.net.set_attn_implementation("sdpa")
    try:
        return token_seconds(target, cache, prefilled)
    finally:
        target.net.set_attn_implementation(attention)


def token_seconds(target: Model, cache: Any, prefilled: Prefill) -> float:
    """Median seconds of a decoded token with a cache of the prefilled context.

    Args:
        target: the target.
        cache: keys and values of the context, pruned or not; it grows by the decoded tokens.
        prefilled: the target's prefill of the context.
    """
    seconds = []
    for step in range(DECODED + 2):
        ids = torch.full((1, 1), 7, device=target.device)
        positions = torch.full((1, 1), len(prefilled.input_ids) + step, device=target.device)
        start = clock(target.device)
        target.logits(target.hidden(ids, positions, cache)[:, -1]).argmax(dim=-1)
        seconds.append(clock(target.device) - start)
    return median(seconds[2:])


def free_memory() -> None:
    """Return unused memory to the accelerator."""
    gc.collect()
    if torch.accelerator.is_available():
        torch.accelerator.empty_cache()


def draw(frame: pd.DataFrame) -> Figure:
    """Draw a row of panels for each family: seconds, memory, shares of ProxyKV's phases."""
    names = list(frame.family.unique())
    figure = Figure(figsize=(12, 3 * len(names)), layout="constrained")
    rows = figure.subplots(len(names), 3, squeeze=False)
    for axes, name in zip(rows, names, strict=True):
        family_lines = frame.query("family == @name")
        for panel, what, title in ((axes[0], "total", "seconds"), (axes[1], "peak GiB", "GiB")):
            data = family_lines.query(f"what == '{what}'")
            if len(data):
                sns.lineplot(data, x="tokens", y="value", hue="case", marker="o", ax=panel)
                panel.get_legend().remove()
                panel.set(xscale="log", title=f"{name}: {title}", ylabel="")
                panel.set_xticks(lengths := sorted(data.tokens.unique()), map(str, lengths))
                panel.minorticks_off()
        axes[0].set_yscale("log")
        parts = family_lines.query("case == 'proxykv' and what in @PHASES")
        if len(parts):
            shares = parts.groupby(["tokens", "what"]).value.median().unstack()
            shares = shares.div(shares.sum(axis=1), axis=0)[[p for p in PHASES if p in shares]]
            shares.plot.bar(stacked=True, ax=axes[2], color=PHASES, legend=False, rot=0)
        axes[2].set_title(f"{name}: where ProxyKV's time goes")
    for axis, columns in ((rows[0][0], 1), (rows[0][2], 2)):
        axis.legend(fontsize="small", ncols=columns)
    return figure


def parse_options() -> argparse.Namespace:
    """Options of the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=list(FAMILIES))
    parser.add_argument("--lengths", type=int, nargs="+", default=[8192, 32768, 131072])
    parser.add_argument("--repeats", type=int, default=3)
    add_common(parser, dtype="bfloat16", device="auto")
    return parser.parse_args()


if __name__ == "__main__":
    main()
