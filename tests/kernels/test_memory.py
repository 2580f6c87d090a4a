"""What verbs read and use of memory; where their results are."""

import math
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from kernels.arrays import KINDS, TILE, VERBS, call, draw, made, truth

from loramix import _core


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
