"""The type checker that the package runs under in tests (an int will do for a float)."""

from beartype import BeartypeConf, beartype

typechecked = beartype(conf=BeartypeConf(is_pep484_tower=True))
