"""Rivals of ProxyKV and controls, one file each, found by their names.

Imports `proxykv` up to its `mapper`; nothing imports this folder.
"""
