"""The terms of the loss and how they are weighed; what they are is in `proxykv.mapper.loss`."""

PAPER_WEIGHTS = {"bin": 10.0, "mse": 20.0, "fine": 1.0, "global": 1.0, "cos": 1.0}
"""All terms; the paper (arXiv 2605.16360) names the weights of the first two."""
DEFAULT_WEIGHTS = {"bin": 10.0, "mse": 20.0, "fine": 1.0, "cos": 1.0}
"""Without `global`: the ablation found no use for it (docs/results/ablations.md)."""
