"""Mistakes in a config, one line each: what, where, how to mend. Nothing here raises."""

from __future__ import annotations

import difflib
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from jsonschema import Draft202012Validator, ValidationError, validators

from proxykv.config import benchmarks, catalog, signature, sources
from proxykv.config.cards import SINGLE, method_cards
from proxykv.config.settings import TrainingSettings, training_problems

BUILD_GIVEN = ("task", "tokenizer", "seed", "split", "max_context", "downloads")
"""Arguments of a benchmark's `build` that the run provides."""
SIZES = ("contexts", "lengths")
"""Arguments that an entry of a config provides besides its options."""

HELD_OUT = {"scbench": {"repoqa", "repoqa_and_kv"}}
"""Tasks that no mapper is trained on: they show zero-shot transfer (the paper's figure 4)."""


def _whole_match(
    validator: Any, pattern: str, instance: Any, schema: Mapping[str, Any]
) -> Iterator[ValidationError]:
    """A pattern describes the whole text: `$` alone also matches before a final line break.

    Our schemas describe a pattern in words under `expected`.
    """
    if validator.is_type(instance, "string") and not re.fullmatch(pattern, instance):
        expected = schema.get("expected", f"a text that matches {pattern}")
        yield ValidationError(f"{instance!r} is not allowed; expected {expected}")


Validator = validators.extend(Draft202012Validator, {"pattern": _whole_match})


def config_problems(config: Mapping[str, Any]) -> list[str]:
    """Every mistake in a run's config, and in the family files that it names."""
    problems = schema_problems(config, "config", "config")
    return problems or [
        *_family_problems(config),
        *_method_problems(config),
        *(card_problems() or [*_role_problems(config), *_fitting_problems(config)]),
        *_comparison_problems(config),
        *_dataset_problems(config),
        *_length_problems(config),
        *sources.source_problems(config),
        *_retention_problems(config),
    ]


def card_problems() -> list[str]:
    """Every mistake in the cards of the catalogue's methods."""
    return [
        problem
        for name, (file, card) in catalog.cards().items()
        # As JSON, in which a tuple is a list.
        for problem in schema_problems(
            json.loads(json.dumps(card)), "card", f"{file}: CARDS.{name}"
        )
    ]


def schema_problems(document: Any, name: str, where: str) -> list[str]:
    """Where a document departs from a schema of workflow/schemas/, in the document's order."""
    return _departures(document, catalog.schema(name), where)


def _departures(document: Any, schema: Mapping[str, Any], where: str) -> list[str]:
    errors = Validator(schema).iter_errors(document)
    ordered = sorted(errors, key=lambda e: [str(p) for p in e.path])
    return [line for error in ordered for line in _explained(error, where)]


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A hint for a misspelt word: the nearest known one, or all of them."""
    known = sorted(known)
    near = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known) or 'none'}"


def _explained(error: ValidationError, where: str) -> Iterator[str]:
    path = where + "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in error.path)
    if error.validator == "additionalProperties":
        known = error.schema.get("properties", {})  # type: ignore[union-attr]
        for key in sorted(set(error.instance) - set(known)):  # type: ignore[arg-type]
            yield f"{path}: unknown key {key!r}; {did_you_mean(key, known)}"
        return
    if error.validator in ("oneOf", "anyOf") and error.context:
        best = min(error.context, key=lambda e: (e.validator == "type", -len(e.path)))
        if best.validator != "type":
            yield from _explained(best, path)
            return
    if error.validator_value == {"multipleOf": 2}:  # under "not"
        yield f"{path}: {error.instance} is even; choose an odd number"
        return
    yield f"{path}: {error.message}"


def _family_problems(config: Mapping[str, Any]) -> Iterator[str]:
    for name in config["families"]:
        if name not in catalog.families():
            hint = did_you_mean(name, catalog.families())
            yield f"config.families: no file config/families/{name}.yaml; {hint}"
            continue
        family = catalog.families()[name]
        where = f"config/families/{name}.yaml"
        yield from schema_problems(family, "family", where)
        if isinstance(family, Mapping) and family.get("family") != name:
            yield f"{where}.family: {family.get('family')!r} is not the file's name {name!r}"
    yield from _repeated(config["families"], "config.families")


def _method_problems(config: Mapping[str, Any]) -> Iterator[str]:
    ids = [m if isinstance(m, str) else m["id"] for m in config["methods"]]
    yield from _repeated(ids, "config.methods")
    known = catalog.entries(config["methods"])
    for i, (name, entry) in enumerate(zip(ids, config["methods"], strict=True)):
        base = entry if isinstance(entry, str) else entry["base"]
        if name not in known:
            yield from _base_problems(base, ids, i)
            continue
        settings, where = known[name], f"config.methods[{i}]"
        if problems := list(_class_problems(settings, where)):
            yield from problems
            continue
        yield from _scope_problems(settings, where)
        yield from _part_problems(config, settings, where)
        if settings.get("fitted_id") == name:
            yield from _trained_problems(settings, where)
        # A method that is fitted under its own name needs no other; its relatives share its folder.
        shared = [settings["fitted_id"]] if "fitted_id" in settings else []
        for other in (*shared, *(settings["params"][part] for part in settings.get("uses", ()))):
            if other not in ids:
                yield f"config.methods: {base!r} needs {other!r}; add it to the list"
    if not any(settings["scope"] == "none" for settings in known.values()):
        unpruned = [name for name, s in catalog.variants().items() if s["scope"] == "none"]
        yield f"config.methods: {unpruned[0]!r} is missing; every method is compared with it"
    yield from training_problems(config.get("training", {}), "config.training")
    fitted = [name for name, settings in known.items() if "fitted_id" in settings]
    if fitted and not config.get("corpus"):
        yield f"config.corpus: missing, but {', '.join(fitted)} must be fitted on it"


def _role_problems(config: Mapping[str, Any]) -> Iterator[str]:
    cards = method_cards(config)
    for role in SINGLE:
        if len(ids := cards.ids(role)) > 1:
            yield f"config.methods: {' and '.join(ids)} have the role {role!r}; keep one of them"


def _comparison_problems(config: Mapping[str, Any]) -> Iterator[str]:
    ids = [m if isinstance(m, str) else m["id"] for m in config["methods"]]
    listed = config.get("comparisons", ())
    yield from _repeated([entry["group"] for entry in listed], "config.comparisons")
    for i, entry in enumerate(listed):
        where = f"config.comparisons[{i}]"
        for one, other in entry["pairs"]:
            if one == other:
                yield f"{where}: {one!r} is compared with itself"
            for name in dict.fromkeys((one, other)):
                if name not in ids:
                    yield f"{where}: the run has no method {name!r}; {did_you_mean(name, ids)}"
        yield from _repeated([" - ".join(pair) for pair in entry["pairs"]], where)


def _scope_problems(settings: Mapping[str, Any], where: str) -> Iterator[str]:
    """Whether a method under the scope `custom` chooses by itself what is kept."""
    if settings["scope"] == "custom":
        module, name = catalog.module_of(settings["base"])
        if signature.has_method(module, name, "keep") is False:
            yield (
                f"{where}.scope: {settings['root']!r} has no method `keep`, so it cannot choose "
                "by itself (custom); choose global, layer or head"
            )


def _trained_problems(settings: Mapping[str, Any], where: str) -> Iterator[str]:
    """Whether a method's own settings of training fit together."""
    takes = signature.parameters(*catalog.module_of(settings["base"]), ()) or {}
    if takes.get("additionalProperties"):
        yield from training_problems(settings["params"], f"{where}.params")


def _part_problems(
    config: Mapping[str, Any], settings: Mapping[str, Any], where: str
) -> Iterator[str]:
    """Whether the corpus has the parts and the lengths that a method is fitted on."""
    entries = config.get("corpus", ())
    known = {
        "corpus": {entry.get("part", task) for entry in entries for task in entry["tasks"]},
        "lengths": {str(length) for entry in entries for length in entry.get("lengths", ())},
    }
    for key in known.keys() & settings.keys():
        if "fitted_id" not in settings:
            yield f"{where}: {settings['root']!r} is not fitted; remove {key!r}"
            continue
        for name in map(str, settings[key]):
            if name not in known[key]:
                hint = did_you_mean(name, known[key])
                yield f"{where}.{key}: the corpus has no {name!r}; {hint}"


def _base_problems(base: str, ids: Sequence[str], i: int) -> Iterator[str]:
    """Why entry `i` has no settings; nothing if its base has none, which has its own line."""
    if base in ids[i + 1 :]:
        yield f"config.methods[{i}]: base {base!r} is listed after it; move {base!r} up"
    elif base not in ids[:i]:
        hint = did_you_mean(base, {*catalog.variants(), *ids[:i]})
        yield f"config.methods: unknown method {base!r}; {hint}"


def _class_problems(settings: Mapping[str, Any], where: str) -> Iterator[str]:
    """Whether a method's class is there and takes the parameters."""
    root, base, params = settings["root"], settings["base"], settings["params"]
    given = ("context", "fitted")
    if ":" in root and base != root:  # run by an adapter: the class's own parameters
        params = {key: value for key, value in params.items() if key != "name"}
        base, given = root, settings["sets"]
    module, name = catalog.module_of(base)
    if catalog.source(module) is None:
        yield f"{where}: no module {module!r}, in the checkout or installed; {root!r} needs it"
    elif name not in (known := signature.names(module)):
        near = difflib.get_close_matches(name, known, n=1)
        yield f"{where}: {module} has no {name!r}" + "".join(f"; did you mean {n!r}?" for n in near)
    elif takes := signature.parameters(module, name, given):
        if "fitted_id" in settings:
            takes = _with_training(takes)
        yield from _departures(params, takes, f"{where}.params")


def _with_training(takes: Mapping[str, Any]) -> Mapping[str, Any]:
    """The rest (`**fitting`) of a fitted method's parameters are settings of its training."""
    if not takes["additionalProperties"]:
        return takes
    training = catalog.schema("config")["properties"]["training"]["properties"]
    return {
        **takes,
        "properties": {**training, **takes["properties"]},
        "additionalProperties": False,
    }


def _dataset_problems(config: Mapping[str, Any]) -> Iterator[str]:
    known = benchmarks.tasks()
    for section in ("benchmarks", "corpus"):
        seen: list[str] = []
        for i, entry in enumerate(config.get(section, ())):
            where = f"config.{section}[{i}]"
            name = entry["benchmark"]
            if section == "corpus":
                yield from _held_out_problems(entry, where)
            if not benchmarks.exists(name):
                yield f"{where}: unknown benchmark {name!r}; {did_you_mean(name, known)}"
                continue
            if problems := list(benchmarks.contract_problems(name)):
                yield from (f"{where}: {problem}" for problem in problems)
                continue
            for task in entry["tasks"]:
                if task not in known[name]:
                    yield f"{where}: {name} has no task {task!r}; {did_you_mean(task, known[name])}"
            for key in {"part", "held_out"} & entry.keys() if section == "benchmarks" else ():
                yield f"{where}: {key!r} is for the corpus; remove it"
            yield from _build_problems(entry, where)
            if section == "corpus" and not _trains(name):
                yield f"{where}: {name} has no contexts to train on; name another benchmark"
            seen += [f"{name}/{task}" for task in entry["tasks"]]
        if section == "benchmarks":
            yield from _repeated(seen, "config.benchmarks")


def _held_out_problems(entry: Mapping[str, Any], where: str) -> Iterator[str]:
    """What the corpus may not hold, as a task or as a source of text."""
    name = entry["benchmark"]
    for task in sorted(HELD_OUT.get(name, set()) & set(entry["tasks"])):
        yield f"{where}: {name}/{task} is held out from all training; remove it"
    if "repoqa" in str(entry.get("options", {})).lower():
        yield f"{where}.options: RepoQA is held out from all training; take another source"


def _length_problems(config: Mapping[str, Any]) -> Iterator[str]:
    known = catalog.families()
    windows = {name: known[name].get("max_context") for name in config["families"] if name in known}
    for section in ("benchmarks", "corpus"):
        for i, entry in enumerate(config.get(section, ())):
            rows = benchmarks.tasks().get(entry["benchmark"], {})
            for task in entry["tasks"] if "lengths" in entry else ():
                least = rows[task].shortest if task in rows else 1
                if (length := min(entry["lengths"])) < least:
                    yield (
                        f"config.{section}[{i}].lengths: {length} tokens cannot hold a context of "
                        f"{entry['benchmark']}/{task}; give {least} or more"
                    )
            longest = max(entry.get("lengths", [0]))
            for family, window in windows.items():
                if window and longest > window:
                    yield (
                        f"config.{section}[{i}].lengths: {longest} tokens are more than family "
                        f"{family!r} may see ({window}, max_context of its file)"
                    )


def _build_problems(entry: Mapping[str, Any], where: str) -> Iterator[str]:
    """Whether a benchmark's `build` takes what an entry gives."""
    name = entry["benchmark"]
    takes = signature.parameters(f"proxykv.benchmarks.{name}", "build", BUILD_GIVEN)
    if takes is None:
        return
    for size in SIZES:
        if size in entry and size not in takes["properties"]:
            yield f"{where}: {name} takes no {size!r}; leave it out"
        if size in takes["required"] and size not in entry:
            yield f"{where}: {name} needs {size!r}"
    options = {k: v for k, v in takes["properties"].items() if k not in SIZES}
    required = [key for key in takes["required"] if key not in SIZES]
    takes = {**takes, "properties": options, "required": required}
    yield from _departures(entry.get("options", {}), takes, f"{where}.options")


def _trains(name: str) -> bool:
    """Whether a benchmark's `build` makes contexts of the split "train"."""
    takes = signature.parameters(f"proxykv.benchmarks.{name}", "build", ()) or {}
    splits = takes.get("properties", {}).get("split", {})
    return "train" in splits.get("enum", ["train"])


def _fitting_problems(config: Mapping[str, Any]) -> Iterator[str]:
    """Whether the corpus leaves enough contexts for what is fitted on it."""
    cards = method_cards(config).cards
    default = TrainingSettings().val_contexts
    general = config.get("training", {}).get("val_contexts", default)
    whole = {"corpus": [{**entry, "held_out": 0} for entry in config.get("corpus", ())]}
    for name, settings in catalog.entries(config["methods"]).items():
        if settings.get("fitted_id") != name or not config.get("corpus"):
            continue
        found = _fitted_on(config, settings)
        if found is None:
            continue
        held_out = settings["params"].get("val_contexts", general)
        if found == 0 and _fitted_on(whole, settings):
            yield f"config.corpus: no context is left to fit {name!r} on; lower `held_out`"
        mend = f"set it between 1 and {found - 1}" if found > 1 else "add contexts to the corpus"
        if found and "training" in cards[name].cost and held_out >= found:
            yield (
                f"config.training.val_contexts: {held_out} of the {found} contexts that {name!r} "
                f"is fitted on cannot be held out; {mend}"
            )


def _fitted_on(config: Mapping[str, Any], settings: Mapping[str, Any]) -> int | None:
    """Contexts that a method may be fitted on; None if the sources decide how many there are."""
    parts, lengths = settings.get("corpus"), settings.get("lengths")
    total = 0
    for entry in config["corpus"]:
        for task in entry["tasks"]:
            row = benchmarks.tasks().get(entry["benchmark"], {}).get(task)
            count = entry.get("contexts") or (row and row.contexts)
            if not count:
                return None
            asked = entry.get("lengths", [None])
            left = range(max(0, count - entry.get("held_out", 0)))
            if not parts or entry.get("part", task) in parts:
                total += sum(not lengths or asked[i % len(asked)] in lengths for i in left)
    return total


def _retention_problems(config: Mapping[str, Any]) -> Iterator[str]:
    shares = [float(share) for share in config["retentions"]]
    for i, share in enumerate(shares):
        if not 0 < share <= 1:  # NaN passes the schema's bounds
            yield f"config.retentions[{i}]: {share} is not a share of the context in (0, 1]"
    yield from _repeated(shares, "config.retentions")
    if 1 not in config["retentions"]:
        yield "config.retentions: 1.0 (the full cache) is missing; the others are compared with it"


def _repeated(values: Iterable[str | float], where: str) -> Iterator[str]:
    for value, count in Counter(values).items():
        if count > 1:
            yield f"{where}: {value!r} is listed {count} times"
