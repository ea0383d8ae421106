# What all rules share. Each is one call of the package, `proxykv <step> … --config …`.
# Rules run in the environment that snakemake was started in, or with `--sdm conda` in one of their own.
import atexit

from proxykv.config.estimate import estimate, total

LOGS = f"results/{RUN.name}/logs"

# Not in the commands: what runs share would be made anew for each, as a command that has changed.
shell.prefix(f"set -euo pipefail; export PROXYKV_CONFIG={RUN.dir}/config.json; ")


# Given back when the process ends, however it ends.
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


wildcard_constraints:
    family="[^/]+",
    role="target|proxy",
    benchmark="[^/]+",
    task="[^/]+",
    method="[^/]+",


def step(call, network=False):
    """Shell command of a rule: a step of the package. Its log, and one of all attempts at it."""
    offline = "" if network else "HF_HUB_OFFLINE=1 "
    return f"{offline}python -m proxykv {call} 2>&1 | tee -a {{log}}.all >{{log}}"


def model_step(call):
    """The same for a step that runs models, with what the job was given."""
    return step(f"{call} --threads {{threads}} --gpus {{resources.gpu}}")


def asks(step):
    """What a family's job asks for. A retry gets half as much memory and time again."""

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


def models(wildcards):
    """Files that exist once the family's models are there."""
    return [
        str(RUN.model_ready(wildcards.family, role)) for role in ("target", "proxy")
    ]


def job(wildcards):
    """The job's part of the run."""
    return RUN.job(wildcards.family, wildcards.benchmark, wildcards.task)
