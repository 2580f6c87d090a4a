"""How long the result of a group may be."""

import math
from collections.abc import Sequence
from typing import Literal, TypeAlias

import numpy as np

from loramix.policies.auto.evidence import Evidence
from loramix.tensors import F64

Limit: TypeAlias = Literal["independent", "pair", "strongest", "none"]
LIMITS: tuple[Limit, ...] = ("independent", "pair", "strongest", "none")


def allowed(limit: Limit, sizes: F64) -> float:
    """The longest result of members of these norms.

    ``independent``: ``sqrt(sum n_i^2)``, as long as orthogonal members make it; ``pair``: that,
    but no longer than two of the longest, ``sqrt(2) max n_i``; ``strongest``: ``max n_i``;
    ``none``: infinite.
    """
    if limit == "none":
        return math.inf
    longest, together = float(sizes.max()), float(np.linalg.norm(sizes))
    return {
        "independent": together,
        "pair": min(together, math.sqrt(2) * longest),
        "strongest": longest,
    }[limit]


def norm_of_sum(gram: F64, coefficients: F64) -> float:
    """Of ``sum c_i delta_i``, exact."""
    return math.sqrt(max(float(coefficients @ gram @ coefficients), 0.0))


def norm_of_election(sizes: F64, pairs: Sequence[Evidence]) -> float:
    """At most that long is the sum of what wins the votes (`Elect`), judged by the sample.

    ``|M|^2 <= sum n_i^2 + sum over pairs of 2 sum |a b| where signs agree``: where they do not,
    nothing is added.

    Parameters
    ----------
    sizes : norms of the weighted deltas.
    """
    total = float(sizes @ sizes)
    total += sum(pair.agreeing * sizes[pair.first] * sizes[pair.second] for pair in pairs)
    return math.sqrt(total)
