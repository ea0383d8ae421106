"""Decontamination: training contexts that share text with an evaluation context are left out."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Sequence
from itertools import chain
from pathlib import Path

from proxykv.benchmarks.examples import Example, read_jsonl
from proxykv.config import paths
from proxykv.config.run import Run
from proxykv.mapper.corpus import context_name
from proxykv.runtime.errors import ConfigError
from proxykv.runtime.files import write_json

# Chinese and Japanese have no spaces: every character counts as a word.
WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W\u3040-\u30ff\u3400-\u9fff]+")


def screen(run: Run, family: str) -> Path:
    """Compare every training context of a run with all its evaluation contexts.

    Contexts of the corpus that are held out count as evaluation contexts. The report holds the
    settings, the dropped contexts with the share of their n-grams that an evaluation context has
    too, and the largest share of a kept context. Mappers depend only on the names of the dropped
    contexts. These are in another file, which is written only if they change, so that new
    evaluation contexts without shared text cost no training.

    Args:
        run: the run.
        family: one of its families.

    Returns:
        The report's file.

    Raises:
        ConfigError: if no training context is left.
    """
    settings = run.config["decontamination"]
    corpus = [(d.held_out, read_jsonl(d.path)) for d in run.datasets(family, "train")]
    train = [e for last, examples in corpus for e in examples[: len(examples) - last]]
    held_out = [e for last, examples in corpus for e in examples[len(examples) - last :]]
    evaluated = (e for d in run.datasets(family, "eval") for e in read_jsonl(d.path))
    test = chain(held_out, evaluated)
    shares = overlaps(train, test, settings["ngram"])
    dropped = {name: share for name, share in shares.items() if share > settings["limit"]}
    if len(dropped) == len(shares):
        raise ConfigError(
            f"corpus of {family}: all {len(shares)} contexts share text with evaluation contexts; "
            "name other sources, or raise decontamination.limit"
        )
    report = {
        **settings,
        "contexts": len(train),
        "dropped": dropped,
        "largest_share_kept": max(shares[name] for name in shares if name not in dropped),
    }
    path = paths.dropped(run, family)
    if not path.exists() or json.loads(path.read_text("utf-8")) != sorted(dropped):
        write_json(path, sorted(dropped))
    write_json(paths.screening(run, family), report)
    return paths.screening(run, family)


def require_clean(run: Run, family: str) -> None:
    """Check that every fitted method was fitted without exactly the contexts that are dropped now.

    A method that is not fitted yet has answered nothing.

    Args:
        run: the run.
        family: name of the family.

    Raises:
        ConfigError: if a method was fitted on others, or the list of dropped contexts is gone.
    """
    again = "run the same command again"
    folders = [paths.fitted_dir(run, family, fitted_id) for fitted_id in run.fitted_here]
    fitted, listed = [f for f in folders if (f / "card.json").exists()], paths.dropped(run, family)
    if fitted and not listed.exists():
        raise ConfigError(f"{listed}: missing; {again}, which compares the contexts again")
    for folder in fitted:
        card = json.loads((folder / "card.json").read_text("utf-8"))
        if card["decontamination"]["dropped"] != json.loads(listed.read_text("utf-8")):
            raise ConfigError(
                f"{folder}: new evaluation contexts share text with what it was fitted on; "
                f"{again}, which fits it again"
            )


def overlaps(train: Sequence[Example], test: Iterable[Example], ngram: int) -> dict[str, float]:
    """Share of each training context's n-grams that occur in any test context.

    Args:
        train: training contexts.
        test: evaluation contexts.
        ngram: words of an n-gram.

    Returns:
        Shares in [0, 1] by the names of the training contexts.
    """
    grams = {context_name(example): ngrams(example.context, ngram) for example in train}
    # Only the training side is held in memory: whole benchmarks are larger than a corpus.
    trained = {gram for listed in grams.values() for gram in listed}
    shared = {
        gram for example in test for gram in ngrams(example.context, ngram) if gram in trained
    }
    return {
        name: sum(gram in shared for gram in listed) / len(listed) for name, listed in grams.items()
    }


def ngrams(text: str, size: int) -> list[tuple[str, ...]]:
    """List the runs of words of a text, in lower case and without punctuation.

    Args:
        text: the text.
        size: words of a run; a shorter text is one run.
    """
    words = WORD.findall(text.lower())
    return [tuple(words[i : i + size]) for i in range(max(len(words) - size, 0) + 1)]


def kept(files: Sequence[Path], dropped: Collection[str]) -> list[Path]:
    """Score files of the contexts that were not dropped.

    Args:
        files: stored scores of the training contexts.
        dropped: names of contexts.
    """
    return [path for path in files if path.stem not in dropped]
