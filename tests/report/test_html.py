"""The page: well formed, complete without its script, closed to the network and to its inputs."""

import base64
import hashlib
import re
from html.parser import HTMLParser
from importlib.resources import files

import pytest
from report.conftest import NAMES, RECIPE, WEIGHTS, Case
from report.stacks import analysis

from loramix.report.html import page
from loramix.report.html.markup import tag
from loramix.report.html.scales import colour, share, signed, within
from loramix.report.overview import overview

VOID = {"meta", "wbr"}


class Reader(HTMLParser):
    """Elements with their attributes, the texts in them, and whether all ends match."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[tuple[str, dict[str, str | None]]] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.tables: list[dict[str, list[str]]] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        assert len(found) == len(attrs), f"an attribute twice: {tag} {attrs}"
        self.seen.append((tag, found))
        if tag not in VOID:
            self.open.append((tag, found))
        if tag == "table":
            self.tables.append({"caption": [], "head": [], "rows": [], "scopes": []})
        if tag == "th":
            self.tables[-1]["scopes"].append(found.get("scope") or "")
        if "id" in found:
            self.ids.append(found["id"] or "")

    def handle_endtag(self, tag: str) -> None:
        assert self.open[-1][0] == tag, f"</{tag}> ends {self.open[-1]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        names = [name for name, _ in self.open]
        if "caption" in names:
            self.tables[-1]["caption"].append(data)
        if "tbody" in names and "th" in names:
            self.tables[-1]["rows"].append(data)


def read(text: str) -> Reader:
    reader = Reader()
    reader.feed(text)
    reader.close()
    assert reader.open == []
    return reader


@pytest.fixture(scope="module")
def text(case: Case) -> str:
    return page(case.found)


def test_well_formed(text: str) -> None:
    reader = read(text)
    assert len(reader.ids) == len(set(reader.ids)) > 8
    labels = {found["aria-labelledby"] for _, found in reader.seen if "aria-labelledby" in found}
    assert labels == set(reader.ids)


def test_tables_can_be_read_without_eyes(text: str) -> None:
    reader = read(text)
    assert len(reader.tables) >= 12
    for table in reader.tables:
        assert "".join(table["caption"]).strip()
        assert set(table["scopes"]) == {"col", "row"}
    regions = [found for _, found in reader.seen if found.get("class") == "scroll"]
    assert len(regions) >= len(reader.tables)
    for found in regions:
        assert found["tabindex"] == "0"
        assert found["role"] == "region"
        assert found["aria-label"]
    for name, found in reader.seen:
        if name == "svg":
            assert found.get("aria-hidden") == "true" or found.get("aria-label")


def test_every_group_and_block_is_there(case: Case, text: str) -> None:
    rows = ["".join(t["rows"]) for t in read(text).tables]
    for group in case.found["groups"]:
        assert any(group["target"] in row for row in rows)
    for block in case.found["blocks"]:
        assert any(block["name"] in row for row in rows)


def test_nothing_is_loaded(text: str) -> None:
    reader = read(text)
    assert not re.search(r"https?:|//[a-z]|@import|url\(", text)
    assert not {name for name, _ in reader.seen} & {"link", "img", "iframe", "object", "base"}
    for _, found in reader.seen:
        assert not {"src", "href", "style", "srcset"} & set(found)
        assert not any(name.startswith("on") for name in found)


def test_the_policy_knows_the_digests(text: str) -> None:
    (policy,) = [
        found["content"] for _, found in read(text).seen
        if found.get("http-equiv") == "Content-Security-Policy"
    ]  # fmt: skip
    assert policy is not None
    assert policy.startswith("default-src 'none'; ")
    for kind in ("style", "script"):
        (body,) = re.findall(rf"<{kind}>(.*?)</{kind}>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(body.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy


def test_hostile_names_are_text(text: str) -> None:
    assert "<img" not in text
    assert "&lt;img src=x onerror=&quot;alert(1)&quot;&gt;&amp;" in text
    assert "\u202e" not in text
    assert "\x1b" not in text
    assert NAMES[2] in text
    assert "a note of &lt;the&gt; policy" in text


def test_the_recipe_can_be_copied(text: str) -> None:
    (found,) = re.findall(r"<pre[^>]*><code>(.*?)</code></pre>", text, re.DOTALL)
    assert "a&lt;b&gt;&amp;.safetensors" in found
    assert len(found.splitlines()) == len(RECIPE.splitlines())


def test_markup_escapes_attributes() -> None:
    assert tag("td", "<", title='"><script>') == ('<td title="&quot;&gt;&lt;script&gt;">&lt;</td>')


def test_methods_are_letters_and_not_colours_alone(case: Case, text: str) -> None:
    for one in case.found["methods"]:
        assert re.search(rf'class="chip m\d">{one["letter"]}<', text)
    assert len(re.findall(r'class="letter">[A-Z]</text>', text)) == len(case.found["blocks"])


def test_pages_of_less(case: Case) -> None:
    """Without a plan, without a result, with many adapters, with one."""
    stack = case.stack
    analysed = page(overview(stack.adapters, WEIGHTS, stack.analysis))
    assert "Loss certificate" not in analysed
    assert "Suggested stacks" in analysed
    read(analysed)
    two = page(overview(stack.adapters[:2], WEIGHTS[:2], analysis(stack.deltas[:2])))
    assert 'class="matrix"' not in two
    read(two)


def test_scales() -> None:
    assert [colour("cosine", x) for x in (-1.0, -0.05, 0.0, 0.5, 1.0, None)] == [
        "n5", "z0", "z0", "p2", "p5", "none",
    ]  # fmt: skip
    assert [colour("excess", x) for x in (0.3, 0.1, -0.1)] == ["n5", "n2", "p2"]
    assert colour("excess", 0.3, sure=False) == "z0"
    assert [colour("score", x) for x in (1.0, 0.5, 0.0)] == ["z0", "n2", "n5"]
    assert [colour("overlap", x) for x in (0.0, 0.5, 2.0)] == ["z0", "s2", "s5"]
    assert [colour("weighted_conflict", x) for x in (0.5, 1.0, 0.0)] == ["z0", "n5", "p5"]
    assert (signed(-0.001), signed(-0.5), signed(None)) == ("0.00", "\u22120.50", "\u2013")
    assert (share(0.5), within(0.5, 0.01, 2), within(0.5, 0.001, 2)) == (
        "50 %", "0.50 \u00b1 0.01", "0.50",
    )  # fmt: skip


def luminance(code: str) -> float:
    parts = [int(code[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_colours_can_be_read(scheme: int) -> None:
    """WCAG 2.1 AA: 4.5 to 1 for text, on the page and on every colour that carries numbers."""
    css = (files("loramix.report.html") / "page.css").read_text(encoding="utf-8")
    blocks = re.findall(r":root \{(.*?)\}", css, re.DOTALL)
    assert len(blocks) == 2
    found: dict[str, str] = {}
    for block in blocks[: scheme + 1]:
        found.update(re.findall(r"--([\w]+): (#[0-9a-f]{6})", block))
        found.update({a: found[b] for a, b in re.findall(r"--(\w+): var\(--(\w+)\)", block)})
    pairs = [("ink", "page"), ("soft", "page"), ("accent", "page"), ("ink", "panel")]
    for letter in "pns":
        pairs += [("on12", f"{letter}{i}") for i in (1, 2)]
        pairs += [(f"on{i}", f"{letter}{i}") for i in (3, 4, 5)]
    pairs.append(("ink", "z0"))
    for text, back in pairs:
        assert contrast(found[text], found[back]) >= 4.5, (text, back)
    for code in re.findall(r"\.m\d \{ fill: (#[0-9a-f]{6})", css):
        assert contrast("#16150f", code) >= 4.5


def test_size(case: Case) -> None:
    """Bytes of a group and of a block, taken to a whole SDXL: below a megabyte."""
    found = case.found
    whole = len(page(found).encode())
    half = {**found, "groups": found["groups"][: len(found["groups"]) // 2]}
    group = (whole - len(page(half).encode())) / (len(found["groups"]) - len(half["groups"]))
    less = {**found, "blocks": found["blocks"][: len(found["blocks"]) // 2]}
    block = (whole - len(page(less).encode())) / (len(found["blocks"]) - len(less["blocks"]))
    assert 20_000 + 700 * group + 150 * block < 1_000_000


def test_many_pairs_show_the_one_that_stands_out(case: Case) -> None:
    """Four adapters and more: one row for each number instead of one for each pair."""
    stack = case.stack
    wide = overview(
        [*stack.adapters, stack.adapters[0], stack.adapters[2]], [1.0] * 5,
        analysis([*stack.deltas, stack.deltas[0], stack.deltas[2]]),
    )  # fmt: skip
    text = page(wide)
    assert len(wide["pairs"]) == 10
    panels = len(re.findall(r'class="panel"', text))
    assert len(re.findall(r">most</text>", text)) == 3 * panels
    # An adapter beside itself: as alike as can be, in every block.
    for block in wide["blocks"]:
        assert block["extremes"]["cosine"]["value"] == pytest.approx(1.0)
