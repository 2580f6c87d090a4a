"""What is no stack of deltas, weight, seed or number of threads is refused in words."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import pairs, write_adapter

import loramix
from loramix import combine, kernels
from loramix.errors import FormatError, LoramixError, ParamError
from loramix.policies import Auto

RNG = np.random.default_rng(3)
STACK = RNG.standard_normal((3, 4, 5)).astype(np.float32)
LIST = list(STACK)
SUM = STACK.astype(np.float64).sum(axis=0)


@pytest.mark.parametrize("call", [combine, kernels.gram])
@pytest.mark.parametrize(
    ("deltas", "error", "words"),
    [
        (STACK, ParamError, r"one array of shape \(3, 4, 5\): give a list .* list\(stack\)"),
        (torch.from_numpy(STACK), ParamError, r"list\(stack\) makes one"),
        (dict(enumerate(LIST)), ParamError, r"list\(deltas.values\(\)\)"),
        ("deltas", ParamError, "deltas are a str"),
        (7, ParamError, "deltas are a int"),
        ([], ParamError, "at least one is needed"),
        (iter([]), ParamError, "at least one is needed"),
        ([LIST[0].tolist()], FormatError, "delta 0 is a list"),
        ([LIST[0], np.ma.masked_less(LIST[1], 0)], FormatError, "delta 1 is a masked array"),
        ([torch.empty(2, 2, device="meta")], FormatError, "on the device meta"),
        ([torch.eye(3).to_sparse()], FormatError, "give delta.to_dense"),
    ],
)
def test_what_is_no_list_of_deltas_is_refused(
    call: Callable[[Any], Any], deltas: Any, error: type[LoramixError], words: str
) -> None:
    with pytest.raises(error, match=words):
        call(deltas)


@pytest.mark.parametrize("make", [list, tuple, iter, lambda deltas: (d for d in deltas)])
def test_any_other_container_will_do(make: Callable[[Any], Any]) -> None:
    np.testing.assert_allclose(combine(make(LIST), "linear"), SUM, rtol=1e-6)
    assert kernels.gram(make(LIST)).shape == (3, 3)


def test_a_negative_view_is_what_it_shows() -> None:
    values = torch.complex(torch.zeros(4, 5), torch.from_numpy(LIST[0])).conj().imag
    assert values.is_neg()
    for method in ("linear", "ties"):
        shown = combine([values, torch.from_numpy(LIST[1])], method)
        np.testing.assert_array_equal(shown.numpy(), combine([-LIST[0], LIST[1]], method))


@pytest.mark.parametrize(
    "weights",
    [
        np.array([1, 2, 3]),
        torch.tensor([1.0, 2.0, 3.0], requires_grad=True),
        [np.float32(1), torch.tensor(2.0), 3],
        iter([1, 2, 3]),
    ],
)
def test_weights_are_any_numbers(weights: Any) -> None:
    expected = combine(LIST, "linear", weights=[1.0, 2.0, 3.0])
    np.testing.assert_array_equal(combine(LIST, "linear", weights=weights), expected)


@pytest.mark.parametrize(
    "weights",
    [
        *("123", ["1", "2", "3"], {0: 1, 1: 1, 2: 1}, [1, 2], [1, 2, [3]], [1, 2, 1j]),
        *([1, 2, float("nan")], [1, 2, 10**400], 1.0),
    ],
)
def test_other_weights_are_refused(weights: Any) -> None:
    with pytest.raises(
        ParamError, match=r"one finite number, at most 3.4e38, for each of 3 deltas"
    ):
        combine(LIST, "linear", weights=weights)


@pytest.mark.parametrize("policy", ["auto", "published:method=ties", Auto()])
def test_a_policy_is_sent_to_merge(policy: Any) -> None:
    with pytest.raises(ParamError, match=r"is a policy.* see loramix.merge; .* ties, "):
        combine(LIST, policy)


@pytest.mark.parametrize(("name", "near"), [("autoo", "auto"), ("tise", "ties")])
def test_an_unknown_name_lists_methods_and_policies(name: str, near: str, tmp_path: Path) -> None:
    path = write_adapter(tmp_path / "a.safetensors", pairs(1))
    words = rf"method '{name}' \(did you mean {near}\?\); known are the methods .*the policies auto"
    with pytest.raises(ParamError, match=words):
        loramix.merge([path, path], method=name)


@pytest.mark.parametrize("seed", [1.5, "x", None, -1, 2**64])
def test_a_seed_is_a_word(seed: Any) -> None:
    with pytest.raises(ParamError, match=r"seed = .*: allowed is an integer from 0 to"):
        combine(LIST, "dare", seed=seed)


@pytest.mark.parametrize("threads", [0, -1, 1025, 10**30, 1.5, "2"])
def test_threads_are_few(threads: Any, tmp_path: Path) -> None:
    one = tmp_path / "never_read.safetensors"
    calls: list[Callable[[], object]] = [
        lambda: combine(LIST, "ties", threads=threads),
        lambda: kernels.gram(LIST, threads=threads),
        lambda: loramix.merge([one, one], threads=threads),
        lambda: loramix.analyze([one, one], threads=threads),
        lambda: loramix.convert(one, path=tmp_path / "b.safetensors", threads=threads),
        lambda: loramix.extract(one, one, threads=threads),
        lambda: loramix.bake(one, [one], path=tmp_path / "c.safetensors", threads=threads),
        lambda: loramix.resize(one, rank=2, threads=threads),
        lambda: loramix.diff(one, one, threads=threads),
        lambda: loramix.reproduce(one, [tmp_path], threads=threads),
    ]
    for call in calls:
        with pytest.raises(ParamError, match=r"threads = .*: allowed is 1 to 1024, or None"):
            call()
