"""One module for each rule of the workflow.

Imports every folder except `integrations` and `pretrain`; finds `baselines` by their names.
"""
