"""Training of a mapper, or of a module alike: data, loop, fitted result, written files.

Imports the modules of `mapper`; of these, only `proxykv` imports it.
"""
