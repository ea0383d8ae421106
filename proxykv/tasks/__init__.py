"""Benchmarks: one file each, found by its name; none of them imports torch."""
