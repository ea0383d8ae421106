"""Where the parts of a run are kept. All paths are relative to the checkout.

Models, data and stored scores lie in the cache that runs share; the rest in the run's own folder.
"""

from __future__ import annotations

from pathlib import Path

from proxykv.config.keys.model_files import PROVENANCE, PROXY, SCORING
from proxykv.config.models import source_of
from proxykv.config.run import Run
from proxykv.config.settings.signals import Signal, stored_signals
from proxykv.runtime.digest import digest


def conversion(run: Run, family: str, role: str) -> list[Path]:
    """The file that exists once a model is converted; none for a local folder.

    Args:
        run: the run.
        family: name of the family.
        role: "target" or "proxy".
    """
    model = run.model(family, role)
    return [model.folder / PROVENANCE] if source_of(model.settings) else []


def score_lists(run: Run, family: str) -> list[Path]:
    """Lists of the stored KVzip scores of the corpus, one for each extraction job.

    The score files next to them belong to the pair; they do not depend on the corpus or the run.

    Args:
        run: the run.
        family: name of the family.
    """
    return _lists(run, family, "scores")


def input_lists(run: Run, family: str) -> list[Path]:
    """Lists of the stored inputs of the target's layers, which some methods are fitted on.

    There is one list for each extraction job.

    Args:
        run: the run.
        family: name of the family.
    """
    return _lists(run, family, "inputs")


def signal_lists(run: Run, family: str, signal: Signal) -> list[Path]:
    """Lists of another stored signal of the proxy than its KVzip scores.

    There is one list for each extraction job.

    Args:
        run: the run.
        family: name of the family.
        signal: the signal.
    """
    return _lists(run, family, f"signal-{signal.name}")


def fitting_lists(run: Run, family: str, fitted_id: str) -> list[Path]:
    """Lists of all that a method is fitted on; none for one that is fitted elsewhere.

    Args:
        run: the run.
        family: name of the family.
        fitted_id: id of a method that is fitted.
    """
    method = run.fitted_method(fitted_id)
    if method.fitted:
        return []
    read = stored_signals([method.params], run.training)
    return [
        *score_lists(run, family),
        *(input_lists(run, family) if method.inputs else []),
        *(path for signal in read for path in signal_lists(run, family, signal)),
    ]


def fitting_inputs(run: Run, family: str, fitted_id: str) -> list[Path]:
    """List the files that the step `fit` reads.

    Args:
        run: the run.
        family: name of the family.
        fitted_id: id of a method that is fitted.
    """
    if ready := run.ready(family, fitted_id):
        return [ready / "weights.safetensors", ready / "card.json"]
    return [*fitting_lists(run, family, fitted_id), dropped(run, family)]


def _lists(run: Run, family: str, kind: str) -> list[Path]:
    target, proxy = run.model(family, "target"), run.model(family, "proxy")
    pair = digest([target.key(SCORING, planned=True), proxy.key(PROXY, planned=True)])
    corpus = digest([str(d.path) for d in run.datasets(family, "train")])
    folder = run.cache / "scores" / f"{family}-{pair}"
    shards: int = run.config["score_shards"]
    return [folder / f"{kind}-{corpus}-{i + 1}-of-{shards}.json" for i in range(shards)]


def first_with_proxy(run: Run, family: str) -> str:
    """The run's first family with the same proxy: it stores the proxy's scores for the others.

    Args:
        run: the run.
        family: name of the family; it may be the first itself.
    """
    proxies = {name: run.models(name)["proxy"] for name in run.families}
    return next(name for name, proxy in proxies.items() if proxy == proxies[family])


def screening(run: Run, family: str) -> Path:
    """Report on the text that training and evaluation contexts share (see `steps.screen`).

    Args:
        run: the run.
        family: name of the family.
    """
    return run.dir / "mappers" / family / "screening.json"


def dropped(run: Run, family: str) -> Path:
    """Names of the training contexts that a family's mappers may not see.

    The name of the file says what is screened and how. It does not depend on the evaluation
    contexts.

    Args:
        run: the run.
        family: name of the family.
    """
    corpus = [str(d.path) for d in run.datasets(family, "train")]
    name = f"dropped-{digest([corpus, run.config['decontamination']])}.json"
    return run.dir / "mappers" / family / name


def fitted_dir(run: Run, family: str, fitted_id: str) -> Path:
    """Folder of a fitted method.

    Args:
        run: the run.
        family: name of the family.
        fitted_id: id of a method that is fitted.
    """
    return run.dir / "mappers" / family / fitted_id


def row_files(run: Run) -> list[Path]:
    """Files of rows that exist, of the run's own jobs.

    The folder may hold others: of tasks that the config no longer names, or shards differently.
    """
    return [path for job in run.jobs() if (path := job.file("rows")).exists()]
