# Trains mappers, runs every method over retentions and tasks, writes tables, plots and a report.
# `snakemake --cores all` runs config.yaml; `--configfile config/<preset>.yaml` runs a preset.
import sys
from pathlib import Path

from snakemake.utils import min_version

from proxykv.config import job_keys, paths
from proxykv.config.catalog import columns, module_of
from proxykv.config.keys.code import (
    code_digest,
    files_digest,
    fit_digest,
    modules_of,
)
from proxykv.runtime.digest import digest
from proxykv.runtime.lock import Lock
from proxykv.runtime.yaml_file import read_yaml
from proxykv.config.run import ROLES, SPLITS, Run
from proxykv.runtime.errors import ConfigError

min_version("9.27")

if not workflow.configfiles:

    configfile: "config.yaml"


try:
    for file in workflow.configfiles:
        read_yaml(Path(file))  # snakemake takes the last of two equal keys
    RUN = Run(config)
    RUN.require_sources()
    RUN.require_models()
except (ConfigError, PermissionError) as error:
    sys.exit(str(error))


include: "workflow/rules/common.smk"
include: "workflow/rules/models.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/mappers.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/efficiency.smk"
include: "workflow/rules/report.smk"


rule all:
    default_target: True
    input:
        rules.plot.output,
        rules.report.output,
