"""One module for each rule of the workflow.

Imports every folder but `integrations` and `pretrain`; finds `baselines` by their names.
"""
