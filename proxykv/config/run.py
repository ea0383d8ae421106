"""What a run consists of: its config as typed, frozen objects. `paths` says where they are kept."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from proxykv.config import catalog, check
from proxykv.config.cards import MethodCards, method_cards
from proxykv.config.check.presence import presence_problems
from proxykv.config.jobs import Dataset, Job
from proxykv.config.keys.model_files import SCORING, ModelFiles, model_files
from proxykv.config.models import Shape, model_shape, positions
from proxykv.config.settings.signals import Signal, stored_signals
from proxykv.runtime import files
from proxykv.runtime.digest import digest
from proxykv.runtime.errors import ConfigError

ROLES = ("target", "proxy")
SPLITS = ("eval", "train")


class Run:
    """A checked config. All paths are relative to the checkout, where everything runs."""

    def __init__(self, config: Mapping[str, Any], *, made: bool = False) -> None:
        """Check the config.

        Args:
            config: its contents.
            made: the run's rows are there and only they are read, so the contents are not checked:
                a file of a method may be gone since.

        Raises:
            ConfigError: with one line for each mistake.
        """
        if not made and (problems := check.config_problems(config)):
            raise ConfigError("\n".join(problems))
        defaults = catalog.schema("config")["properties"]
        self.config = {k: p["default"] for k, p in defaults.items() if "default" in p} | dict(
            config
        )
        self.name: str = config["run"]
        self.seed: int = self.config["seed"]
        self.protocol: str = self.config["protocol"]
        self.schedule: Literal["sequential", "parallel"] = self.config["schedule"]
        self.retentions: tuple[float, ...] = tuple(sorted(map(float, config["retentions"])))
        self.limit: int | None = self.config["limit"]
        self.training: Mapping[str, Any] = config.get("training", {})
        self.dir = Path("results") / self.name
        self.cache = Path(self.config["cache"])

    @classmethod
    def read(cls, path: Path, *, made: bool = False) -> Run:
        """Read the run from a config that `write` stored.

        Args:
            path: the config.json of a run's folder.
            made: only the run's rows are read, so only the form is checked (see `Run`).

        Raises:
            ConfigError: if there is no such file, or it is no valid config.
        """
        if not path.is_file():
            raise ConfigError(f"{path}: no such file; the workflow writes it when it starts")
        try:
            config = files.read_object(path)
        except ConfigError:
            raise ConfigError(
                f"{path}: not JSON; give the run's results/<run>/config.json"
            ) from None
        if made and (problems := check.form_problems(config, str(path))):
            raise ConfigError("\n".join(problems))
        return cls(config, made=made)

    def require_sources(self) -> None:
        """Check that what the run starts from is there: text, records and shapes of models.

        Only where a run is planned or checked: what is made already needs no source.

        Raises:
            ConfigError: with one line for each source that is missing.
        """
        if problems := presence_problems(self):
            raise ConfigError("\n".join(problems))

    def write(self) -> Path:
        """Store config and cards of methods with the results, for the jobs and for the record."""
        self.cards.write(self.dir)
        path = self.dir / "config.json"
        files.write_json(path, self.config)
        return path

    @property
    def digest(self) -> str:
        """Changes with anything in the config."""
        return digest(self.config)

    @cached_property
    def methods(self) -> Mapping[str, catalog.Method]:
        """Methods by id, in the config's order."""
        return catalog.methods_of(self.config["methods"])

    @cached_property
    def cards(self) -> MethodCards:
        """How the methods are shown, and which are compared."""
        return method_cards(self.config)

    @property
    def families(self) -> tuple[str, ...]:
        """Names of the families."""
        return tuple(self.config["families"])

    def family(self, name: str) -> Mapping[str, Any]:
        """Contents of a family's file.

        Args:
            name: of the family; some may only be measured.

        Raises:
            ConfigError: if the run has no such family, or its file is gone.
        """
        measured = [name for scan in self.config["efficiency"] for name in scan.get("families", ())]
        self._require("family", name, [*self.families, *measured])
        if name not in catalog.families():
            hint = check.did_you_mean(name, catalog.families())
            raise ConfigError(f"run {self.name!r}: no file config/families/{name}.yaml; {hint}")
        return catalog.families()[name]

    def models(self, family: str) -> Mapping[str, Any]:
        """Both models of a family as its file has them, without device, shape and architecture."""
        both = {role: self.family(family)[role] for role in ROLES}
        left_out = ("device", "shape", "architecture")
        return {
            role: {k: v for k, v in model.items() if k not in left_out}
            for role, model in both.items()
        }

    def resources(self, family: str, step: str) -> Mapping[str, int]:
        """Resources that a step's job of a family requests.

        Args:
            family: name of the family.
            step: "extract", "fit", "generate" or "efficiency".

        Returns:
            `threads`, `mem_mb` (MiB), `gpu` (a count) and `runtime` (minutes).
        """
        resources = self.family(family)["resources"]
        common = {key: value for key, value in resources.items() if not isinstance(value, Mapping)}
        return {"runtime": 240, **common, **resources.get(step, {})}

    def datasets(self, family: str, split: str) -> list[Dataset]:
        """Datasets that a family is evaluated on, or that its mappers are trained on.

        Args:
            family: name of the family.
            split: "eval" or "train".
        """
        section = self.config["benchmarks"] if split == "eval" else self.config.get("corpus", [])
        return [
            self._dataset(family, split, entry, task)
            for entry in section
            for task in entry["tasks"]
        ]

    def dataset(self, path: str) -> Dataset:
        """The dataset that is stored at a path.

        Args:
            path: of the dataset's JSONL file.

        Raises:
            ConfigError: if the run has no dataset there.
        """
        both = [d for f in self.families for split in SPLITS for d in self.datasets(f, split)]
        datasets = {str(d.path): d for d in both}
        self._require("dataset", path, datasets)
        return datasets[path]

    def jobs(self) -> list[Job]:
        """Every job of the run."""
        return list(self._jobs.values())

    @cached_property
    def _jobs(self) -> Mapping[tuple[str, str, str], Job]:
        jobs = (
            Job(family, data.benchmark, data.task, data, self.dir, shard, data.shards, self.limit)
            for family in self.families
            for data in self.datasets(family, "eval")
            for shard in range(data.shards)
        )
        return {(job.family, job.benchmark, job.name): job for job in jobs}

    def job(self, family: str, benchmark: str, name: str) -> Job:
        """The job of one task or shard.

        Args:
            family: name of the family.
            benchmark: name of the benchmark.
            name: of the job: the task, or `task@shard`.

        Raises:
            ConfigError: if the run has no such job.
        """
        key = (family, benchmark, name)
        self._require("job", " ".join(key), map(" ".join, self._jobs))
        return self._jobs[key]

    def model(self, family: str, role: str) -> ModelFiles:
        """Files of a family's target or proxy, whose digests are computed once for each run.

        Args:
            family: name of the family.
            role: "target" or "proxy".

        Raises:
            ConfigError: if the run has no such family.
        """
        self._require("family", family, self.families)
        return self._models[family, role]

    @cached_property
    def _models(self) -> Mapping[tuple[str, str], ModelFiles]:
        return {
            (family, role): model_files(self.family(family), role, self.cache)
            for family in self.families
            for role in ROLES
        }

    def require_models(self) -> None:
        """Check the folders of the run's models.

        Raises:
            ConfigError: if a folder lacks a file, or was edited after conversion.
        """
        for model in self._models.values():
            model.key(SCORING, planned=True)

    def model_shape(self, family: str, role: str) -> Shape:
        """Shape of a family's target or proxy.

        Args:
            family: name of the family.
            role: "target" or "proxy".
        """
        return model_shape(self.family(family), role, self.cache)

    @cached_property
    def positions(self) -> Mapping[str, int]:
        """Positions of each family: the fewer of its two models; none without their folders."""
        found = {
            family: [positions(self.family(family), role, self.cache) for role in ROLES]
            for family in self.families
        }
        return {
            family: min(known)
            for family, both in found.items()
            if (known := [number for number in both if number])
        }

    def with_shapes(self, family: str) -> Mapping[str, Any]:
        """Contents of a family's file, with the shape of both models."""
        found = self.family(family)
        shapes = {role: self.model_shape(family, role) for role in ROLES}
        return {**found, **{role: {**found[role], "shape": shapes[role]} for role in ROLES}}

    @property
    def stored_signals(self) -> tuple[Signal, ...]:
        """The proxy's signals that methods are fitted on, besides its KVzip scores."""
        fitted = [m.params for m in self.methods.values() if m.fitted_id and not m.fitted]
        return stored_signals(fitted, self.training)

    def stored_signal(self, name: str) -> Signal:
        """The signal of that name; ConfigError if the run stores none."""
        signals = {signal.name: signal for signal in self.stored_signals}
        self._require("stored signal", name, signals)
        return signals[name]

    @cached_property
    def grid(self) -> tuple[tuple[catalog.Method, float], ...]:
        """Every (method, retention) that is run: `full` at 1, the others below."""
        return tuple(
            (method, retention)
            for method in self.methods.values()
            for retention in self.retentions
            if (retention == 1) == (method.scope == "none")
        )

    def fitted_method(self, method_id: str) -> catalog.Method:
        """A method that is fitted.

        Args:
            method_id: id of the method.

        Raises:
            ConfigError: if the run fits no such method.
        """
        self._require("fitted method", method_id, self.fitted_ids)
        return self.methods[method_id]

    def ready(self, family: str, fitted_id: str) -> Path | None:
        """Find where a method is fitted already.

        Args:
            family: name of the family.
            fitted_id: id of a method that is fitted.

        Returns:
            The folder that the config names; None if this run fits the method.
        """
        folder = self.fitted_method(fitted_id).fitted
        return Path(folder.replace("{family}", family)) if folder else None

    @property
    def fitted_here(self) -> tuple[str, ...]:
        """Ids of the methods that this run fits itself."""
        return tuple(name for name in self.fitted_ids if not self.methods[name].fitted)

    @property
    def fitted_ids(self) -> tuple[str, ...]:
        """Ids of the methods that are fitted, each once."""
        return tuple(dict.fromkeys(m.fitted_id for m in self.methods.values() if m.fitted_id))

    def _require(self, what: str, name: str, known: Iterable[str]) -> None:
        known = list(known)
        if name not in known:
            hint = check.did_you_mean(name, known)
            raise ConfigError(f"run {self.name!r} has no {what} {name!r}; {hint}")

    def _dataset(self, family: str, split: str, entry: Mapping[str, Any], task: str) -> Dataset:
        settings = {
            "benchmark": entry["benchmark"],
            "task": task,
            "split": split,
            "contexts": entry.get("contexts"),
            "lengths": tuple(entry["lengths"]) if "lengths" in entry else None,
            "max_context": self.family(family)["max_context"],
            "seed": entry.get("seed", self.seed),
            "options": entry.get("options", {}),
        }
        folder = self.cache / "data" / family / split
        target = self.model(family, "target")
        place = {"part": entry.get("part", task), "held_out": entry.get("held_out", 0)}
        shards = entry.get("shards", 1)
        return Dataset(family, folder=folder, target=target, shards=shards, **place, **settings)
