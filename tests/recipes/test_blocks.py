"""Block weights: every target of every layout in exactly one block, and in the right one."""

import re
from collections import Counter
from pathlib import Path

import pytest
from recipes.blocks_oracle import BLOCK_OF, FLUX, FORMS, PRESETS

from loramix.errors import ParamError
from loramix.formats.layout import Module, load_layout
from loramix.groups import fusions
from loramix.recipes import blocks
from loramix.recipes.block_tables import TABLES, load_table, parse_table
from loramix.types import Target, weight_of

DOCS = Path(__file__).parents[2] / "docs" / "RECIPES.md"


def key_of(module: Module) -> str:
    return f"{module.component}.{module.name}"


def numbered(count: int) -> str:
    """A string in which every number is another, and none is 1."""
    return ",".join(str(number) for number in range(2, 2 + count))


def weight_at(weight: dict[str, float], key: str) -> float:
    return weight_of(weight, Target(key, (1, 1)))


@pytest.mark.parametrize(
    ("architecture", "count", "names"),
    [(a, count, names.split()) for a, forms in FORMS.items() for count, names in forms.items()]
    + [
        ("flux1", 57, FLUX),
        ("flux1", 58, ["BASE", *FLUX]),
        ("flux1", 61, ["CLIP", "T5", "IN", *FLUX, "OUT"]),
    ],
)
def test_each_number_reaches_the_targets_of_its_block(
    architecture: str, count: int, names: list[str]
) -> None:
    found = blocks.parse(numbered(count))
    assert (found.architecture, [name for name, _ in found.numbers]) == (architecture, names)
    numbers = dict(zip(names, range(2, 2 + count), strict=True))
    rest = numbers.get("BASE", 1) if architecture == "flux1" else 1
    weight = found.weight
    for module in load_layout(architecture).modules:
        block = BLOCK_OF[architecture](module)
        assert weight_at(weight, key_of(module)) == numbers.get(block, rest), key_of(module)
    assert set(weight.values()) == set(numbers.values())  # none was lost


@pytest.mark.parametrize("architecture", TABLES)
def test_every_target_is_in_exactly_one_block_of_the_full_form(architecture: str) -> None:
    table = load_table(architecture)
    for module in load_layout(architecture).modules:
        key = key_of(module)
        hits = [
            name
            for name in table.full
            if weight_at(dict.fromkeys(table.globs[name], 2.0), key) == 2.0
        ]
        assert hits == [BLOCK_OF[architecture](module)], key


@pytest.mark.parametrize("architecture", TABLES)
def test_no_target_is_in_two_blocks_of_any_form(architecture: str) -> None:
    table = load_table(architecture)
    keys = [key_of(module) for module in load_layout(architecture).modules]
    for names in table.forms.values():
        for key in keys:
            hits = [
                name
                for name in names
                if weight_at(dict.fromkeys(table.globs[name], 2.0), key) == 2.0
            ]
            assert len(hits) <= 1, (key, hits)


@pytest.mark.parametrize(("architecture", "count"), [("sd15", 17), ("sdxl", 12)])
def test_the_short_forms_are_the_blocks_with_attention(architecture: str, count: int) -> None:
    modules = load_layout(architecture).modules
    attentive = {BLOCK_OF[architecture](m) for m in modules if "attentions" in m.name}
    assert set(load_table(architecture).forms[count]) == attentive | {"BASE"}


@pytest.mark.parametrize("count", [57, 58, 61])
def test_fused_weights_are_in_the_block_of_their_parts(count: int) -> None:
    weight = blocks.parse(numbered(count)).weight
    table = fusions(load_layout("flux1"))
    assert len({fusion.target.key for fusion in table.values()}) == 2 * (2 * 19 + 38)  # and biases
    for fusion in table.values():
        parts = {weight_at(weight, part.key) for part, _ in fusion.parts}
        assert parts == {weight_at(weight, fusion.target.key)}


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_those_of_the_tool(name: str) -> None:
    assert set(PRESETS) == set(blocks.PRESETS)
    found = dict(blocks.parse(name, "sd15").numbers)
    expected = dict(blocks.parse(PRESETS[name]).numbers)
    assert {block: found[block] for block in expected} == expected
    others = {number for block, number in found.items() if block not in expected}
    assert others == ({min(expected.values())} if len(set(expected.values())) == 1 else {0.0})
    assert len(found) == 26


@pytest.mark.parametrize(("name", "number"), [("ALL", 1.0), ("NONE", 0.0), ("ALL0.5", 0.5)])
@pytest.mark.parametrize(("architecture", "count"), [("sd15", 26), ("sdxl", 20), ("flux1", 61)])
def test_uniform_presets_are_for_every_architecture(
    architecture: str, count: int, name: str, number: float
) -> None:
    found = blocks.parse(name, architecture)
    assert (len(found.numbers), {one for _, one in found.numbers}) == (count, {number})


def test_spaces_signs_and_exponents() -> None:
    text = " 1, -0.5 ,+2,.5,1.,1e-3, 0,0,0,0,0,0 "
    assert [number for _, number in blocks.parse(text, "sdxl").numbers] == [
        1.0, -0.5, 2.0, 0.5, 1.0, 0.001, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0,
    ]  # fmt: skip


def test_the_mapping_of_an_option() -> None:
    assert blocks.mapping(numbered(17), "sd15") == blocks.parse(numbered(17)).weight


def test_the_resolved_table_counts_targets() -> None:
    modules = load_layout("sdxl").modules
    keys = [key_of(module) for module in modules]
    counts = Counter(map(BLOCK_OF["sdxl"], modules))
    short, full = FORMS["sdxl"][12].split(), FORMS["sdxl"][20].split()
    rest = sum(count for name, count in counts.items() if name not in short)
    rows = [(name, str(place), str(counts[name])) for place, name in enumerate(short, 2)]
    assert blocks.parse(numbered(12)).rows(keys) == [*rows, ("-", "1", str(rest))]
    rows = [(name, str(place), str(counts[name])) for place, name in enumerate(full, 2)]
    assert blocks.parse(numbered(20)).rows(keys) == rows


@pytest.mark.parametrize(
    ("text", "architecture", "message"),
    [
        ("1,0,1", None, "blocks: 3 numbers; sd15 takes 17 or 26; sdxl takes 12 or 20; flux1 "
         "takes 57, 58 or 61"),
        ("1,1,1,1,1,1,1,1,1,1,1,1", "sd15", "blocks: 12 numbers; sd15 takes 17 or 26"),
        ("", None, "blocks: no preset ''; known are ALL, NONE, ALL0.5, INS, IND, INALL, MIDD, "
         "OUTD, OUTS, OUTALL; or give numbers with commas between them"),
        ("OUTAL", "sd15", "blocks: no preset 'OUTAL' (did you mean OUTALL?); known are ALL, NONE, "
         "ALL0.5, INS, IND, INALL, MIDD, OUTD, OUTS, OUTALL; or give numbers with commas between "
         "them"),
        ("ALL", None, "blocks: the preset ALL needs the base model: say which architecture"),
        ("OUTD", "sdxl", "blocks: the preset OUTD is for sd15; sdxl takes 12 or 20 numbers, or "
         "ALL, NONE, ALL0.5"),
        ("1,R,1", None, "blocks: number 2 is 'R': allowed is a finite number of any sign (R, U "
         "and X of other tools stand for random or later ones: write numbers)"),
        ("ALL", "pixart", "blocks: there is no table for pixart; known are sd15, sdxl, flux1; for "
         "other models give weights by globs of targets"),
    ],
)  # fmt: skip
def test_refusals(text: str, architecture: str | None, message: str) -> None:
    with pytest.raises(ParamError) as caught:
        blocks.parse(text, architecture)
    assert str(caught.value) == message


@pytest.mark.parametrize("item", ["", "nan", "inf", "1e999", "1_0", "0x1", "one", "\uff11"])
def test_what_is_no_number(item: str) -> None:
    with pytest.raises(ParamError, match=r"blocks: number 12 is"):
        blocks.parse("0,0,0,0,0,0,0,0,0,0,0," + item)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("A  unet.*\nA  text_encoder.*", "line 2: A: listed twice"),
        ("A  *.attn.*", "line 1: A: listed twice, no glob, or a glob that is no prefix"),
        ("A", "line 1: A: listed twice, no glob"),
        ("A  unet.*\nform 2 A B", r"line 2: 2 names, expected 2; not in the table: \['B'\]"),
        ("A  unet.*\nform 2 A", "line 2: 1 names, expected 2"),
        ("A  unet.*\nform 2 A A", "line 2: 2 names, expected 2"),
    ],
)
def test_mistakes_in_a_table(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse_table("some", text)


def documented() -> list[list[str]]:
    """Cells of the rows of all tables in the page."""
    lines = DOCS.read_text(encoding="utf-8").replace("`", "").splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if "|" in line]


@pytest.mark.parametrize("architecture", TABLES)
def test_the_documented_blocks_are_those_of_the_table(architecture: str) -> None:
    found: dict[str, tuple[str, ...]] = {}
    for row in documented():
        if row[0] == architecture:
            span = re.fullmatch(r"([DS])00\.\.[DS](\d+)", row[1])
            for number in range(int(span[2]) + 1) if span else ():
                globs = row[2].replace("{}", str(number)).split()
                found[f"{row[1][0]}{number:02}"] = tuple(globs)
            if span is None:
                found[row[1]] = tuple(row[2].split())
    assert found == dict(load_table(architecture).globs)


def test_the_documented_presets_are_those_of_the_tool() -> None:
    rows = {row[0]: ",".join(" ".join(row[1:]).split()) for row in documented()}
    uniform = {"ALL", "NONE", "ALL0.5"}
    assert {n: rows[n] for n in PRESETS if n not in uniform} == {
        n: text for n, text in PRESETS.items() if n not in uniform
    }


def test_the_documented_forms_are_those_of_the_tables() -> None:
    rows = {(row[1], int(row[0])): row[2] for row in documented() if row[0].isdigit()}
    for architecture in TABLES:
        for count, names in load_table(architecture).forms.items():
            lines = f"A unet.x\n{''.join(f'{name} unet.y{name}' + chr(10) for name in names)}"
            text = f"{lines}form {count} {rows[architecture, count]}"
            assert parse_table("page", text).forms[count] == names
    assert len(rows) == sum(len(load_table(a).forms) for a in TABLES)
