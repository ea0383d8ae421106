# Weights out of their published form into a plain safetensors folder, once for all runs.


rule convert_model:
    output:
        str(RUN.cache / "models/{family}/{role}/provenance.json"),
    log:
        f"{LOGS}/convert/{{family}}-{{role}}.log",
    conda:
        "../envs/proxykv.yaml"
    resources:
        mem_mb=16000,
    shell:
        step("convert {wildcards.family} {wildcards.role}")
