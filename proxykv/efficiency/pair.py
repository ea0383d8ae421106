"""The pair that is measured: a run's models and fitted methods, or random ones of their shapes."""

from __future__ import annotations

import gc
import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedConfig

from proxykv.config import catalog, paths
from proxykv.config.catalog import Method
from proxykv.config.efficiency import MeasuringJob
from proxykv.config.models import heads
from proxykv.config.run import ROLES, Run
from proxykv.mapper import tensor_file
from proxykv.mapper.stored_scores import signal_file
from proxykv.model.caches.context import ATTENTION
from proxykv.model.devices import device_of, spread
from proxykv.model.loading import load, placed
from proxykv.model.model import Model
from proxykv.model.prompt.vocabulary import require_shared_vocabulary
from proxykv.scoring.contract import MethodContext
from proxykv.scoring.engine import Engine
from proxykv.scoring.ledger import Ledger
from proxykv.scoring.proxy import Proxy, Schedule

EMBEDDED = Path("models/tiny/target")
"""Folder of the tokenizer that random models use. They read ids; only replay requests are text."""
LONGEST = 1 << 18
"""Positions of a random model."""
FITTED_TOKENS = 96
"""Tokens of the random contexts that methods of random weights are fitted on."""
ONE_STEP = {"steps": 1, "warmup": 1, "val_contexts": 1, "crop": FITTED_TOKENS, "device": "cpu"}
"""A training that gives a mapper of the right shape."""


@dataclass
class MeasuredPair:
    """Models with the engines that run their requests, one for each schedule.

    Attributes:
        target: reads and answers; nothing it writes ends an answer.
        proxy: scores.
        methods: the methods that are measured, by id.
        fitted: folders of fitted methods.
        seed: the run's.
    """

    target: Model
    proxy: Model
    methods: Mapping[str, Method]
    fitted: Mapping[str, Path]
    seed: int
    _engines: dict[Schedule, Engine] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Let every answer have all its tokens, and collect no garbage of what stays."""
        gc.freeze()
        if self.target.net.generation_config:
            self.target.net.generation_config.eos_token_id = None

    @property
    def devices(self) -> list[torch.device]:
        """The target's devices, then the proxy's if it is another one."""
        return list(dict.fromkeys([*self.target.devices, self.proxy.device]))

    @property
    def proxy_weights(self) -> int:
        """Bytes of the proxy's weights."""
        return sum(weight.nbytes for weight in self.proxy.net.parameters())

    def engine(self, schedule: Schedule) -> Engine:
        """The engine of a schedule."""
        if schedule not in self._engines:
            ledger = Ledger()
            proxy = Proxy(lambda: self.proxy, ledger)
            context = MethodContext(self.fitted, proxy, self.methods, {}, self.seed, ledger)
            self._engines[schedule] = Engine(context, proxy, schedule)
        return self._engines[schedule]


def trained_pair(run: Run, job: MeasuringJob) -> MeasuredPair:
    """Load the family's models, with the methods that the run has fitted.

    Args:
        run: the run.
        job: what is measured.
    """
    target, proxy = (load(run, job.family, role, _device(run, job, role)) for role in ROLES)
    require_shared_vocabulary(target.tokenizer, proxy.tokenizer)
    fitted = {name: paths.fitted_dir(run, job.family, name) for name in run.fitted_ids}
    return MeasuredPair(target, proxy, _methods(run, job), fitted, run.seed)


def random_pair(run: Run, job: MeasuringJob, folder: Path) -> MeasuredPair:
    """Make random models of the family's shapes, and fit methods to random scores.

    Args:
        run: the run.
        job: what is measured.
        folder: where the fitted methods are written.
    """
    torch.manual_seed(run.seed)
    family = run.family(job.family)
    target, proxy = (
        _random_model(family[role], *placed(run, job.family, role, _device(run, job, role)))
        for role in ROLES
    )
    methods = _methods(run, job)
    contexts = [_random_scores(run, folder / f"{i}.safetensors", target, proxy) for i in range(2)]
    fitted = {method.fitted_id: method for method in methods.values() if method.fitted_id}
    for name in fitted:
        method = run.methods[name]
        module = importlib.import_module(catalog.module_of(method.base)[0])
        settings = {"seed": run.seed, **run.training, **method.params, **ONE_STEP}
        module.fit(contexts, folder / name, settings, {})
    return MeasuredPair(target, proxy, methods, {name: folder / name for name in fitted}, run.seed)


def _methods(run: Run, job: MeasuringJob) -> dict[str, Method]:
    """The measured methods, and those whose scores they combine."""
    named = [run.methods[name] for name in job.scan.methods]
    return {m.id: m for method in named for m in (method, *(run.methods[u] for u in method.uses))}


def _device(run: Run, job: MeasuringJob, role: str) -> str | None:
    """Where the scan places a model; None if it leaves that to the family's file."""
    if job.scan.gpus is None:
        return None
    return "cuda:1" if role == "proxy" and job.scan.gpus > 1 else "cuda:0"


def _random_model(entry: Mapping[str, Any], home: str, layers: Sequence[str]) -> Model:
    # One device need not hold what several share.
    with torch.device("cpu") if layers else device_of(home):
        net = AutoModelForCausalLM.from_config(
            _architecture(entry),
            dtype=getattr(torch, entry["dtype"]),
            attn_implementation=ATTENTION,
        )
    spread(net, device_of(home), [device_of(each) for each in layers])
    tokenizer = AutoTokenizer.from_pretrained(catalog.ROOT / EMBEDDED)
    return Model(net.eval().requires_grad_(False), tokenizer, prefix=(), suffix=(), digest="")


def _architecture(entry: Mapping[str, Any]) -> PreTrainedConfig:
    """The config of a family's model: its folder's, or what the family's file states."""
    if "path" in entry:
        return AutoConfig.from_pretrained(catalog.ROOT / entry["path"])
    shape, stated = entry["shape"], dict(entry["architecture"])
    return AutoConfig.for_model(
        **stated,
        num_hidden_layers=shape["layers"],
        num_attention_heads=shape["query_heads"],
        num_key_value_heads=shape["kv_heads"],
        head_dim=shape["head_dim"],
        max_position_embeddings=LONGEST,
    )


def _random_scores(run: Run, path: Path, target: Model, proxy: Model) -> Path:
    """Store scores of a context that nobody has read."""
    of_target, of_proxy = (_random_like(model) for model in (target, proxy))
    tensor_file.save(path, {"target": of_target, "proxy": of_proxy})
    for signal in run.stored_signals:
        if (file := signal_file(path, signal.name)) != path:
            tensor_file.save(file, {"proxy": of_proxy})
    return path


def _random_like(model: Model) -> Tensor:
    """Random scores of a model's heads, [layer, kv_head, token]."""
    shape = heads(model.net.config.to_dict())
    return torch.rand(shape["layers"], shape["kv_heads"], FITTED_TOKENS)
