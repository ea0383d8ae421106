# Time and memory: a job per scan and family. It has the machine's cores to itself, so that no other job
# of this run changes what it measures; a GPU belongs to one job anyway.


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
        key=lambda wildcards: job_keys.measuring(RUN, measuring(wildcards)),
    shell:
        step(
            "efficiency {wildcards.family:q} {wildcards.scan:q} "
            "--threads {resources.cpus_per_task} --gpus {resources.gpu}"
        )


# `snakemake measure` makes these only.
rule measure:
    input:
        MEASURED,
    localrule: True
