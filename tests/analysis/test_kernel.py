"""What the kernel is never given by the package, and must survive."""

import numpy as np
import pytest

from loramix import _core
from loramix.raw import RawGroup, RawMember

ROOM = 4 + 2 * 68 + 79
"""Numbers of a group of two."""


def member(rows: int, cols: int, rank: int, *, start: int = 0) -> RawMember:
    rng = np.random.default_rng(rows + cols)
    up, down = (
        rng.normal(size=size).astype("<f4").tobytes() for size in (rows * rank, rank * cols)
    )
    return ("F32", memoryview(up), "F32", memoryview(down), rank, 1.0, start, rows)


def run(group: RawGroup, samples: int | None, room: int = ROOM) -> np.ndarray:
    out = np.full(room, np.nan)
    _core.statistics([group], [1], out, [0, room], samples=samples)
    return out


@pytest.mark.parametrize("samples", [None, 4], ids=str)
@pytest.mark.parametrize(
    ("rows", "cols", "rank"), [(0, 5, 2), (5, 0, 2), (0, 0, 0), (5, 6, 0)], ids=str
)
def test_nothing_gives_zeros(rows: int, cols: int, rank: int, samples: int | None) -> None:
    run((20, 30, [member(20, 30, 3), member(20, 30, 3)]), samples)  # memory that is used again
    found = run((rows, cols, [member(rows, cols, rank)] * 2), samples)
    looked = ROOM - 79  # positions that were looked at and found empty
    assert found[looked] == min(rows, samples or rows) * min(cols, samples or cols)
    assert not np.delete(found, looked).any()


@pytest.mark.parametrize("samples", [None, 7], ids=str)
def test_a_member_of_some_rows_is_zero_in_the_others(samples: int | None) -> None:
    full, part = member(20, 30, 3), member(8, 30, 2, start=5)
    up = np.zeros((20, 2), dtype="<f4")
    up[5:13] = np.frombuffer(part[1], dtype="<f4").reshape(8, 2)
    padded = ("F32", memoryview(up.tobytes()), *part[2:6], 0, 20)
    np.testing.assert_allclose(
        run((20, 30, [full, part]), samples), run((20, 30, [full, padded]), samples), rtol=1e-6
    )


def test_lists_that_do_not_fit_are_refused() -> None:
    group = (5, 6, [member(5, 6, 2), member(5, 6, 1)])
    for keys, room, offsets in (
        ([1, 2], ROOM, [0, ROOM]),
        ([1], ROOM + 1, [0, ROOM + 1]),
        ([1], ROOM, [0, ROOM - 1]),
        ([1], ROOM, [0, ROOM + 1]),
        ([1], ROOM, [0]),
    ):
        with pytest.raises(_core.CoreError) as refusal:
            _core.statistics([group], keys, np.empty(room), offsets)
        assert refusal.value.args[0] == "shape"
