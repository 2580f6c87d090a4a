"""The picture of weights: its shape, its colours, what it refuses."""

import json

import numpy as np
import pytest
from PIL import Image, ImageDraw

from loramix import ParamError
from loramix.compose import Run, Step
from loramix.compose.picturing import _short, picture_of


def run_of(weights: np.ndarray, names: tuple[str, ...]) -> Run:
    steps = tuple(Step(i, 99.0 - i, 4, one.astype(np.float32)) for i, one in enumerate(weights))
    return Run(names, steps, ())


def pixels(picture: Image.Image) -> np.ndarray:
    assert picture.mode == "RGB"
    return np.asarray(picture).astype(int)


def cells(found: np.ndarray, rows: int, columns: int, size: tuple[int, int]) -> np.ndarray:
    """Pixels in the middle of every cell."""
    wide, tall = size
    return np.array(
        [
            [found[44 + r * (tall + 8) + tall // 2, 190 + c * (wide + 8) + wide // 2]
             for c in range(columns)]
            for r in range(rows)
        ]
    )  # fmt: skip


def test_every_adapter_has_a_row_and_every_step_a_column() -> None:
    rng = np.random.default_rng(0)
    weights = rng.dirichlet([1, 1, 1], size=(5, 1, 4, 8)).transpose(0, 4, 1, 2, 3)
    for columns, shown in ((8, 5), (3, 3), (1, 1)):
        picture = picture_of(run_of(weights, ("a", "b", "c")), columns=columns)
        assert picture.height == 44 + 3 * (52 + 8) + 58
        assert picture.width >= 190 + (shown + 1) * (104 + 8)
    twice = [pixels(picture_of(run_of(weights, ("a", "b", "c")))) for _ in range(2)]
    assert np.array_equal(*twice)


def test_more_is_brighter_and_nothing_is_grey() -> None:
    levels = np.array([[0.9, 0.0], [0.1, 0.5], [0.0, 0.5]])[:, None]  # (n, batch, steps)
    weights = levels.transpose(2, 0, 1)[..., None, None] * np.ones((2, 3, 1, 2, 2))
    found = cells(pixels(picture_of(run_of(weights, ("a", "b", "c")))), 3, 2, (104, 104))
    light = found @ [0.3, 0.6, 0.1]
    assert light[0, 0] > light[1, 1] == light[2, 1] > light[1, 0]
    assert found[0, 0].tolist() == [253, 231, 37]
    assert found[1, 0].tolist() == [68, 1, 84]
    assert found[0, 1].tolist() == found[2, 0].tolist() == [232, 232, 232]


@pytest.mark.parametrize("grid", [(), (3, 2, 2)])
def test_videos_and_modes_without_places(grid: tuple[int, ...]) -> None:
    weights = np.full((2, 2, 1, *grid), 0.5)
    found = cells(pixels(picture_of(run_of(weights, ("a", "b")))), 2, 3, (104, 104))
    assert len(np.unique(found.reshape(-1, 3), axis=0)) == 1


@pytest.mark.parametrize(
    ("weight", "ends"), [(1.0, (0.95, 1.0)), (0.5, (0.45, 0.55)), (0, (0.95, 1.0))]
)
def test_the_scale_ends_at_one_for_weights_of_one(
    weight: float, ends: tuple[float, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    text = ImageDraw.ImageDraw.text
    monkeypatch.setattr(
        ImageDraw.ImageDraw,
        "text",
        lambda self, at, word, *more: (said.append(word), text(self, at, word, *more)),
    )
    found = cells(
        pixels(picture_of(run_of(np.full((1, 1, 1, 2, 2), weight), ("a",)))), 1, 1, (104, 104)
    )
    assert {f"{end:.3f}" for end in ends} <= set(said)
    assert "1.050" not in said
    if weight == 1:
        assert found[0, 0].tolist() == [253, 231, 37]


def test_what_cannot_be_shown() -> None:
    run = run_of(np.ones((2, 1, 1, 2, 2)), ("a",))
    with pytest.raises(ParamError, match="image = 1: the run made 1"):
        picture_of(run, image=1)
    with pytest.raises(ParamError, match="columns = 0"):
        picture_of(run, columns=0)
    with pytest.raises(ParamError, match="without steps or adapters"):
        picture_of(Run(("a",), (), ()))


def test_maps_of_steps_with_and_without_places_are_averaged() -> None:
    rng = np.random.default_rng(1)
    local = rng.dirichlet([1, 1], size=(1, 2, 3)).transpose(3, 0, 1, 2).astype(np.float32)
    flat = np.array([[0.25], [0.75]], np.float32)
    run = Run(("a", "b"), (Step(0, 9.0, 4, flat), Step(1, 1.0, 4, local)), ())
    assert np.allclose(run.map, (local + flat[..., None, None]) / 2)
    assert picture_of(run).width > 0


def test_what_is_no_number_is_red_and_null() -> None:
    weights = np.full((1, 2, 1, 1, 2), 0.5)
    weights[0, 0, 0, 0] = np.nan, 0.25
    run = run_of(weights, ("a", "b"))
    found = pixels(picture_of(run))
    assert (found[44 + 26, 190 + 20] == (214, 39, 40)).all()
    assert (found[44 + 26, 190 + 90] == (68, 1, 84)).all()
    facts = json.loads(json.dumps(run.as_dict(), allow_nan=False))
    assert facts["adapters"][0]["map"] == [[[None, 0.25]]]
    assert facts["adapters"][0]["weight"] is None
    assert facts["steps"][0]["entropy"] == [None]


def test_the_share_of_the_base_has_a_row_where_it_has_any() -> None:
    weights = np.full((1, 2, 1, 2, 2), 0.25)
    found = pixels(picture_of(run_of(weights, ("a", "b"))))
    assert found.shape[0] == 44 + 3 * (104 + 8) + 58
    light = cells(found, 3, 1, (104, 104))[:, 0] @ [0.3, 0.6, 0.1]
    assert light[2] > light[0] == light[1]
    found = pixels(picture_of(run_of(2 * weights, ("a", "b"))))
    assert found.shape[0] == 44 + 2 * (104 + 8) + 58


def test_long_names_that_look_alike_have_the_numbers_of_their_rows() -> None:
    names = [f"a-very-long-beginning-{i}-and-a-very-long-end" for i in (1, 2)]
    short = _short([*names, "style", "style"])
    assert short == ["1. a-very-...-long-end", "2. a-very-...-long-end", "3. style", "4. style"]
    assert _short(["style", "face"]) == ["style", "face"]
