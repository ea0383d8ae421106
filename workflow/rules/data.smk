# Contexts and questions, made for a family's tokenizer. The path's digest names the settings.
# A local rule, since their sources may have to be downloaded.


rule prepare:
    input:
        lambda wildcards: converted(wildcards, ["target"]),
    output:
        str(RUN.cache / "data/{family}/{split}/{benchmark}-{task}-{id}.jsonl"),
    log:
        f"{LOGS}/prepare/{{family}}-{{split}}-{{benchmark}}-{{task}}-{{id}}.log",
    wildcard_constraints:
        split="train|eval",
        id="[0-9a-f]+",
    localrule: True
    conda:
        "../envs/proxykv.yaml"
    params:
        code=lambda wildcards: code_digest(
            "proxykv.steps.prepare:prepare",
            f"proxykv.benchmarks.{wildcards.benchmark}:build",
        ),
    shell:
        step("prepare {output:q}", network=True)
