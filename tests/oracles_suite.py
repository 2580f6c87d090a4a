"""The table of oracles: one for every key of ``METHODS``, with the method's defaults.

An oracle maps dense float64 deltas and weights to a delta, for one seed and one target.  Adapters
of weight 0 are left out and a single one is its weighted delta, as everywhere in the package; the
tools that `oracles_upstream` describes do neither.  `MODIFIED` are methods with something done to
the deltas before, `in_space` merges in joint bases.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import oracles
import oracles_subspace
import oracles_upstream
from oracles import F64, Oracle, linear
from oracles_entries import Definition, Thin, merged

from loramix.methods import Level, Space

Targeted: TypeAlias = Callable[[Sequence[F64], Sequence[float], int], F64]
"""Deltas, weights, hash of the target."""

NOISE = 1e-6
"""Relative size of a singular value up to which a joint basis has no direction, as documented."""


def alive(oracle: Oracle) -> Oracle:
    """Without adapters of weight 0; fewer than two are as they are."""

    def call(deltas: Sequence[F64], weights: Sequence[float]) -> F64:
        used = [i for i, weight in enumerate(weights) if weight != 0]
        if len(used) < 2:
            return linear(deltas, weights)
        return oracle([deltas[i] for i in used], [weights[i] for i in used])

    return call


def _anywhere(oracle: Oracle) -> Targeted:
    return lambda deltas, weights, _: oracle(deltas, weights)


def _defined(what: Definition) -> Targeted:
    return lambda deltas, weights, target: merged(what, deltas, weights, target=target)


def _rows_and_cols(oracle: Oracle) -> Oracle:
    """For matrices: the first axis by all others, a vector is one row."""

    def call(deltas: Sequence[F64], weights: Sequence[float]) -> F64:
        first = deltas[0]
        rows = first.shape[0] if first.ndim > 1 else 1
        found = oracle([delta.reshape(rows, -1) for delta in deltas], weights)
        return found.reshape(first.shape)

    return call


DARE = Thin("random", 0.5)
DELLA = Thin("ranked", 0.5)

TARGETED: Mapping[str, Targeted] = {
    **{
        name: _anywhere(oracle)
        for name, oracle in oracles.ORACLES.items()
        if name not in ("dare", "dare-ties")
    },
    "dare": lambda deltas, weights, target: oracles.dare(deltas, weights, target=target),
    "dare-ties": lambda deltas, weights, target: oracles.dare_ties(deltas, weights, target=target),
    "della": _defined(Definition("sum", mean=False, keep=DELLA)),
    "della-ties": _defined(Definition("mean", mean=True, keep=DELLA, vote="mass")),
    "elect": _defined(Definition("sum", mean=False, vote="mass")),
    "consensus": _defined(Definition("importance", mean=True, calibrate=True, clean=True)),
    "tall": _defined(Definition("average", mean=True, lambda_=3.0)),
    "ties-peft": _anywhere(alive(lambda d, w: oracles_upstream.peft_ties(d, w, 0.2))),
    "ties-mergekit": _anywhere(alive(lambda d, w: oracles_upstream.mergekit_ties(d, w, 0.2))),
    "ties-published": _anywhere(alive(lambda d, w: oracles_upstream.published_ties(d, w, 0.5))),
    **{
        name: _anywhere(alive(_rows_and_cols(oracle)))
        for name, oracle in (
            ("iso-c", oracles_subspace.iso_c),
            ("iso-cts", oracles_subspace.iso_cts),
            ("tsv", oracles_subspace.tsv),
            ("svc", oracles_subspace.svc),
            ("lego", oracles_subspace.lego),
        )
    },
}


def on_target(oracle: Targeted, target: int) -> Oracle:
    """An oracle for one target."""
    return lambda deltas, weights: oracle(deltas, weights, target)


ORACLES: Mapping[str, Oracle] = {name: on_target(one, 0) for name, one in TARGETED.items()}
"""Seed 0 and target 0, as `combine` has them."""


@dataclass(frozen=True)
class Modified:
    """Arguments of `combine` and `merge`, and what they mean."""

    method: str
    sparsify: str | None
    refine: Level
    oracle: Targeted


def _refined(
    reduce: Literal["sum", "average", "mean", "importance"] | Oracle,
    *,
    mean: bool,
    keep: Thin | None = None,
    vote: Literal["none", "mass", "count"] = "none",
) -> Targeted:
    """Selfish entries around the rest, which is orthogonal; means at the mean norm."""
    return _defined(
        Definition(
            reduce, mean=mean, keep=keep, vote=vote, lambda_=3.0, refine=True, calibrate=mean
        )
    )


MODIFIED: Mapping[str, Modified] = {
    "dare, linear": Modified(
        "linear", "dare", "none", _defined(Definition(linear, mean=False, keep=DARE))
    ),
    "della, slerp": Modified(
        "slerp", "della", "none", _defined(Definition(oracles.slerp, mean=True, keep=DELLA))
    ),
    "dare, ties": Modified(
        "ties", "dare", "none", _defined(Definition("mean", mean=True, keep=DARE, vote="mass"))
    ),
    "breadcrumbs, average": Modified(
        "average",
        "breadcrumbs",
        "none",
        _defined(Definition(oracles.average, mean=True, keep=Thin("largest", 0.9, 0.01))),
    ),
    "refined linear": Modified("linear", None, "refine", _refined(linear, mean=False)),
    "refined average": Modified("average", None, "refine", _refined(oracles.average, mean=True)),
    "refined ties": Modified(
        "ties", None, "refine", _refined("mean", mean=True, keep=Thin("largest", 0.2), vote="mass")
    ),
    "refined dare, dare": Modified(
        "dare", "dare:density=0.7", "refine", _refined("sum", mean=False, keep=Thin("random", 0.7))
    ),
    "dare, refined as published, slerp": Modified(
        "slerp",
        "dare",
        "refine-published",
        _defined(Definition(oracles.slerp, mean=True, keep=DARE, published="refine")),
    ),
    "fully refined as published ties": Modified(
        "ties-published:density=0.6",
        None,
        "full-published",
        _defined(
            Definition(
                "sum", mean=True, keep=Thin("largest", 0.6), published="full", rows="frequency"
            )
        ),
    ),
}


def in_space(
    space: Space,
    oracle: Oracle,
    deltas: Sequence[F64],
    weights: Sequence[float],
    got: F64,
) -> float:
    """Distance of a result from an oracle's in the joint bases of the weighted deltas.

    Bases are singular vectors of ``[w_1 d_1 | ...]`` and of ``[w_1 d_1; ...]``, which have free
    signs.  What is homogeneous and odd does not see them.  An oracle that is not odd is not told
    which signs there are: entry by entry one of both is right.

    Returns
    -------
    Frobenius norm of the difference, with what is outside the bases.
    """
    used = [(w, d) for w, d in zip(weights, deltas, strict=True) if w != 0]
    if len(used) < 2:
        return float(np.linalg.norm(got - linear(deltas, weights)))
    sizes, own = [w for w, _ in used], [d for _, d in used]
    left = basis(np.hstack([w * d for w, d in used]))
    right = np.eye(own[0].shape[1])
    if space == "core":
        right = basis(np.vstack([w * d for w, d in used]).T)
    cores = [left.T @ d @ right for d in own]
    plain, turned = oracle(cores, sizes), -oracle([-core for core in cores], sizes)
    found = left.T @ got @ right
    inside = np.minimum(np.abs(found - plain), np.abs(found - turned))
    outside = got - left @ found @ right.T
    return float(np.hypot(np.linalg.norm(inside), np.linalg.norm(outside)))


def basis(matrix: F64) -> F64:
    """Left singular vectors, largest first."""
    vectors, values, _ = np.linalg.svd(matrix, full_matrices=False)
    return vectors[:, values > NOISE * values[0]]
