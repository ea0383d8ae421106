# Training scores of target and proxy, and what is fitted on them.


rule extract_scores:
    input:
        models,
        lambda wildcards: [str(d.path) for d in RUN.datasets(wildcards.family, "train")],
    output:
        str(RUN.cache / "scores/{family}-{id}/index.json"),
    log:
        f"{LOGS}/scores/{{family}}-{{id}}.log",
    benchmark:
        f"{LOGS}/scores/{{family}}-{{id}}.tsv"
    wildcard_constraints:
        id="[0-9a-f]+",
    conda:
        "../envs/proxykv.yaml"
    threads: family_resources("threads")
    resources:
        mem_mb=family_resources("mem_mb"),
        gpu=family_resources("gpu"),
    params:
        code=code_digest("proxykv.scores"),
    shell:
        step("scores {wildcards.family} --threads {threads}")


rule fit_method:
    input:
        lambda wildcards: str(RUN.scores_dir(wildcards.family) / "index.json"),
    output:
        str(RUN.dir / "mappers/{family}/{method}/card.json"),
    log:
        f"{LOGS}/fit/{{family}}-{{method}}.log",
    benchmark:
        f"{LOGS}/fit/{{family}}-{{method}}.tsv"
    conda:
        "../envs/proxykv.yaml"
    threads: family_resources("threads")
    resources:
        mem_mb=family_resources("mem_mb"),
        gpu=family_resources("gpu"),
    params:
        code=lambda wildcards: code_digest(
            f"baselines.{RUN.methods[wildcards.method].base}"
        ),
        settings=lambda wildcards: digest(
            [RUN.seed, RUN.training, RUN.methods[wildcards.method].params]
        ),
    shell:
        step("fit {wildcards.family} {wildcards.method} --threads {threads}")
