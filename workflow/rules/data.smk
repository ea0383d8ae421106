# Contexts and questions, made for a family's tokenizer. The path's digest names the settings.


rule make_dataset:
    input:
        lambda wildcards: str(RUN.model_ready(wildcards.family, "target")),
    output:
        str(RUN.cache / "data/{family}/{split}/{benchmark}-{task}-{id}.jsonl"),
    params:
        code=lambda wildcards: code_digest("proxykv.data", f"proxykv.tasks.{wildcards.benchmark}"),
    log:
        f"{LOGS}/data/{{family}}-{{split}}-{{benchmark}}-{{task}}-{{id}}.log",
    wildcard_constraints:
        split="train|eval",
        id="[0-9a-f]+",
    shell:
        "{PROXYKV} data {output} --config {CONFIG} >{log} 2>&1"
