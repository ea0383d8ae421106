# Time and memory: a job per scan and family. It has the machine's cores to itself, so that no other job
# of this run changes what it measures; a GPU belongs to one job anyway.
from dataclasses import asdict

from proxykv.config.efficiency import measuring_job, resources
from proxykv.config.keys.code import timed_digest


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


rule efficiency:
    input:
        measured_on,
    output:
        str(RUN.dir / "efficiency/{family}/{scan}.parquet"),
    log:
        f"{LOGS}/efficiency/{{family}}-{{scan}}.log",
    wildcard_constraints:
        family=one_of(job.family for job in MEASURING),
        scan=one_of(job.scan.name for job in MEASURING),
    conda:
        "../envs/proxykv.yaml"
    threads: workflow.cores or 1
    resources:
        cpus_per_task=measuring_asks("threads"),
        gpu=measuring_asks("gpu"),
        mem_mb=measuring_asks("mem_mb", grows=True),
        runtime=measuring_asks("runtime", grows=True),
    params:
        cases=lambda wildcards: digest(
            [asdict(measuring(wildcards).scan), RUN.seed, dict(RUN.training)]
        ),
        methods=lambda wildcards: digest(
            [
                timed_digest(RUN.methods[name])
                for name in measuring(wildcards).scan.methods
            ]
        ),
    shell:
        step(
            "efficiency {wildcards.family:q} {wildcards.scan:q} "
            "--threads {resources.cpus_per_task} --gpus {resources.gpu}"
        )


# A target of its own: `snakemake measure`.
rule measure:
    input:
        MEASURED,
    localrule: True
