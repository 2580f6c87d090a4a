"""What a merge method is: mathematics only, no files, no devices, no decisions about rank."""

from typing import ClassVar, Literal, Protocol

from loramix.types import F64

Law = Literal["permutation", "identical", "continuity"]


class Coefficients(Protocol):
    """A method whose result is a linear combination of the deltas.

    Attributes
    ----------
    name : as users write it.
    mean : whether equal adapters of weight w give w times the adapter (a mean) or the sum of
        the weights times it.
    reads_gram : whether the coefficients depend on the inner products at all; those of a method
        that says no may be anything, and are not computed.
    breaks : laws of the common suite that it does not keep; its docstring says why.
    """

    name: ClassVar[str]
    mean: ClassVar[bool]
    reads_gram: ClassVar[bool]
    breaks: ClassVar[frozenset[Law]]

    def coefficients(self, gram: F64, weights: F64) -> F64:
        """One factor per adapter.

        Parameters
        ----------
        gram : (n, n) float64, ``gram[i, j] = <delta_i, delta_j>``.
        weights : (n,) float64, the users' weights, any sign.

        Returns
        -------
        (n,) float64, in the same order.
        """
        ...
