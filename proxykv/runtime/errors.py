"""The one exception for a user's mistake."""


class ConfigError(Exception):
    """A mistake of the user's: one line (or several mistakes) saying what, where, how to mend."""
