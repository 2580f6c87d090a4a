"""What guidance is: how far each of the two predictions is taken to or from the base's."""

from typing import ClassVar, Literal, Protocol, TypeAlias

from loramix.compose.functional.arrays import Array

Side: TypeAlias = Literal["conditional", "unconditional"]


class Guidance(Protocol):
    """What happens to a composed prediction before the pipeline guides with it.

    Attributes
    ----------
    name : as users write it.
    """

    name: ClassVar[str]

    def reads(self, side: Side) -> bool:
        """Whether the base's prediction of this side is needed."""
        ...

    def apply(self, side: Side, base: Array | None, composed: Array) -> Array:
        """The prediction that the pipeline gets.

        Parameters
        ----------
        base, composed : (batch, channels, *space); no base where `reads` says no.
        """
        ...
