"""Training of the tiny family in models/tiny, on the tiny language.

Run by hand; nothing imports it. Imports `benchmarks` and `scoring`.
"""
