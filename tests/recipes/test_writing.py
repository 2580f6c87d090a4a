"""What is written reads back equal, whatever the names and numbers."""

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loramix.errors import ParamError
from loramix.methods import METHODS, Method, method_of
from loramix.methods.linear import Linear
from loramix.methods.tall import Tall
from loramix.planning.output import Output
from loramix.policies.auto import Auto
from loramix.policies.published import Published
from loramix.recipes import spelling
from loramix.recipes.blocks import PRESETS
from loramix.recipes.choosing import text_of
from loramix.recipes.reading import parse
from loramix.recipes.recipe import CONFLICT_MODES, KEY_FILTERS, Entry, Recipe
from loramix.recipes.rules import Rule
from loramix.recipes.writing import tables, to_toml

steady = settings(derandomize=True, max_examples=60, deadline=None, database=None)
FOLDER = Path("/data/some folder")

texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
numbers = st.floats(allow_nan=False, allow_infinity=False)
shares = st.floats(0, 1, exclude_min=True)
globs = st.dictionaries(texts, numbers, min_size=1, max_size=4)
weights = st.one_of(numbers, globs)
plain = st.one_of(
    st.sampled_from([kind() for kind in METHODS.values()]),
    shares.map(lambda share: method_of(f"ties:density={share}")),
    st.floats(1, 1e9).map(Tall),
    st.integers(0, 2**64 - 1).map(lambda seed: method_of(f"lego:seed={seed}")),
)
thin = st.sampled_from(["dare", "della:density=0.25", "breadcrumbs"]).map(method_of)
composites = st.builds(
    method_of,
    st.sampled_from(["ties", "slerp", "dare-ties", "tall:lambda=2.5"]),
    sparsify=st.none() | thin,
    refine=st.sampled_from(["none", "refine"]),
    space=st.sampled_from(["weight", "knots", "core"]),
)
methods: st.SearchStrategy[Method] = plain | composites
names = texts.filter(lambda text: "/" not in text and "\0" not in text and text not in "..")
paths = st.builds(
    lambda name, top: top / name, names, st.sampled_from([FOLDER, Path("/"), FOLDER.parent])
)


@st.composite
def entries(draw: st.DrawFn) -> Entry:
    weight = draw(weights)
    encoder = None if isinstance(weight, Mapping) else draw(st.none() | numbers)
    return Entry(
        draw(paths),
        weight,
        encoder,
        draw(st.none() | st.sampled_from([*PRESETS, " 1, 2,-.5" + ",0" * 9])),
        draw(st.sampled_from(KEY_FILTERS)),
        draw(st.sampled_from(CONFLICT_MODES)),
    )


@st.composite
def rules(draw: st.DrawFn) -> Rule:
    said: dict[str, Any] = {
        "method": draw(st.none() | methods),
        "weight": draw(st.none() | weights),
        "rank": draw(st.integers(1, 2**31)),
    }
    if said["method"] is None:
        said["space"] = draw(st.sampled_from([None, "weight", "core"]))
    if draw(st.booleans()):
        return Rule(target=draw(texts), **said)
    return Rule(regex=draw(st.sampled_from([r"unet\..*", "'\"\\\\", "\u00e9|\t"])), **said)


outputs = st.one_of(
    st.builds(
        Output,
        rank=st.none() | st.integers(1, 2**31),
        energy=st.none() | shares,
        dtype=st.sampled_from([None, "f32", "bf16"]),
        dialect=st.sampled_from([None, "kohya", "peft"]),
    ),
    st.builds(Output, max_error=st.floats(0, 1, exclude_max=True)),
    st.just(Output(dense=True)),
)
choices = st.one_of(
    st.builds(
        Auto,
        mix=st.booleans(),
        margin=st.floats(0.001, 1),
        strength=st.floats(0.001, 100),
    ),
    st.builds(
        Published,
        preset=st.sampled_from(["auto", "dit"]),
        floor=st.none() | st.floats(0, 1),
        key_filters=st.lists(st.sampled_from(["all", "shared_only"]), max_size=2).map(tuple),
    ),
)


@st.composite
def recipes(draw: st.DrawFn) -> Recipe:
    deciding: dict[str, Any] = draw(
        st.one_of(
            st.fixed_dictionaries({"method": methods}),
            st.fixed_dictionaries({"policy": choices}, optional={"sparsify": thin}),
            st.fixed_dictionaries(
                {"method": st.just(Linear())},
                optional={"space": st.just("core"), "refine": st.just("refine")},
            ),
            st.just({}),
        )
    )
    auto = draw(st.booleans())
    return Recipe(
        tuple(draw(st.lists(entries(), min_size=1, max_size=3))),
        **deciding,
        rules=tuple(draw(st.lists(rules(), max_size=2))),
        output=draw(outputs),
        auto_strength=auto,
        floor=draw(st.none() | shares) if auto else None,
        seed=draw(st.integers(0, 2**64 - 1)),
        backend=draw(st.sampled_from(["rust", "torch", "torch:cpu"])),
        architecture=draw(st.sampled_from([None, "sdxl"])),
        skip=tuple(draw(st.lists(texts, max_size=2))),
    )


def order(recipe: Recipe) -> list[list[str]]:
    """Globs in their order, which counts and which equal mappings do not show."""
    said = [one.weight for one in (*recipe.adapters, *recipe.rules)]
    return [list(weight) for weight in said if isinstance(weight, Mapping)]


@steady
@given(recipe=recipes())
@pytest.mark.parametrize("folder", [None, FOLDER])
def test_round_trip_through_toml(recipe: Recipe, folder: Path | None) -> None:
    found = parse(to_toml(recipe, folder), folder=folder or "/elsewhere")
    assert found == recipe
    assert order(found) == order(recipe)
    assert to_toml(found, folder) == to_toml(recipe, folder)


@steady
@given(recipe=recipes())
def test_round_trip_through_json(recipe: Recipe) -> None:
    found = parse(json.dumps(tables(recipe)), syntax="JSON")
    assert found == recipe
    assert order(found) == order(recipe)


@steady
@given(recipe=recipes())
def test_the_text_says_what_the_tables_say(recipe: Recipe) -> None:
    assert tomllib.loads(to_toml(recipe)) == tables(recipe)


def test_how_it_looks() -> None:
    recipe = Recipe(
        adapters=(
            Entry(FOLDER / "style.safetensors", 0.8),
            Entry(Path("/other/face.safetensors"), {"text_encoder*": 0.0, "*": 0.6}),
        ),
        method=method_of("knots(ties:density=0.3)", sparsify="dare"),
        rules=(Rule("*.attn1.*", weight={"face": 0.5}),),
        output=Output(rank=64),
        seed=7,
    )
    assert to_toml(recipe, FOLDER) == (
        "seed = 7\n"
        "\n"
        "[method]\n"
        'name = "ties"\n'
        "density = 0.3\n"
        'vote = "mass"\n'
        "energy = 0.95\n"
        'sparsify = { name = "dare", density = 0.5, dampening = 0.0, only = "all", '
        'guard = "calibrated", fallback = "everywhere" }\n'
        'space = "knots"\n'
        "\n"
        "[[adapter]]\n"
        'path = "style.safetensors"\n'
        "weight = 0.8\n"
        "\n"
        "[[adapter]]\n"
        'path = "/other/face.safetensors"\n'
        'weight = { "text_encoder*" = 0.0, "*" = 0.6 }\n'
        "\n"
        "[[rule]]\n"
        'target = "*.attn1.*"\n'
        "weight = { face = 0.5 }\n"
        "\n"
        "[output]\n"
        "rank = 64\n"
    )


def test_what_cannot_be_written() -> None:
    class Own:
        name = "own"

    entry = Entry(Path("/a"))
    with pytest.raises(ParamError, match="method 'own' is not of loramix"):
        to_toml(Recipe((entry,), method=Own()))  # type: ignore[arg-type]
    with pytest.raises(ParamError, match="is not Unicode and cannot be written"):
        to_toml(Recipe((Entry(Path("/\udcff.safetensors")),)))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (True, "true"),
        (1e-05, "1e-05"),
        (float("inf"), "inf"),
        (1 << 80, "0x1" + "0" * 20),
        ('a"\\\n\x7f\u2028😀', '"a\\"\\\\\\n\\u007f\u2028😀"'),
        ({"a": {}, "b c": [1, "x"]}, '{ a = {}, "b c" = [1, "x"] }'),
    ],
)
def test_values(value: object, text: str) -> None:
    assert spelling.value(value) == text
    assert tomllib.loads(f"x = {text}") == {"x": value}


def test_long_values_are_cut_in_messages() -> None:
    assert spelling.shown("x" * 100) == '"' + "x" * 56 + "..."


@pytest.mark.parametrize("name", METHODS)
def test_methods_in_a_few_words(name: str) -> None:
    assert text_of(METHODS[name]()) == name


@pytest.mark.parametrize(
    "text", ["ties:density=0.3,vote=count", "core(tall:lambda=2.5)", "knots(slerp)"]
)
def test_words_of_a_method_are_those_of_the_command_line(text: str) -> None:
    assert text_of(method_of(text)) == text


def test_words_of_modifiers() -> None:
    method = method_of("core(ties)", sparsify="dare:density=0.25", refine="refine")
    assert text_of(method) == "core(ties), after dare:density=0.25, refine"
