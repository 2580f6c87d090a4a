"""The choice of ranks against trying everything, and its laws."""

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loramix.resizing import ranks
from loramix.resizing.ranks import Spectrum

Plain = tuple[list[float], int]
"""Singular values, and what one rank costs."""

VALUES = st.lists(st.integers(0, 12), min_size=1, max_size=4).map(
    lambda found: [float(value) for value in sorted(found, reverse=True)]
)
FEW = st.lists(st.tuples(VALUES, st.integers(1, 9)), min_size=1, max_size=4)
MANY = st.lists(st.tuples(VALUES, st.integers(1, 9)), min_size=1, max_size=30)
ERRORS = st.floats(0, 0.99)


def spectra_of(plain: Sequence[Plain]) -> list[Spectrum]:
    return [Spectrum(np.array(values), cost) for values, cost in plain]


def error_oracle(plain: Sequence[Plain], chosen: Sequence[int]) -> float:
    """Root of what is left out over the root of everything, value by value."""
    left = sum(v * v for (values, _), k in zip(plain, chosen, strict=True) for v in values[k:])
    total = sum(v * v for values, _ in plain for v in values)
    return math.sqrt(left / total) if total else 0.0


def numbers(plain: Sequence[Plain], chosen: Sequence[int]) -> int:
    return sum(cost * k for (_, cost), k in zip(plain, chosen, strict=True))


def everything(plain: Sequence[Plain]) -> list[tuple[float, int]]:
    """Error and numbers of every possible choice."""
    possible = itertools.product(*(range(1, len(values) + 1) for values, _ in plain))
    return [(error_oracle(plain, one), numbers(plain, one)) for one in possible]


@given(FEW, ERRORS)
def test_an_error_is_met_with_as_few_numbers_as_there_are(plain: list[Plain], error: float) -> None:
    chosen = ranks.for_error(spectra_of(plain), error)
    assert all(k >= 1 for k in chosen)
    got = error_oracle(plain, chosen)
    assert got <= error * (1 + 1e-9)
    best = min(count for other, count in everything(plain) if other <= error)
    # One step: equal spectra move together, so a step is at most all that cost the same.
    step = max(cost for _, cost in plain) * len(plain)
    assert numbers(plain, chosen) < best + step
    # No other choice of as many numbers is better.
    fewest = min(other for other, count in everything(plain) if count <= numbers(plain, chosen))
    assert got <= fewest + 1e-9


@given(FEW, st.integers(0, 60))
def test_a_size_is_filled_with_as_small_an_error_as_there_is(
    plain: list[Plain], extra: int
) -> None:
    spectra = spectra_of(plain)
    assert ranks.least(spectra) == numbers(plain, [1] * len(plain))
    limit = ranks.least(spectra) + extra
    chosen = ranks.for_size(spectra, limit)
    used = numbers(plain, chosen)
    assert used <= limit
    got = error_oracle(plain, chosen)
    # Nothing more fits.
    for (values, cost), rank in zip(plain, chosen, strict=True):
        assert used + cost > limit or not any(values[rank:])
    # But for the step that did not fit, no other choice is better.
    step = max(cost for _, cost in plain) * len(plain)
    possible = [other for other, count in everything(plain) if count <= limit - step]
    assert got <= min(possible, default=1) + 1e-9


@given(MANY, ERRORS, ERRORS)
def test_a_larger_error_never_takes_more(plain: list[Plain], one: float, other: float) -> None:
    spectra = spectra_of(plain)
    small, large = (ranks.for_error(spectra, error) for error in sorted((one, other)))
    assert all(a >= b for a, b in zip(small, large, strict=True))


@given(MANY, st.integers(0, 300), st.integers(0, 300))
def test_a_larger_size_never_has_a_larger_error(plain: list[Plain], one: int, other: int) -> None:
    spectra = spectra_of(plain)
    sizes = (ranks.least(spectra) + extra for extra in sorted((one, other)))
    small, large = (error_oracle(plain, ranks.for_size(spectra, size)) for size in sizes)
    assert large <= small + 1e-6


@given(VALUES, st.integers(1, 9), st.integers(1, 6), ERRORS)
def test_equal_spectra_get_equal_ranks(
    values: list[float], cost: int, count: int, error: float
) -> None:
    spectra = spectra_of([(values, cost)] * count)
    assert len(set(ranks.for_error(spectra, error))) == 1


def test_equal_but_for_rounding_is_equal() -> None:
    values = np.array([5.0, 3.0, 2.0, 1.0])
    spectra = [Spectrum(values * (1 + 1e-9 * i), 7) for i in range(5)]
    assert ranks.for_error(spectra, 0.4) == (2,) * 5


def test_one_flat_spectrum_is_cut_one_by_one() -> None:
    assert ranks.for_error([Spectrum(np.ones(8), 3)], 0.5) == (6,)


def test_a_target_that_costs_less_keeps_more() -> None:
    values = np.array([4.0, 2.0, 2.0, 1.0])
    cheap, dear = ranks.for_size([Spectrum(values, 10), Spectrum(values, 1000)], 1040)
    assert (cheap, dear) == (4, 1)


@given(MANY, ERRORS)
def test_the_error_is_that_of_the_oracle(plain: list[Plain], error: float) -> None:
    spectra = spectra_of(plain)
    chosen = ranks.for_error(spectra, error)
    assert ranks.error_of(spectra, chosen) == pytest.approx(error_oracle(plain, chosen), abs=1e-12)


def test_nothing_at_all() -> None:
    spectra = [Spectrum(np.zeros(3), 5), Spectrum(np.zeros(1), 2)]
    assert ranks.for_error(spectra, 0.0) == (1, 1)
    assert ranks.for_size(spectra, 1000) == (1, 1)
    assert ranks.error_of(spectra, (1, 1)) == 0.0


def test_what_a_large_step_leaves_goes_to_smaller_ones() -> None:
    """The dear target is next in order and does not fit; its values are not taken out of order."""
    dear, cheap = np.array([9.0, 8.0, 0.01]), np.array([3.0, 1.0, 0.5])
    spectra = [Spectrum(dear, 50), Spectrum(cheap, 10)]
    assert ranks.for_size(spectra, 60 + 49) == (1, 3)
    assert ranks.for_size(spectra, 60 + 50) == (2, 1)
    assert ranks.for_size(spectra, 60 + 60) == (2, 2)
