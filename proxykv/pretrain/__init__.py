"""Trains the tiny family that ships in models/tiny, on the tiny language.

Run by hand; nothing imports it. Imports `benchmarks` and `scoring`.
"""
