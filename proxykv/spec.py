"""Config to typed, frozen objects."""


class ConfigError(Exception):
    """A mistake of the user's: one line saying what, where and how to mend it."""
