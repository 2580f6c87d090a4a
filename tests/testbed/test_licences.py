"""The licence of every font package is noted, as its copyright file states it."""

import pytest

from loramix_testbed.places import ASSETS
from loramix_testbed.world.fonts import packages
from loramix_testbed.world.licences import licence_of

FORMAT = "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n\n"


@pytest.mark.parametrize(
    ("text", "licence"),
    [
        ("Files: *\nLicense: SIL-OFL-1.1\n long\n\nFiles: debian/*\nLicense: GPL-2+", "OFL-1.1"),
        ("Files: *\nLicense: BSD3|SIL", "BSD-3-Clause or OFL"),
        ("Files: *\nLicense: Expat and BitstreamVera", "MIT and BitstreamVera"),
        ("Files: a/*\n b/*\nLicense: MIT\n\nFiles: c\nLicense: OFL-1.0", "MIT; OFL-1.0"),
    ],
)
def test_only_what_is_not_packaging_counts(text: str, licence: str) -> None:
    assert licence_of(FORMAT + text) == licence


@pytest.mark.parametrize(
    ("text", "licence"),
    [
        ("It is licensed under the SIL Open Font License,\n  Version 1.1.", "OFL-1.1"),
        ("dual licensed either GNU GPL 3 or OFL 1.1.", "GPL-3"),
        ("License:\n\n    Public Domain.\n\nthe packaging: GPL", "public-domain"),
    ],
)
def test_prose_is_searched_for_names(text: str, licence: str) -> None:
    assert licence_of(text) == licence


def test_a_file_without_a_licence_is_refused() -> None:
    with pytest.raises(ValueError, match="no licence is named in a copyright file that begins"):
        licence_of("This package was debianized by somebody.")


def test_every_package_has_the_name_of_a_licence() -> None:
    lines = (ASSETS / "fonts.tsv").read_text(encoding="utf-8").splitlines()[1:]
    table = dict(line.split("\t") for line in lines)
    assert list(table) == packages()
    for package, licence in table.items():
        assert 2 < len(licence) < 60, package
        assert "see its" not in licence
