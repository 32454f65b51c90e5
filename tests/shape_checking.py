"""The type checker behind the shapes in signatures; tests/conftest.py switches it on."""

from beartype import BeartypeConf, beartype

# An int is a float, as type checkers see it (PEP 484).
checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
