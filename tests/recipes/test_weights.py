"""Products of weights by globs, against numbers multiplied target by target."""

from collections.abc import Mapping
from fnmatch import fnmatchcase

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recipes.blocks_oracle import BLOCK_OF

from loramix.errors import ParamError
from loramix.formats.layout import load_layout
from loramix.recipes.block_tables import load_table
from loramix.recipes.blocks import parse
from loramix.recipes.weights import combined, intersection
from loramix.types import Target, Weight, weight_of

steady = settings(derandomize=True, max_examples=60, deadline=None, database=None)
PARTS = (
    "*", "unet.*", "text_encoder*", "*.attn1.*", "*attentions*", "unet.mid_block.*", "*.to_?",
    "unet.*blocks.[!0].*", "*_blocks.1.attentions.0.*", "transformer.*.attn.to_q", "*2*", "unet*k",
    "transformer.single_transformer_blocks.3?.*", "*norm*", "unet.down_blocks.1.resnets.0.conv1",
)  # fmt: skip
numbers = st.sampled_from([-2.0, -1.0, 0.0, 0.5, 1.0, 3.0])
weights = st.one_of(numbers, st.dictionaries(st.sampled_from(PARTS), numbers, min_size=1))


def first_match(weight: Weight, key: str) -> float:
    """The rule of `Weight`, written down again."""
    if not isinstance(weight, Mapping):
        return weight
    return next((number for glob, number in weight.items() if fnmatchcase(key, glob)), 1.0)


@st.composite
def cases(draw: st.DrawFn) -> tuple[str, int, list[float], Weight, float | None]:
    architecture = draw(st.sampled_from(["sd15", "sdxl", "flux1"]))
    count = draw(st.sampled_from(sorted(load_table(architecture).forms)))
    factors = draw(st.lists(numbers, min_size=count, max_size=count))
    weight = draw(weights)
    encoder = None if isinstance(weight, Mapping) else draw(st.none() | numbers)
    return architecture, count, factors, weight, encoder


@steady
@given(case=cases())
def test_the_product_is_the_product_for_every_target(
    case: tuple[str, int, list[float], Weight, float | None],
) -> None:
    architecture, count, factors, weight, encoder = case
    found = combined(weight, encoder, parse(",".join(map(str, factors)), architecture))
    by_name = dict(zip(load_table(architecture).forms[count], factors, strict=True))
    rest = by_name.get("BASE", 1.0) if architecture == "flux1" else 1.0
    for module in load_layout(architecture).modules:
        key = f"{module.component}.{module.name}"
        own = first_match(weight, key)
        if encoder is not None and module.component.startswith("text_encoder"):
            own = encoder
        expected = own * by_name.get(BLOCK_OF[architecture](module), rest)
        assert weight_of(found, Target(key, module.shape)) == expected, key


pieces = st.text(alphabet="ab.", max_size=4)
globs = st.lists(
    st.sampled_from(["*", "?", "[ab]", "[!a]", "[", "]", "!", "[]a]", "[!]", "a", "b", "."]),
    max_size=6,
).map("".join)


@settings(steady, max_examples=400)
@given(glob=globs, begin=pieces, keys=st.lists(st.text(alphabet="ab.[]!", max_size=8)))
@pytest.mark.parametrize("star", ["", "*"])
def test_the_intersection_matches_what_both_match(
    glob: str, begin: str, keys: list[str], star: str
) -> None:
    part = begin + star
    both = intersection(glob, part)
    for key in [*keys, *(begin + key for key in keys), begin]:
        expected = fnmatchcase(key, glob) and fnmatchcase(key, part)
        assert any(fnmatchcase(key, one) for one in both) == expected, (key, both)


def test_in_one_mapping_the_blocks_come_before_what_they_are_parts_of() -> None:
    text = ",".join(["0.5", *["1"] * 6, "0", *["1"] * 9])
    found = combined(0.8, 0.4, parse(text))
    assert list(found.items()) == [
        ("text_encoder.*", 0.2),
        ("text_encoder*", 0.4),
        ("unet.mid_block.*", 0.0),
        ("*", 0.8),
    ]


def test_without_blocks_the_weight_is_what_the_command_line_makes() -> None:
    assert combined(0.8) == 0.8
    assert list(combined(0.8, 0.4).items()) == [("text_encoder*", 0.4), ("*", 0.8)]
    given_ = {"*.attn1.*": 0.5}
    assert combined(given_) is given_


def test_two_ways_to_say_text_encoder() -> None:
    with pytest.raises(ParamError) as caught:
        combined({"*": 0.8}, 0.5)
    assert str(caught.value) == (
        "text_encoder = 0.5 beside a weight by globs: give it there, as "
        '"text_encoder*" = 0.5 in front'
    )
