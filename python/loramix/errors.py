"""Everything loramix refuses, under one base class.

A message says what was found, what is allowed, where, and what to try.  ``OSError`` passes
through unchanged, so a missing file is still a ``FileNotFoundError``.
"""


class LoramixError(Exception):
    """Base of every refusal."""


class FormatError(LoramixError):
    """A file that cannot be read as an adapter, or an adapter that a dialect cannot hold."""


class ModelError(FormatError):
    """The weights of a model, where an adapter was expected."""


class ShapeError(LoramixError):
    """Tensors that do not fit each other."""


class ParamError(LoramixError):
    """An argument outside its range."""


class OutputError(LoramixError):
    """A result that cannot be written, or that is not what was meant when read back."""
