"""Whole stacks: adapters that go around, notes, words, refusals."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest
from policies.auto.planted import mixed, product
from policies.auto.stacks import adapter, decision, stack_of
from policies.statistics import group_statistics

from loramix import ParamError
from loramix.analysis.statistics import GroupStatistics
from loramix.methods import Linear, Retain
from loramix.policies.auto import Auto
from loramix.policies.base import Policy

F64 = npt.NDArray[np.float64]
SHAPE = (64, 48)
RNG = np.random.default_rng(21)
ONE, TWO, THREE = (product(RNG, SHAPE, 8) for _ in range(3))
ALIKE = mixed(ONE, TWO, 0.9)


def group(
    deltas: Sequence[F64], *, owners: Sequence[int] | None = None, key: str = "unet.a"
) -> GroupStatistics:
    return group_statistics(deltas, [8] * len(deltas), owners=owners, key=key)


def test_it_is_a_policy() -> None:
    policy: Policy = Auto()
    assert policy.name == "auto"


def test_a_recognised_adapter_goes_around_and_the_others_are_decided_without_it() -> None:
    adapters = [adapter("style"), adapter("lcm-lora"), adapter("face")]
    (without,) = Auto().decide(stack_of([group([ONE, ALIKE])], [[1.0, 0.8]])).decisions
    stack = stack_of([group([ONE, TWO, ALIKE])], [[1.0, 0.7, 0.8]], adapters)
    verdict = Auto().decide(stack)
    (made,) = verdict.decisions
    assert made.sides == ("all", "around", "all")
    assert made.method == without.method == Retain()
    assert made.weights == (without.weights[0], 0.7, without.weights[1])
    assert made.why.startswith("retain: style and face say much the same, cosine 0.900")
    (note,) = verdict.notes
    assert "lcm-lora is for fewer steps ('lcm' in its name)" in note

    mixing = Auto(mix=True).decide(stack)
    assert mixing.decisions[0].sides == ()
    assert mixing.notes == ()


def test_what_goes_around_leaves_the_other_alone() -> None:
    adapters = [adapter("style"), adapter("sdxl_lightning_4step")]
    stack = stack_of([group([ONE, ALIKE])], [[1.0, -0.7]], adapters)
    for strength in (1.0, 2.0):
        (made,) = Auto(strength=strength).decide(stack).decisions
        assert made.regime == "alone"
        assert isinstance(made.method, Linear)
        assert made.weights == (1.0, -0.7)
        assert made.sides == ("all", "around")


@pytest.mark.parametrize("why", ["around", "weight 0"])
def test_who_takes_no_part_needs_no_pairs(why: str) -> None:
    """Also where only inner products are there: nothing is decided that needs more."""
    bare = dataclasses.replace(group([ONE, ALIKE]), pairs=(), deltas=())
    adapters = [adapter("style"), adapter("lcm")] if why == "around" else None
    weights = [[1.0, 0.5]] if why == "around" else [[1.0, 0.0]]
    (made,) = Auto().decide(stack_of([bare], weights, adapters)).decisions
    assert made.regime == "alone"


def test_without_statistics_of_pairs_it_refuses_and_says_what_to_do() -> None:
    bare = dataclasses.replace(group([ONE, ALIKE]), pairs=(), deltas=())
    with pytest.raises(
        ParamError, match=r"unet\.a: 0 pairs and 0 deltas of 2 .* analyse the stack"
    ):
        Auto().decide(stack_of([bare], [[1.0, 1.0]]))
    unknown = dataclasses.replace(bare, gram=np.full((2, 2), np.nan))
    with pytest.raises(ParamError, match="analyse the stack first"):
        Auto().decide(stack_of([unknown], [[1.0, 1.0]]))


def test_opposed_pairs_are_noted_over_all_groups_and_by_the_signs_of_weights() -> None:
    groups = [group([ONE, ALIKE]), group([TWO, mixed(TWO, THREE, 0.8)], key="unet.b")]
    assert not Auto().decide(stack_of(groups, [[1.0, 1.0]] * 2)).notes
    (note,) = Auto().decide(stack_of(groups, [[1.0, -1.0]] * 2)).notes
    assert note.startswith("a and b oppose each other (cosine -0.85)")


def test_domination_is_noted_by_weighted_norms() -> None:
    stack = stack_of([group([ONE, 5 * TWO])], [[1.0, 1.0]])
    (note,) = Auto().decide(stack).notes
    assert note.startswith("b is 5.0 times as strong as any other")
    assert not Auto(dominance=5.1).decide(stack).notes
    assert not Auto().decide(stack_of([group([ONE, 5 * TWO])], [[1.0, 0.5]])).notes


def test_adapters_that_meet_nowhere_are_noted() -> None:
    groups = [group([ONE], owners=[0]), group([TWO], owners=[1], key="unet.b")]
    verdict = Auto().decide(stack_of(groups, [[1.0], [1.0]]))
    assert verdict.notes == ("a and b change no weight in common: each stays as it is",)
    assert [made.regime for made in verdict.decisions] == ["alone", "alone"]


def test_an_even_profile_is_a_hint_and_decides_nothing() -> None:
    rng = np.random.default_rng(3)
    even = [product(rng, SHAPE, 8) for _ in range(12)]
    spread = [product(rng, SHAPE, 8) * 2.0 ** (i % 4) for i in range(12)]
    groups = [
        group([one, other], key=f"unet.{i}")
        for i, (one, other) in enumerate(zip(even, spread, strict=True))
    ]
    verdict = Auto().decide(stack_of(groups, [[1.0, 0.5]] * 12))
    (note,) = verdict.notes
    assert note.startswith("a changes 12 weights nearly alike")
    assert all(made.sides == () for made in verdict.decisions)
    assert not Auto().decide(stack_of(groups[:11], [[1.0, 0.5]] * 11)).notes


def test_a_member_that_is_too_small_to_matter_names_nothing() -> None:
    small = decision(group([ONE, ALIKE]), [1.0, 0.01])
    assert small.regime == "alone"
    assert decision(group([ONE, ALIKE]), [1.0, 0.06]).regime == "aligned"


def test_numbers_are_those_of_the_pair_that_decided() -> None:
    made = decision(group([ONE, TWO, ALIKE]), [1.0, 1.0, -0.8])
    assert made.regime == "opposed"
    assert made.numbers["cosine"] == pytest.approx(-0.9)
    assert made.why.startswith("linear: a and c work against each other, cosine -0.900")


@pytest.mark.parametrize(
    "field", ["strength", "errors", "margin", "aligned", "opposed", "full", "minor"]
)
@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf"), True, "much"])
def test_thresholds_outside_their_range_are_refused(field: str, value: object) -> None:
    with pytest.raises(ParamError, match=f"auto: {field} = .*: a number above 0"):
        Auto(**{field: value})


def test_other_parameters_outside_their_range_are_refused() -> None:
    for balance in (-0.1, 1.1, float("nan"), True, "much"):
        with pytest.raises(ParamError, match=r"auto: balance = .*: a number from 0 to 1"):
            Auto(balance=balance)  # type: ignore[arg-type]
    with pytest.raises(ParamError, match="auto: mix = 'yes': true or false"):
        Auto(mix="yes")  # type: ignore[arg-type]
    with pytest.raises(ParamError, match="auto: dominance = 1: a number above 1"):
        Auto(dominance=1)
