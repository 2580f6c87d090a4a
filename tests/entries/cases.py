"""Methods on entries, and what may come before any method, as calls and as definitions.

The entries of `draw` are at least `LEAST` of their delta's size, so one wrong draw or one wrong
sign is far above any rounding.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import oracles
import pytest
from hypothesis import settings
from oracles import F64, is_determined, linear
from oracles_entries import Definition, Thin, merged

from loramix import combine
from loramix.methods import method_of

FLOAT = 2e-6
"""Of a few sums and products in f32, relative to what goes in."""

CLEANED = 1e-4
"""Shrunk singular values: the root at the edge of the noise magnifies rounding."""

LEAST = 0.25

SHAPE = (31, 23)

MIXED = [0.9, -0.6, 1.3, 0.4, -1.1, 0.7]

POSITIVE = [0.9, 0.6, 1.3, 0.4, 1.1, 0.7]

steady = settings(derandomize=True, max_examples=25, deadline=None, database=None)


@dataclass(frozen=True)
class Case:
    """A call of `combine`, and what it means."""

    method: str
    means: Definition
    sparsify: str | None = None
    refine: str = "none"

    def __call__(self, deltas: Sequence[Any], weights: Sequence[float], **more: Any) -> Any:
        options: dict[str, Any] = {"sparsify": self.sparsify, "refine": self.refine, **more}
        return combine(deltas, self.method, weights=weights, **options)

    def __str__(self) -> str:
        return "|".join(filter(None, (self.method, self.sparsify or "", self.refine)))

    @property
    def breaks(self) -> frozenset[str]:
        modifiers: Any = {"sparsify": self.sparsify, "refine": self.refine}
        return frozenset(method_of(self.method, **modifiers).breaks)

    @property
    def keeps_equals(self) -> bool:
        """Whether it keeps a law that its class, for all parameters, does not claim.

        Equal adapters have no conflicts that a rule could be limited to.  Of copies the published
        refinement leaves the first, and a mean on the sphere leaves out deltas of zero.
        """
        if self.means.published != "no":
            return self.method == "slerp"
        return "only=conflicts" in str(self)

    @property
    def keeps_order(self) -> bool:
        """Likewise; a model stock of orthogonal deltas is zero in every order."""
        return self.means.published != "no" and self.method == "model-stock"

    @property
    def is_plain(self) -> bool:
        """Whether nothing but sums, products and comparisons happens to the entries."""
        means = self.means
        return not (
            means.clean or means.refine or means.published != "no" or callable(means.reduce)
        )


RANDOM, RANKED = Thin("random", 0.4), Thin("ranked", 0.4)

GUARDED = [(g, f) for g in ("published", "calibrated", "none") for f in ("everywhere", "nowhere")]


def _limited() -> list[Case]:
    found = []
    for guard, fallback in GUARDED:
        end = f"density=0.4,only=conflicts,guard={guard},fallback={fallback}"
        rule: dict[str, Any] = {"only": "conflicts", "guard": guard, "fallback": fallback}
        for name, thin in (("dare", RANDOM), ("della", RANKED)):
            one = replace(thin, **rule)
            found.append(Case(f"{name}:{end}", Definition("sum", mean=False, keep=one)))
            voted = Definition("mean", mean=True, keep=one, vote="mass")
            found.append(Case(f"{name}-ties:{end}", voted))
    return found


def _ranked() -> list[Case]:
    found = []
    for p, e in [
        (0.5, 0.3),
        (0.1, 0.3),
        (0.9, 0.3),
        (0.95, 0.3),
        (1.0, 0.3),
        (0.4, 0.0),
        (0.5, 0.99),
    ]:
        text, thin = f"density={p},epsilon={e}", Thin("ranked", p, epsilon=e)
        found.append(Case(f"della:{text}", Definition("sum", mean=False, keep=thin)))
        voted = Definition("mean", mean=True, keep=thin, vote="mass")
        found.append(Case(f"della-ties:{text}", voted))
    return found


def _energy() -> list[Case]:
    return [
        Case(
            f"ties:density=auto,energy={share},vote={vote}",
            Definition("mean", mean=True, keep=Thin("energy", share), vote=vote),
        )
        for share in (0.01, 0.5, 0.95, 1.0)
        for vote in ("mass", "count")
    ]


CONSENSUS = Definition("importance", mean=True, calibrate=True, clean=True)

PLAIN = [
    *_limited(),
    *_ranked(),
    *_energy(),
    Case("consensus", CONSENSUS),
    Case("consensus:clean=false", replace(CONSENSUS, clean=False)),
    *[
        Case(f"tall:lambda={x}", Definition("average", mean=True, lambda_=x))
        for x in (1, 1.5, 3, 40)
    ],
    Case("breadcrumbs", Definition("sum", mean=False, keep=Thin("largest", 0.9, outliers=0.01))),
]

THINNED: Mapping[str, Thin] = {
    "dare:density=0.4": RANDOM,
    "dare:density=0.4,dampening=0.5": replace(RANDOM, dampening=0.5),
    "della:density=0.4": RANKED,
    "della:density=0.4,only=conflicts,fallback=nowhere": replace(
        RANKED, only="conflicts", fallback="nowhere"
    ),
    "breadcrumbs:density=0.5,outliers=0.05": Thin("largest", 0.5, outliers=0.05),
}

INNER: Mapping[str, Definition] = {
    "slerp": Definition(oracles.slerp, mean=True),
    "average": Definition(oracles.average, mean=True),
    "linear": Definition(oracles.linear, mean=False),
    "ties:density=0.3": Definition(
        "mean", mean=True, keep=Thin("largest", 0.3), vote="mass"
    ),
    "consensus": CONSENSUS,
    "model-stock": Definition(oracles.model_stock, mean=True),
    "ortho": Definition(oracles.ortho, mean=False),
}  # fmt: skip


def _refined(what: Definition) -> Definition:
    return replace(what, refine=True, lambda_=3.0, calibrate=what.calibrate or what.mean)


SPARSE = [
    Case(name, replace(what, keep=thin), sparsify)
    for name, what in INNER.items()
    for sparsify, thin in THINNED.items()
]

REFINED = [Case(name, _refined(what), None, "refine") for name, what in INNER.items()]

BOTH = [
    Case(name, _refined(replace(what, keep=THINNED[text])), text, "refine")
    for name, what in INNER.items()
    for text in ("dare:density=0.4", "breadcrumbs:density=0.5,outliers=0.05")
]

PUBLISHED = [
    Case(name, replace(what, published="refine"), None, "refine-published")
    for name, what in INNER.items()
]

FULL = [
    Case(name, replace(what, published="full"), None, "full-published")
    for name, what in INNER.items()
]

ELECTED = [
    Case(
        f"ties-published:density=0.6,vote={vote}",
        Definition("sum", mean=True, keep=Thin("largest", 0.6), published=published, rows=vote),
        None,
        f"{published}-published",
    )
    for vote in ("total", "frequency")
    for published in ("refine", "full")
]

THINNED_FIRST = [
    Case(name, replace(INNER[name], keep=THINNED[text], published="refine"), text, level)
    for name, level in (("slerp", "refine-published"), ("consensus", "full-published"))
    for text in THINNED
]

CASES = [*PLAIN, *SPARSE, *REFINED, *BOTH, *PUBLISHED, *FULL, *ELECTED, *THINNED_FIRST]

LAWFUL = [
    case
    for case in CASES
    if str(case)
    in {
        "della:density=0.5,epsilon=0.3|none",
        "della-ties:density=0.5,epsilon=0.3|none",
        "dare:density=0.4,only=conflicts,guard=none,fallback=everywhere|none",
        "della-ties:density=0.4,only=conflicts,guard=calibrated,fallback=nowhere|none",
        "ties:density=auto,energy=0.95,vote=mass|none",
        "ties:density=auto,energy=0.5,vote=count|none",
        "tall:lambda=1.5|none",
        "tall:lambda=3|none",
    }
    or case.method.startswith("consensus")
    or case in REFINED
    or case in BOTH
    or case in PUBLISHED
    or case in FULL
    or (case in SPARSE and "dampening" not in (case.sparsify or ""))
]

laws = pytest.mark.parametrize("case", LAWFUL, ids=str)


def draw(seed: int, count: int, shape: tuple[int, ...] = SHAPE, kinship: float = 0.7) -> list[F64]:
    """Random deltas of different sizes that share a part, no entry near zero, as float32."""
    rng = np.random.default_rng(seed)
    common = rng.normal(size=shape)
    found = []
    for size in np.exp(rng.uniform(-1, 1, size=count)):
        delta = kinship * common + rng.normal(size=shape)
        found.append(size * (delta + LEAST * np.copysign(1.0, delta)))
    return [delta.astype(np.float32).astype(np.float64) for delta in found]


def as_type(deltas: Sequence[F64], dtype: str = "float32") -> list[Any]:
    return [delta.astype(dtype) for delta in deltas]


def distance(got: Any, expected: F64, deltas: Sequence[F64], weights: Sequence[float]) -> float:
    """Largest difference of an entry over the largest that goes in; NaN is infinitely far."""
    if expected.size == 0:
        return 0.0
    size = sum(abs(w) * float(np.abs(d).max()) for w, d in zip(weights, deltas, strict=True))
    worst = float(np.abs(np.asarray(got, dtype=np.float64) - expected).max()) / (size or 1.0)
    return worst if math.isfinite(worst) else math.inf


def bound(case: Case) -> float:
    """What rounding does, times what random rules multiply survivors by."""
    if case.means.clean:
        return CLEANED
    lowest = case.means.keep.density if case.means.keep else 1.0
    return FLOAT / (min(lowest, 0.4) if lowest < 0.4 else 1.0)


def norm(delta: Any) -> float:
    return float(np.linalg.norm(np.asarray(delta, dtype=np.float64)))


def is_defined(case: Case, deltas: Sequence[F64], weights: Sequence[float]) -> bool:
    """Whether a spherical mean of what arrives there is determined by the data."""
    if case.method != "slerp":
        return True
    seen: list[bool] = []

    def look(members: Sequence[F64], sizes: Sequence[float]) -> F64:
        seen.append(is_determined(members, sizes))
        return linear(members, sizes)

    merged(replace(case.means, reduce=look), deltas, weights)
    return all(seen)


FEW = [
    case
    for case in CASES
    if str(case)
    in {
        "della:density=0.5,epsilon=0.3|none",
        "della-ties:density=0.4,only=conflicts,guard=calibrated,fallback=nowhere|none",
        "ties:density=auto,energy=0.95,vote=mass|none",
        "tall:lambda=3|none",
        "consensus:clean=false|none",
        "linear|della:density=0.4|none",
        "slerp|breadcrumbs:density=0.5,outliers=0.05|none",
        "ties:density=0.3|dare:density=0.4|refine",
    }
    or case in REFINED
    or case in ELECTED
    or (case in FULL and case.method == "consensus")
]

few = pytest.mark.parametrize("case", FEW, ids=str)
