"""The page in a real browser: headless Chromium, wide and narrow, light and dark."""

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from report.browser import NAMES, Tab, found, open_page
from report.conftest import Case

from loramix.report.html import page
from loramix.report.html.pictures import Strip, pictures

pytestmark = pytest.mark.skipif(
    found() is None,
    reason=f"no browser ({', '.join(NAMES)}): `apt-get install chromium` renders the report",
)


@pytest.fixture(scope="module")
def tab(case: Case, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    folder: Path = tmp_path_factory.mktemp("browser")
    file = folder / "report.html"
    file.write_text(page(case.found), encoding="utf-8")
    with open_page(folder / "profile", file) as one:
        yield one


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_it_fits_and_shows_something(tab: Tab, width: int, *, dark: bool) -> None:
    tab.show(width, dark=dark)
    inner, scroll = tab.run("[innerWidth, document.documentElement.scrollWidth]")
    assert inner == width
    assert scroll <= inner
    size, colours, first = picture(tab.picture())
    assert size[0] == width
    assert size[1] > 900
    assert colours > 50
    assert (sum(first) < 120) == dark
    assert tab.complaints == []


@pytest.mark.parametrize("width", [1280, 800, 390])
def test_pictures_and_what_is_said_of_them_fit(width: int, case: Case, tmp_path: Path) -> None:
    pixel = (
        "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJ"
        "RU5ErkJggg=="
    )
    said = "True pictures, which no model drew. A classifier finds both in 8 of 8."
    strips = pictures([Strip("no adapter", said, pixel)] * 3, "What was asked for.")
    file = tmp_path / "images.html"
    file.write_text(page(case.found, strips), encoding="utf-8")
    with open_page(tmp_path / "profile", file) as one:
        one.show(width, dark=False)
        edges = "[...document.querySelectorAll('.pictures td')]"
        right = one.run(f"Math.max(...{edges}.map(cell => cell.getBoundingClientRect().right))")
        assert right <= width
        assert one.run("document.querySelector('.pictures img').clientWidth") >= width / 4


def test_nothing_but_the_file_is_asked_for(tab: Tab) -> None:
    assert [url.partition(":")[0] for url in tab.requests] == ["file"]


def test_names_did_not_become_elements(tab: Tab) -> None:
    assert tab.run("document.images.length") == 0


def test_groups_can_be_filtered_and_sorted(tab: Tab, case: Case) -> None:
    tab.show(1280, dark=False)
    count = len(case.found["groups"])
    visible = "[...document.querySelectorAll('table.groups tbody tr')].filter(r => !r.hidden)"
    assert tab.run(f"{visible}.length") == count
    search = "const i = document.querySelector('input'); i.value = '{}'; "
    search += "i.dispatchEvent(new Event('input')); "
    mid = sum("mid_block" in group["target"] for group in case.found["groups"])
    assert tab.run(f"{{ {search.format('MID_block unet')} }} {visible}.length") == mid
    assert tab.run(f"{{ {search.format('')} }} {visible}.length") == count
    heads = "[...document.querySelectorAll('table.groups thead button')]"
    errors = f"{visible}.map(r => r.cells[r.cells.length - 1].dataset.v).map(Number)"
    tab.run(f"{heads}.at(-1).click()")
    found = tab.run(errors)
    assert found == sorted(found, reverse=True)
    tab.run(f"{heads}.at(-1).click()")
    assert tab.run(errors) == sorted(found)
    assert tab.run("document.querySelectorAll('th[aria-sort]').length") == 1
    assert tab.complaints == []


def test_complete_without_its_script(case: Case, tmp_path: Path) -> None:
    """The same text is there when scripts are off."""
    file = tmp_path / "report.html"
    file.write_text(page(case.found), encoding="utf-8")
    with open_page(tmp_path / "profile", file) as one:
        one.call("Emulation.setScriptExecutionDisabled", value=True)
        one.call("Page.reload")
        one.show(390, dark=False)
        size, colours, _ = picture(one.picture())
    assert size[1] > 900
    assert colours > 50


def picture(data: bytes) -> tuple[tuple[int, int], int, tuple[int, int, int]]:
    """Size, number of colours and the first pixel of a PNG of eight bits, read by hand."""
    width, height, depth, kind = struct.unpack(">IIBB", data[16:26])
    assert depth == 8
    channels = {2: 3, 6: 4}[kind]
    parts, at = bytearray(), 8
    while at < len(data):
        (size,) = struct.unpack(">I", data[at : at + 4])
        if data[at + 4 : at + 8] == b"IDAT":
            parts += data[at + 8 : at + 8 + size]
        at += 12 + size
    rows = zlib.decompress(bytes(parts))
    stride = 1 + width * channels
    # Filtered rows: their variety stands for that of the colours, the first pixel is itself.
    sample = {bytes(rows[i : i + channels]) for i in range(1, len(rows) - stride, 7 * channels + 1)}
    return (width, height), len(sample), (rows[1], rows[2], rows[3])
