"""Parameters, modifiers and numbers that methods on entries refuse, by name."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from entries.cases import Case, as_type, draw, few

from loramix import FormatError, ParamError, combine
from loramix.methods import method_of


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
