# What all rules share. Each rule is one call of the package, `proxykv <step> … --config …`.
# Rules run in the environment of snakemake, or with `--sdm conda` in a separate one.
import atexit
import re
import shlex

from proxykv.config.cost.estimate import estimate, total
from proxykv.config.efficiency import measuring_job, measuring_jobs, resources

# Of every job the scheduler says three times what it does.
logger.addFilter(
    lambda record: not str(record.msg).startswith(("Select jobs to", "Execute "))
)

LOGS = f"results/{RUN.name}/logs"

# Not in the commands: a changed command would make again what runs share.
shell.prefix(
    f"set -euo pipefail; export PROXYKV_CONFIG={shlex.quote(str(RUN.dir))}/config.json; "
)


# Released when the process ends, however it ends.
ALONE = Lock(RUN.dir / "workflow.lock")


onstart:
    ALONE.take(patience=0)
    RUN.write()


onsuccess:
    print(f"Report: {RUN.dir}/report/index.html")


# Whether this is a dry run is known only after the rules have been read, and it runs no hooks. One
# that failed has planned nothing.
@atexit.register
def say_hours():
    if workflow.dryrun and workflow.scheduler:
        print(total(estimate(RUN)))


report: "../report/workflow.rst"


def one_of(names):
    """Pattern of a wildcard that must be one of these names, which may hold hyphens and dots."""
    return "|".join(map(re.escape, sorted(set(names)))) or "(?!)"


DATASETS = [
    dataset
    for family in RUN.families
    for split in SPLITS
    for dataset in RUN.datasets(family, split)
]


MEASURING = measuring_jobs(RUN)
MEASURED = [str(job.file) for job in MEASURING]


wildcard_constraints:
    family=one_of(RUN.families),
    role=one_of(ROLES),
    benchmark=one_of(dataset.benchmark for dataset in DATASETS),
    task=one_of([d.task for d in DATASETS] + [job.name for job in RUN.jobs()]),
    method=one_of(RUN.fitted_ids),
    signal=one_of(signal.name for signal in RUN.stored_signals),


def step(call, network=False):
    """Shell command of a rule: one step of the package, with two logs.

    One log holds this attempt, the other one (`.all`) every attempt. Values in `call` must be
    quoted (`{wildcards.task:q}`): names come from configs.
    """
    offline = "" if network else "HF_HUB_OFFLINE=1 "
    return f"{offline}python -m proxykv {call} 2>&1 | tee -a {{log:q}}.all >{{log:q}}"


def model_step(call):
    """The same for a step that runs models, with the threads and GPUs of the job."""
    return step(f"{call} --threads {{threads}} --gpus {{resources.gpu}}")


def asks(step):
    """Resources of a family's job. A retry gets half as much memory and time again."""

    def amount(name, grows):
        def ask(wildcards, attempt):
            base = RUN.resources(wildcards.family, step)[name]
            return base * (attempt + 1) // 2 if grows else base

        return ask

    return {
        # Not `threads`, which --cores of the login node would cut.
        "cpus_per_task": amount("threads", False),
        "gpu": amount("gpu", False),
        "mem_mb": amount("mem_mb", True),
        "runtime": amount("runtime", True),
    }


# Figures are found by their files.
PLOTS = modules_of("proxykv.report.plots")


def converted(wildcards, roles=ROLES):
    """Files that exist once the family's models are converted."""
    both = (paths.conversion(RUN, wildcards.family, role) for role in roles)
    return [str(path) for found in both for path in found]


# A proxy of several families scores once: the others wait for the first one, and take its scores.
def after_first(wildcards, lists):
    """The shard's list of the first family with the same proxy; nothing for that family."""
    first = paths.first_with_proxy(RUN, wildcards.family)
    if first == wildcards.family:
        return []
    return ancient(str(lists(first)[int(wildcards.shard) - 1]))


def job(wildcards):
    """The job's part of the run."""
    return RUN.job(wildcards.family, wildcards.benchmark, wildcards.task)


def measuring(wildcards):
    return measuring_job(RUN, wildcards.family, wildcards.scan)


def measured_on(wildcards):
    """What must be there: models, fitted methods and contexts; nothing for random weights."""
    job = measuring(wildcards)
    if job.scan.weights == "random":
        return []
    fitted = [
        paths.fitted_dir(RUN, job.family, RUN.methods[method].fitted_id) / "card.json"
        for method in job.scan.methods
        if RUN.methods[method].fitted_id
    ]
    data = [dataset.path for dataset in job.datasets]
    return [*converted(wildcards), *map(str, [*fitted, *data])]


def measuring_asks(name, grows=False):
    def ask(wildcards, attempt):
        base = resources(RUN, measuring(wildcards))[name]
        return base * (attempt + 1) // 2 if grows else base

    return ask
