"""Made-up measurements that keep their schema, for tests of what starts from them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd

from proxykv.config import catalog

PREFILL, OTHERS = 0.001, {"full": 0.0, "snapkv": 0.1, "kvzip": 2.0, "proxykv": 0.5}
"""Seconds of the prefill of a token, and of what follows it in units of the prefill."""
SCAN: dict[str, Any] = {"name": "latency", "methods": [*OTHERS], "lengths": [100, 200, 400]}


def seconds(method: str, tokens: int, repeat: int) -> float:
    """Seconds until the cache is pruned."""
    return PREFILL * tokens * (1 + OTHERS[method]) * (1 + 0.01 * repeat)


def make_measurements(
    family: str = "tiny", *, devices: int = 2, failed: tuple[str, int] = ("kvzip", 400)
) -> pd.DataFrame:
    """A scan of three lengths at two retentions, on a GPU for each model."""
    rows = [
        _row(family, method, tokens, retention, repeat, devices, (method, tokens) == failed)
        for tokens in SCAN["lengths"]
        for retention in (0.1, 0.3)
        for method in OTHERS
        for repeat in range(6)
        if (method != "full" or retention == 0.1) and not (repeat and (method, tokens) == failed)
    ]
    return pd.DataFrame(rows)


def write_measurements(run_dir: Path, measured: pd.DataFrame) -> None:
    """Lay measurements out as a run's; its config names their scan."""
    path = run_dir / "config.json"
    config = json.loads(path.read_text("utf-8")) if path.exists() else {"run": run_dir.name}
    families = sorted(measured.family.unique())
    config |= {"families": families, "efficiency": [{**SCAN, "retentions": [0.1, 0.3]}]}
    run_dir.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(config), "utf-8")
    for family, part in measured.groupby("family"):
        file = run_dir / "efficiency" / str(family) / "latency.parquet"
        file.parent.mkdir(parents=True, exist_ok=True)
        columns = list(catalog.schema("measurement")["properties"])
        part.reindex(columns=columns).to_parquet(file, index=False)


def _row(
    family: str, method: str, tokens: int, rho: float, repeat: int, devices: int, failed: bool
) -> dict[str, Any]:
    proxy = method == "proxykv"
    spans = [] if failed else _spans(method, tokens, repeat)
    cached = seconds(method, tokens, repeat)
    watched = repeat == 0 and not failed
    times = {
        "cache_seconds": cached,
        "first_token_seconds": cached + 0.01,
        "decode_seconds": 0.002,
        "request_seconds": cached + 0.05,
        "kv_bytes": 1000.0 * tokens,
    }
    return {
        **{"family": family, "scan": "latency", "weights": "trained", "inputs": "tiny: single"},
        **{"method": method, "scope": "none" if method == "full" else "global"},
        **{"schedule": "parallel" if proxy and devices == 2 else "sequential", "tokens": tokens},
        **{"batch": 1, "retention": 1.0 if method == "full" else rho, "repeat": repeat},
        **{"status": "out of memory" if failed else "ok", "spans": spans},
        **(dict.fromkeys(times, float("nan")) if failed else times),
        **{"question_tokens": 3, "new_tokens": 3},
        "target_peak_bytes": 2.0**30 * tokens if watched else float("nan"),
        "proxy_peak_bytes": 2.0**29 * tokens if watched and proxy else float("nan"),
        "memory_seconds": [0.0, cached] if watched else [],
        "target_bytes": [2**29, 2**30] if watched else [],
        "proxy_bytes": [2**28, 2**29] if watched and proxy and devices == 2 else [],
        **{"setup": "e5" * 6, "target": "t", "proxy": "p", "device": "cuda: H100"},
        **{"proxy_device": "cuda: H100", "devices": devices, "dtype": "bfloat16"},
        **{"kernels": "triton (Triton 3.9)", "threads": 1, "versions": "torch 2.13.0"},
        **{"seed": 0, "config_hash": "c3", "code_hash": "d4", "commit": "0123456789ab"},
        "created": "2026-11-22T12:00:00+00:00",
    }


def _spans(method: str, tokens: int, repeat: int) -> list[dict[str, Any]]:
    target = seconds("full", tokens, repeat)
    end = seconds(method, tokens, repeat)
    spans = [{"phase": "target_prefill", "part": None, "start": 0.0, "end": target}]
    if method == "proxykv":
        middle = target + 0.9 * (end - target)
        spans += [
            {"phase": "proxy_scoring", "part": "kvzip", "start": target, "end": middle},
            {"phase": "mapper", "part": method, "start": middle, "end": end},
        ]
    elif method != "full":
        spans += [{"phase": "scoring", "part": method, "start": target, "end": end}]
    return spans
