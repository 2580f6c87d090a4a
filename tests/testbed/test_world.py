"""The world: what it shows is what its words say, and nobody needs its fonts."""

import torch

from loramix_testbed.matrix.stacks import mixed
from loramix_testbed.places import ASSETS
from loramix_testbed.world.adapters import SPECS
from loramix_testbed.world.images import masks, pictures
from loramix_testbed.world.pipeline import load, prompt_of, words
from loramix_testbed.world.styles import BASE_STYLES, NEW_STYLES, STYLES
from loramix_testbed.world.symbols import BASE, CONTENTS, SYMBOLS


def test_the_same_seed_draws_the_same_pictures() -> None:
    first, second = (
        pictures(["A", "&"], ["red", "ember"], torch.Generator().manual_seed(4)) for _ in range(2)
    )
    assert torch.equal(first, second)
    assert not torch.equal(
        first, pictures(["A", "&"], ["red", "ember"], torch.Generator().manual_seed(5))
    )


def test_every_symbol_has_a_picture_in_every_style() -> None:
    for style in STYLES:
        drawn = pictures(list(SYMBOLS), [style] * len(SYMBOLS), torch.Generator().manual_seed(0))
        assert drawn.shape == (len(SYMBOLS), 3, 24, 24)
        assert drawn.abs().max() <= 1
        assert drawn.flatten(1).std(1).min() > 0.02


def test_the_base_saw_no_new_symbol_and_no_new_style() -> None:
    assert not set(BASE) & set(CONTENTS.values())
    assert not set(BASE_STYLES) & set(NEW_STYLES)
    assert masks().base.shape[1] == len(SYMBOLS)
    assert len(masks().style) == len(NEW_STYLES)


def test_every_word_is_known_and_every_prompt_differs() -> None:
    pipe = load()
    prompts = [prompt_of(symbol, style) for symbol in SYMBOLS for style in STYLES]
    told = words(pipe, prompts)
    ids = pipe.tokenizer(prompts, padding="max_length", max_length=4).input_ids
    assert pipe.tokenizer.unk_token_id not in {number for row in ids for number in row}
    assert len({tuple(row.flatten().tolist()) for row in told}) == len(prompts)


def test_halves_share_no_concept() -> None:
    halves = {
        half: {spec.concept for spec in SPECS.values() if spec.half == half}
        for half in ("calibration", "held-out")
    }
    assert not halves["calibration"] & halves["held-out"]


def test_everything_that_is_committed_fits() -> None:
    assert sum(path.stat().st_size for path in ASSETS.rglob("*") if path.is_file()) <= 16 << 20
    held_out = {name for stack in mixed("held-out") for name in stack.adapters}
    assert len(held_out) == 8
    assert all(SPECS[name].path.is_file() for name in held_out)
