# What every rule shares. A rule is one call of the package: `proxykv <step> … --config …`.

PROXYKV = f"{sys.executable} -m proxykv"
CONFIG = str(RUN.dir / "config.json")
LOGS = f"results/{RUN.name}/logs"


onstart:
    RUN.write()


report: "../report/workflow.rst"


wildcard_constraints:
    family="[^/]+",
    role="target|proxy",
    benchmark="[^/]+",
    task="[^/]+",
    method="[^/]+",


def family_resources(name):
    """A resource of the job's family, from its file."""
    return lambda wildcards: RUN.family(wildcards.family)["resources"][name]


def models(wildcards):
    """Files that exist once the family's models are there."""
    return [str(RUN.model_ready(wildcards.family, role)) for role in ("target", "proxy")]


def converted(role):
    """Families whose model has to be fetched and converted first."""
    return [name for name in RUN.families if "path" not in RUN.family(name)[role]]
