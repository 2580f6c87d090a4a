"""Files of users: what they mean, and what is said of mistakes."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from helpers import delta_of, distance, pairs, truth, write_adapter

import loramix
from loramix.errors import FormatError, ParamError
from loramix.formats.layout import LAYOUTS
from loramix.methods import METHODS, Composite, Method, method_of
from loramix.methods.dare import Dare
from loramix.methods.tall import Tall
from loramix.methods.ties import Ties
from loramix.planning.output import Output
from loramix.policies.auto import Auto
from loramix.policies.published import Published
from loramix.recipes.reading import parse, read_recipe
from loramix.recipes.recipe import Entry, Recipe
from loramix.recipes.rules import Rule

DOCS = Path(__file__).parents[2] / "docs" / "RECIPES.md"
ONE = '[[adapter]]\npath = "a"\n'


def method_in(text: str) -> Method | None:
    return parse(f"method = {text}\n{ONE}").method


def refusal(text: str, kind: type[Exception] = ParamError, **options: Any) -> str:
    with pytest.raises(kind) as caught:
        parse(text, name="stack.toml", **options)
    return str(caught.value)


def blocks_of_docs() -> list[str]:
    return re.findall(r"```toml\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)


def test_the_example(tmp_path: Path) -> None:
    file = tmp_path / "stack.toml"
    file.write_text(blocks_of_docs()[0], encoding="utf-8")
    assert read_recipe(file) == Recipe(
        adapters=(
            Entry(tmp_path / "style.safetensors", 0.8),
            Entry(tmp_path / "face.safetensors", 0.6),
        ),
        method=Ties(0.2),
        rules=(Rule("*attn*", method=Composite(Ties(0.3), space="knots")),),
        output=Output(rank=64, dtype="bf16", dialect="kohya"),
        seed=7,
    )


def test_the_other_examples_of_the_page() -> None:
    _, adapters, rules = blocks_of_docs()
    assert parse(adapters).adapters == (
        Entry(
            Path("face.safetensors"),
            0.6,
            0.3,
            "1,1,1,1,1,1,1,0,1,1,1,1,1,1,1,1,1",
            "shared_only",
            "low",
            rslora=True,
        ),
        Entry(Path("style.safetensors"), {"text_encoder*": 0.0, "*.attn2.*": 0.9, "*": 0.7}),
    )
    assert parse(rules + ONE).rules == (
        Rule("*.attn1.*", weight={"face": 0.5}),
        Rule(regex=r"unet\.(down|up)_blocks\..*", method=method_of("knots(ties)"), rank=32),
        Rule("*", weight=0.9),
    )


def test_everything_there_is() -> None:
    found = parse(
        """
        seed = 18446744073709551615
        backend = "torch:cuda:1"
        architecture = "sdxl"
        skip = ["*.dora_scale"]
        policy = "published:preset=dit,smoothing=0.5,smooth_slerp_gate=true"
        sparsify = { name = "dare", density = 0.7 }
        refine = "refine"
        space = "core"
        auto_strength = true
        floor = 1
        [[adapter]]
        path = "/data/a.safetensors"
        weight = -1
        text_encoder = 0
        blocks = "ALL"
        [[rule]]
        regex = "unet.*"
        weight = { a = 0.5, "2" = 1 }
        rank = 4
        space = "knots"
        [output]
        max_error = 0
        dtype = "f16"
        """,
        folder="/elsewhere",
    )
    assert found == Recipe(
        adapters=(Entry(Path("/data/a.safetensors"), -1.0, 0.0, "ALL"),),
        policy=Published(preset="dit", smoothing=0.5, smooth_slerp_gate=True),
        sparsify=Dare(0.7),
        refine="refine",
        space="core",
        rules=(Rule(regex="unet.*", weight={"a": 0.5, "2": 1.0}, rank=4, space="knots"),),
        output=Output(max_error=0.0, dtype="f16"),
        auto_strength=True,
        floor=1.0,
        seed=2**64 - 1,
        backend="torch:cuda:1",
        architecture="sdxl",
        skip=("*.dora_scale",),
    )
    assert isinstance(found.adapters[0].weight, float)


def test_json_of_the_same_shape(tmp_path: Path) -> None:
    values = {
        "method": "ties",
        "adapter": [{"path": "a", "weight": {"*": 1}}],
        "rule": [{"target": "*", "method": {"name": "core", "inner": "ties"}}],
    }
    file = tmp_path / "stack.JSON"
    file.write_text(json.dumps(values), encoding="utf-8-sig")
    assert read_recipe(file) == Recipe(
        (Entry(tmp_path / "a", {"*": 1.0}),),
        Ties(),
        rules=(Rule("*", method=Composite(Ties(), space="core")),),
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('"ties:density=0.3"', Ties(0.3)),
        ('"core(ties)"', Composite(Ties(), space="core")),
        ('{ name = "ties", density = 1 }', Ties(1.0)),
        ('{ name = "ties", density = "auto", energy = 0.9 }', Ties("auto", energy=0.9)),
        ('{ name = "tall", lambda = 2 }', Tall(2.0)),
        ('{ name = "lego", k = 3 }', method_of("lego:k=3")),
        ('{ name = "consensus", clean = false }', method_of("consensus:clean=no")),
        ('{ name = "core", inner = "slerp" }', method_of("core(slerp)")),
        (
            '{ name = "knots", inner = { name = "ties" }, sparsify = "dare", refine = "refine" }',
            method_of("knots(ties)", sparsify="dare", refine="refine"),
        ),
        (
            '{ name = "knots", inner = { name = "ties", sparsify = { name = "dare" } } }',
            method_of("knots(ties)", sparsify="dare"),
        ),
        (
            '{ name = "ties", sparsify = "della", refine = "full", space = "knots" }',
            method_of("knots(ties)", sparsify="della", refine="full"),
        ),
    ],
)
def test_methods(text: str, expected: Method) -> None:
    assert method_in(text) == expected


@pytest.mark.parametrize("name", METHODS)
def test_every_method_by_its_name(name: str) -> None:
    assert method_in(f'"{name}"') == method_in(f'{{ name = "{name}" }}') == METHODS[name]()


def test_modifiers_go_with_the_method_of_the_file_only() -> None:
    found = parse(f'method = "ties"\nspace = "core"\nsparsify = "dare"\n{ONE}')
    assert found.chosen == method_of("core(ties)", sparsify="dare")
    assert parse(f'method = "core(ties)"\n{ONE}').chosen == method_of("core(ties)")
    assert parse(ONE).chosen is None


def test_policies() -> None:
    assert parse(f'policy = "auto"\n{ONE}').policy == Auto()
    table = f'policy = {{ name = "auto", errors = 4, strength = 1, mix = true }}\n{ONE}'
    assert parse(table).policy == Auto(errors=4, strength=1, mix=True)
    table = f'policy = {{ name = "published", key_filters = ["shared_only"] }}\n{ONE}'
    assert parse(table).policy == Published(key_filters=("shared_only",))


AUTO = "strength, balance, mix, errors, margin, aligned, opposed, full, minor, dominance"
METHOD_NAMES = ", ".join(METHODS)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sead = 7\n" + ONE, "unknown key 'sead' (did you mean seed?); known are adapter, method, "
         "policy, sparsify, refine, space, rule, output, auto_strength, floor, seed, backend, "
         "architecture, skip, base"),
        (ONE + "wieght = 1", "adapter 1: unknown key 'wieght' (did you mean weight?); known are "
         "path, weight, text_encoder, blocks, key_filter, conflict_mode, rslora"),
        (ONE + "[[adapter]]\nweight = 1", "adapter 2: there is no path"),
        (ONE + "weight = true", "adapter 1: weight = true: allowed is a finite number, or a table "
         "of numbers"),
        (ONE + "weight = inf", "adapter 1: weight = inf: allowed is a finite number, or a table "
         "of numbers"),
        (ONE + 'weight = { "*" = "1" }', 'adapter 1: weight: "*" = "1": allowed is a finite '
         "number"),
        (ONE + "weight = {}", "adapter 1: weight = {}: allowed is a finite number of any sign, "
         "for each glob"),
        (ONE + 'weight = { "*" = 1 }\ntext_encoder = 0.5', "adapter 1: text_encoder = 0.5 beside "
         'a weight by globs: give it there, as "text_encoder*" = 0.5 in front'),
        (ONE + 'blocks = "1,1"', "adapter 1: blocks: 2 numbers; sd15 takes 17 or 26; sdxl takes "
         "12 or 20; flux1 takes 57, 58 or 61"),
        (ONE + "blocks = [1, 1]", "adapter 1: blocks = [1, 1]: allowed is a text that is not "
         "empty"),
        (ONE + 'key_filter = "shared"', 'adapter 1: key_filter = "shared": allowed is all, '
         "shared_only, unique_only (did you mean shared_only?)"),
        (ONE + 'conflict_mode = 3', "adapter 1: conflict_mode = 3: allowed is all, low, high"),
        ('adapter = "a.safetensors"', 'adapter = "a.safetensors": allowed is tables: write '
         "[[adapter]] above each"),
        ("[adapter]\npath = 'a'", 'adapter = { path = "a" }: allowed is tables: write '
         "[[adapter]] above each"),
        ("seed = 7", "no adapters: write [[adapter]] with a path at least once"),
        ("seed = 7.0\n" + ONE, "seed = 7.0: allowed is a whole number"),
        ("seed = -1\n" + ONE, "seed = -1: allowed is 0 to 2^64 - 1"),
        ("seed = 0x1" + 5000 * "0" + "\n" + ONE, "seed = 0x1" + 54 * "0" + "...: allowed is a "
         "whole number"),
        ("floor = 0.5\n" + ONE, "floor is a part of auto_strength: give both or none"),
        ("auto_strength = true\nfloor = 2\n" + ONE, "floor = 2.0: allowed is (0, 1]"),
        ("auto_strength = 1\n" + ONE, "auto_strength = 1: allowed is true or false"),
        ('backend = "rust:0"\n' + ONE, "backend = 'rust:0': allowed is rust, torch, or "
         "torch:DEVICE"),
        (
            'architecture = "sd3"\n' + ONE,
            f"architecture = 'sd3': allowed is {', '.join(LAYOUTS)}, or a file whose name ends in "
            ".layout",
        ),
        ('skip = "*"\n' + ONE, 'skip = "*": allowed is a list of texts'),
        ('method = "ties"\npolicy = "auto"\n' + ONE, "method and policy: a policy chooses the "
         "methods, give one of them"),
        ('policy = "publshed"\n' + ONE, "policy: policy 'publshed' (did you mean published?); "
         "known are auto, published"),
        ('policy = "auto:x"\n' + ONE, f"policy: auto: no parameter 'x'; it has {AUTO}"),
        ('policy = "auto:errors=two"\n' + ONE, "policy: auto: errors = two: a number above 0"),
        ("policy = { name = 'auto', marg = 1 }\n" + ONE,
         f"policy: auto: no parameter 'marg' (did you mean margin?); it has {AUTO}"),
        ("policy = { x = 1 }\n" + ONE, "policy: there is no name"),
        ("policy = 3\n" + ONE, "policy = 3: allowed is a name with parameters, or a table with a "
         "name"),
        ('method = "tis"\n' + ONE, "method: method 'tis' (did you mean ties?); known are "
         + METHOD_NAMES),
        ('method = { name = "knot", inner = "ties" }\n' + ONE, "method: method 'knot' (did you "
         f"mean knots?); known are {METHOD_NAMES}, knots, core"),
        ("method = { density = 1 }\n" + ONE, "method: there is no name"),
        ("method = 1979-05-27\n" + ONE, "method = 1979-05-27: allowed is a name with parameters, "
         "or a table with a name"),
        ('method = { name = "knots" }\n' + ONE, "method: there is no inner"),
        ('method = { name = "ties", densty = 1 }\n' + ONE, "method: unknown key 'densty' (did you "
         "mean density?); known are name, density, vote, energy, sparsify, refine, space"),
        ('method = { name = "ties", density = "most" }\n' + ONE, 'method: density = "most": '
         "allowed is a finite number, or auto"),
        ('method = { name = "ties", density = 2 }\n' + ONE, "method: ties: density = 2.0: allowed "
         "is a number in (0, 1], or auto"),
        ('method = { name = "ties", vote = "heads" }\n' + ONE, 'method: vote = "heads": allowed is '
         "mass, count"),
        ('method = { name = "lego", k = 2.5 }\n' + ONE, "method: k = 2.5: allowed is a whole "
         "number"),
        ('method = { name = "consensus", clean = 1 }\n' + ONE, "method: clean = 1: allowed is true "
         "or false"),
        ('method = { name = "core", inner = { name = "knots", inner = "ties" } }\n' + ONE,
         "method: space core around knots(ties): say it once"),
        ('method = { name = "core", inner = { name = "iso-c" } }\n' + ONE, "method: iso-c works on "
         "the factors of all deltas at once: it has no entries to sparsify or refine, and its "
         "result does not depend on the space"),
        ('method = { name = "knots", inner = { name = "ties", density = 0 } }\n' + ONE,
         "method: inner: ties: density = 0.0: allowed is a number in (0, 1], or auto"),
        ('method = "core(ties)"\nsparsify = "dare"\n' + ONE, "ties has modifiers already: give "
         "them all at once"),
        ('sparsify = "ties"\n' + ONE, "sparsify = ties: give dare, della or breadcrumbs"),
        ('sparsify = { name = "dare", refine = "refine" }\n' + ONE, "sparsify = dare, refine: give "
         "dare, della or breadcrumbs, unmodified"),
        ('refine = "ful"\n' + ONE, 'refine = "ful": allowed is none, refine, full, '
         "refine-published, full-published (did you mean full?)"),
        (ONE + "[[rule]]\ntarget = '*'\n", "rule 1: says nothing of its targets: give method, "
         "weight, rank, space"),
        (ONE + "[[rule]]\ntargets = '*'\n", "rule 1: unknown key 'targets' (did you mean "
         "target?); known are target, regex, method, weight, rank, space"),
        (ONE + "[[rule]]\ntarget = '*'\nmethod = { name = 'ties', vote = 1 }", "rule 1: method: "
         "vote = 1: allowed is mass, count"),
        (ONE + "[output]\nrank = 0", "output: rank = 0: allowed is an integer of at least 1"),
        (ONE + "[output]\ndtype = 'bf8'", "output: dtype = 'bf8': allowed is f32, f16, bf16"),
        (ONE + "[output]\nformat = 'kohya'", "output: unknown key 'format'; known are rank, "
         "energy, max_error, passes, dtype, dialect, dense, client, verbatim"),
        (ONE + "[[output]]\nrank = 1", "output = [{ rank = 1 }]: allowed is a table"),
    ],
)  # fmt: skip
def test_refusals(text: str, message: str) -> None:
    # Values of the file itself stand before its tables.
    assert refusal(text) == f"stack.toml: {message}"


@pytest.mark.parametrize(
    ("text", "syntax", "message"),
    [
        ("seed = 7\npath 3", "TOML", "stack.toml: not TOML: Expected '=' after a key in a "
         "key/value pair (at line 2, column 6)"),
        ("seed = 7\nseed = 8\n", "TOML", "stack.toml: not TOML: Cannot overwrite a value (at line "
         "2, column 9)"),
        ("seed = " + 5000 * "9", "TOML", "stack.toml: not TOML: Exceeds the limit"),
        ("{,}", "JSON", "stack.toml: not JSON: Expecting property name enclosed in double quotes: "
         "line 1 column 2 (char 1)"),
        ('{"a": 1, "a": 2}', "JSON", "stack.toml: not JSON: key 'a' is given twice in one object"),
        ('{"seed": NaN}', "JSON", "stack.toml: not JSON: NaN is not a number of JSON"),
        ("[1]", "JSON", "stack.toml: expected an object with the key adapter"),
        ("a = " + 5000 * "[" + 5000 * "]", "TOML", "stack.toml: nested too deeply"),
        (5000 * '{"a":' + "1" + 5000 * "}", "JSON", "stack.toml: nested too deeply"),
        ('{"method":' + 300 * '{"name": "core", "inner":' + "1" + 301 * "}", "JSON",
         "stack.toml: nested too deeply"),
    ],
)  # fmt: skip
def test_what_cannot_be_parsed(text: str, syntax: str, message: str) -> None:
    # The rest is the parser's, and differs between versions of Python.
    assert refusal(text, FormatError, syntax=syntax).startswith(message)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"adapter": [{"path": "\ud800"}]}, "adapter 1: path = '\\ud800': allowed is a text that "
         "is not empty"),
        ({"adapter": [{"path": "a\0"}]}, 'adapter 1: path = "a\\u0000": allowed is a path; no path '
         "has a NUL"),
        ({"adapter": [{"path": "a", "weight": {"\udfff": "1"}}]}, "adapter 1: weight: '\\udfff' = "
         '"1": allowed is a finite number'),
        ({"skip": ["\udfff"]}, "skip = ['\\udfff']: allowed is a list of texts"),
        ({"\udfff": 1}, "unknown key '\\udfff'; known are adapter,"),
    ],
)  # fmt: skip
def test_texts_that_only_json_can_spell(values: dict[str, object], message: str) -> None:
    assert refusal(json.dumps(values), syntax="JSON").startswith(f"stack.toml: {message}")


def test_files_that_are_no_text_or_not_there(tmp_path: Path) -> None:
    file = tmp_path / "stack.toml"
    file.write_bytes(b"seed = 7 # \xff")
    with pytest.raises(FormatError) as caught:
        read_recipe(file)
    assert str(caught.value) == f"{file}: not UTF-8 text (invalid start byte at byte 11)"
    with pytest.raises(FileNotFoundError):
        read_recipe(tmp_path / "other.toml")
    file.write_text("", encoding="utf-8")
    with pytest.raises(ParamError, match=f"^{re.escape(str(file))}: no adapters"):
        read_recipe(file)


def test_a_recipe_merges_what_it_says(tmp_path: Path) -> None:
    """Weights with blocks, through the public call, against dense sums."""
    modules = {
        "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k": (1280, 768),
        "unet.down_blocks.0.attentions.1.transformer_blocks.0.attn2.to_k": (320, 768),
        "unet.up_blocks.3.attentions.2.transformer_blocks.0.attn2.to_v": (320, 768),
    }
    members = [pairs(seed, 2, modules=modules) for seed in (1, 2)]
    for name, one in zip("ab", members, strict=True):
        write_adapter(tmp_path / f"{name}.safetensors", one)
    (tmp_path / "stack.toml").write_text(
        """
        [[adapter]]
        path = "a.safetensors"
        weight = 2
        blocks = "1,0.5,0.25,1,1,1,1,0,1,1,1,1,1,1,1,1,-1"
        [[adapter]]
        path = "b.safetensors"
        weight = { "unet.mid*" = 3 }
        """,
        encoding="utf-8",
    )
    recipe = read_recipe(tmp_path / "stack.toml")
    merged = loramix.merge(
        [entry.path for entry in recipe.adapters],
        "linear",
        weights=[entry.weights("sd15") for entry in recipe.adapters],
        architecture="sd15",
    )
    a, b = map(truth, members)
    numbers = dict(zip(modules, [(0.0, 3.0), (0.5, 1.0), (-2.0, 1.0)], strict=True))
    expected = {key: x * a[key] + y * b[key] for key, (x, y) in numbers.items()}
    assert distance(delta_of(merged.adapter), expected) < 1e-6


def test_blocks_of_another_architecture() -> None:
    entry = Entry(Path("a"), blocks="1,1,1,1,1,1,1,1,1,1,1,0")
    with pytest.raises(ParamError, match="blocks: 12 numbers; sd15 takes 17 or 26"):
        entry.weights("sd15")
