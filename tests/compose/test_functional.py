"""The pure functions against their oracles, on NumPy arrays and torch tensors of all types."""

import functools
import math
from typing import Any

import numpy as np
import pytest
import torch
from compose import oracles
from hypothesis import given, settings
from hypothesis import strategies as st

from loramix import ParamError, ShapeError
from loramix.compose import functional as f

steady = settings(derandomize=True, max_examples=60, deadline=None, database=None)

KINDS = ("numpy32", "numpy64", "numpy16", "torch32", "torch64", "torch16", "torchb16")
TOLERANCE = {"64": 1e-12, "32": 3e-6, "16": 3e-6}


def tolerance(kind: str) -> float:
    return TOLERANCE[kind[-2:]]


def kinded(values: np.ndarray, kind: str) -> Any:
    if kind.startswith("numpy"):
        return values.astype(f"float{kind[5:]}")
    types = {"32": torch.float32, "64": torch.float64, "16": torch.float16, "b16": torch.bfloat16}
    return torch.from_numpy(values).to(types[kind[5:]])


def plain(array: Any) -> np.ndarray:
    """In float64, exactly."""
    return array.double().numpy() if isinstance(array, torch.Tensor) else array.astype(np.float64)


def stack(seed: int, shape: tuple[int, ...], count: int, spread: float = 0.3) -> np.ndarray:
    """A base's prediction and those of adapters around it."""
    rng = np.random.default_rng(seed)
    base = rng.normal(size=shape)
    return np.stack([base, *(base + spread * rng.normal(size=shape) for _ in range(count))])


SHAPES: tuple[tuple[tuple[int, ...], int | tuple[int, ...], tuple[int, ...]], ...] = (
    ((2, 4, 8, 8), 4, (4, 4)),
    ((1, 3, 7, 10), 3, (3, 3)),
    ((1, 2, 5, 4), 1, (1, 1)),
    ((2, 2, 3, 4, 6), 2, (1, 2, 2)),
    ((1, 2, 3, 4, 6), (2, 3, 6), (2, 3, 6)),
    ((1, 4, 9), 4, (4,)),
    ((1, 4, 3, 3), 8, (8, 8)),
)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("shape", "patch", "edges"), SHAPES)
def test_similarity_is_that_of_the_oracle(
    kind: str, shape: tuple[int, ...], patch: Any, edges: tuple[int, ...]
) -> None:
    all_ = [kinded(one, kind) for one in stack(1, shape, 3)]
    meant = oracles.similarity(plain(all_[0]), np.stack([plain(a) for a in all_[1:]]), edges)
    got = f.similarity(all_[0], all_[1:], patch=patch)
    assert got.shape == meant.shape
    assert np.abs(plain(got) - meant).max() < tolerance(kind)
    far = f.divergence(all_[0], all_[1:], patch=patch)
    assert np.abs(plain(far) - (1 - meant)).max() < tolerance(kind)
    assert str(got.dtype).endswith("64" if kind.endswith("64") else "32")


def test_small_divergences_keep_their_digits() -> None:
    base, near = stack(2, (1, 4, 8, 8), 1, spread=1e-4).astype(np.float32)
    meant = 1 - oracles.similarity(base.astype(np.float64), near[None].astype(np.float64), (4, 4))
    got = f.divergence(base, [near], patch=4)
    assert meant.max() < 1e-7  # less than one digit of a cosine in float32
    assert got == pytest.approx(meant, rel=1e-3)


@pytest.mark.parametrize("unit", [1e-30, 1e30])
def test_divergence_has_no_unit(unit: float) -> None:
    all_ = stack(3, (1, 4, 8, 8), 2)
    meant = f.divergence(all_[0], all_[1:], patch=4)
    small = (all_ * unit).astype(np.float32)
    assert f.divergence(small[0], small[1:], patch=4) == pytest.approx(meant, rel=1e-4)


@pytest.mark.parametrize("kind", ["numpy32", "torch32"])
def test_patches_of_norm_zero_are_like_the_base(kind: str) -> None:
    values = stack(4, (1, 4, 8, 8), 2)
    values[0, :, :, :4, :4] = 0
    values[1, :, :, 4:, 4:] = 0
    all_ = [kinded(one, kind) for one in values]
    far = plain(f.divergence(all_[0], all_[1:], patch=4))
    assert (far[:, 0, 0, 0] == 0).all()
    assert far[0, 0, 1, 1] == 0
    assert np.isfinite(far).all()
    assert np.count_nonzero(far) == 5
    weights = plain(f.softmin(1 - f.divergence(all_[0], all_[1:], patch=4), tau=0.01))
    assert weights.sum(axis=0) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tau", [0.001, 0.05, 1.0])
@pytest.mark.parametrize("prior", [(1.0, 1.0, 1.0), (2.0, 0.0, 0.5)])
def test_softmin_is_that_of_the_oracle(kind: str, tau: float, prior: tuple[float, ...]) -> None:
    values = kinded(np.random.default_rng(5).uniform(0.9, 1, size=(3, 2, 2, 4)), kind)
    meant = oracles.softmin(plain(values), tau, prior)
    got = plain(f.softmin(values, tau=tau, prior=prior))
    assert np.abs(got - meant).max() < tolerance(kind) * max(1, 0.1 / tau)
    assert (got[1] == 0).all() == (prior[1] == 0)


def test_softmin_at_no_temperature_limit_is_the_prior() -> None:
    values = np.random.default_rng(6).uniform(-1, 1, size=(4, 1, 3, 3))
    assert (f.softmin(values, tau=math.inf) == 0.25).all()
    got = f.softmin(values, tau=math.inf, prior=(1, 3, 0, 4))
    assert np.array_equal(got[:, 0, 1, 2], [1 / 8, 3 / 8, 0, 1 / 2])


@steady
@given(
    seed=st.integers(0, 2**32 - 1),
    count=st.integers(1, 6),
    tau=st.floats(1e-6, 1e6),
    shift=st.floats(-1e3, 1e3),
)
def test_softmin_sums_to_one_and_forgets_shifts(
    seed: int, count: int, tau: float, shift: float
) -> None:
    values = np.random.default_rng(seed).uniform(-1, 1, size=(count, 1, 5))
    weights = f.softmin(values, tau=tau)
    assert weights.sum(axis=0) == pytest.approx(1, abs=1e-12)
    assert (weights >= 0).all()
    moved = f.softmin(values + shift, tau=tau)
    assert np.abs(weights - moved).max() < 1e-11 * (1 + abs(shift) / tau)


@steady
@given(seed=st.integers(0, 2**32 - 1), tau=st.floats(1e-3, 10))
def test_softmin_follows_the_order_of_adapters(seed: int, tau: float) -> None:
    rng = np.random.default_rng(seed)
    values, order = rng.uniform(-1, 1, size=(5, 1, 4)), rng.permutation(5)
    prior = rng.uniform(0, 2, size=5)
    there = f.softmin(values, tau=tau, prior=prior)[order]
    here = f.softmin(values[order], tau=tau, prior=prior[order])
    assert np.abs(there - here).max() < 1e-12


@pytest.mark.parametrize("kind", ["numpy32", "numpy64", "torch32", "torch64"])
@pytest.mark.parametrize(("shape", "patch", "edges"), SHAPES)
@pytest.mark.parametrize("how", ["nearest", "bilinear"])
def test_upsampling_is_that_of_the_oracle(
    kind: str, shape: tuple[int, ...], patch: Any, edges: tuple[int, ...], how: str
) -> None:
    space = shape[2:]
    grid = [math.ceil(s / e) for s, e in zip(space, edges, strict=True)]
    weights = np.random.default_rng(7).uniform(size=(3, 2, *grid))
    weights /= weights.sum(axis=0)
    meant = getattr(oracles, how)(weights, space, edges)
    got = f.upsample(kinded(weights, kind), space, patch=patch, how=how)
    assert np.abs(plain(got) - meant).max() < tolerance(kind)
    assert plain(got).sum(axis=0) == pytest.approx(1, abs=tolerance(kind))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(2, 4, 6, 5), (1, 3, 2, 4, 4), (2, 3, 7)])
def test_aggregation_is_that_of_the_oracle(kind: str, shape: tuple[int, ...]) -> None:
    all_ = [kinded(one, kind) for one in stack(8, shape, 3)]
    values = np.stack([plain(one) for one in all_])
    rng = np.random.default_rng(9)
    weights = rng.dirichlet([1, 1, 1], size=(shape[0], *shape[2:]))
    weights = np.moveaxis(weights, -1, 0) * 0.8
    space = f.aggregate(all_[1:], weights)
    assert space.dtype == all_[0].dtype
    last = {"16": 1e-3, "b16": 4e-3}.get(kind[5:], 2e-6)  # one rounding to the type
    near = functools.partial(np.testing.assert_allclose, rtol=last, atol=2e-6)
    near(plain(space), oracles.aggregate(values[1:], weights))
    rested = oracles.aggregate(values, np.stack([1 - weights.sum(axis=0), *weights]))
    near(plain(f.aggregate(all_[1:], weights, all_[0])), rested)
    for table in (rng.uniform(size=3), rng.uniform(size=(3, shape[0]))):
        full = np.broadcast_to(
            table.reshape((3, -1, *(1,) * len(shape[2:]))), (3, shape[0], *shape[2:])
        )
        near(plain(f.aggregate(all_[1:], table)), oracles.aggregate(values[1:], full))


@pytest.mark.parametrize("kind", KINDS)
def test_one_adapter_comes_back_bit_for_bit(kind: str) -> None:
    base, one = (kinded(a, kind) for a in stack(10, (2, 4, 7, 9), 1))
    far = f.divergence(base, [one], patch=4)
    for how in ("nearest", "bilinear"):
        weights = f.upsample(f.softmin(-far, tau=0.01), (7, 9), patch=4, how=how)
        assert (weights == 1).all()
        got = f.aggregate([one], weights)
        assert got.dtype == one.dtype
        assert (got == one).all()
        assert (f.aggregate([one], f.restrict(weights, np.ones((1, 7, 9))), base) == one).all()


def test_identical_adapters_are_the_single_one() -> None:
    base, one = stack(11, (1, 4, 8, 8), 1).astype(np.float32)
    far = f.divergence(base, [one] * 3, patch=4)
    weights = f.softmin(-far, tau=0.001)
    assert weights == pytest.approx(1 / 3, abs=1e-7)
    for scope in ("image", "patch"):
        assert (f.standardise(-far, scope=scope) == 0).all()
    got = f.aggregate([one] * 3, f.upsample(weights, (8, 8), patch=4))
    assert np.abs(got - one).max() < 1e-6


@pytest.mark.parametrize("kind", KINDS)
def test_recentring_ends_at_the_aggregate_and_at_the_base(kind: str) -> None:
    base, one = (kinded(a, kind) for a in stack(12, (1, 4, 4, 4), 1))
    assert (f.recentre(base, one, 0) == one).all()
    assert (f.recentre(base, one, 1) == base).all()
    middle = plain(f.recentre(base, one, 0.25))
    last = 1e-2 if kind.endswith("16") else 1e-6
    assert np.abs(middle - (0.25 * plain(base) + 0.75 * plain(one))).max() < last
    assert (f.away(base, one, 1) == one).all()
    beyond = plain(f.away(base, one, 1.5))
    assert np.abs(beyond - (1.5 * plain(one) - 0.5 * plain(base))).max() < 2 * last
    guided = plain(f.guide(base, one, 7.0))
    assert np.abs(guided - (7 * plain(one) - 6 * plain(base))).max() < 8 * last


@steady
@given(
    seed=st.integers(0, 2**32 - 1),
    count=st.integers(1, 6),
    k=st.integers(1, 7),
    hysteresis=st.sampled_from([0.0, 0.2, 3.0]),
)
def test_selection_is_that_of_the_oracle(seed: int, count: int, k: int, hysteresis: float) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.integers(-1, 4, size=(count, 3)) / 4.0  # with ties
    before = rng.integers(0, 2, size=(count, 3)).astype(bool)
    for kind in ("numpy64", "torch64"):
        got = f.select(kinded(scores, kind), k, previous=before, hysteresis=hysteresis)
        for column in range(3):
            meant = oracles.chosen(scores[:, column], k, before[:, column], hysteresis)
            assert [bool(x) for x in got[:, column]] == meant


@pytest.mark.parametrize("kind", ["numpy32", "torch32"])
def test_choosing_all_changes_no_bit(kind: str) -> None:
    all_ = [kinded(one, kind) for one in stack(13, (2, 4, 8, 8), 4)]
    far = f.divergence(all_[0], all_[1:], patch=2)
    all_chosen = f.select(far, 4)
    assert all_chosen.all()
    assert (f.softmin(-far, tau=0.1, chosen=all_chosen) == f.softmin(-far, tau=0.1)).all()
    one = plain(f.softmin(-far, tau=0.1, chosen=f.select(far, 1)))
    assert ((one == 0) | (one == 1)).all()
    assert np.array_equal(one.argmax(axis=0), plain(far).argmax(axis=0))


@pytest.mark.parametrize("kind", ["numpy32", "numpy64", "torch32", "torch64"])
@pytest.mark.parametrize("scope", ["image", "patch"])
def test_standardised_similarities_are_those_of_the_oracle(kind: str, scope: str) -> None:
    values = np.random.default_rng(14).uniform(0.98, 1, size=(3, 2, 3, 4))
    values[:, :, 1, 1] = 0.99
    got = f.standardise(kinded(values, kind), scope=scope)
    meant = oracles.standardise(plain(kinded(values, kind)), scope)
    assert np.abs(plain(got) - meant).max() < (1e-4 if "32" in kind else 1e-10)


def test_standardising_and_normalising_forget_units() -> None:
    far = np.random.default_rng(15).uniform(1e-5, 1e-4, size=(3, 1, 4, 4))
    for scope in ("image", "patch"):
        small = f.standardise(-far * 1e-25, scope=scope)
        assert small == pytest.approx(f.standardise(-far, scope=scope), rel=1e-9)
    loud = far * np.array([1, 100, 1e-3]).reshape(3, 1, 1, 1)
    levels = f.level(loud)
    assert levels == pytest.approx(loud.mean(axis=(2, 3)))
    got = f.normalise(loud, levels)
    assert got == pytest.approx(f.normalise(far, f.level(far)), rel=1e-12)
    assert f.level(got) == pytest.approx(1)
    silent = f.normalise(loud * 0, levels * 0)
    assert (silent == 0).all()


@pytest.mark.parametrize("kind", ["numpy32", "torch64"])
def test_masks_are_those_of_the_oracle(kind: str) -> None:
    rng = np.random.default_rng(16)
    weights = np.moveaxis(rng.dirichlet([1, 1, 1], size=(2, 4, 5)), -1, 0).copy()
    weights[:, :, 0, 0] = np.array([1.0, 0, 0])[:, None]
    masks = rng.uniform(size=(3, 4, 5)) * rng.integers(0, 2, size=(3, 4, 5))
    masks[:, 0, 0] = (0, 0.5, 1)  # only what has no weight
    masks[:, 1, 1] = 0  # nobody
    got = plain(f.restrict(kinded(weights, kind), masks))
    assert np.abs(got - oracles.restrict(weights, masks)).max() < tolerance(kind)
    assert got.sum(axis=0) == pytest.approx(np.broadcast_to(masks.max(axis=0), (2, 4, 5)), abs=1e-6)


@pytest.mark.parametrize("size", [(3, 5), (6, 10), (4, 4), (1, 1), (7, 13)])
def test_masks_are_fitted_by_area(size: tuple[int, int]) -> None:
    mask = np.random.default_rng(17).uniform(size=(6, 10))
    assert f.fit(mask, *size) == pytest.approx(oracles.box(mask, *size), abs=1e-12)
    assert f.fit(torch.ones(9, 4) > 0, *size) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("kind", ["numpy32", "torch64"])
def test_entropy_is_that_of_the_oracle(kind: str) -> None:
    weights = np.moveaxis(np.random.default_rng(18).dirichlet([1, 1, 1], size=(2, 3)), -1, 0).copy()
    weights[:, 0, 0] = (1, 0, 0)
    weights[:, 1, 2] = 1 / 3
    got = plain(f.entropy(kinded(weights, kind)))
    assert np.abs(got - oracles.entropy(weights)).max() < 1e-6
    assert got[0, 0] == 0
    assert got[1, 2] == pytest.approx(math.log(3), abs=1e-6)


@pytest.mark.parametrize("kind", ["numpy32", "torch64"])
def test_departure_is_that_of_the_sum_by_hand(kind: str) -> None:
    rng = np.random.default_rng(3)
    raw = rng.uniform(size=(3, 2, 4, 5))
    raw[2] = 0
    weights, prior = raw / raw.sum(axis=0), (1.0, 3.0, 0.0)
    meant = np.zeros(2)
    for b in range(2):
        for y, x in np.ndindex(4, 5):
            for i, own in ((0, 0.25), (1, 0.75)):
                meant[b] += (weights[i, b, y, x] - own) ** 2 / own / 20
    got = plain(f.departure(kinded(weights, kind), prior))
    assert got == pytest.approx(np.sqrt(meant), rel=1e-5)
    alike = np.array([[0.25, 0.25], [0.75, 0.75], [0, 0]])
    assert plain(f.departure(kinded(alike, kind), prior)).max() < 1e-6
    assert f.departure(np.array([[1.0], [0.0]]), (1, 1)) == pytest.approx(1)


def test_the_sum_departs_by_no_more_than_its_weights() -> None:
    """Times the distance of the members from their mean, patch by patch."""
    rng = np.random.default_rng(8)
    for _ in range(50):
        members, prior = rng.normal(size=(4, 1, 3, 2, 2)), rng.uniform(0.1, 1, size=4)
        weights = rng.dirichlet(np.ones(4))[:, None]
        own = prior / prior.sum()
        mean, sum_ = (np.tensordot(w, members, 1) for w in (own, weights[:, 0]))
        squares = ((members - mean) ** 2).sum(axis=(1, 2, 3, 4))
        far = np.sqrt(own @ squares)
        moved = np.sqrt(((sum_ - mean) ** 2).sum())
        assert moved <= f.departure(weights, prior)[0] * far * (1 + 1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_are_those_of_the_oracle_and_come_back(kind: str) -> None:
    latents = kinded(np.random.default_rng(19).normal(size=(2, 3, 4, 6)), kind)
    tokens = f.pack(latents, (2, 2))
    assert np.array_equal(plain(tokens), oracles.flux_tokens(plain(latents)))
    assert (f.unpack(tokens, (2, 3), (2, 2)) == latents).all()
    video = kinded(np.random.default_rng(20).normal(size=(2, 3, 4, 6, 2)), kind)
    for edges in ((1, 1, 1), (2, 3, 1)):
        grid = [s // e for s, e in zip(video.shape[2:], edges, strict=True)]
        assert (f.unpack(f.pack(video, edges), grid, edges) == video).all()


@pytest.mark.parametrize("kind", ["numpy64", "numpy32", "torch64", "torch16"])
@pytest.mark.parametrize("size", [(8, 8), (6, 5), (7, 3), (1, 1)])
def test_wavelets_are_those_of_the_oracle_and_come_back(kind: str, size: tuple[int, int]) -> None:
    image = kinded(np.random.default_rng(21).normal(size=(2, 3, *size)), kind)
    bands = f.haar(image)
    for b in range(2):
        for c in range(3):
            meant = oracles.haar(plain(image)[b, c])
            for part, one in zip(bands.parts, meant, strict=True):
                assert np.abs(plain(part)[b, c] - one).max() < tolerance(kind)
    for levels in (1, 2, 3):
        deep = f.haar(image, levels)
        assert len(deep.parts) == 1 + 3 * levels
        assert np.abs(plain(f.unhaar(deep)) - plain(image)).max() < tolerance(kind)
    if size == (8, 8):
        norm = sum(float((plain(part) ** 2).sum()) for part in f.haar(image, 3).parts)
        assert norm == pytest.approx(float((plain(image) ** 2).sum()), rel=1e-5)


@pytest.mark.parametrize("kind", ["numpy64", "numpy32", "torch32", "torch16"])
@pytest.mark.parametrize("cut", [0.0, 0.25, 0.6])
def test_the_share_of_high_frequencies_is_that_of_the_oracle(kind: str, cut: float) -> None:
    base, one = (kinded(a, kind) for a in stack(22, (2, 2, 5, 6), 1, spread=1.0))
    got = plain(f.high_share(one, base, cut=cut))
    for b in range(2):
        meant = oracles.high_share(plain(one)[b] - plain(base)[b], cut)
        assert got[b] == pytest.approx(meant, abs=1e-5)
    assert (f.high_share(base, base, cut=cut) == 0).all()


def test_what_is_out_of_range_is_refused_with_the_range() -> None:
    base, one = stack(23, (1, 4, 8, 8), 1)
    with pytest.raises(ParamError, match=r"tau = 0: allowed is a number in \(0, inf\]"):
        f.softmin(one, tau=0)
    with pytest.raises(ParamError, match=r"lambda = 1\.5: allowed is a number in \[0, 1\]"):
        f.recentre(base, one, 1.5)
    with pytest.raises(ParamError, match="at least one must be above 0"):
        f.softmin(one[None], prior=[0])
    with pytest.raises(ParamError, match=r"gamma = nan: allowed is a number in \[0, inf\)"):
        f.away(base, one, math.nan)
    with pytest.raises(ParamError, match="none given"):
        f.divergence(base, [], patch=4)
    with pytest.raises(ParamError, match="patch = 0: allowed is a whole number of at least 1"):
        f.divergence(base, [one], patch=0)
    with pytest.raises(ParamError, match="one edge, or 2 of them"):
        f.divergence(base, [one], patch=(2, 2, 2))
    with pytest.raises(ParamError, match="k = 0"):
        f.select(base, 0)
    with pytest.raises(ParamError, match="divide pictures by 255"):
        f.fit(np.full((2, 2), 255), 2, 2)
    with pytest.raises(ParamError, match=r"how = 'cubic': allowed is nearest, bilinear"):
        f.upsample(base, (8, 8), patch=1, how="cubic")  # type: ignore[arg-type]


def test_shapes_that_do_not_fit_are_refused_with_the_shapes() -> None:
    base, one = stack(24, (1, 4, 8, 8), 1)
    with pytest.raises(ShapeError, match=r"prediction 1 is \(1, 4, 8, 4\), the base's is"):
        f.divergence(base, [one, one[..., :4]], patch=4)
    with pytest.raises(ShapeError, match=r"has \(2, 2\)"):
        f.upsample(np.ones((1, 1, 3, 2)), (8, 8), patch=4)
    with pytest.raises(ShapeError, match=r"allowed is \(n,\), \(n, batch\)"):
        f.aggregate([one], np.ones((1, 1, 8)))
    with pytest.raises(ShapeError, match="2 numbers for 1 adapters"):
        f.softmin(one[None], prior=[1, 2])
    with pytest.raises(ShapeError, match="masks of"):
        f.restrict(np.ones((2, 1, 4, 4)), np.ones((2, 4, 5)))
    with pytest.raises(ShapeError, match="grid of"):
        f.unpack(np.ones((1, 6, 4)), (2, 2), (2, 2))
    with pytest.raises(ShapeError, match="do not divide"):
        f.pack(np.ones((1, 4, 5, 4)), (2, 2))
    with pytest.raises(ShapeError, match="rows, columns"):
        f.fit(np.ones(3), 2, 2)
