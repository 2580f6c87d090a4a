"""The verb behind dense differences, on small steps with gaps and several parts."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from helpers import F64, decode, encode, relative

from loramix import OutputError, ShapeError
from loramix.backends.base import Backend, Factored, Job
from loramix.backends.rust import RustBackend
from loramix.backends.torch import TorchBackend
from loramix.methods.base import Keep, Program
from loramix.raw import RawStep, Site
from loramix.refusals import with_names
from loramix.tensors import Tensor
from loramix.types import Factors, Group, Target

WEIGHTS = [0.9, -0.6, 1.37]
PROGRAMS = {
    "ties": Program(Keep("largest", 0.3), vote="mass", reduce="mean"),
    "dare": Program(Keep("random", 0.5, divisor=0.5)),
    "consensus": Program(reduce="importance", clean=True),
}

BACKENDS: dict[str, Backend] = {"rust": RustBackend(), "torch": TorchBackend("cpu")}


def raw(seed: int, rows: int, cols: int, count: int) -> Any:
    """A group of members of rank 2."""
    rng = np.random.default_rng(seed)

    def side(*shape: int) -> Tensor:
        return Tensor("F32", shape, memoryview(encode("F32", rng.normal(size=shape))))

    members = [
        Factors(side(rows, 2), side(2, cols), 1.0, (f"up{i}", f"down{i}"), "x")
        for i in range(count)
    ]
    return Group(Target("unet.x", (rows, cols)), tuple(members), tuple(range(count)))


def deltas_of(group: Group) -> list[F64]:
    return [
        decode("F32", bytes(m.up.data)).reshape(-1, 2)
        @ decode("F32", bytes(m.down.data)).reshape(2, -1)
        for m in group.members
    ]


def stepped(rows: int, cols: int, parts: Sequence[tuple[Group, int]]) -> RawStep:
    found = []
    for number, (group, start) in enumerate(parts):
        count = len(group.members)
        own = WEIGHTS[:count]
        found.append((group.raw(own), own, Site(key=number), start, count == 1))
    return (rows, cols, 5, found)


def run(backend: Backend, steps: Sequence[RawStep], program: Program) -> list[tuple[Factored, F64]]:
    """Results with their entries; the arena is full of something else before."""
    offsets = np.cumsum([0, *(4 * rows * cols for rows, cols, _, _ in steps)]).tolist()
    job = Job(np.full(offsets[-1], 255, dtype=np.uint8), offsets, "F32")
    made = backend.dense(steps, program, job)
    values = [
        decode("F32", bytes(job.arena[start:])[: 4 * rows * cols]).reshape(rows, cols)
        for (rows, cols, _, _), start in zip(steps, offsets, strict=False)
    ]
    return list(zip(made, values, strict=True))


LAYOUTS: dict[str, tuple[int, int, list[tuple[int, int, int]]]] = {
    "one entry": (1, 1, [(1, 0, 2)]),
    "one row": (1, 17, [(1, 0, 3)]),
    "one column": (17, 1, [(17, 0, 3)]),
    "odd": (263, 31, [(263, 0, 3)]),
    "three parts": (27, 31, [(9, 18, 2), (9, 0, 3), (9, 9, 2)]),
    "gaps": (27, 31, [(9, 15, 2), (5, 3, 3)]),
    "one part of a single adapter": (27, 31, [(9, 15, 2), (5, 3, 1)]),
}


@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_parts_are_apart_and_the_account_is_true(backend: str, layout: str, name: str) -> None:
    rows, cols, places = LAYOUTS[layout]
    parts = [(raw(i, n, cols, count), start) for i, (n, start, count) in enumerate(places)]
    ((made, got),) = run(BACKENDS[backend], [stepped(rows, cols, parts)], PROGRAMS[name])
    expected, placed = np.zeros((rows, cols)), []
    for number, (group, start) in enumerate(parts):
        own = deltas_of(group)
        weights = WEIGHTS[: len(own)]
        at = slice(start, start + group.target.rows)
        if len(own) == 1:
            expected[at] = weights[0] * own[0]
        else:
            single = [d.astype(np.float32) for d in own]
            site = Site(key=number)
            expected[at] = RustBackend().run(single, weights, PROGRAMS[name], site, threads=1)
        for delta in own:
            placed.append(np.zeros((rows, cols)))
            placed[-1][at] = delta
    size = float(np.linalg.norm(expected))
    assert np.abs(got - expected).max() <= 1e-5 * max(np.abs(expected).max(), 1e-30)
    assert not got[[i for i in range(rows) if not expected[i].any()]].any()
    assert made.rank == min(rows, cols)
    assert (made.cut, made.rounding) == (0, made.norm)
    assert made.norm == pytest.approx(size, rel=1e-5)
    norms = [float(np.linalg.norm(delta)) for delta in placed]
    for i, one in enumerate(placed):
        assert abs(made.along[i] - np.sum(one * got)) <= 2e-6 * norms[i] * size
        for j, two in enumerate(placed):
            assert abs(made.gram[i, j] - np.sum(one * two)) <= 1e-6 * norms[i] * norms[j]


@pytest.mark.parametrize("name", PROGRAMS)
def test_torch_equals_rust(name: str) -> None:
    steps = [
        stepped(rows, cols, [(raw(9 * i + j, n, cols, c), s) for j, (n, s, c) in enumerate(places)])
        for i, (rows, cols, places) in enumerate(LAYOUTS.values())
    ]
    found = [run(backend, steps, PROGRAMS[name]) for backend in BACKENDS.values()]
    for (one, ours), (two, theirs) in zip(*found, strict=True):
        assert np.array_equal(ours != 0, theirs != 0)
        assert relative(ours, theirs) < 1e-5
        assert (one.rank, one.cut) == (two.rank, two.cut)
        assert one.norm == pytest.approx(two.norm, rel=1e-5)
        assert np.abs(np.array(one.sketch) - two.sketch).max() <= 1e-4 * one.norm
        assert np.abs(one.along - two.along).max() <= 1e-5 * np.abs(one.along).max()


@pytest.mark.parametrize("backend", BACKENDS)
def test_refusals_have_the_number_of_the_step(backend: str) -> None:
    good = raw(1, 6, 5, 2)
    huge = Group(good.target, tuple(replace(m, scale=1e9) for m in good.members), good.owners)
    steps = [stepped(6, 5, [(group, 0)]) for group in (good, huge)]
    job = Job(np.zeros(120, dtype=np.uint8), [0, 60, 120], "F16")
    call = lambda: BACKENDS[backend].dense(steps, PROGRAMS["ties"], job)  # noqa: E731
    groups = [good, replace(huge, target=Target("unet.y", (6, 5)))]
    with pytest.raises(OutputError, match=r"^unet\.y: .* F16"):
        with_names(groups, call)
    narrow = replace(job, offsets=[0, 58, 118])
    with pytest.raises(ShapeError, match=r"unet\.x"):
        with_names(groups, lambda: RustBackend().dense(steps, PROGRAMS["ties"], narrow))
