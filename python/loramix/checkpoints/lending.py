"""A base model on disk that nobody opens before somebody asks for a weight."""

import os
from pathlib import Path

from loramix.checkpoints.checkpoint import Checkpoint, open_checkpoint
from loramix.checkpoints.finding import find
from loramix.finding import cached, plain_name
from loramix.tensors import Tensor
from loramix.types import Base, StrPath


class Lender:
    """A base model as adapters take it: opened once, when it is needed, for all of them.

    Parameters
    ----------
    path : see `open_checkpoint`.

    Raises
    ------
    FormatError, OSError : there is no model; that is looked at at once.
    """

    def __init__(self, path: StrPath) -> None:
        given = Path(path)
        self.path = given if given.exists() else cached(given)
        find(self.path)
        self._opened: Checkpoint | None = None

    @property
    def name(self) -> str:
        """For reports."""
        return plain_name(self.path)

    @property
    def size(self) -> int:
        """Bytes of its files."""
        return self._model.size

    @property
    def architecture(self) -> str | None:
        """Whose module table its names and shapes hit, or None."""
        return self._model.architecture

    def read_as(self, architecture: str | None) -> Checkpoint:
        """The same model by the names of this architecture; None: as it is."""
        return self._model.read_as(architecture)

    def weight(self, key: str) -> Tensor | None:
        """See `Checkpoint.weight`."""
        return self._model.weight(key)

    def release(self) -> None:
        """Give touched pages back."""
        if self._opened is not None:
            self._opened.release()

    def digest(self) -> str:
        """See `Checkpoint.digest`."""
        return self._model.digest()

    @property
    def _model(self) -> Checkpoint:
        if self._opened is None:
            self._opened = open_checkpoint(self.path)
        return self._opened


def lent(base: "Base | StrPath | None") -> Base | None:
    """A base model from what a user names: a path, or something that is one.

    Raises
    ------
    FormatError, OSError : see `Lender`.
    """
    return Lender(base) if isinstance(base, str | os.PathLike) else base
