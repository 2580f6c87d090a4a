"""Classifier-free guidance as the pipeline does it."""

from dataclasses import dataclass
from typing import ClassVar

from loramix.compose.functional.arrays import Array
from loramix.compose.guidance.base import Side


@dataclass(frozen=True, slots=True)
class Cfg:
    """Both predictions as they were composed."""

    name: ClassVar[str] = "cfg"

    def reads(self, side: Side) -> bool:  # noqa: ARG002 - the protocol's
        """Never."""
        return False

    def apply(self, side: Side, base: Array | None, composed: Array) -> Array:  # noqa: ARG002
        """As it is."""
        return composed
