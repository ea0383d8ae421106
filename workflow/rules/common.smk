# What all rules share. Each is one call of the package, `proxykv <step> … --config …`.
# Rules run in the environment that snakemake was started in, or with `--sdm conda` in one of their own.

LOGS = f"results/{RUN.name}/logs"


onstart:
    RUN.write()


onsuccess:
    print(f"Report: {RUN.dir}/report/index.html")


report: "../report/workflow.rst"


wildcard_constraints:
    family="[^/]+",
    role="target|proxy",
    benchmark="[^/]+",
    task="[^/]+",
    method="[^/]+",


def step(call):
    """Shell command of a rule: a step of the package, logged."""
    return f"python -m proxykv {call} --config {RUN.dir}/config.json >{{log}} 2>&1"


def family_resources(name):
    """A resource of the job's family, from its file."""
    return lambda wildcards: RUN.family(wildcards.family)["resources"][name]


def models(wildcards):
    """Files that exist once the family's models are there."""
    return [
        str(RUN.model_ready(wildcards.family, role)) for role in ("target", "proxy")
    ]


def cell(wildcards):
    """The job's part of the run."""
    return RUN.cell(wildcards.family, wildcards.benchmark, wildcards.task)
