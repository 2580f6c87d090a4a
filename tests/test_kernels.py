"""The public verbs on dense deltas: what they compute, in what they give it back, what they refuse.

Deltas hold float32 values, so that the oracles rank and draw what the package does.
"""

import doctest
import math
import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

import numpy as np
import pytest
import torch
from helpers import F64
from oracles import dare_ties, keep_largest, keep_random, philox, ties, winning_sign

import loramix
from loramix import FormatError, OutputError, ParamError, ShapeError, _core, kernels

TILE = 1 << 16
SHAPES: list[tuple[int, ...]] = [
    (), (0,), (3, 0), (1,), (31,), (1000,), (TILE - 1,), (TILE,), (TILE + 1,),
    (1, 7), (33, 31), (6, 5, 3, 3), (2, TILE + 1), (300, 401),
]  # fmt: skip
NUMPY = ["float64", "float32", "float16"]
TORCH = ["float64", "float32", "float16", "bfloat16"]
KINDS = [f"numpy-{name}" for name in NUMPY] + [f"torch-{name}" for name in TORCH]
LAYOUTS = ["plain", "reversed axes", "every second"]
WEIGHTS = [1.0, -2.0, 0.5]

ON_ONE = ["trim", "dare", "della"]
ON_SEVERAL = ["gram", "sign_conflict", "elect_sign", "tall_masks"]
WHOLE = ["ties", "dare_ties", "della_ties", "consensus"]
VERBS = [*ON_ONE, *ON_SEVERAL, *WHOLE]

DIGITS = {"float64": 2e-7, "float32": 2e-7, "float16": 2.0**-10, "bfloat16": 2.0**-7}
"""Of a few roundings to f32 and one to the type."""


def draw(shape: tuple[int, ...], count: int = 3, seed: int = 0) -> list[F64]:
    """Values that float32 has, some of them zero."""
    rng = np.random.default_rng([seed, *shape])
    values = rng.normal(size=(count, *shape)) * (rng.uniform(size=(count, *shape)) > 0.2)
    rounded = values.astype(np.float32).astype(np.float64)
    return [rounded[i, ...] for i in range(count)]  # arrays, without axes too


def laid(array: Any, layout: str) -> Any:
    """The same numbers, elsewhere in memory."""
    if layout == "reversed axes":
        axes = tuple(reversed(range(array.ndim)))
        if isinstance(array, torch.Tensor):
            return array.permute(axes).contiguous().permute(axes)
        return np.asarray(array.transpose(axes).copy()).transpose(axes)
    if layout == "every second":
        if isinstance(array, torch.Tensor):
            return torch.stack([array, 7 + array], dim=-1)[..., 0]
        return np.stack([array, 7 + array], axis=-1)[..., 0]
    return array


def made(values: F64, kind: str, layout: str = "plain") -> Any:
    room, _, name = kind.partition("-")
    if room == "torch":
        tensor = torch.empty(values.shape, dtype=getattr(torch, name))
        return laid(tensor.copy_(torch.from_numpy(values)), layout)
    return laid(values.astype(name), layout)


def truth(array: Any) -> F64:
    """Numbers of an array in float64."""
    if isinstance(array, torch.Tensor):
        return array.detach().double().numpy()
    return np.asarray(array, dtype=np.float64)


def assert_like(result: Any, delta: Any) -> None:
    assert type(result) is type(delta) or isinstance(result, np.ndarray)
    assert isinstance(result, torch.Tensor) == isinstance(delta, torch.Tensor)
    assert result.dtype == delta.dtype
    assert tuple(result.shape) == tuple(delta.shape)


def assert_near(result: Any, expected: F64) -> None:
    """Within the digits of the result's type, relative to each entry."""
    name = str(result.dtype).removeprefix("torch.")
    tiny = 1e-6 if name == "float16" else 0.0  # where its numbers get sparse
    np.testing.assert_allclose(truth(result), expected, rtol=DIGITS[name], atol=tiny)


def ranked(value: F64, density: float, spread: float, seed: int, key: int) -> F64:
    """DELLA on one delta, row by row."""
    wide = value.reshape(value.shape[0], -1) if value.ndim > 1 else value.reshape(1, -1)
    draws = (philox(seed, key, 0, wide.size) >> 8).reshape(wide.shape) * 2.0**-24
    spread = min(spread, 2 * min(density, 1 - density))
    result = np.zeros_like(wide)
    for row in range(wide.shape[0]):
        order = np.argsort(-np.abs(wide[row]), kind="stable")
        for place, at in enumerate(order):
            keep = density + spread * (0.5 - (place + 0.5) / len(order))
            if draws[row, at] < np.float32(keep):
                result[row, at] = wide[row, at] / keep
    return result.reshape(value.shape)


# Each verb against its definition, on every kind, shape and layout.

ONE: dict[str, tuple[Callable[[Any], Any], Callable[[F64], F64]]] = {
    "trim": (lambda d: kernels.trim(d, 0.3), lambda d: keep_largest(d, 0.3)),
    "trim outliers": (
        lambda d: kernels.trim(d, 0.5, outliers=0.1),
        lambda d: keep_largest(d, 0.5, 0.1),
    ),
    "trim nothing": (lambda d: kernels.trim(d, 1.0), lambda d: d),
    "dare": (
        lambda d: kernels.dare(d, 0.4, dampening=0.25, seed=5, key=9),
        lambda d: keep_random(d, 0.4, 0.55, seed=5, target=9, place=0),
    ),
    "della": (
        lambda d: kernels.della(d, 0.6, epsilon=0.5, seed=5, key=2**63),
        lambda d: ranked(d, 0.6, 0.5, 5, 2**63),
    ),
}


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("verb", ONE)
def test_a_verb_on_one_delta(verb: str, kind: str, shape: tuple[int, ...]) -> None:
    run, oracle = ONE[verb]
    delta = made(draw(shape)[0], kind)
    before = truth(delta).copy()
    result = run(delta)
    assert_like(result, delta)
    expected = oracle(before)
    if verb.startswith("trim"):
        np.testing.assert_array_equal(truth(result), expected)
    else:
        assert_near(result, expected)
    np.testing.assert_array_equal(truth(delta), before)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(), (31,), (33, 31), (6, 5, 3, 3)], ids=str)
def test_memory_layout_does_not_matter(kind: str, layout: str, shape: tuple[int, ...]) -> None:
    plain = [made(d, kind) for d in draw(shape)]
    moved = [laid(d, layout) for d in plain]
    for verb in ON_ONE:
        got, expected = getattr(kernels, verb)(moved[0], 0.4), getattr(kernels, verb)(plain[0], 0.4)
        np.testing.assert_array_equal(truth(got), truth(expected))
    for verb in (*ON_SEVERAL, *WHOLE):
        got, expected = getattr(kernels, verb)(moved), getattr(kernels, verb)(plain)
        np.testing.assert_array_equal(truth(got), truth(expected))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_gram(kind: str, shape: tuple[int, ...]) -> None:
    deltas = [made(d, kind) for d in draw(shape, 4)]
    got = kernels.gram(deltas)
    flat = np.stack([truth(d).ravel() for d in deltas])
    assert isinstance(got, np.ndarray)
    assert got.dtype == np.float64
    scale = float(np.square(flat).sum(axis=1).max(initial=0.0))
    np.testing.assert_allclose(got, flat @ flat.T, rtol=0, atol=1e-13 * scale)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [1, 4])
def test_sign_conflict(count: int, kind: str, shape: tuple[int, ...]) -> None:
    deltas = [made(d, kind) for d in draw(shape, count)]
    got = kernels.sign_conflict(deltas)
    signs = [np.sign(truth(d)) for d in deltas]
    expected = np.zeros((count, count))
    for i in range(count):
        for j in range(count):
            common = signs[i] * signs[j] != 0
            if common.any():
                expected[i, j] = np.mean((signs[i] != signs[j])[common])
    np.testing.assert_allclose(got, expected, rtol=1e-15)
    assert not np.diag(got).any()


def test_sign_conflict_sees_what_float32_does_not() -> None:
    tiny = np.array([1e-300, -1e-300, 5e-324, 0.0])
    np.testing.assert_array_equal(
        kernels.sign_conflict([tiny, -tiny, abs(tiny)]),
        np.array([[0, 1, 1 / 3], [1, 0, 2 / 3], [1 / 3, 2 / 3, 0]]),
    )


def test_sign_conflict_of_gaussians_is_their_angle() -> None:
    x, y = np.random.default_rng(3).normal(size=(2, 1_000_000))
    for cosine in (-0.9, 0.0, 0.5):
        other = cosine * x + math.sqrt(1 - cosine**2) * y
        share = kernels.sign_conflict([x, other])[0, 1]
        assert abs(share - math.acos(cosine) / math.pi) < 0.003


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("vote", ["mass", "count"])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_elect_sign(
    weights: list[float] | None, vote: Any, kind: str, shape: tuple[int, ...]
) -> None:
    deltas = [made(d, kind) for d in draw(shape)]
    got = kernels.elect_sign(deltas, weights=weights, vote=vote)
    assert_like(got, deltas[0])
    members = [w * truth(d) for w, d in zip(weights or [1, 1, 1], deltas, strict=True)]
    np.testing.assert_array_equal(truth(got), winning_sign(members, vote))


@pytest.mark.parametrize("vote", ["mass", "count"])
def test_elect_sign_of_draws_is_odd_and_has_no_order(vote: Any) -> None:
    deltas = list(np.random.default_rng(0).integers(-2, 3, size=(4, 5000)).astype(np.float64))
    got = kernels.elect_sign(deltas, vote=vote)
    np.testing.assert_array_equal(got, winning_sign(deltas, vote))
    assert (got == 0).any()
    np.testing.assert_array_equal(kernels.elect_sign([-d for d in deltas], vote=vote), -got)
    np.testing.assert_array_equal(kernels.elect_sign(deltas, vote=vote, weights=[-1] * 4), -got)
    np.testing.assert_array_equal(kernels.elect_sign(deltas[::-1], vote=vote), got)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lambda_", [1.0, 3.0])
def test_tall_masks(lambda_: float, kind: str, shape: tuple[int, ...]) -> None:
    deltas = [made(d, kind) for d in draw(shape)]
    got = kernels.tall_masks(deltas, weights=WEIGHTS, lambda_=lambda_)
    assert isinstance(got, torch.Tensor) == kind.startswith("torch")
    assert str(got.dtype).removeprefix("torch.") == "bool"
    assert tuple(got.shape) == (3, *shape)
    sizes = np.stack([abs(w) * abs(truth(d)) for w, d in zip(WEIGHTS, deltas, strict=True)])
    for i in range(3):
        others = np.delete(sizes, i, axis=0).max(axis=0)
        expected = (sizes[i] > others) & (sizes[i] >= lambda_ * others)
        np.testing.assert_array_equal(np.asarray(got)[i], expected)


def test_tall_masks_are_what_the_method_sets_aside() -> None:
    deltas, weights = draw((40, 50)), [0.75, -1.5, 0.25]
    masks = kernels.tall_masks(deltas, weights=weights)
    rest = [np.where(mask, 0.0, d) for mask, d in zip(masks, deltas, strict=True)]
    signs = [
        1.5 * np.sign(w) * np.where(m, d, 0.0)
        for m, d, w in zip(masks, deltas, weights, strict=True)
    ]
    share = 1.5 / sum(abs(w) for w in weights)
    expected = sum(w * d for w, d in zip(weights, rest, strict=True)) * share + sum(signs)
    assert 0.1 < masks.mean() < 0.3
    np.testing.assert_allclose(
        loramix.combine(deltas, "tall", weights=weights), expected, rtol=1e-5, atol=1e-6
    )


# Whole methods.


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", ["numpy-float32", "torch-bfloat16", "torch-float64"])
def test_whole_methods_are_those_of_combine(kind: str, shape: tuple[int, ...]) -> None:
    deltas = [made(d, kind) for d in draw(shape)]
    pairs = {
        "ties:density=0.3,vote=count": kernels.ties(deltas, 0.3, weights=WEIGHTS, vote="count"),
        "ties:density=auto": kernels.ties(deltas, "auto", weights=WEIGHTS),
        "dare-ties:density=0.6,dampening=0.5": kernels.dare_ties(
            deltas, 0.6, dampening=0.5, weights=WEIGHTS, seed=4
        ),
        "della-ties:density=0.6,epsilon=0.4": kernels.della_ties(
            deltas, 0.6, epsilon=0.4, weights=WEIGHTS, seed=4
        ),
    }
    if math.prod(shape) < 10_000:  # a singular value decomposition
        pairs["consensus"] = kernels.consensus(deltas, weights=WEIGHTS)
        pairs["consensus:clean=no"] = kernels.consensus(deltas, weights=WEIGHTS, clean=False)
    for method, got in pairs.items():
        expected = loramix.combine(deltas, method, weights=WEIGHTS, seed=4)
        assert_like(got, deltas[0])
        np.testing.assert_array_equal(truth(got), truth(expected), err_msg=method)


@pytest.mark.parametrize("shape", [(31,), (TILE + 1,), (300, 401), (6, 5, 3, 3)], ids=str)
def test_whole_methods_are_their_definitions(shape: tuple[int, ...]) -> None:
    deltas = draw(shape)
    single = [d.astype(np.float32) for d in deltas]
    near: dict[str, Any] = {"rtol": 1e-5, "atol": 1e-6}
    np.testing.assert_allclose(
        kernels.ties(single, 0.3, weights=WEIGHTS), ties(deltas, WEIGHTS, 0.3), **near
    )
    np.testing.assert_allclose(
        kernels.dare_ties(single, 0.6, weights=WEIGHTS, seed=4),
        dare_ties(deltas, WEIGHTS, 0.6, seed=4),
        **near,
    )
    squares = [np.square(d) for d in deltas]
    above = sum(w * d * s for w, d, s in zip(WEIGHTS, deltas, squares, strict=True))
    below = sum(abs(w) * s for w, s in zip(WEIGHTS, squares, strict=True))
    point = 2.0 * above / np.where(below > 0, below, 1.0)
    lengths = [abs(w) * np.linalg.norm(d) for w, d in zip(WEIGHTS, deltas, strict=True)]
    norm = 2.0 * sum(lengths) / 3.5
    gain = min(norm / float(np.linalg.norm(point)), 2.0)
    got = kernels.consensus(single, weights=WEIGHTS, clean=False)
    np.testing.assert_allclose(got, gain * point, **near)


def test_the_verbs_agree_with_each_other() -> None:
    """Trim, elect and average by hand is ties; dare is the first of a stack."""
    deltas = [d.astype(np.float32) for d in draw((70, 90))]
    trimmed = [kernels.trim(d, 0.4) for d in deltas]
    sign = kernels.elect_sign(trimmed)
    agree = [np.where(np.sign(t) == sign, t, 0) for t in trimmed]
    heads = sum((a != 0).astype(np.float64) for a in agree)
    by_hand = sum(a.astype(np.float64) for a in agree) / np.maximum(heads, 1)
    np.testing.assert_allclose(kernels.ties(deltas, 0.4), by_hand, rtol=1e-6)
    nothing = np.zeros_like(deltas[0])
    stack = loramix.combine([deltas[0], nothing], "dare:density=0.3", seed=8)
    np.testing.assert_array_equal(kernels.dare(deltas[0], 0.3, seed=8), stack)


def test_a_key_is_a_stream_of_its_own() -> None:
    ones = np.ones(100_000, dtype=np.float32)
    kept = [kernels.dare(ones, 0.5, seed=s, key=k) != 0 for s, k in [(0, 0), (0, 1), (1, 0)]]
    for i in range(3):
        assert abs(kept[i].mean() - 0.5) < 0.01
        for j in range(i):
            assert abs((kept[i] & kept[j]).mean() - 0.25) < 0.01


@pytest.mark.parametrize("shape", [(3 * TILE,), (2 * TILE + 3,), (300, 801)], ids=str)
def test_threads_change_no_bit(shape: tuple[int, ...]) -> None:
    deltas = [d.astype(np.float32) for d in draw(shape)]
    for verb in ON_ONE:
        runs = [getattr(kernels, verb)(deltas[0], 0.4, threads=n) for n in (1, 2, 7)]
        assert runs[0].tobytes() == runs[1].tobytes() == runs[2].tobytes()
    for verb in (
        "gram",
        "sign_conflict",
        "elect_sign",
        "tall_masks",
        "ties",
        "dare_ties",
        "della_ties",
    ):
        runs = [getattr(kernels, verb)(deltas, threads=n) for n in (1, 2, 7)]
        assert runs[0].tobytes() == runs[1].tobytes() == runs[2].tobytes()


# Ranks in float32, values of float64.


def test_trim_returns_float64_entries_as_they_are() -> None:
    delta = np.random.default_rng(1).normal(size=1000)
    for array in (delta, torch.from_numpy(delta.copy())):
        got = truth(kernels.trim(array, 0.25))
        assert np.count_nonzero(got) == 250
        np.testing.assert_array_equal(got[got != 0], delta[got != 0])
        assert abs(got[got != 0]).min() >= abs(delta[got == 0]).max()


@pytest.mark.parametrize("density", [1e-9, 0.01, 0.5, 0.999, 1.0])
def test_equal_magnitudes_are_kept_in_index_order(density: float) -> None:
    delta = np.where(np.arange(70_000) % 3 == 0, -1.0, 1.0).astype(np.float32)
    kept = max(1, math.floor(density * delta.size * (1 + 1e-12)))
    got = kernels.trim(delta, density)
    np.testing.assert_array_equal(got[:kept], delta[:kept])
    assert not got[kept:].any()


# Memory.


def addresses(monkeypatch: pytest.MonkeyPatch, run: Callable[[], object]) -> set[int]:
    """Where the deltas lie that reach the core."""
    found: set[int] = set()

    def spy(name: str) -> Callable[..., object]:
        original = getattr(_core, name)

        def called(deltas: Sequence[tuple[str, Any]], *args: Any, **kwargs: Any) -> object:
            found.update(data.ctypes.data for _, data in deltas)
            return original(deltas, *args, **kwargs)

        return called

    with monkeypatch.context() as patch:
        for name in ("run_program", "dense_gram", "dense_combine", "disagreement", "owners"):
            patch.setattr(_core, name, spy(name))
        run()
    return found


def call(verb: str, deltas: Sequence[Any]) -> Any:
    if verb in ON_ONE:
        return getattr(kernels, verb)(deltas[0], 0.5)
    return getattr(kernels, verb)(deltas)


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(400, 300), (TILE + 1,), (6, 5, 3, 3)], ids=str)
def test_contiguous_memory_is_read_where_it_lies(
    verb: str, kind: str, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    if verb == "consensus" and math.prod(shape) > 10_000:
        shape = (40, 30)
    deltas = [made(d, kind) for d in draw(shape)]
    places = {d.data_ptr() if isinstance(d, torch.Tensor) else d.ctypes.data for d in deltas}
    used = addresses(monkeypatch, lambda: call(verb, deltas))
    assert used
    assert used <= places


@pytest.mark.parametrize("verb", VERBS)
def test_inputs_may_be_read_only_or_need_gradients(verb: str) -> None:
    frozen = [d.astype(np.float32) for d in draw((20, 30))]
    for delta in frozen:
        delta.flags.writeable = False
    learned = [torch.nn.Parameter(torch.from_numpy(d.copy())) for d in frozen]
    plain = [d.copy() for d in frozen]
    expected = call(verb, plain)
    np.testing.assert_array_equal(call(verb, frozen), expected)
    result = call(verb, learned)
    np.testing.assert_array_equal(truth(result), truth(expected))
    assert isinstance(result, np.ndarray) or not result.requires_grad
    for delta, before in zip(learned, plain, strict=True):
        np.testing.assert_array_equal(truth(delta), before)


PEAK = """
import sys
from pathlib import Path
import numpy as np
from loramix import kernels

def peak():  # of this program; ru_maxrss starts with that of the one that forked it
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))

step = 2 if sys.argv[2] == "strided" else 1
rng = np.random.default_rng(0)
deltas = [rng.standard_normal(step << 24, dtype=np.float32)[::step] for _ in range(3)]
verb = getattr(kernels, sys.argv[1])
run = (lambda d: verb(d[0], 0.2)) if sys.argv[1] in ("trim", "dare") else verb
run([d[:100_000] for d in deltas])  # libraries, threads
before = peak()
run(deltas)
print((peak() - before) / 2**26)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    ("verb", "layout", "least", "most"),
    [
        ("gram", "contiguous", 0.0, 0.3),
        ("gram", "strided", 2.9, 3.3),  # copies are seen by this measure
        ("sign_conflict", "contiguous", 0.0, 0.3),
        ("tall_masks", "contiguous", 0.7, 1.1),  # a byte per entry
        ("elect_sign", "contiguous", 0.9, 1.3),
        ("trim", "contiguous", 0.9, 1.3),
        ("dare", "contiguous", 0.9, 1.3),
    ],
)
def test_peak_memory_is_that_of_the_result(
    verb: str, layout: str, least: float, most: float
) -> None:
    """In deltas, of 64 MiB each."""
    command = [sys.executable, "-c", PEAK, verb, layout]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert least <= float(done.stdout) <= most


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("verb", VERBS)
def test_tensors_on_a_device_come_back_there(verb: str) -> None:
    host = [made(d, "torch-float32") for d in draw((33, 31))]
    expected, result = call(verb, host), call(verb, [d.cuda() for d in host])
    if isinstance(result, torch.Tensor):
        assert result.is_cuda
        result = result.cpu()
    np.testing.assert_array_equal(truth(result), truth(expected))


# Refusals.


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("kind", ["numpy-float32", "torch-bfloat16", "numpy-float64"])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_refused(verb: str, kind: str, bad: float) -> None:
    values = draw((20, 30))
    at = 0 if verb in ("trim", "dare", "della") else 1
    values[at][7, 3] = bad
    with pytest.raises(FormatError, match=r"NaN or infinity") as caught:
        call(verb, [made(v, kind) for v in values])
    assert f"delta {at}" in str(caught.value)


@pytest.mark.parametrize(
    ("deltas", "error", "text"),
    [
        ([], ParamError, "no deltas"),
        ([np.ones(2), np.ones(3)], ShapeError, r"\(2,\).*\(3,\)"),
        ([np.ones(2), np.ones((2, 1))], ShapeError, r"\(2,\).*\(2, 1\)"),
        ([np.ones(2), np.ones(2, dtype=np.float32)], ShapeError, "float64.*float32"),
        ([np.ones(2), torch.ones(2, dtype=torch.float64)], ShapeError, "float64"),
        ([np.ones(2, dtype=np.int64)] * 2, FormatError, "int64"),
        ([np.ones(2, dtype=np.complex128)] * 2, FormatError, "complex128"),
        ([torch.ones(2, dtype=torch.int8)] * 2, FormatError, "int8"),
        ([[1.0, 2.0], [3.0, 4.0]], FormatError, "delta 0 is a list"),
        ([np.ones(2), None], FormatError, "delta 1 is a NoneType"),
    ],
)
@pytest.mark.parametrize("verb", ["gram", "sign_conflict", "elect_sign", "tall_masks", *WHOLE])
def test_stacks_that_do_not_fit_are_refused(
    verb: str, deltas: Any, error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        getattr(kernels, verb)(deltas)


ARRAY = np.arange(1.0, 9.0)
PAIR = [ARRAY, -ARRAY]


@pytest.mark.parametrize(
    ("run", "error", "text"),
    [
        (lambda: kernels.trim([1.0], 0.5), FormatError, "delta 0 is a list"),
        (lambda: kernels.trim(ARRAY.astype(int), 0.5), FormatError, "int64"),
        (lambda: kernels.trim(ARRAY, 0.0), ParamError, "trim: density = 0"),
        (lambda: kernels.trim(ARRAY, 1.5), ParamError, "trim: density = 1.5"),
        (lambda: kernels.trim(ARRAY, math.nan), ParamError, "trim: density = nan"),
        (lambda: kernels.trim(ARRAY, 0.5, outliers=1.0), ParamError, "trim: outliers = 1"),
        (lambda: kernels.trim(ARRAY, 0.5, threads=0), ParamError, "threads = 0"),
        (lambda: kernels.trim(1e300 * ARRAY, 0.5), OutputError, "too large for float32"),
        (lambda: kernels.dare(ARRAY, -0.5), ParamError, "dare: density = -0.5"),
        (lambda: kernels.dare(ARRAY, 0.5, dampening=1.0), ParamError, "dampening = 1"),
        (lambda: kernels.dare(ARRAY, 0.5, seed=-1), ParamError, "seed = -1"),
        (lambda: kernels.dare(ARRAY, 0.5, seed=2**64), ParamError, "seed = "),
        (lambda: kernels.dare(ARRAY, 0.5, key=1.5), ParamError, "key = 1.5"),
        (
            lambda: kernels.dare(np.full(99, 60_000, np.float16), 0.5),
            OutputError, "too large for float16",
        ),
        (
            lambda: kernels.dare(torch.full((99,), 3e38), 0.5),
            OutputError, "too large for float32",
        ),
        (lambda: kernels.della(ARRAY, 2.0), ParamError, "della: density = 2"),
        (lambda: kernels.della(ARRAY, 0.5, epsilon=-0.1), ParamError, "epsilon = -0.1"),
        (lambda: kernels.della(ARRAY, 0.5, key=-1), ParamError, "key = -1"),
        (lambda: kernels.gram([1e200 * ARRAY]), ParamError, "delta 0: the square"),
        (lambda: kernels.gram(PAIR, threads=-1), ParamError, "threads = -1"),
        (lambda: kernels.sign_conflict(PAIR, threads=0), ParamError, "threads = 0"),
        (lambda: kernels.elect_sign(PAIR, weights=[1]), ParamError, "each of 2 deltas"),
        (lambda: kernels.elect_sign(PAIR, weights=[1, math.nan]), ParamError, "finite"),
        (lambda: kernels.elect_sign(PAIR, weights="no"), ParamError, "weights no"),
        (lambda: kernels.elect_sign(PAIR, weights=[1, 1e39]), ParamError, "3.4e38"),
        (lambda: kernels.elect_sign(PAIR, weights=[1, 3e38]), OutputError, "too large"),
        (lambda: kernels.elect_sign(PAIR, vote="loud"), ParamError, "vote = 'loud'"),
        (lambda: kernels.elect_sign([1e300 * a for a in PAIR]), OutputError, "too large"),
        (lambda: kernels.tall_masks(PAIR, lambda_=0.5), ParamError, "lambda = 0.5"),
        (lambda: kernels.tall_masks(PAIR, lambda_=math.inf), ParamError, "lambda = inf"),
        (lambda: kernels.tall_masks(PAIR, weights=[1, 3e38]), ParamError, "of delta 1"),
        (lambda: kernels.ties(PAIR, 0.0), ParamError, "ties: density = 0"),
        (lambda: kernels.ties(PAIR, weights=[1, 2, 3]), ParamError, "each of 2 deltas"),
        (lambda: kernels.dare_ties(PAIR, seed=-1), ParamError, "seed = -1"),
        (lambda: kernels.della_ties(PAIR, epsilon=1.0), ParamError, "epsilon = 1"),
    ],
)  # fmt: skip
def test_what_is_out_of_range_is_refused(
    run: Callable[[], object], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        run()


# The module.


def test_the_module_is_loaded_when_asked_for() -> None:
    script = (
        "import sys, loramix\n"
        "assert not {'numpy', 'torch', 'loramix.kernels'} & set(sys.modules)\n"
        "assert 'kernels' in dir(loramix)\n"
        "loramix.kernels.trim\n"
        "assert 'numpy' in sys.modules and 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_every_public_verb_has_a_docstring_that_runs() -> None:
    attempted = 0
    for name in ("single", "several", "methods"):
        done = doctest.testmod(import_module(f"loramix.kernels.{name}"))
        assert done.failed == 0
        attempted += done.attempted
    assert attempted > 30
    for verb in kernels.__all__:
        assert "Examples\n" in (getattr(kernels, verb).__doc__ or "")
