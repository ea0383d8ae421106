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


# Not part of a run: `snakemake score_fidelity` scores the contexts with every method and answers nothing.
rule fidelity:
    input:
        converted,
        dataset=lambda wildcards: str(job(wildcards).dataset.path),
        fitted=rules.generate.input.fitted,
    output:
        str(RUN.dir / "fidelity/{family}/{benchmark}/{task}.parquet"),
    log:
        f"{LOGS}/fidelity/{{family}}-{{benchmark}}-{{task}}.log",
    benchmark:
        f"{LOGS}/fidelity/{{family}}-{{benchmark}}-{{task}}.tsv"
    priority: lambda wildcards: ORDER[job(wildcards).file("rows")]
    conda:
        "../envs/proxykv.yaml"
    threads: lambda wildcards: RUN.resources(wildcards.family, "generate")["threads"]
    resources:
        **asks("generate"),
    params:
        key=lambda wildcards: job_keys.answering(RUN, wildcards.family),
        code=code_digest("proxykv.steps.fidelity.scores:fidelity"),
    shell:
        model_step(
            "fidelity {wildcards.family:q} {wildcards.benchmark:q} {wildcards.task:q}"
        )


rule score_fidelity:
    input:
        [str(job.file("fidelity")) for job in RUN.jobs()],
    output:
        str(RUN.dir / "tables/score_fidelity.csv"),
        str(RUN.dir / "tables/score_fidelity.tex"),
    log:
        f"{LOGS}/score_fidelity.log",
    conda:
        "../envs/proxykv.yaml"
    params:
        code=code_digest("proxykv.steps.fidelity.scores:score_fidelity"),
    shell:
        step("score-fidelity")


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
