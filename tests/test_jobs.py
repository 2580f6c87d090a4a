"""A job as the core takes it: every verb that writes factors refuses rooms that do not fit."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from helpers import encode

from loramix import _core
from loramix.backends.base import Job, Mixed
from loramix.backends.rust import RustBackend
from loramix.methods.base import Program
from loramix.raw import RawGroup, Site

SIDES = [memoryview(encode("F32", np.ones(6))) for _ in range(2)]
GROUP: RawGroup = (3, 3, [("F32", SIDES[0], "F32", SIDES[1], 2, 1.0, 0, 3)])
STEP = (3, 3, 0, [(GROUP, [1.0], Site(), 0, False)])
BACKEND = RustBackend()
VERBS: dict[str, Callable[[Job], Any]] = {
    "recompress": lambda job: BACKEND.recompress([GROUP] * 2, job),
    "mixed": lambda job: BACKEND.recompress([GROUP] * 2, job, [Mixed(np.eye(2), np.eye(2), 0)] * 2),
    "condense": lambda job: BACKEND.condense([STEP] * 2, Program(), "weight", job),
    "whole": lambda job: BACKEND.dense([STEP] * 2, Program(), job),
    "approximate": lambda job: BACKEND.approximate(
        [STEP] * 2, [np.full((3, 3), 2.0, dtype=np.float32)] * 2, job
    ),
    "project": lambda job: BACKEND.condense([STEP] * 2, Program(), "core", job),
}
ROOM = 48
"""Bytes of a pair of rank two."""


def job() -> Job:
    return Job(np.zeros(2 * ROOM, dtype=np.uint8), [0, ROOM, 2 * ROOM], "F32")


@pytest.mark.parametrize("verb", VERBS)
def test_a_job_is_carried_out_in_its_rooms(verb: str) -> None:
    given = job()
    found = VERBS[verb](given)
    assert [one.norm for one in found] == pytest.approx([6.0, 6.0])
    assert np.array_equal(given.arena[:ROOM], given.arena[ROOM:])
    assert given.arena.any()


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"offsets": [0, ROOM]}, "offsets.*2 groups or steps, 1 items"),
        ({"offsets": [0, ROOM, ROOM, 2 * ROOM]}, "offsets.*3 items"),
        ({"offsets": [0, ROOM, 2 * ROOM + 1]}, "ascending offsets"),
        ({"offsets": [0, ROOM, 0]}, "ascending offsets"),
        ({"offsets": [1, ROOM, 2 * ROOM]}, "ascending offsets"),
        ({"dtype": "I8"}, "I8"),
        ({"dtype": ""}, "dtype"),
    ],
)
@pytest.mark.parametrize("verb", VERBS)
def test_rooms_that_do_not_fit_are_refused(verb: str, change: dict[str, Any], text: str) -> None:
    with pytest.raises(_core.CoreError, match=text):
        VERBS[verb](replace(job(), **change))


@pytest.mark.parametrize("verb", VERBS)
def test_an_arena_must_be_writable_and_contiguous_bytes(verb: str) -> None:
    frozen = job()
    frozen.arena.flags.writeable = False
    strided = replace(job(), arena=np.zeros(4 * ROOM, dtype=np.uint8)[::2])
    for one in (frozen, strided):
        with pytest.raises(_core.CoreError, match="writable contiguous bytes"):
            VERBS[verb](one)
        assert not one.arena.any()
    with pytest.raises(TypeError, match="arena"):
        VERBS[verb](replace(job(), arena=np.zeros(2 * ROOM, dtype=np.float32)))  # type: ignore[arg-type]
