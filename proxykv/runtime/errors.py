"""The exception for a mistake of the user's."""


class ConfigError(Exception):
    """A mistake of the user's. Each line names one: what, where, and how to correct it."""
