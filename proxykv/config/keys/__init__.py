"""What results are named by: digests of the code and of the models that they depend on.

Imports `config` and `runtime`, and no torch.
"""
