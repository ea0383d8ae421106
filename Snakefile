# Trains mappers, runs every method over retentions and tasks, ends in tables, plots and a report.
# `snakemake --cores all` runs config.yaml; `--configfile config/<preset>.yaml` runs a preset.
import sys

from proxykv.catalog import code_digest, digest
from proxykv.lock import Lock
from proxykv.spec import ConfigError, Run

if not workflow.configfiles:

    configfile: "config.yaml"


try:
    RUN = Run(config)
    RUN.require_variables()
except ConfigError as error:
    sys.exit(str(error))


include: "workflow/rules/common.smk"
include: "workflow/rules/models.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/mappers.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/report.smk"


rule all:
    default_target: True
    input:
        rules.report.output,
