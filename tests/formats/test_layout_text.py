"""The grammar of layout files: what lines stand for, and how mistakes are named."""

from pathlib import Path

import pytest

from loramix import FormatError
from loramix.formats.layout import load_layout, parse_layout


def test_braces_expand_in_step() -> None:
    text = "[unet p_]\n\na.{0..1}.{x,y}  4x3  b.{3..4}.{}  # end\n"
    layout = parse_layout("toy", text)
    assert [(m.name, m.original, m.kohya) for m in layout.modules] == [
        ("a.0.x", "b.3.x", "p_b_3_x"),
        ("a.0.y", "b.3.y", "p_b_3_y"),
        ("a.1.x", "b.4.x", "p_b_4_x"),
        ("a.1.y", "b.4.y", "p_b_4_y"),
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a.0", "not enough values"),
        ("a.0 4xx3 =", "not a number: ''"),
        ("a.{0..1 4x3 =", "braces do not match"),
        ("a.{0..1} 4x3 b", "braces do not match"),
        ("a.{0..1} 4x3 b.{0..2}", "3 choices against 2"),
        ("a.{1..0} 4x3 b.{}", "0 choices"),
        ("a.0 4x3 b rows 0+5", r"expected rows start\+4"),
        ("a.0 4x3 b rows 1+4", "has a gap"),
        ("a.{0,1} 4x3 b.{0,0}", "something else already"),
        ("a.{0,0} 4x3 b.{0,1}", "listed already"),
        ("[unet]", "not enough values"),
    ],
)
def test_mistakes_name_file_and_line(line: str, message: str) -> None:
    with pytest.raises(FormatError, match=rf"toy\.layout, line 3: .*{message}"):
        parse_layout("toy", f"# head\n[unet lora_unet_]\n{line}\n")


def test_module_before_any_section() -> None:
    with pytest.raises(FormatError, match=r"toy\.layout, line 1: no \[component"):
        parse_layout("toy", "a.0 4x3 =\n")


def test_canonical_names_under_kohya_prefixes() -> None:
    layout = parse_layout("toy", "[unet p_ name]\na.{0..1} 4x3 b.{}.c\n")
    assert [(m.original, m.kohya) for m in layout.modules] == [
        ("b.0.c", "p_a_0"),
        ("b.1.c", "p_a_1"),
    ]
    assert list(layout.by_kohya) == ["p_a_0", "p_a_1"]


def test_no_kohya_names() -> None:
    layout = parse_layout("toy", "[transformer -]\na 4x3 =\n")
    assert layout.prefixes == {"transformer": None}
    assert (layout.modules[0].kohya, dict(layout.by_kohya)) == (None, {})


def test_other_names_have_rows_of_their_own_or_of_the_original() -> None:
    text = """[transformer p_]
    q  4x3  qkv  rows 0+4  comfy c.qkv  openclip o.v
    k  2x3  qkv  rows 4+2  comfy c.qkv  openclip o.kq  rows 0+2
    n  4x3  m    swap      comfy c.m
    """
    q, k, n = parse_layout("toy", text).modules
    assert [(a.world, a.name, a.rows) for a in q.aliases] == [
        ("comfy", "c.qkv", (0, 4)),
        ("openclip", "o.v", (0, 4)),
    ]
    assert [a.rows for a in k.aliases] == [(4, 6), (0, 2)]
    assert (q.comfy, n.comfy, n.swap, n.aliases[0].rows) == ("c.qkv", "c.m", True, None)


def test_norms_are_no_modules() -> None:
    layout = parse_layout("toy", "[transformer p_]\na.norm2 8 b.norm3\na.l 8x8 =\n")
    assert [m.name for m in layout.modules] == ["a.l"]
    assert [(m.name, m.original, m.kohya) for m in layout.norms] == [
        ("a.norm2", "b.norm3", "p_b_norm3")
    ]
    assert "p_b_norm3" not in layout.by_kohya
    assert layout.by_key["transformer", "a_norm2"] is layout.norms[0]


def test_words_stand_for_numbers_in_a_part() -> None:
    layout = parse_layout("toy", "include ltx  W=8 LAST=1\nmore 8x8 =\n")
    shapes = {m.name: m.shape for m in layout.modules}
    assert shapes["transformer_blocks.1.ff.net.0.proj"] == (32, 8)
    assert "transformer_blocks.2.ff.net.0.proj" not in shapes
    assert shapes["more"] == (8, 8)  # in the section that the part left open


def test_a_part_goes_to_the_section_it_is_included_in() -> None:
    layout = parse_layout("toy", "[text_encoder_3 x_]\ninclude clip_l\n")
    assert {m.component for m in layout.modules} == {"text_encoder_3"}
    assert all(stem.startswith("x_text_model") for stem in layout.by_kohya)


def test_another_layout_may_be_included() -> None:
    text = "include llama3_8b\nvision.proj 4096x1024 =\n"
    names = [m.name for m in parse_layout("toy", text).modules]
    assert names == [*(m.name for m in load_layout("llama3_8b").modules), "vision.proj"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a 4x3 = rows 0+4 swap rows", "what follows rows"),
        ("a 4x3 = openclip", "what follows openclip"),
        ("a 4x3 = diffusers b", r"expected rows start\+4, found diffusers b"),
        ("a 4x3 = rows 4", r"expected rows start\+4, found rows 4"),
        ("a WxW =", "not a number: 'W'"),
        ("a.{0..LAST} 4x3 =", "not a number: 'LAST'"),
        ("a.{0..1000} 4x3 =", "1001 choices; 1000 at most"),
        ("a 4x-3 =", "not a number: '-3'"),
        ("a 4x3 b\nb 4x3 c", "b of b stands for something else already"),
        ("a 4x3 c swap\nb 4x3 c", "c of b stands for something else already"),
        (
            "a 4x3 b rows 0+4\nc 4x3 b rows 5+4",
            "b of c stands for something else already, or has a gap",
        ),
        ("a 4x3 = swap", "a of a stands for something else already"),
        ("include nothing", "there is no part nothing"),
        ("include ../layouts/ltx", "there is no part ../layouts/ltx"),
        ("include ltx W", "not enough values"),
        ("include ltx W=8", r"ltx\.part, line \d+: not a number: 'LAST'"),
        ("include ltx W=eight LAST=1", "not a number: 'eight'"),
        ("[unet x_ kohya]", "after the prefix of a section: name, or nothing; found kohya"),
    ],
)
def test_mistakes_of_longer_lines(line: str, message: str) -> None:
    with pytest.raises(FormatError, match=rf"toy\.layout, line \d: .*{message}"):
        parse_layout("toy", f"[unet lora_unet_]\n{line}\n")


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "my.layout"
    path.write_text("[transformer lora_unet_]\nblocks.{0..1}.fc 4x3 b.{}.mlp\n", encoding="utf-8")
    layout = load_layout(str(path))
    assert (layout.name, len(layout.modules)) == (str(path), 2)
    path.with_name("bad.layout").write_text("a 4x3 =\n", encoding="utf-8")
    with pytest.raises(FormatError, match=r"bad\.layout, line 1: no \[component"):
        load_layout(str(path.with_name("bad.layout")))
    path.with_name("bytes.layout").write_bytes(b"\xff\xfe")
    with pytest.raises(FormatError, match=r"bytes\.layout: not UTF-8 text"):
        load_layout(str(path.with_name("bytes.layout")))
    with pytest.raises(FileNotFoundError):
        load_layout(str(path.with_name("none.layout")))
