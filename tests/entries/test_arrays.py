"""Methods on entries on arrays and tensors of every type and layout, on any number of threads."""

import sys

import numpy as np
import pytest
import torch
from entries.cases import Case, as_type, bound, distance, draw, few, laws
from oracles_entries import merged


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
