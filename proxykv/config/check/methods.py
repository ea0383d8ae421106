"""Mistakes in a config's methods, and in the comparisons of them."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from proxykv.config import catalog, signature
from proxykv.config.cards import SINGLE, method_cards
from proxykv.config.check.schema import departures, did_you_mean, repeated
from proxykv.config.settings.training import training_problems


def method_problems(config: Mapping[str, Any]) -> Iterator[str]:
    """Methods that are unknown, repeated, or lack what they need."""
    ids = [m if isinstance(m, str) else m["id"] for m in config["methods"]]
    yield from repeated(ids, "config.methods")
    known = catalog.entries(config["methods"])
    for i, (name, entry) in enumerate(zip(ids, config["methods"], strict=True)):
        base = entry if isinstance(entry, str) else entry["base"]
        if name not in known:
            yield from _base_problems(base, ids, i)
            continue
        settings, where = known[name], f"config.methods[{i}]"
        if problems := list(_class_problems(settings, config["retentions"], where)):
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
    fitted = [name for name, s in known.items() if "fitted_id" in s and "fitted" not in s]
    if fitted and not config.get("corpus"):
        yield f"config.corpus: missing, but {', '.join(fitted)} must be fitted on it"


def role_problems(config: Mapping[str, Any]) -> Iterator[str]:
    """Roles that two methods share although a run has one method of that role."""
    cards = method_cards(config)
    for role in SINGLE:
        if len(ids := cards.ids(role)) > 1:
            yield f"config.methods: {' and '.join(ids)} have the role {role!r}; keep one of them"


def comparison_problems(config: Mapping[str, Any]) -> Iterator[str]:
    """Compared methods that the run lacks, and comparisons that are repeated."""
    ids = [m if isinstance(m, str) else m["id"] for m in config["methods"]]
    listed = config.get("comparisons", ())
    yield from repeated([entry["group"] for entry in listed], "config.comparisons")
    for i, entry in enumerate(listed):
        where = f"config.comparisons[{i}]"
        for one, other in entry["pairs"]:
            if one == other:
                yield f"{where}: {one!r} is compared with itself"
            for name in dict.fromkeys((one, other)):
                if name not in ids:
                    yield f"{where}: the run has no method {name!r}; {did_you_mean(name, ids)}"
        yield from repeated([" - ".join(pair) for pair in entry["pairs"]], where)


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
    accepted = signature.parameters(*catalog.module_of(settings["base"]), ()) or {}
    if accepted.get("additionalProperties"):
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
    if "fitted" in settings and "fitted_id" not in settings:
        yield f"{where}: {settings['root']!r} is not fitted; remove 'fitted'"
    for key in known.keys() & settings.keys():
        if "fitted" in settings:
            yield f"{where}: `fitted` says where it is fitted already; remove {key!r}"
            continue
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


def _class_problems(
    settings: Mapping[str, Any], retentions: Sequence[float], where: str
) -> Iterator[str]:
    """Whether a method's class is there and takes the parameters."""
    root, base, params = settings["root"], settings["base"], settings["params"]
    given = ("context", "fitted")
    if ":" in root and base != root:  # run by an adapter
        params, problems = _of_adapted(settings, retentions, f"{where}.params")
        if problems:
            yield from problems
            return
        base, given = root, settings["sets"]
    module, name = catalog.module_of(base)
    if catalog.source(module) is None:
        how = f": {settings['install']}" if "install" in settings else ""
        yield f"{where}: no module {module!r}, in the checkout or installed; {root!r} needs it{how}"
    elif name not in (known := signature.names(module)):
        near = difflib.get_close_matches(name, known, n=1)
        yield f"{where}: {module} has no {name!r}" + "".join(f"; did you mean {n!r}?" for n in near)
    elif accepted := signature.parameters(module, name, given):
        if "fitted" in settings:
            accepted = {**accepted, "additionalProperties": False}  # nothing is trained
        elif "fitted_id" in settings:
            accepted = _with_training(accepted)
        yield from departures(params, accepted, f"{where}.params")


def _of_adapted(
    settings: Mapping[str, Any], retentions: Sequence[float], where: str
) -> tuple[Mapping[str, Any], list[str]]:
    """Parameters of a class that an adapter runs, and what is wrong with the adapter's.

    The parameter `at` of an adapter lists those of the class at each retention.
    """
    own = signature.parameters(*catalog.module_of(settings["base"]), ("context",)) or {}
    params, known = settings["params"], own["properties"]
    adapter = {key: value for key, value in params.items() if key in known}
    problems = list(departures(adapter, own, where))
    entries = [] if problems else adapter.get("at", ())
    for i, entry in enumerate(entries):
        if not isinstance(entry, Mapping) or "retention" not in entry:
            problems.append(f"{where}.at[{i}]: expected {{retention: …, <parameter>: …}}")
    if entries and not problems:
        listed = [entry["retention"] for entry in entries]
        problems += repeated(map(str, listed), f"{where}.at")
        missing = sorted({r for r in retentions if r < 1} - set(listed))
        problems += [f"{where}.at: no entry of retention {value}" for value in missing]
    varied = entries[0] if entries and not problems else {}
    rest = {key: value for key, value in params.items() if key not in known}
    return {**rest, **{k: v for k, v in varied.items() if k != "retention"}}, problems


def _with_training(accepted: Mapping[str, Any]) -> Mapping[str, Any]:
    """The rest (`**fitting`) of a fitted method's parameters are settings of its training."""
    if not accepted["additionalProperties"]:
        return accepted
    training = catalog.schema("config")["properties"]["training"]["properties"]
    return {
        **accepted,
        "properties": {**training, **accepted["properties"]},
        "additionalProperties": False,
    }
