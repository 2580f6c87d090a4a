"""Arrays and tensors through both backends: every method, pairwise with what modifies it.

Dense deltas need no products, so methods of entries give equal bits but where sums over all
entries decide (refinement, calibration, energies of joint bases).
"""

from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from helpers import F64

from loramix import METHODS, ParamError, combine, kernels
from loramix.methods import Elementwise, Subspace, method_of
from loramix.methods.composite import LEVELS, SPACES

WEIGHTS = [0.9, -0.6, 1.3]
NEAR = 1e-5
SHAPES = [(31, 23), (5, 40), (40, 3), (77,), (4, 5, 3, 3), (1, 1)]
TYPES = ["float32", "bfloat16", "float64", "float16"]
STEP = {"float64": 2.0**-24, "float32": 2.0**-24, "float16": 2.0**-10, "bfloat16": 2.0**-7}
"""What rounding to a type may do more, relative to an entry; methods work in float32."""
SPARSIFIERS = [None, "dare", "della:only=conflicts", "breadcrumbs:density=0.6"]


def draw(seed: int, count: int, shape: Sequence[int]) -> list[torch.Tensor]:
    """Random deltas that share a part, in float64."""
    rng = np.random.default_rng(seed)
    common = rng.normal(size=shape)
    sizes = np.exp(rng.uniform(-1, 1, size=count))
    return [torch.from_numpy(s * (0.7 * common + rng.normal(size=shape))) for s in sizes]


def arguments() -> list[tuple[str, dict[str, Any], tuple[int, ...], str]]:
    """Method, modifiers, shape and type; the latter take turns."""
    found: list[tuple[str, dict[str, Any], tuple[int, ...], str]] = []
    for i, name in enumerate(METHODS):
        for j, (space, level) in enumerate(product(SPACES, LEVELS)):
            sparsify = SPARSIFIERS[(i + j) % len(SPARSIFIERS)]
            options = {"space": space, "refine": level, "sparsify": sparsify}
            if isinstance(METHODS[name](), Subspace):
                options = {"seed": j}
            try:
                method_of(name, **{k: v for k, v in options.items() if k != "seed"})
            except ParamError:
                continue  # which combinations are refused is tested elsewhere
            found.append((name, options, SHAPES[(i + j) % len(SHAPES)], TYPES[(i + j // 2) % 4]))
    return found


def alike(one: torch.Tensor, two: torch.Tensor, near: float = NEAR) -> bool:
    """Within ``near`` of the largest entry, and one rounding to the type of each."""
    assert (one.dtype, one.shape) == (two.dtype, two.shape)
    left, right = one.to(torch.float64), two.to(torch.float64)
    room = near * float(left.abs().max()) + STEP[str(one.dtype).removeprefix("torch.")] * left.abs()
    return bool(((left - right).abs() <= room).all())


@pytest.mark.parametrize(("name", "options", "shape", "dtype"), arguments(), ids=str)
def test_both_backends_combine_alike(
    name: str, options: dict[str, Any], shape: tuple[int, ...], dtype: str
) -> None:
    deltas = [d.to(getattr(torch, dtype)) for d in draw(3, 3, shape)]
    ours = combine(deltas, name, weights=WEIGHTS, backend="torch:cpu", **options)
    theirs = combine(deltas, name, weights=WEIGHTS, **options)
    assert alike(ours, theirs)
    assert bool((theirs != 0).any()) or name == "model-stock"  # zero where deltas oppose each other


@pytest.mark.parametrize("sparsify", SPARSIFIERS)
@pytest.mark.parametrize(
    "name", sorted(n for n, kind in METHODS.items() if isinstance(kind(), Elementwise))
)
def test_methods_of_entries_give_equal_bits(name: str, sparsify: str | None) -> None:
    deltas = [d.to(torch.float32) for d in draw(5, 4, (61, 47))]
    weights = [*WEIGHTS, -0.2]
    ours = combine(deltas, name, weights=weights, sparsify=sparsify, backend="torch:cpu")
    theirs = combine(deltas, name, weights=weights, sparsify=sparsify)
    if name == "consensus":  # calibrated by sums of f64, which have no order in common
        assert alike(ours, theirs)
    else:
        assert torch.equal(ours, theirs)


VERBS: dict[str, Callable[[list[Any]], Any]] = {
    "ties": lambda d: kernels.ties(d, 0.3, weights=WEIGHTS, vote="count"),
    "ties:density=auto": lambda d: kernels.ties(d, "auto", weights=WEIGHTS),
    "dare-ties": lambda d: kernels.dare_ties(d, 0.6, dampening=0.5, weights=WEIGHTS, seed=4),
    "della-ties": lambda d: kernels.della_ties(d, 0.6, epsilon=0.4, weights=WEIGHTS, seed=4),
    "consensus:clean=no": lambda d: kernels.consensus(d, weights=WEIGHTS, clean=False),
}
SPELLED = {
    "ties": "ties:density=0.3,vote=count",
    "dare-ties": "dare-ties:density=0.6,dampening=0.5",
    "della-ties": "della-ties:density=0.6,epsilon=0.4",
}


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("verb", VERBS)
def test_verbs_on_tensors_are_what_torch_makes(
    verb: str, shape: tuple[int, ...], dtype: str
) -> None:
    deltas = [d.to(getattr(torch, dtype)) for d in draw(7, 3, shape)]
    method = SPELLED.get(verb, verb)
    ours = combine(deltas, method, weights=WEIGHTS, seed=4, backend="torch:cpu")
    theirs = VERBS[verb](deltas)
    assert alike(ours, theirs) if verb.startswith("consensus") else torch.equal(ours, theirs)


def dense(values: Any) -> F64:
    return np.asarray(values, dtype=np.float64)


@pytest.mark.parametrize("backend", ["rust", "torch:cpu"])
@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("method", ["ties:density=1", "ties:density=1,vote=count", "tall"])
@pytest.mark.parametrize("refine", ["none", "refine"])
def test_deltas_of_orthogonal_spaces_do_not_meet(
    refine: Any, method: str, space: Any, backend: str
) -> None:
    """Neither rows nor columns in common, in any basis: a joint one keeps them apart, exactly.

    Where one of them has nothing, rounding must not count as an entry: it halved means.
    """
    rng = np.random.default_rng(8)
    left, right = (np.linalg.qr(rng.normal(size=(n, n)))[0] for n in (24, 30))
    deltas = [np.zeros((24, 30)) for _ in range(3)]
    for i, delta in enumerate(deltas):
        delta[8 * i : 8 * i + 8, 10 * i : 10 * i + 10] = rng.normal(size=(8, 10))
    turned = deltas if space == "weight" else [left @ delta @ right for delta in deltas]
    weights = [1.0, 1.0, 1.0]
    got = combine(turned, method, weights=weights, space=space, refine=refine, backend=backend)
    total = np.sum(turned, axis=0)
    if refine != "none":  # means are brought to the mean norm
        sizes = [float(np.linalg.norm(delta)) for delta in turned]
        total = total * np.mean(sizes) / np.linalg.norm(total)
    assert np.linalg.norm(dense(got) - total) < 2e-6 * np.linalg.norm(total)
