"""The later methods on entries, and what may come before any method: sparsified, refined.

Equality with the oracle, the laws that each method claims (and those that it says it breaks), and
the properties of section 10.2 of the reference specification.  The entries of `draw` are at least
`LEAST` of their delta's size, so one wrong draw or one wrong sign is far above any rounding.
"""

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

import numpy as np
import oracles
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import F64, is_determined, linear
from oracles_entries import (
    Definition,
    Thin,
    chances,
    conflicts,
    expected_conflict,
    keep_energy,
    merged,
    set_aside,
    weighted,
)

from loramix import METHODS, FormatError, ParamError, combine
from loramix.methods import composite as package
from loramix.methods import method_of
from loramix.methods.ortho import orthogonalised

FLOAT = 2e-6
"""Of a few sums and products in f32, relative to what goes in."""
CLEANED = 1e-4
"""Shrunk singular values: the root at the edge of the noise magnifies rounding."""
LEAST = 0.25
SHAPE = (31, 23)
MIXED = [0.9, -0.6, 1.3, 0.4, -1.1, 0.7]
POSITIVE = [0.9, 0.6, 1.3, 0.4, 1.1, 0.7]
SIZES = [3e-4, -250.0, 1.0, 17.0, -0.02, 5.0]

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
cases = pytest.mark.parametrize("case", CASES, ids=str)

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


# Equal to the definition.


@cases
@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 6])
def test_equal_to_the_oracle(case: Case, count: int) -> None:
    for weights, seed in ((MIXED, 1), (POSITIVE, 2**63 + 5)):
        deltas = draw(count, count)
        assert is_defined(case, deltas, weights[:count])
        got = case(as_type(deltas), weights[:count], seed=seed)
        assert got.dtype == np.float32
        expected = merged(case.means, deltas, weights[:count], seed=seed)
        assert distance(got, expected, deltas, weights[:count]) < bound(case)


@cases
@pytest.mark.parametrize("shape", [(257, 33), (1, 40), (40, 1), (77,), (5, 4, 3, 3)], ids=str)
def test_equal_to_the_oracle_in_other_shapes(case: Case, shape: tuple[int, ...]) -> None:
    deltas, weights = draw(7, 3, shape), [1.0, 0.5, -0.3]
    assert is_defined(case, deltas, weights)
    got = case(as_type(deltas), weights)
    assert got.shape == shape
    assert distance(got, merged(case.means, deltas, weights), deltas, weights) < bound(case)


@pytest.mark.parametrize(
    "case",
    [c for c in CASES if not (c.method == "slerp" and c.refine != "none")],
    ids=str,
)
@pytest.mark.parametrize("count", [2, 3, 6])
def test_equal_to_the_oracle_for_weights_of_all_sizes(case: Case, count: int) -> None:
    deltas, weights = draw(11, count), SIZES[:count]
    if case.method == "slerp":  # undetermined where a light one opposes a heavy one
        weights = [abs(w) for w in weights]
    assert is_defined(case, deltas, weights)
    got = case(as_type(deltas), weights)
    assert distance(got, merged(case.means, deltas, weights), deltas, weights) < bound(case)


@cases
def test_one_entry_and_none(case: Case) -> None:
    deltas, weights = [np.array([[2.0]]), np.array([[3.0]])], [1.0, 0.5]
    got = case(as_type(deltas), weights)
    assert distance(got, merged(case.means, deltas, weights), deltas, weights) < bound(case)
    for shape in ((0,), (0, 5), (5, 0), (2, 0, 3)):
        assert case([np.ones(shape), np.ones(shape)], weights).shape == shape


@cases
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_delta_of_zero_and_mostly_zero_ones(case: Case, place: int) -> None:
    weights = [0.9, 0.6, -1.1]
    whole = draw(12, 3)
    empty = [*whole[:place], np.zeros(SHAPE), *whole[place + 1 :]]
    rng = np.random.default_rng(13)
    sparse = [d * (rng.random(SHAPE) < 0.1) for d in whole]
    for deltas in (empty, sparse, [np.zeros(SHAPE)] * 3):
        if is_defined(case, deltas, weights):
            got = case(as_type(deltas), weights)
            assert distance(got, merged(case.means, deltas, weights), deltas, weights) < bound(case)


WIDE = [c for c in PLAIN if "della" in c.method or "conflicts" in c.method or "auto" in c.method]


@pytest.mark.parametrize("case", WIDE, ids=str)
@pytest.mark.parametrize("shape", [(1, 65537), (65537, 1), (255, 257)], ids=str)
def test_equal_to_the_oracle_at_the_edges_of_tiles(case: Case, shape: tuple[int, int]) -> None:
    # Weights are powers of two: equal float32 magnitudes are those of the deltas.
    deltas, weights = draw(3, 2, shape), [1.0, -0.5]
    got = case(as_type(deltas), weights)
    assert distance(got, merged(case.means, deltas, weights), deltas, weights) < bound(case)


@pytest.mark.parametrize("case", [c for c in PLAIN if c.means.keep is not None], ids=str)
@pytest.mark.parametrize("count", [2, 3, 5])
def test_zeros_of_the_result_are_those_of_the_oracle(case: Case, count: int) -> None:
    deltas, weights = draw(19, count, (64, 48), 0.0), MIXED[:count]
    got, expected = case(as_type(deltas), weights), merged(case.means, deltas, weights)
    assert np.array_equal(got != 0, expected != 0)


@pytest.mark.parametrize("rule", ["dare:density=0.4", "della:density=0.4", "della:density=0.95"])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_masks_of_every_place_are_those_of_the_oracle(rule: str, place: int) -> None:
    name, _, density = rule.partition(":density=")
    thin = Thin("random" if name == "dare" else "ranked", float(density))
    deltas = [np.zeros((40, 30))] * 3
    deltas[place] = draw(20, 1, (40, 30))[0]
    what = Definition("sum", mean=False, keep=thin)
    for seed in (0, 1, 2**64 - 1):
        got = combine(as_type(deltas), rule, seed=seed)
        expected = merged(what, deltas, [1.0] * 3, seed=seed)
        assert np.array_equal(got != 0, expected != 0)
        assert np.allclose(got, expected, rtol=1e-6, atol=0)


@steady
@given(
    seed=st.integers(0, 2**32 - 1),
    levels=st.integers(1, 4),
    energy=st.sampled_from([0.01, 0.3, 0.5, 0.75, 0.95, 0.999]),
    shape=st.tuples(st.integers(1, 40), st.integers(1, 40)),
)
def test_energy_keeps_the_fewest(
    seed: int, levels: int, energy: float, shape: tuple[int, int]
) -> None:
    # Integers: many equal magnitudes, and squares that add up exactly.
    delta = np.random.default_rng(seed).integers(-levels, levels + 1, size=shape).astype(float)
    got = combine(as_type([delta, np.zeros(shape)]), f"ties:density=auto,energy={energy}")
    kept, total = float(np.sum(got.astype(np.float64) ** 2)), float(np.sum(delta**2))
    assert np.array_equal(got, keep_energy(delta, energy))
    assert kept >= energy * total * (1 - 1e-12)
    if np.count_nonzero(got):
        assert kept - float(np.min(got[got != 0] ** 2)) < energy * total


# Laws.


@laws
@pytest.mark.parametrize("count", [2, 3, 5])
def test_homogeneous(case: Case, count: int) -> None:
    deltas, weights = draw(21, count), MIXED[:count]
    plain = case(as_type(deltas), weights)
    for factor in (2.0, 0.125, 0.3, 2.0**20):
        heavier = case(as_type(deltas), [factor * w for w in weights])
        larger = case([(np.float32(factor) * d).astype(np.float32) for d in deltas], weights)
        for other in (heavier, larger):
            assert distance(other / factor, plain.astype(float), deltas, weights) < bound(case)
            if case.is_plain and math.log2(factor).is_integer():
                assert np.array_equal(other, np.float32(factor) * plain)


@pytest.mark.parametrize(
    ("name", "options", "factor"),
    [
        (name, options, factor)
        for name, options in [
            ("della", {}),
            ("tall", {}),
            ("consensus:clean=false", {}),
            ("ties:density=auto", {}),
            ("dare:only=conflicts", {}),
            ("consensus", {}),
            ("average", {"refine": "refine"}),
            ("slerp", {"sparsify": "dare"}),
            ("slerp", {"refine": "refine-published"}),
            ("ties-published", {"refine": "refine-published"}),
            ("consensus", {"refine": "full-published"}),
        ]
        for factor in [1e-12, 1e12, 1e-24, 1e24]
    ],
)
def test_homogeneous_far_from_one(name: str, options: dict[str, Any], factor: float) -> None:
    deltas, weights = draw(21, 3), [0.9, 0.6, 1.3]
    plain = combine(as_type(deltas), name, weights=weights, **options)
    larger = combine(as_type([factor * d for d in deltas]), name, weights=weights, **options)
    heavier = combine(as_type(deltas), name, weights=[factor * w for w in weights], **options)
    for other in (larger, heavier):
        found = other.astype(np.float64) / factor
        assert distance(found, plain.astype(np.float64), deltas, weights) < CLEANED


@laws
@pytest.mark.parametrize("count", [2, 3, 5])
def test_odd(case: Case, count: int) -> None:
    deltas, weights = draw(22, count), POSITIVE[:count]
    plain = case(as_type(deltas), weights).astype(float)
    lighter = case(as_type(deltas), [-w for w in weights])
    negative = case(as_type([-d for d in deltas]), weights)
    turned = case(as_type([-deltas[0], *deltas[1:]]), [-weights[0], *weights[1:]])
    for got, expected in ((lighter, -plain), (negative, -plain), (turned, plain)):
        assert distance(got, expected, deltas, weights) < 1e-6
        if case.is_plain:
            assert np.array_equal(got, expected)


@laws
def test_the_order_matters_only_where_the_method_says_so(case: Case) -> None:
    deltas, weights = draw(23, 4), MIXED[:4]
    plain, order = case(as_type(deltas), weights).astype(float), [2, 0, 3, 1]
    other = case(as_type([deltas[i] for i in order]), [weights[i] for i in order])
    found = distance(other, plain, deltas, weights)
    assert (found < bound(case)) == ("permutation" not in case.breaks or case.keeps_order)
    assert found < bound(case) or found > 1e-2


@laws
@pytest.mark.parametrize("weight", [1.0, -0.7, 0.0])
def test_one_adapter_is_itself_times_its_weight(case: Case, weight: float) -> None:
    (delta,) = draw(24, 1)
    for deltas, weights in (([delta], [weight]), ([delta, delta, delta], [0.0, weight, 0.0])):
        got = case(deltas, weights)
        assert np.array_equal(got, weight * delta)


@laws
@pytest.mark.parametrize("count", [2, 3, 5])
@pytest.mark.parametrize("weight", [1.0, -0.6])
def test_equal_adapters(case: Case, count: int, weight: float) -> None:
    (delta,) = draw(25, 1)
    got = case(as_type([delta] * count), [weight] * count)
    mean = METHODS[case.method.partition(":")[0]].mean
    expected = weight * delta * (1 if mean else count)
    kept = distance(got, expected, [delta], [weight]) < 1e-5
    assert kept == ("identical" not in case.breaks or case.keeps_equals)


@laws
def test_equal_adapters_of_different_weights_add_up(case: Case) -> None:
    if METHODS[case.method.partition(":")[0]].mean:
        return
    (delta,) = draw(26, 1)
    got = case(as_type([delta] * 3), [1.0, 0.25, 0.5])
    kept = distance(got, 1.75 * delta, [delta], [1.0]) < 1e-5
    assert kept == ("identical" not in case.breaks or case.keeps_equals)


@pytest.mark.parametrize("refine", ["none", "refine"])
@pytest.mark.parametrize("name", ["linear", "ortho"])
def test_twice_at_half_the_weight_is_once(name: str, refine: Any) -> None:
    first, second = draw(27, 2)
    # Of one adapter alone the result is the adapter, so this is about the pair.
    got = combine(as_type([first, first]), name, weights=[0.35, 0.35], refine=refine)
    assert distance(got, 0.7 * first, [first], [0.7]) < FLOAT
    if refine == "none" and name == "linear":
        thrice = combine(as_type([first, first, second]), name, weights=[0.35, 0.35, 1.0])
        twice = combine(as_type([first, second]), name, weights=[0.7, 1.0])
        assert distance(thrice, twice.astype(float), [first, second], [0.7, 1.0]) < FLOAT


# Continuity: every one of these methods says that it jumps somewhere.  Here is where.


def crossing(delta: F64, place: tuple[int, int], ratio: float) -> F64:
    """A second delta whose entry at a place is ``1 / ratio`` of the first's."""
    other = 0.9 * delta
    other[place] = delta[place] / ratio
    return other


@pytest.mark.parametrize(
    "case",
    [c for c in [*PLAIN, *REFINED] if c.means.lambda_ == 3.0 and c.means.keep is None],
    ids=str,
)
def test_an_entry_is_selfish_or_not(case: Case) -> None:
    assert "continuity" in case.breaks
    delta = draw(28, 1, (4, 5))[0]
    place = np.unravel_index(int(np.argmax(np.abs(delta))), delta.shape)
    below, above = (
        case([delta, crossing(delta, (int(place[0]), int(place[1])), ratio)], [1.0, 1.0])
        for ratio in (3 - 1e-5, 3 + 1e-5)
    )
    jump = abs(float(above[place] - below[place])) / abs(float(delta[place]))
    # A sum counts it in full either way: only what the rest is turned by changes.
    assert jump > (1e-2 if METHODS[case.method.partition(":")[0]].mean else 1e-3)


def test_della_jumps_where_magnitudes_change_places() -> None:
    below, above = np.linspace(1.0, 2.0, 10)[None], np.linspace(1.0, 2.0, 10)[None]
    below[0, 4], above[0, 4] = below[0, 5] - 1e-6, below[0, 5] + 1e-6
    zeros = np.zeros_like(below)
    changes = [
        norm(combine([below, zeros], "della", seed=s) - combine([above, zeros], "della", seed=s))
        for s in range(300)
    ]
    assert max(changes) > 1.0  # kept here, dropped there


@pytest.mark.parametrize("clean", ["true", "false"])
def test_consensus_jumps_where_an_adapter_appears(clean: str) -> None:
    deltas = [np.eye(8), np.ones((8, 8)) - np.eye(8)]
    absent = combine(deltas, f"consensus:clean={clean}", weights=[1.0, 0.0])
    present = combine(deltas, f"consensus:clean={clean}", weights=[1.0, 1e-6])
    assert norm(present - absent) > 0.1


@pytest.mark.parametrize("clean", ["true", "false"])
@pytest.mark.parametrize("kinship", [0.0, 1.0, 3.0])
def test_consensus_changes_little_elsewhere(clean: str, kinship: float) -> None:
    deltas, weights = draw(29, 3, (48, 40), kinship), [1.0, 0.6, 0.8]
    method = f"consensus:clean={clean}"
    plain = combine(deltas, method, weights=weights)
    rng = np.random.default_rng(30)
    for _ in range(4):
        moved = [d + 1e-5 * norm(d) / math.sqrt(d.size) * rng.normal(size=d.shape) for d in deltas]
        assert norm(combine(moved, method, weights=weights) - plain) < 1e-3 * norm(plain)


GATES = [
    c for c in CASES
    if str(c) in {
        "consensus|none", "consensus:clean=false|none", "tall:lambda=3|none",
        "ties:density=auto,energy=0.95,vote=mass|none",
        "dare:density=0.4,only=conflicts,guard=calibrated,fallback=everywhere|none",
        "della-ties:density=0.4,only=conflicts,guard=calibrated,fallback=nowhere|none",
    } or c in REFINED or (c in SPARSE and "dampening" not in str(c) and c.method != "model-stock")
]  # fmt: skip


@pytest.mark.parametrize("case", GATES, ids=str)
def test_the_norm_does_not_jump_at_right_angles(case: Case) -> None:
    # Item 5: a change of the cosine from -0.001 to 0.001 changes the norm by less than 1 %.
    rng = np.random.default_rng(31)
    first, second = rng.normal(size=(2, 128, 96))
    second -= np.vdot(first, second) / np.vdot(first, first) * first
    second *= norm(first) / norm(second)
    sizes = [norm(case([first, second + c * first], [1.0, 0.8])) for c in (-1e-3, 1e-3)]
    assert abs(sizes[1] / sizes[0] - 1) < 1e-2


# What is random.


@pytest.mark.parametrize("density", [0.1, 0.2, 0.3, 0.5, 0.7, 0.85, 0.9, 0.95])
@pytest.mark.parametrize("name", ["dare", "della", "dare-ties", "della-ties"])
def test_the_density_is_realised(name: str, density: float) -> None:
    delta = draw(32, 1, (300, 400))[0]
    got = combine(as_type([delta, np.zeros_like(delta)]), f"{name}:density={density}")
    share = np.count_nonzero(got) / got.size
    assert abs(share - density) <= 2 * math.sqrt(density * (1 - density) / got.size)


@pytest.mark.parametrize("density", [0.1, 0.5, 0.7, 0.9, 0.95])
@pytest.mark.parametrize("epsilon", [0.3, 0.8])
def test_larger_entries_of_a_row_are_kept_more_often(density: float, epsilon: float) -> None:
    cols, runs = 20, 4000
    row = np.random.default_rng(33).permutation(np.arange(1.0, cols + 1))
    delta = np.tile(row, (runs, 1)) * np.random.default_rng(34).choice([-1.0, 1.0], (runs, cols))
    got = combine(as_type([delta, 0 * delta]), f"della:density={density},epsilon={epsilon}")
    found = np.mean(got != 0, axis=0)[np.argsort(-row)]
    expected = chances(np.sort(row)[None, ::-1], density, epsilon)[0]
    error = np.sqrt(np.maximum(expected * (1 - expected), 1e-12) / runs)
    assert np.abs((found - expected) / error).max() < 4
    spread = min(epsilon, 2 * min(density, 1 - density))
    assert found[:5].mean() - found[-5:].mean() == pytest.approx(0.75 * spread, abs=0.03)
    assert found.mean() == pytest.approx(density, abs=4 * math.sqrt(0.25 / (runs * cols)))


@pytest.mark.parametrize(
    "text", ["dare:density=0.3", "della:density=0.5", "della:density=0.9",
             "dare:density=0.3,only=conflicts,guard=none", "della:only=conflicts,guard=none"],
)  # fmt: skip
def test_right_on_average(text: str) -> None:
    deltas, weights, runs = draw(35, 3, (12, 13)), [1.0, -0.7, 0.4], 400
    each = [combine(as_type(deltas), text, weights=weights, seed=s) for s in range(runs)]
    stack = np.stack(each).astype(np.float64)
    error = stack.std(axis=0, ddof=1) / math.sqrt(runs)
    moved = error > 0
    expected = linear(deltas, weights)
    scores = (stack.mean(axis=0) - expected)[moved] / error[moved]
    assert moved.any()
    assert np.abs(scores).max() < 5
    assert abs(scores.mean()) < 4 / math.sqrt(scores.size)
    assert np.allclose(stack[0][~moved], expected[~moved], rtol=0, atol=1e-5)


@pytest.mark.parametrize("count", [2, 3, 4])
@pytest.mark.parametrize("name", ["dare", "della"])
def test_outside_of_conflicts_every_bit_is_that_of_the_sum(name: str, count: int) -> None:
    deltas, weights = as_type(draw(36, count, (97, 53), 2.0)), POSITIVE[:count]
    values = [np.float32(w) * d for w, d in zip(weights, deltas, strict=True)]
    flags = conflicts([value.astype(np.float64) for value in values])
    total = reduce(np.add, values)
    got = combine(deltas, f"{name}:only=conflicts,guard=none", weights=weights)
    assert flags.any()
    assert not flags.all()
    assert np.array_equal(got[~flags], total[~flags])
    assert np.mean(got[flags] == total[flags]) < 0.2  # there, all were kept and none rescaled
    sparse = combine(
        deltas, "linear", weights=weights, sparsify=f"{name}:only=conflicts,guard=none"
    )
    assert np.allclose(sparse[~flags], total[~flags], rtol=1e-6, atol=0)


@pytest.mark.parametrize("count", [2, 3, 4])
@pytest.mark.parametrize("name", ["dare-ties", "della-ties"])
def test_outside_of_conflicts_every_bit_is_that_of_the_mean(name: str, count: int) -> None:
    deltas, weights = as_type(draw(37, count, (97, 53), 2.0)), POSITIVE[:count]
    flags = conflicts(weighted([d.astype(np.float64) for d in deltas], weights))
    whole = combine(deltas, "ties:density=1", weights=weights)
    got = combine(deltas, f"{name}:only=conflicts,guard=none", weights=weights)
    assert np.array_equal(got[~flags], whole[~flags])
    assert not np.array_equal(got[flags], whole[flags])


@pytest.mark.parametrize("name", ["dare", "della"])
def test_guards_and_fallbacks(name: str) -> None:
    # Independent: half of the positions are in conflict, which their cosine explains and 40 % not.
    deltas = as_type(draw(38, 2, (128, 96), 0.0))
    total = reduce(np.add, deltas)
    everywhere = combine(deltas, name)
    limited = combine(deltas, f"{name}:only=conflicts,guard=none")

    def run(guard: str, fallback: str) -> Any:
        return combine(deltas, f"{name}:only=conflicts,guard={guard},fallback={fallback}")

    assert np.array_equal(run("published", "everywhere"), everywhere)
    assert np.array_equal(run("published", "nowhere"), total)
    assert np.array_equal(run("calibrated", "everywhere"), limited)
    assert np.array_equal(run("none", "nowhere"), limited)
    assert not np.array_equal(limited, everywhere)
    # A planted conflict: small entries disagree where large ones agree.
    first = deltas[0]
    second = np.where(np.abs(first) < np.quantile(np.abs(first), 0.6), -first, first)
    planted = [first, second]
    guarded = combine(planted, f"{name}:only=conflicts,guard=calibrated,fallback=nowhere")
    assert np.array_equal(guarded, first + second)


@pytest.mark.parametrize(("count", "above"), [(190, False), (200, False), (202, True)])
def test_the_calibrated_guard_leaves_two_hundredths(count: int, above: bool) -> None:
    # Cosine one, and yet `count` of ten thousand positions in conflict.
    first, second = np.ones((100, 100)), np.ones((100, 100))
    first.ravel()[:count], second.ravel()[:count] = 1e-7, -1e-7
    got = combine([first, second], "dare:only=conflicts,fallback=nowhere,density=0.5")
    assert np.array_equal(got, first + second) == above


@pytest.mark.parametrize("kinship", [0.0, 0.5, 1.0, 3.0])
@pytest.mark.parametrize(
    "weights",
    [[1.0, 0.5], [1.0, -0.5], [1.0, 1.0, 2.0], [1.0, -0.5, 2.0], MIXED[:4], MIXED[:6], [1.0] * 5],
)
def test_expected_conflict_is_that_of_normal_entries(kinship: float, weights: list[float]) -> None:
    rng = np.random.default_rng(39)
    common, n = rng.normal(size=200_000), len(weights)
    deltas = [kinship * common + rng.normal(size=200_000) for _ in range(n)]
    found = float(np.mean(conflicts(weighted(deltas, weights))))
    gram = np.array([[a @ b for a in deltas] for b in deltas])
    expected = package.expected_conflict(gram, np.array(weights))
    draws = 200_000 if n < 4 else 16_384  # for more than three it is itself a sample
    assert abs(found - expected) < 5 * 0.5 / math.sqrt(draws)
    if n < 4:
        assert expected == pytest.approx(expected_conflict(deltas, weights), abs=1e-9)


@pytest.mark.parametrize("count", [4, 5, 6])
def test_equal_adapters_have_no_conflict(count: int) -> None:
    ones = np.ones(count)
    assert package.expected_conflict(np.outer(ones, ones), ones) == 0


# Votes.


@pytest.mark.parametrize("method", ["ties:density=auto,energy=1", "della-ties:density=1"])
def test_agreeing_signs_give_the_weighted_mean(method: str) -> None:
    sign = np.sign(draw(41, 1)[0])
    deltas, weights = [sign * np.abs(d) for d in draw(42, 3)], [0.5, 1.0, 0.25]
    got = combine(as_type(deltas), method, weights=weights)
    assert distance(got, linear(deltas, weights) / 1.75, deltas, weights) < FLOAT


@pytest.mark.parametrize(
    "method", ["ties:density=auto", "ties:density=auto,vote=count", "della-ties", "consensus",
               "dare-ties:only=conflicts", "tall", "della-ties:only=conflicts"],
)  # fmt: skip
def test_no_sign_is_preferred(method: str) -> None:
    rng = np.random.default_rng(43)
    deltas = [rng.normal(size=(300, 200)).astype(np.float32) for _ in range(2)]
    got = combine(deltas, method).astype(np.float64)
    assert abs(got.mean()) < 4 * got.std() / math.sqrt(got.size)
    positive, negative = np.count_nonzero(got > 0), np.count_nonzero(got < 0)
    assert abs(positive - negative) < 4 * math.sqrt(positive + negative)
    opposed = combine([deltas[0], -deltas[0]], "ties:density=auto,vote=count")
    assert not opposed.any()


# Refinement.


@pytest.mark.parametrize("cosine", [-0.99999, -0.9, 0.0, 0.5, 0.9, 0.999, 0.9999999, 1.0])
@pytest.mark.parametrize("size", [1e-3, 1.0, 1e3])
def test_orthogonalised_pairs_keep_their_direction(cosine: float, size: float) -> None:
    gram = np.array([[1.0, cosine * size], [cosine * size, size**2]])
    assert_kept(gram)


@pytest.mark.parametrize("count", [2, 3, 5, 8])
@pytest.mark.parametrize("noise", [0.0, 1e-9, 1e-6, 1e-3, 0.05, 0.5, 3.0])
def test_orthogonalised_near_copies_keep_their_direction(count: int, noise: float) -> None:
    rng = np.random.default_rng(44)
    common = rng.normal(size=400)
    sizes = np.exp(rng.uniform(-2, 2, size=count)) * rng.choice([-1.0, 1.0], size=count)
    vectors = np.stack([s * (common + noise * rng.normal(size=400)) for s in sizes])
    assert_kept(vectors @ vectors.T)


def assert_kept(gram: F64) -> None:
    """Item 13: at the norm it had, no new vector has a cosine below 0.5 with its own."""
    turn = orthogonalised(gram)
    norms = np.sqrt(np.diag(gram))
    news = np.sqrt(np.maximum(np.diag(turn @ gram @ turn.T), 0))
    along = np.diag(turn @ gram)
    assert np.allclose(along, norms**2, rtol=1e-7, atol=0)  # its own component is kept in full
    assert (along / (norms * news) >= 0.5).all()


def test_orthogonalised_is_what_it_says() -> None:
    vectors = np.stack([d.ravel() for d in draw(45, 4)])
    turn = orthogonalised(vectors @ vectors.T)
    turned = turn @ vectors
    before, after = (
        np.abs(np.asarray(np.corrcoef(v))[np.triu_indices(4, 1)]) for v in (vectors, turned)
    )
    assert (after < before).all()
    far = np.linalg.svd(np.random.default_rng(46).normal(size=(3, 50)), full_matrices=False)[2]
    assert np.allclose(orthogonalised(far @ far.T), np.eye(3), atol=1e-12)
    assert not orthogonalised(np.zeros((2, 2))).any()
    assert np.allclose(orthogonalised(np.diag([4.0, 0.0])), np.diag([1.0, 0.0]))


def structured(kind: str, seed: int, count: int) -> list[Any]:
    """Deltas as trainings leave them, and worse."""
    rng, shape = np.random.default_rng(seed), (96, 80)
    common = rng.normal(size=shape)

    def one(index: int) -> F64:
        own = rng.normal(size=shape)
        columns = np.arange(shape[1]) % count == index
        made: Mapping[str, Callable[[], Any]] = {
            "random": lambda: own * np.exp(rng.uniform(-1, 1)),
            "kin": lambda: common + own,
            "near-copies": lambda: common + 0.05 * own,
            "low rank": lambda: own[:, :4] @ rng.normal(size=(4, shape[1])),
            "heavy tails": lambda: rng.standard_t(2.5, size=shape),
            "rows": lambda: own * np.exp(1.5 * rng.normal(size=(shape[0], 1))),
            "disjoint": lambda: own * columns,
        }
        return np.asarray(made[kind](), dtype=np.float32)

    return [one(index) for index in range(count)]


KINDS = ["random", "kin", "near-copies", "low rank", "heavy tails", "rows", "disjoint"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [2, 3, 4, 6])
@pytest.mark.parametrize("method", ["average", "slerp", "karcher", "consensus", "tall", "ties"])
def test_refined_means_are_as_large_as_a_slerp(method: str, kind: str, count: int) -> None:
    # Item 14; where weights oppose near-copies a slerp itself gives up its norm.
    deltas = structured(kind, 47, count)
    for weights in (POSITIVE[:count], MIXED[:count]):
        refined = norm(combine(deltas, method, weights=weights, refine="refine"))
        sizes = [abs(w) for w in weights]
        mean = (
            max(sizes) * sum(s * norm(d) for s, d in zip(sizes, deltas, strict=True)) / sum(sizes)
        )
        assert refined <= mean * (1 + 1e-5)
        if weights[1] > 0 or kind != "near-copies":
            slerp = norm(combine(deltas, "slerp", weights=weights))
            assert 0.9 * slerp <= refined <= 1.1 * slerp


def test_selfish_entries_go_around_the_mean() -> None:
    first, second = np.array([[8.0, 2.0, 1.0, -3.0]]), np.array([[1.0, -1.0, 3.0, 1.0]])
    got = combine([first, second], "tall")
    assert np.array_equal(got, [[8.0 + 0.5, 0.5, 3.0 + 0.5, -3.0 + 0.5]])
    # At the strength of the heaviest, with the sign of its weight.
    got = combine([first, second], "tall", weights=[-2.0, 0.1])
    assert got[0, 0] == pytest.approx(-16.0 + 2 / 2.1 * 0.1)
    aside, rest = set_aside([first, second], [1.0, 1.0], 3.0, level=True)
    assert np.array_equal(aside, [[8.0, 0.0, 3.0, -3.0]])
    assert np.array_equal(rest[0], [[0.0, 2.0, 1.0, 0.0]])


# Consensus.


@pytest.mark.parametrize("clean", ["true", "false"])
@pytest.mark.parametrize("count", [2, 3, 6])
@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (50, 1), (31, 23), (64, 200)], ids=str)
def test_consensus_of_equals_is_the_adapter(shape: tuple[int, int], count: int, clean: str) -> None:
    (delta,) = draw(48, 1, shape)
    got = combine(as_type([delta] * count), f"consensus:clean={clean}", weights=[0.7] * count)
    assert distance(got, 0.7 * delta, [delta], [0.7]) < FLOAT
    # Of a low rank too, where nearly all singular values are rounding.
    up, down = draw(49, 2, (60, 60))
    thin = (up[:, :2] @ down[:2]).astype(np.float32)
    assert np.allclose(combine([thin] * count, "consensus"), thin, rtol=0, atol=1e-4)


@pytest.mark.parametrize("clean", ["true", "false"])
@pytest.mark.parametrize("kinship", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("count", [2, 4, 6])
def test_consensus_has_the_mean_norm(count: int, kinship: float, clean: str) -> None:
    deltas, weights = draw(50, count, (64, 48), kinship), POSITIVE[:count]
    got = norm(combine(as_type(deltas), f"consensus:clean={clean}", weights=weights))
    mean = max(weights) * sum(w * norm(d) for w, d in zip(weights, deltas, strict=True))
    assert got == pytest.approx(mean / sum(weights), rel=1e-5)


@pytest.mark.parametrize("share", [0.0, 1e-6, 1e-3, 0.05, 0.3])
def test_consensus_never_more_than_doubles(share: float) -> None:
    first, noise = draw(51, 2, (64, 48), 0.0)
    deltas = [first, -first + share * noise]
    raw = merged(replace(CONSENSUS, calibrate=False, clean=False), deltas, [1.0, 1.0])
    for clean in ("true", "false"):
        got = combine(as_type(deltas), f"consensus:clean={clean}")
        assert norm(got) <= 2 * norm(raw) + 1e-5 * norm(first)
        assert norm(got) <= 8 * share * norm(noise) + 1e-5 * norm(first)


@pytest.mark.parametrize("weights", [[1.0, 1.0], [0.3, 0.3]])
def test_consensus_of_opposed_deltas_is_nothing(weights: list[float]) -> None:
    (delta,) = draw(52, 1)
    for method in ("consensus", "consensus:clean=false"):
        assert not combine(as_type([delta, -delta]), method, weights=weights).any()
        turned = combine(as_type([delta, delta]), method, weights=[weights[0], -weights[1]])
        assert not turned.any()


def test_cleaning_takes_noise_out() -> None:
    rng = np.random.default_rng(53)
    signal = rng.normal(size=(120, 3)) @ rng.normal(size=(3, 90))
    signal /= math.sqrt(3)
    deltas = [signal + 0.5 * rng.normal(size=signal.shape) for _ in range(3)]
    errors = {}
    for clean in ("true", "false"):
        got = combine(deltas, f"consensus:clean={clean}")
        errors[clean] = norm(got - np.vdot(got, signal) / np.vdot(signal, signal) * signal) / norm(
            got
        )
    assert errors["true"] < 0.8 * errors["false"]


# Refusals.


@pytest.mark.parametrize(
    ("method", "words"),
    [
        ("della:epsilon=2", ["della", "epsilon", "2", "[0, 1)"]),
        ("della:epsilon=-0.1", ["della", "epsilon", "-0.1", "[0, 1)"]),
        ("della:epsilon=nan", ["della", "epsilon", "nan", "[0, 1)"]),
        ("della:epsilon=much", ["della", "epsilon", "much", "[0, 1)"]),
        ("della-ties:density=0", ["della-ties", "density", "0", "(0, 1]"]),
        ("della:dampening=0.1", ["della", "dampening", "epsilon"]),
        ("della:fallback=maybe", ["della", "fallback", "maybe", "everywhere", "nowhere"]),
        ("dare:only=x", ["dare", "only", "x", "all", "conflicts"]),
        ("dare-ties:guard=x", ["dare-ties", "guard", "x", "calibrated", "published", "none"]),
        ("ties:density=auto,energy=0", ["ties", "energy", "0", "(0, 1]"]),
        ("ties:density=auto,energy=1.5", ["ties", "energy", "1.5", "(0, 1]"]),
        ("ties:density=foo", ["ties", "density", "foo", "(0, 1]", "auto"]),
        ("tall:lambda=0.5", ["tall", "lambda", "0.5", "at least 1"]),
        ("tall:lambda=inf", ["tall", "lambda", "inf", "finite"]),
        ("tall:lambda=nan", ["tall", "lambda", "nan", "at least 1"]),
        ("tall:lambda=large", ["tall", "lambda", "large", "at least 1"]),
        ("tall:lambda=2,lambda_=3", ["tall", "lambda", "twice"]),
        ("consensus:clean=maybe", ["consensus", "clean", "maybe", "true", "false"]),
        ("consensus:clean=", ["consensus", "clean", "true", "false"]),
        ("tall:lambda=true", ["tall", "lambda", "true", "at least 1"]),
        ("consensus:lambda=2", ["consensus", "lambda", "clean"]),
        ("consensu", ["consensu", "consensus"]),
    ],
)
@pytest.mark.parametrize("count", [1, 2])
def test_bad_parameters_are_refused_by_name(method: str, words: list[str], count: int) -> None:
    with pytest.raises(ParamError) as caught:
        combine([np.ones((2, 2))] * count, method)
    assert all(word in str(caught.value) for word in words), caught.value


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"method": "slerp", "refine": "foo"}, ["refine", "foo", "none", "refine", "full"]),
        ({"method": "slerp", "refine": None}, ["refine", "None", "none", "refine", "full"]),
        ({"method": "slerp", "space": "foo"}, ["space", "foo", "weight", "knots", "core"]),
        ({"method": "slerp", "refine": "full", "space": "core"}, ["refine", "full", "knots"]),
        ({"method": "core(slerp)", "space": "knots"}, ["core(slerp)", "knots", "once"]),
        ({"method": "core(knots(slerp))"}, ["knots(slerp)"]),
        ({"method": "slerp", "sparsify": "ties"}, ["sparsify", "ties", "dare", "breadcrumbs"]),
        ({"method": "slerp", "sparsify": "linear"}, ["sparsify", "linear", "dare", "della"]),
        ({"method": "slerp", "sparsify": "consensus"}, ["sparsify", "consensus", "della"]),
        ({"method": "slerp", "sparsify": "della-ties"}, ["sparsify", "della-ties", "breadcrumbs"]),
        ({"method": "slerp", "sparsify": "tsv"}, ["sparsify", "tsv", "breadcrumbs"]),
        ({"method": "slerp", "sparsify": "core(dare)"}, ["sparsify", "core", "modifiers"]),
        ({"method": "slerp", "sparsify": "dare:density=0"}, ["dare", "density", "0", "(0, 1]"]),
        ({"method": "slerp", "sparsify": "rare"}, ["rare", "dare"]),
        ({"method": "iso-c", "sparsify": "dare"}, ["iso-c", "sparsify"]),
        ({"method": "tsv", "refine": "refine"}, ["tsv", "refine"]),
        ({"method": "svc", "space": "core"}, ["svc", "space"]),
        ({"method": "knots(lego)"}, ["lego", "space"]),
        ({"method": method_of("slerp", refine="refine"), "refine": "refine"}, ["slerp", "once"]),
        ({"method": method_of("ties", space="core"), "sparsify": "dare"}, ["ties", "once"]),
    ],
)
@pytest.mark.parametrize("count", [1, 2])
def test_bad_modifiers_are_refused_by_name(
    options: Mapping[str, Any], words: list[str], count: int
) -> None:
    with pytest.raises(ParamError) as caught:
        combine([np.ones((2, 2))] * count, **options)
    assert all(word in str(caught.value) for word in words), caught.value


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


@few
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("weights", [[1.0, 1.0, 0.5], [0.0, 1.0, 1.0], [1.0, -1.0, 0.0]])
def test_what_is_not_a_number_is_refused_by_name(
    case: Case, value: float, weights: list[float]
) -> None:
    deltas = as_type(draw(54, 3))
    deltas[2][4, 5] = value
    with pytest.raises(FormatError, match="delta 2 holds"):
        case(deltas, weights)


# Arrays, tensors, threads.


@laws
def test_bits_do_not_depend_on_threads(case: Case) -> None:
    deltas = as_type(draw(55, 3, (300, 333)))
    first, *others = (case(deltas, [1.0, 0.5, -0.2], threads=t).tobytes() for t in (1, 2, 7))
    assert all(other == first for other in others)


@few
@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
def test_arrays_of_every_type_and_layout(case: Case, dtype: str) -> None:
    kind = "float16" if dtype == "float16" else "float32"
    deltas = [d.astype(kind).astype(np.float64) for d in draw(56, 3)]
    weights = [1.0, 0.5, 0.25]
    inputs = as_type(deltas, dtype)
    got = case(inputs, weights)
    assert got.dtype == np.dtype(dtype)
    limit = 2e-3 if dtype == "float16" else bound(case)
    assert distance(got, merged(case.means, deltas, weights), deltas, weights) < limit
    every = np.dtype(dtype)
    for other in (
        [np.asfortranarray(d) for d in inputs],
        [np.repeat(d, 2, axis=1)[:, ::2] for d in inputs],
        [d.astype(every.newbyteorder(">" if sys.byteorder == "little" else "<")) for d in inputs],
    ):
        assert np.array_equal(case(other, weights), got)


@few
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_tensors_of_every_type_and_layout(case: Case, dtype: str) -> None:
    kind, weights = getattr(torch, dtype), [1.0, 0.5, 0.25]
    tensors = [torch.from_numpy(d).to(kind) for d in draw(57, 3)]
    deltas = [t.to(torch.float64).numpy() for t in tensors]
    got = case(tensors, weights)
    assert got.dtype == kind
    assert got.shape == tensors[0].shape
    limit = {"float32": bound(case), "float16": 2e-3, "bfloat16": 1e-2}[dtype]
    found = got.to(torch.float64).numpy()
    assert distance(found, merged(case.means, deltas, weights), deltas, weights) < limit
    for other in (
        [t.t().contiguous().t() for t in tensors],
        [t.repeat_interleave(2, dim=1)[:, ::2] for t in tensors],
        [t.clone().requires_grad_() for t in tensors],
    ):
        assert torch.equal(case(other, weights), got)
