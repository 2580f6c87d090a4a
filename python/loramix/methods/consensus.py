"""A mean in which every entry counts by its own square."""

from dataclasses import dataclass
from typing import ClassVar

from loramix.errors import ParamError
from loramix.methods.base import Law, Program


@dataclass(frozen=True, slots=True)
class Consensus:
    """Mean of the entries weighted by their importance ``d^2``, at the mean norm of the deltas.

    ``P = max|w| * sum w_i d_i^3 / sum |w_i| d_i^2`` entry by entry, brought to the norm
    ``max|w| * sum |w_i| |delta_i| / sum |w_i|`` (growing at most twofold, so that what cancels
    stays small).  With ``clean`` the noise that the entry by entry choice adds, which is the part
    of P outside the span of the deltas, is taken out by the optimal shrinkage of singular values
    for white noise of its size; where all deltas are equal there is none, and nothing changes.

    Breaks continuity where an adapter appears: its weight decides over entries that nobody else
    has, however small it is.

    Parameters
    ----------
    clean : whether singular values are shrunk.

    References
    ----------
    Importance: Fisher merging with the squared delta, Matena and Raffel 2022, arXiv:2111.09832.
    Shrinkage: Gavish and Donoho 2017, "Optimal shrinkage of singular values", eq. 7.
    """

    name: ClassVar[str] = "consensus"
    mean: ClassVar[bool] = True
    breaks: ClassVar[frozenset[Law]] = frozenset({"continuity"})

    clean: bool = True

    def __post_init__(self) -> None:
        if not isinstance(self.clean, bool):
            message = f"consensus: clean = {self.clean!r}: allowed is true, false"
            raise ParamError(message)

    def program(self) -> Program:
        """Weigh by the square, calibrate, clean."""
        return Program(reduce="importance", calibrate=True, clean=self.clean)
