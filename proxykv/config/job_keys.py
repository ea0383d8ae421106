"""Digests of the settings that a job's results depend on.

The workflow makes a result again when its job's digest changes. The code and the files that a job
reads count besides (see `keys.code`, `paths`).
"""

from __future__ import annotations

from dataclasses import asdict, replace

from proxykv.config.efficiency import MeasuringJob
from proxykv.config.keys.code import method_digest, timed_digest
from proxykv.config.keys.model_files import ANSWERING, PROXY, SCORING
from proxykv.config.run import ROLES, Run
from proxykv.runtime.digest import digest


def answering(run: Run, family: str) -> str:
    """Digest of what decides the answers to a dataset's questions, other than fitted methods.

    Args:
        run: the run.
        family: name of the family.
    """
    return digest(
        [
            {method.id: method_digest(method) for method in run.methods.values()},
            run.retentions,
            [run.seed, run.protocol, run.schedule, run.limit],
            run.model(family, "target").key(ANSWERING, planned=True),
            run.model(family, "proxy").key(PROXY, planned=True),
        ]
    )


def screening(run: Run, family: str) -> str:
    """Digest of how the corpus is screened, and of which of its contexts are held out.

    Args:
        run: the run.
        family: name of the family.
    """
    held_out = [dataset.held_out for dataset in run.datasets(family, "train")]
    return digest([run.config["decontamination"], held_out])


def fitting(run: Run, family: str, fitted_id: str) -> str:
    """Digest of the settings that a method is fitted with.

    Args:
        run: the run.
        family: name of the family.
        fitted_id: id of a method that is fitted.
    """
    method = run.methods[fitted_id]
    parts = [(dataset.part, dataset.held_out) for dataset in run.datasets(family, "train")]
    return digest([run.seed, run.training, method.params, method.corpus, method.lengths, parts])


def measuring(run: Run, job: MeasuringJob) -> str:
    """Digest of what is measured, and how, other than fitted methods.

    Args:
        run: the run.
        job: one of its scans.
    """
    scan = replace(job.scan, families=(job.family,))  # the run's others are measured elsewhere
    methods = [timed_digest(run.methods[name]) for name in scan.methods]
    models = [
        run.family(job.family)[role]
        if scan.weights == "random"
        else run.model(job.family, role).key(SCORING, planned=True)
        for role in ROLES
    ]
    return digest([asdict(scan), run.seed, dict(run.training), methods, models])
