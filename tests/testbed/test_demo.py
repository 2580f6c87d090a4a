"""``loramix demo --images``: a page with pictures, drawn here and now."""

import base64
import re
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from loramix.cli.app import app
from loramix.demo import images
from loramix.errors import ParamError


def test_the_page_has_a_strip_of_pictures_for_every_way(tmp_path: Path) -> None:
    folder = tmp_path / "shown"
    ran = CliRunner().invoke(app, ["demo", "--images", "-o", str(folder)])
    assert ran.exit_code == 0, ran.output
    page = (folder / "images.html").read_text("utf-8")
    strips = re.findall(r'src="data:image/png;base64,([^"]+)" alt="([^"]+)"', page)
    assert [label for _, label in strips] == list(images.WAYS)
    drawn = [base64.b64decode(data) for data, _ in strips]
    assert all(data.startswith(b"\x89PNG") for data in drawn)
    assert len(set(drawn)) == len(drawn)
    assert "img-src data:" in page
    assert page.count("A classifier finds both symbol and style in") == len(images.WAYS)
    again = CliRunner().invoke(app, ["demo", "-o", str(folder)])  # the other demo, beside it
    assert again.exit_code == 0, again.output
    assert (folder / "images.html").read_text("utf-8") == page


def test_without_the_testbed_it_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.startswith("loramix_testbed")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "loramix_testbed", None)
    with pytest.raises(ParamError, match="PYTHONPATH"):
        images.draw()
    assert not list(tmp_path.iterdir())
