"""What can be set, each value stated once: training and mapper, the proxy's signals, bounds.

The config's schema, its checks, the estimate and the training read them here. Imports `runtime`.
"""

CPU_ROWS = 64
"""Rows that decode together on a CPU, and wherever free memory is not known; more gain nothing."""
