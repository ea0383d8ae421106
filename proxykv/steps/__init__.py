"""One module for each rule of the workflow.

Imports every folder but `runs`, `integrations` and `pretrain`; finds `baselines` by their names.
"""
