"""What a user wants the result to look like."""

from collections.abc import Mapping
from dataclasses import dataclass

from loramix.errors import ParamError
from loramix.formats.dialects import CLIENTS, DIALECTS
from loramix.tensors import Dtype

CODES: Mapping[str, str] = {"f32": "F32", "f16": "F16", "bf16": "BF16"}


@dataclass(frozen=True, slots=True)
class Output:
    """What the result should look like.  Give at most one of energy and max_error.

    Entry by entry methods have results of full rank.  ``dense`` writes them as they are, as dense
    differences, and leaves nothing out, so it goes with none of rank, energy and max_error.  What
    is a sum, or made in joint bases, has a low rank: its exact factors are written as ever.

    Attributes
    ----------
    rank : at most this rank per target; default: exact (the sum of the ranks, reduced to the
        numerical rank).
    energy : smallest rank that keeps this share of the squared norm, (0, 1].
    max_error : smallest rank with at most this relative error, [0, 1).
    passes : over a result of full rank on the way to factors of a lower one: 2, or a larger even
        number.  Each further pair takes about as long as the first, and brings the error nearer to
        the least that is possible with the rank.  Where energy or max_error cannot be kept with
        fewer, up to 6 are made anyway.
    dtype : f32, f16 or bf16; default: the widest of the inputs, bf16 over f16.
    dialect : one of `loramix.formats.dialects.DIALECTS`; default: that of the first input.
    dense : whether to write results of full rank as they are; the dialect must have that (kohya).
    verbatim : whether a pair that nothing changes is written as it is, bit by bit; else it is
        balanced, which loses nothing either, but changes the numbers.
    client : the program that is to load it, one of `loramix.formats.dialects.CLIENTS`: writes the
        dialect that it loads best, and refuses what it does not load.
    """

    rank: int | None = None
    energy: float | None = None
    max_error: float | None = None
    passes: int = 2
    dtype: Dtype | None = None
    dialect: str | None = None
    dense: bool = False
    client: str | None = None
    verbatim: bool = False

    @property
    def is_open(self) -> bool:
        """Whether any rank will do that holds enough."""
        return self.energy is not None or self.max_error is not None

    def __post_init__(self) -> None:
        checks = (
            ("rank", self.rank, self.rank is None or self.rank >= 1, "an integer of at least 1"),
            ("energy", self.energy, self.energy is None or 0 < self.energy <= 1, "in (0, 1]"),
            (
                "max_error", self.max_error,
                self.max_error is None or 0 <= self.max_error < 1, "in [0, 1)",
            ),
            (
                "passes", self.passes,
                self.passes >= 2 and self.passes % 2 == 0, "an even number of at least 2",
            ),
            ("dtype", self.dtype, self.dtype is None or self.dtype in CODES, ", ".join(CODES)),
            (
                "dialect", self.dialect,
                self.dialect is None or self.dialect in DIALECTS, ", ".join(DIALECTS),
            ),
            (
                "client", self.client,
                self.client is None or self.client in CLIENTS, ", ".join(CLIENTS),
            ),
        )  # fmt: skip
        for name, value, good, allowed in checks:
            if not good:
                message = f"{name} = {value!r}: allowed is {allowed}"
                raise ParamError(message)
        if self.energy is not None and self.max_error is not None:
            message = "energy and max_error are two ways to choose the rank: give one"
            raise ParamError(message)
        if self.dense and (self.rank, self.energy, self.max_error) != (None, None, None):
            message = (
                "dense leaves nothing out; rank, energy and max_error say what to leave out: "
                "give one or the other"
            )
            raise ParamError(message)
