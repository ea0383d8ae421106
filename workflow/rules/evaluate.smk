# A job per task: generation (model work, journalled), then grading (CPU).

ORDER = {job.file("rows"): -number for number, job in enumerate(RUN.jobs())}


rule generate:
    input:
        converted,
        dataset=lambda wildcards: str(job(wildcards).dataset.path),
        fitted=lambda wildcards: [
            str(paths.fitted_dir(RUN, wildcards.family, fitted_id) / "card.json")
            for fitted_id in RUN.fitted_ids
        ],
    output:
        str(RUN.dir / "predictions/{family}/{benchmark}/{task}.parquet"),
    log:
        f"{LOGS}/generate/{{family}}-{{benchmark}}-{{task}}.log",
    benchmark:
        f"{LOGS}/generate/{{family}}-{{benchmark}}-{{task}}.tsv"
    # Tasks in the config's order: whatever is done when a run is stopped is a beginning of it.
    priority: lambda wildcards: ORDER[job(wildcards).file("rows")]
    conda:
        "../envs/proxykv.yaml"
    threads: lambda wildcards: RUN.resources(wildcards.family, "generate")["threads"]
    resources:
        **asks("generate"),
    params:
        key=lambda wildcards: job_keys.answering(RUN, wildcards.family),
    shell:
        model_step(
            "generate {wildcards.family:q} {wildcards.benchmark:q} {wildcards.task:q}"
        )


rule grade:
    input:
        rules.generate.output,
        dataset=lambda wildcards: str(job(wildcards).dataset.path),
    output:
        str(RUN.dir / "rows/{family}/{benchmark}/{task}.parquet"),
    log:
        f"{LOGS}/grade/{{family}}-{{benchmark}}-{{task}}.log",
    conda:
        "../envs/proxykv.yaml"
    params:
        code=lambda wildcards: code_digest(
            "proxykv.steps.grade:grade",
            f"proxykv.benchmarks.{wildcards.benchmark}:grade",
        ),
        columns=digest(list(columns().items())),
    shell:
        step("grade {wildcards.family:q} {wildcards.benchmark:q} {wildcards.task:q}")


# A target for each benchmark: `snakemake ruler` makes its rows, `snakemake ruler -R grade` again.
for BENCHMARK in sorted({job.benchmark for job in RUN.jobs()}):

    rule:
        name:
            BENCHMARK
        input:
            [str(c.file("rows")) for c in RUN.jobs() if c.benchmark == BENCHMARK],
        localrule: True
