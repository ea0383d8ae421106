"""Mistakes in a config's scans of time and memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from proxykv.config import catalog
from proxykv.config.check.schema import did_you_mean, repeated, schema_problems

LISTS = ("methods", "schedules", "lengths", "retentions", "batches", "families")
"""Keys of a scan whose values must differ from one another."""


def efficiency_problems(config: Mapping[str, Any]) -> Iterator[str]:
    """What scans name that the run lacks, and settings that do not fit together."""
    scans = config.get("efficiency", ())
    yield from repeated([scan["name"] for scan in scans], "config.efficiency")
    for i, scan in enumerate(scans):
        where = f"config.efficiency[{i}]"
        for key in LISTS:
            values = [float(f"{v:g}") if key == "retentions" else v for v in scan.get(key, ())]
            yield from repeated(values, f"{where}.{key}")
        yield from _method_problems(config, scan, where)
        yield from _input_problems(config, scan, where)
        for name in scan.get("families", config["families"]):
            yield from _family_problems(config, scan, name, where)


def _method_problems(
    config: Mapping[str, Any], scan: Mapping[str, Any], where: str
) -> Iterator[str]:
    known = catalog.entries(config["methods"])
    for name in scan["methods"]:
        settings = known.get(name)
        if settings is None:
            yield f"{where}.methods: the run has no method {name!r}; {did_you_mean(name, known)}"
        elif settings["scope"] == "custom":
            yield (
                f"{where}.methods: {name!r} selects by itself (scope custom) and cannot be "
                "measured; remove it"
            )
        elif settings.get("inputs") and scan.get("weights") == "random":
            yield (
                f"{where}.methods: {name!r} is fitted on the target's layer inputs, which random "
                "weights lack; remove it or choose weights: trained"
            )
    measured = {name for name in scan["methods"] if known.get(name, {}).get("scope") == "none"}
    if not measured:
        yield f"{where}.methods: 'full' is missing; add it: speed-ups over the prefill need it"


def _input_problems(
    config: Mapping[str, Any], scan: Mapping[str, Any], where: str
) -> Iterator[str]:
    inputs = scan.get("inputs")
    if inputs is None:
        return
    if scan.get("weights") == "random":
        yield f"{where}.inputs: random weights read random ids; remove `inputs`, or `weights`"
    name = inputs["benchmark"]
    known = [t for e in config["benchmarks"] if e["benchmark"] == name for t in e["tasks"]]
    for task in inputs["tasks"]:
        if task not in known:
            hint = did_you_mean(task, known)
            yield f"{where}.inputs: `benchmarks` of the run lack {name}/{task}; {hint}"


def _family_problems(
    config: Mapping[str, Any], scan: Mapping[str, Any], name: str, where: str
) -> Iterator[str]:
    if name not in catalog.families():
        hint = did_you_mean(name, catalog.families())
        yield f"{where}.families: no file config/families/{name}.yaml; {hint}"
        return
    family = catalog.families()[name]
    if name not in config["families"]:
        if scan.get("weights") != "random":
            yield (
                f"{where}.families: {name!r} is not a family of the run, which fits no method for "
                "it; add it to `families` or choose weights: random"
            )
        yield from schema_problems(family, "family", f"config/families/{name}.yaml")
    if schema_problems(family, "family", name):
        return
    models = {role: family[role] for role in ("target", "proxy")}
    if scan.get("weights") == "random":
        yield from _shapeless(models, name, where)
    if "gpus" in scan and any(model["device"] == "cpu" for model in models.values()):
        yield f"{where}.gpus: family {name!r} runs on the CPU; remove `gpus`"
    if not any(tokens <= family["max_context"] for tokens in scan["lengths"]):
        yield (
            f"{where}.lengths: family {name!r} may see no more than {family['max_context']} tokens "
            "(max_context of its file); add a shorter length"
        )


def _shapeless(models: Mapping[str, Mapping[str, Any]], name: str, where: str) -> Iterator[str]:
    """Models of which random ones cannot be made."""
    for role, model in models.items():
        missing = [key for key in ("shape", "architecture") if key not in model]
        if "path" not in model and missing:
            yield (
                f"{where}.weights: config/families/{name}.yaml.{role} has no "
                f"{' and no '.join(map(repr, missing))}, which random weights need; add it"
            )
