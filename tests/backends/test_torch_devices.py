"""What the torch backend refuses, by name and as the kernels do, and where it computes.

A pretended device is as strict as a GPU.
"""

import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from backends.steps import (
    BACKEND,
    CPU,
    HERE,
    KEEPS,
    SELFISH,
    TIES,
    WEIGHTS,
    delta_of,
    draw,
    from_rust,
    job_of,
    read,
    step_of,
)
from helpers import encode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map, tree_map_only

from loramix import _core
from loramix.backends import torch_device, torch_factors
from loramix.backends.base import Factored, Job, Mixed
from loramix.backends.torch import TorchBackend
from loramix.errors import FormatError, OutputError, ParamError, ShapeError
from loramix.methods.base import Keep, Program
from loramix.raw import Site
from loramix.refusals import with_names
from loramix.tensors import Tensor
from loramix.types import Factors, Group, Target


def named(values: Any) -> Group:
    tensor = lambda x: Tensor("F32", x.shape, memoryview(encode("F32", x)))  # noqa: E731
    good = Factors(tensor(np.ones((4, 2))), tensor(np.ones((2, 3))), 1.0, ("u0", "d0"), "a.st")
    bad = Factors(tensor(np.ones((4, 2))), tensor(values), 1.0, ("u1", "d1"), "b.st")
    return Group(Target("unet.x", (4, 3)), (good, bad), (0, 1))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_a_number_is_named(value: float) -> None:
    values = np.ones((2, 3))
    values[1, 2] = value
    group = named(values)
    step = (4, 3, 0, [(group.raw(), [1.0, 1.0], Site(), 0, False)])
    job = job_of([(4, 3, 3)])
    calls = [
        lambda: BACKEND.gram([group.raw()], threads=None),
        lambda: BACKEND.cores([group.raw()], [np.ones(2)], threads=None),
        lambda: BACKEND.kept([step], TIES, "weight", threads=None),
        lambda: BACKEND.condense([step], TIES, "knots", job),
        lambda: BACKEND.dense([step], TIES, job),
        lambda: BACKEND.recompress([group.raw()], job),
        lambda: _core.gram([group.raw()]),
    ]
    for call in calls:
        with pytest.raises(FormatError, match=r"b\.st: d1 holds NaN or infinity; the file is"):
            with_names([group], call)
    first, second = np.ones((2, 3), dtype=np.float32), values.astype(np.float32)
    for call in (
        lambda: BACKEND.run([first, second], [1.0, 1.0], TIES, Site(), threads=None),
        lambda: from_rust([first, second], [1.0, 1.0], TIES, Site()),
    ):
        with pytest.raises(FormatError, match="delta 1 holds NaN or infinity"):
            with_names([], call)


def test_members_are_counted_across_parts() -> None:
    group = named(np.full((2, 3), math.nan)).raw()
    good = (group[0], group[1], group[2][:1])
    parts = [(good, [1.0], Site(), 0, True), (group, [1.0, 1.0], Site(), 4, False)]
    with pytest.raises(_core.CoreError) as caught:
        BACKEND.condense([(8, 3, 0, parts)], TIES, "weight", job_of([(8, 3, 3)]))
    assert caught.value.args[2:] == (0, 2, "down")


def test_other_refusals() -> None:
    group = named(np.ones((2, 3)))
    raw, arrays = group.raw(), [np.ones((2, 3), dtype=np.float32)]
    part = (raw, [1.0, 1.0], Site(), 0, False)
    job = job_of([(4, 3, 3)])
    big = (4, 3, [(*raw[2][0][:5], 1e60, 0, 4)])

    def refused(kind: type[Exception], call: Any, match: str) -> None:
        with pytest.raises(kind, match=match):
            with_names([group], call)

    def condense(parts: Any, rule: Job = job, program: Program = TIES) -> Any:
        return lambda: BACKEND.condense([(4, 3, 0, parts)], program, "weight", rule)

    refused(ParamError, condense([part], replace(job, rank=0)), "rank = 0")
    refused(ParamError, condense([part], replace(job, energy=1.5)), "energy = 1.5")
    refused(ParamError, condense([part], replace(job, max_error=1.0)), "max_error = 1.0")
    refused(ParamError, condense([part], program=Program(Keep("largest", 2.0))), "density = 2")
    refused(ShapeError, condense([]), "parts")
    refused(ShapeError, condense([part, part]), "overlap")
    refused(ShapeError, condense([(raw, [1.0], Site(), 0, False)]), "weights")
    refused(ShapeError, condense([(raw, [1.0] * 2, Site(mix=[1.0]), 0, False)]), "mix")
    refused(OutputError, condense([(big, [1.0], Site(), 0, False)]), "too large for F32")
    half = job_of([(4, 3, 3)], "F16")
    large = (4, 3, [(*raw[2][0][:5], 1e12, 0, 4)])
    refused(OutputError, condense([(large, [1.0], Site(), 0, False)], half), "F16")
    mixer = Mixed(np.ones((4, 2)), np.ones((3, 4)), 0)
    refused(ShapeError, lambda: BACKEND.recompress([raw], job, [mixer]), "mixers")
    short = (4, 3, [(*raw[2][0][:4], 3, 1.0, 0, 4)])
    refused(ShapeError, lambda: BACKEND.gram([short], threads=None), "4 x 3 elements of F32")
    low = (4, 3, [(*raw[2][0][:6], 1, 4)])
    refused(ShapeError, lambda: BACKEND.gram([low], threads=None), "rows of up")
    no = (4, 3, [("I8", *raw[2][0][1:])])
    refused(FormatError, lambda: BACKEND.gram([no], threads=None), "dtype I8")
    odd = (4, 3, [(*raw[2][0][:5], math.inf, 0, 4)])
    refused(ParamError, lambda: BACKEND.gram([odd], threads=None), "factor = inf")
    run = BACKEND.run
    refused(ShapeError, lambda: run([], [], TIES, Site(), threads=None), "at least one delta")
    refused(ShapeError, lambda: run(arrays, [], TIES, Site(), threads=None), "0 weights")
    ints = [np.ones((2, 3), dtype=np.int32)]
    refused(FormatError, lambda: run(ints, [1.0], TIES, Site(), threads=None), "int32")
    huge = [np.full((2, 3), 1e300)]
    clean = Program(clean=True)
    refused(OutputError, lambda: run(huge, [1.0], clean, Site(), threads=None), "F32")


def test_an_unknown_device_is_refused() -> None:
    for name in ("abacus", "cuda:99"):
        with pytest.raises(ParamError, match=f"device = '{name}'"):
            TorchBackend(name)
    assert TorchBackend().device.type in ("cuda", "mps", "cpu")


def test_products_are_full_f32_and_what_was_allowed_is_put_back() -> None:
    before = torch.get_float32_matmul_precision()
    step, group = step_of(39, (300, 290), 5)
    try:
        torch.set_float32_matmul_precision("medium")
        job = job_of([(300, 290, 15)])
        (made,) = BACKEND.condense([step], Program(), "weight", job)
        assert torch.get_float32_matmul_precision() == "medium"
        with pytest.raises(_core.CoreError):
            BACKEND.condense([(300, 290, 0, [])], Program(), "weight", job)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)
    dense = sum(delta_of(group))
    assert np.linalg.norm(read(job, 0, 300, 290, made) - dense) < 2e-6 * np.linalg.norm(dense)


class Far(torch.Tensor):
    """CPU memory that says it is on another device."""

    has_f64 = True

    @staticmethod
    def __new__(cls: Any, inner: torch.Tensor) -> "Far":
        assert cls.has_f64 or inner.dtype != torch.float64, "a device without f64"
        made = torch.Tensor._make_wrapper_subclass(
            cls, inner.shape, strides=inner.stride(), dtype=inner.dtype, device="meta"
        )
        made.inner = inner
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return far_call(func, args, kwargs or {})


class FarMode(TorchDispatchMode):
    """Sees what is made without a tensor, too."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return far_call(func, args, kwargs or {})


def far_call(func: Any, args: Any, kwargs: Any) -> Any:
    """Carry out an operation on the CPU, as strict about devices as a GPU."""
    tensors = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, torch.Tensor)]
    far = [x for x in tensors if isinstance(x, Far)]
    near = [x for x in tensors if not isinstance(x, Far)]
    to = kwargs.get("device")
    name = func._schema.name
    if name not in ("aten::_to_copy", "aten::copy_"):
        assert not (far and any(x.dim() for x in near)), f"devices mixed in {name}"
    asked = {**kwargs, "device": CPU} if to is not None else kwargs
    plain = tree_map(lambda x: x.inner if isinstance(x, Far) else x, (args, asked))
    out = func(*plain[0], **plain[1])
    stays = torch.device(to).type == "meta" if to is not None else bool(far)
    if name == "aten::copy_":
        return args[0]
    same = {id(x.inner): x for x in far}
    wrap = lambda x: same[id(x)] if id(x) in same else Far(x)  # noqa: E731
    return tree_map_only(torch.Tensor, wrap, out) if stays else out


def test_the_pretended_device_is_strict() -> None:
    with FarMode():
        far = torch.zeros(3, device="meta")
        assert (far + 1).cpu().tolist() == [1.0, 1.0, 1.0]
        with pytest.raises(AssertionError, match="mixed"):
            far + torch.zeros(3)


@pytest.mark.parametrize("has_f64", [True, False])
def test_every_verb_on_a_pretended_device(
    *, has_f64: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Far, "has_f64", has_f64)
    if not has_f64:
        home = lambda device: CPU if device.type == "meta" else device  # noqa: E731
        monkeypatch.setattr(torch_device, "home_of", home)
        monkeypatch.setattr(torch_factors, "home_of", home)
    there = TorchBackend("cpu")
    there.device = torch.device("meta")

    def check(call: Callable[[TorchBackend], Any]) -> None:
        expected = call(BACKEND)
        with FarMode():
            got = call(there)
        for one, two in zip(got, expected, strict=True):
            if isinstance(one, Factored):
                assert (one.rank, one.norm, one.cut) == (two.rank, two.norm, two.cut)
                assert np.array_equal(one.along, two.along)
                assert one.sketch == two.sketch
            else:
                assert np.array_equal(one, two)

    for shape in [(40, 60), (300, 290)]:
        step, group = step_of(41, shape, 3)
        keeps = [KEEPS[i] for i in ((2, 4, 8, 9) if shape[0] < 100 else (0, 2))]
        for keep, selfish in zip(keeps, SELFISH, strict=False):
            program = Program(keep, selfish, "count", "plain", "importance", clean=keep == KEEPS[2])
            deltas = draw(42, 3, shape, "float64")
            check(lambda b: b.run(deltas, WEIGHTS[:3], program, HERE, threads=None))  # noqa: B023
            for space in ("weight", "knots", "core"):
                job = job_of([(*shape, 9)], rank=5)
                check(lambda b: b.condense([step], program, space, job))  # noqa: B023
                check(lambda b: b.kept([step], program, space, threads=None)[0])  # noqa: B023
            whole = Job(
                np.zeros(4 * math.prod(shape), dtype=np.uint8), [0, 4 * math.prod(shape)], "F32"
            )
            check(lambda b: b.dense([step], program, whole))  # noqa: B023
        result, job = draw(43, 1, shape)[0], job_of([(*shape, 9)], rank=5)
        check(lambda b: b.approximate([step], [result], job))  # noqa: B023
        room = Job(np.zeros(4 * result.size, dtype=np.uint8), [0, 4 * result.size], "F32")
        check(lambda b: b.store([step], [result], room))  # noqa: B023
        check(lambda b: b.gram([group], threads=None))  # noqa: B023
        check(lambda b: b.cores([group], [np.ones(3)], threads=None)[0].cores)  # noqa: B023
        for rank in (None, 4):
            job = job_of([(*shape, 9)], rank=rank)
            check(lambda b: b.recompress([group], job))  # noqa: B023
            mixer = Mixed(np.eye(9, 6), np.eye(6, 9), 0)
            check(lambda b: b.recompress([group], job, [mixer]))  # noqa: B023
        zero = (*shape, [(*m[:5], 0.0, *m[6:]) for m in group[2]])
        step = (*shape, 1, [(zero, WEIGHTS[:3], HERE, 0, False)])
        for space in ("weight", "knots", "core"):
            job = job_of([(*shape, 9)])
            check(lambda b: b.condense([step], TIES, space, job))  # noqa: B023


def test_the_package_is_imported_without_torch() -> None:
    code = "import sys, loramix; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
