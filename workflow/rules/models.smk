# Weights from their published form into a plain safetensors folder, once for all runs.
# A local rule: nodes of a cluster often have no network.


rule convert:
    output:
        str(RUN.cache / "models/{family}/{role}-{source}/provenance.json"),
    log:
        f"{LOGS}/convert/{{family}}-{{role}}-{{source}}.log",
    wildcard_constraints:
        source="[0-9a-f]+",
    localrule: True
    conda:
        "../envs/proxykv.yaml"
    resources:
        mem_mb=16000,
    shell:
        step("convert {wildcards.family:q} {wildcards.role:q}", network=True)


# Not part of a run, which uses the weights in models/tiny:
# `snakemake cache/retrained/tiny/target/metrics.json` trains them again.
rule pretrain:
    output:
        str(RUN.cache / "retrained/tiny/{role}/metrics.json"),
    log:
        f"{LOGS}/pretrain/{{role}}.log",
    conda:
        "../envs/proxykv.yaml"
    params:
        folder=subpath(output[0], parent=True),
    shell:
        "python -m proxykv.pretrain.train --role {wildcards.role:q} --out {params.folder:q} >{log:q} 2>&1"
