"""Whether the corpus leaves enough contexts for what is fitted on it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from proxykv.config import benchmarks, catalog
from proxykv.config.cards import method_cards
from proxykv.config.settings.training import TrainingSettings


def fitting_problems(config: Mapping[str, Any]) -> Iterator[str]:
    """Whether the corpus leaves enough contexts for what is fitted on it."""
    cards = method_cards(config).cards
    default = TrainingSettings().val_contexts
    general = config.get("training", {}).get("val_contexts", default)
    complete = {"corpus": [{**entry, "held_out": 0} for entry in config.get("corpus", ())]}
    for name, settings in catalog.entries(config["methods"]).items():
        here = settings.get("fitted_id") == name and "fitted" not in settings
        if not here or not config.get("corpus"):
            continue
        found = _fitted_on(config, settings)
        if found is None:
            continue
        held_out = settings["params"].get("val_contexts", general)
        if found == 0 and _fitted_on(complete, settings):
            yield f"config.corpus: no context is left to fit {name!r} on; lower `held_out`"
        remedy = f"set it between 1 and {found - 1}" if found > 1 else "add contexts to the corpus"
        if found and "training" in cards[name].cost and held_out >= found:
            yield (
                f"config.training.val_contexts: {held_out} of the {found} contexts that {name!r} "
                f"is fitted on cannot be held out; {remedy}"
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
            entry_lengths = entry.get("lengths", [None])
            left = max(0, count - entry.get("held_out", 0))
            if not parts or entry.get("part", task) in parts:
                total += sum(
                    len(range(i, left, len(entry_lengths)))  # lengths are taken in turn
                    for i, length in enumerate(entry_lengths)
                    if not lengths or length in lengths
                )
    return total
