"""What can be set, each value stated once: training and mapper, the proxy's signals, bounds.

The config's schema, its checks, the estimate and the training read them here. Imports `runtime`.
"""
