"""What the verbs of `loramix.kernels` refuse; the module and its documentation."""

import doctest
import math
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np
import pytest
import torch
from kernels.arrays import VERBS, WHOLE, call, draw, made

from loramix import FormatError, OutputError, ParamError, ShapeError, kernels


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
        (lambda: kernels.elect_sign(PAIR, weights="no"), ParamError, "weights = no"),
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
