# Training scores of target and proxy, and what is fitted on them.


rule extract:
    input:
        converted,
        lambda wildcards: [str(d.path) for d in RUN.datasets(wildcards.family, "train")],
        lambda wildcards: after_first(
            wildcards, lambda first: paths.score_lists(RUN, first)
        ),
    output:
        str(
            RUN.cache
            / "scores/{family}-{pair}/scores-{corpus}-{shard}-of-{shards}.json"
        ),
    log:
        f"{LOGS}/extract/{{family}}-{{pair}}-{{corpus}}-{{shard}}-of-{{shards}}.log",
    benchmark:
        f"{LOGS}/extract/{{family}}-{{pair}}-{{corpus}}-{{shard}}-of-{{shards}}.tsv"
    wildcard_constraints:
        pair="[0-9a-f]+",
        corpus="[0-9a-f]+",
        shard="[0-9]+",
        shards="[0-9]+",
    conda:
        "../envs/proxykv.yaml"
    threads: lambda wildcards: RUN.resources(wildcards.family, "extract")["threads"]
    resources:
        **asks("extract"),
    params:
        code=code_digest("proxykv.steps.extract:extract"),
    shell:
        model_step("extract {wildcards.family:q} {wildcards.shard:q}")


# Rules apart for what only some methods are fitted on: a method that needs more fits no other again.
rule extract_inputs:
    input:
        lambda wildcards: converted(wildcards, ["target"]),
        lambda wildcards: [str(d.path) for d in RUN.datasets(wildcards.family, "train")],
    output:
        str(
            RUN.cache
            / "scores/{family}-{pair}/inputs-{corpus}-{shard}-of-{shards}.json"
        ),
    log:
        f"{LOGS}/extract_inputs/{{family}}-{{pair}}-{{corpus}}-{{shard}}-of-{{shards}}.log",
    benchmark:
        f"{LOGS}/extract_inputs/{{family}}-{{pair}}-{{corpus}}-{{shard}}-of-{{shards}}.tsv"
    wildcard_constraints:
        pair="[0-9a-f]+",
        corpus="[0-9a-f]+",
        shard="[0-9]+",
        shards="[0-9]+",
    conda:
        "../envs/proxykv.yaml"
    threads: lambda wildcards: RUN.resources(wildcards.family, "extract")["threads"]
    resources:
        **asks("extract"),
    params:
        code=code_digest("proxykv.steps.extract:extract_inputs"),
    shell:
        model_step("extract-inputs {wildcards.family:q} {wildcards.shard:q}")


rule extract_signal:
    input:
        converted,
        lambda wildcards: [str(d.path) for d in RUN.datasets(wildcards.family, "train")],
        lambda wildcards: after_first(
            wildcards,
            lambda first: paths.signal_lists(
                RUN, first, RUN.stored_signal(wildcards.signal)
            ),
        ),
    output:
        str(
            RUN.cache
            / "scores/{family}-{pair}/signal-{signal}-{corpus}-{shard}-of-{shards}.json"
        ),
    log:
        f"{LOGS}/extract_signal/{{family}}-{{pair}}-{{signal}}-{{corpus}}-{{shard}}-of-{{shards}}.log",
    benchmark:
        f"{LOGS}/extract_signal/{{family}}-{{pair}}-{{signal}}-{{corpus}}-{{shard}}-of-{{shards}}.tsv"
    wildcard_constraints:
        pair="[0-9a-f]+",
        corpus="[0-9a-f]+",
        shard="[0-9]+",
        shards="[0-9]+",
    conda:
        "../envs/proxykv.yaml"
    threads: lambda wildcards: RUN.resources(wildcards.family, "extract")["threads"]
    resources:
        **asks("extract"),
    params:
        code=code_digest("proxykv.steps.extract:extract_signal"),
    shell:
        model_step(
            "extract-signal {wildcards.family:q} {wildcards.signal:q} {wildcards.shard:q}"
        )


# Compares words and takes seconds. Fits depend on the list of dropped contexts. Once that list exists,
# it is no output of this rule; the step writes it again if it changes. So a plan with a new task fits
# nothing. (`ancient` inputs would do the same, but hide other reasons to run their rules.)
for FAMILY in RUN.families:

    rule:
        name:
            f"screen_{FAMILY}"
        input:
            [
                str(d.path)
                for split in ("train", "eval")
                for d in RUN.datasets(FAMILY, split)
            ],
        output:
            str(paths.screening(RUN, FAMILY)),
            []
            if paths.dropped(RUN, FAMILY).exists()
            else str(paths.dropped(RUN, FAMILY)),
        log:
            f"{LOGS}/screen/{FAMILY}.log",
        conda:
            "../envs/proxykv.yaml"
        params:
            # Not in the command, which is made when the job runs: there FAMILY is the last one.
            family=FAMILY,
            code=code_digest("proxykv.steps.screen:screen"),
            key=job_keys.screening(RUN, FAMILY),
        shell:
            step("screen {params.family:q}")


rule fit:
    input:
        lambda wildcards: [
            str(path)
            for path in paths.fitting_inputs(RUN, wildcards.family, wildcards.method)
        ],
    output:
        str(RUN.dir / "mappers/{family}/{method}/card.json"),
    log:
        f"{LOGS}/fit/{{family}}-{{method}}.log",
    benchmark:
        f"{LOGS}/fit/{{family}}-{{method}}.tsv"
    conda:
        "../envs/proxykv.yaml"
    threads: lambda wildcards: RUN.resources(wildcards.family, "fit")["threads"]
    resources:
        **asks("fit"),
    params:
        code=lambda wildcards: fit_digest(RUN.methods[wildcards.method]),
        key=lambda wildcards: job_keys.fitting(RUN, wildcards.family, wildcards.method),
    shell:
        model_step("fit {wildcards.family:q} {wildcards.method:q}")


PREDICTORS = [
    f"{module_of(RUN.methods[fitted_id].base)[0]}:predictor"
    for fitted_id in RUN.fitted_ids
]


# Not part of a run: `snakemake transfer` needs fitted methods and stored scores, no rows.
rule transfer:
    input:
        [
            str(path)
            for family in RUN.families
            for fitted_id in RUN.fitted_ids
            for path in [
                *paths.fitting_lists(RUN, family, fitted_id),
                paths.fitted_dir(RUN, family, fitted_id) / "card.json",
            ]
        ],
    output:
        str(RUN.dir / "tables/fidelity.csv"),
        str(RUN.dir / "figures/transfer.svg"),
    log:
        f"{LOGS}/transfer.log",
    conda:
        "../envs/proxykv.yaml"
    params:
        code=code_digest(
            "proxykv.steps.fidelity.transfer:transfer", *PREDICTORS, *PLOTS
        ),
    shell:
        step("transfer")
