"""What people do with a run's folder: see how far it is, take a part back, go on after a kill.

Imports `config` and `runtime`, and never torch.
"""
