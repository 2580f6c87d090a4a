"""Masks of glyphs from Debian's font packages: needed to make `assets/masks.npz`, nothing else.

The masks are committed; only who changes the symbols or the fonts installs the packages:
``apt-get install $(python -m loramix_testbed fonts --packages)``.
"""

import csv
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from loramix_testbed.places import ASSETS
from loramix_testbed.world.licences import licence_of
from loramix_testbed.world.styles import TYPEFACES
from loramix_testbed.world.symbols import SYMBOLS

CELL = 32
"""Edge of a mask, pixels."""
_CAPS = 20.0
"""Height of an H in a mask, pixels."""
_BIG = 128
_PER_PACKAGE = 3
_TABLE = ASSETS / "fonts.tsv"
_DOCS = Path("/usr/share/doc")


def packages() -> list[str]:
    """The Debian packages of `assets/fonts.tsv`, which has the licence of each, too."""
    with _TABLE.open(encoding="utf-8") as file:
        return [row["package"] for row in csv.DictReader(file, delimiter="\t")]


def make_masks(out: Path) -> int:
    """Render every symbol in every usable font of the packages.

    Written are ``base`` (fonts, symbols, `CELL`, `CELL`), ``style`` (typefaces, ...), uint8, and
    the names of both.  A font is usable that has all symbols, each different from the others.

    Returns
    -------
    how many fonts there are for the base.
    """
    held_out = set(TYPEFACES)
    found: dict[bytes, tuple[str, NDArray[np.uint8]]] = {}
    styles: dict[str, NDArray[np.uint8]] = {}
    for package in packages():
        taken = 0
        names = _spread(list(_files(package)))
        own = {path.stem for path in names} & held_out
        for path in names:
            if own and path.stem not in held_out:
                continue  # its relatives would tell the base what is to be new
            masks = _masks(path)
            if masks is None:
                continue
            if path.stem in held_out:
                styles[path.stem] = masks
            elif taken < _PER_PACKAGE and masks.tobytes() not in found:
                found[masks.tobytes()] = (path.stem, masks)
                taken += 1
    if missing := held_out - styles.keys():
        message = f"typefaces {', '.join(sorted(missing))} are not there: install the packages"
        raise FileNotFoundError(message)
    base = list(found.values())
    np.savez_compressed(
        out,
        base=np.stack([masks for _, masks in base]),
        base_names=np.array([name for name, _ in base]),
        style=np.stack([styles[name] for name in TYPEFACES]),
        style_names=np.array(TYPEFACES),
    )
    return len(base)


def note_licences(docs: Path = _DOCS) -> None:
    """Write the table of packages anew, each with the licence that its copyright file states."""
    lines = ["package\tlicence"]
    for package in packages():
        text = (docs / package / "copyright").read_text("utf-8", errors="replace")
        lines.append(f"{package}\t{licence_of(text)}")
    _TABLE.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _files(package: str) -> Iterator[Path]:
    listed = subprocess.run(["dpkg", "-L", package], capture_output=True, text=True, check=False)
    for line in sorted(listed.stdout.splitlines()):
        path = Path(line)
        if path.suffix.lower() in {".ttf", ".otf"} and not path.is_symlink():
            yield path


def _spread(paths: list[Path]) -> list[Path]:
    """The files in an order in which the first few are far apart in the alphabet."""
    steps = max(1, len(paths) // _PER_PACKAGE)
    return [path for start in range(steps) for path in paths[start::steps]]


def _masks(path: Path) -> NDArray[np.uint8] | None:
    """(symbols, `CELL`, `CELL`), or None where the font lacks a symbol."""
    try:
        font = ImageFont.truetype(str(path), _BIG)
    except OSError:
        return None
    missing = bytes(font.getmask("\uffff"))
    height = font.getbbox("H", anchor="ls")
    caps = height[3] - height[1]
    if caps < 10:
        return None
    drawn = [_mask(font, symbol, _CAPS / caps) for symbol in SYMBOLS]
    if any(bytes(font.getmask(s)) == missing for s in SYMBOLS) or any(d is None for d in drawn):
        return None
    kept = [d for d in drawn if d is not None]
    if len({d.tobytes() for d in kept}) < len(kept):
        return None
    return np.stack(kept)


def _mask(font: ImageFont.FreeTypeFont, symbol: str, scale: float) -> NDArray[np.uint8] | None:
    """One glyph, its box in the middle of the cell; None where it has no ink."""
    left, top, right, bottom = font.getbbox(symbol, anchor="ls")
    width, height = right - left, bottom - top
    if width < 4 or height < 4:
        return None
    scale = min(scale, (CELL - 4) / width, (CELL - 4) / height)
    canvas = Image.new("L", (int(width), int(height)), 0)
    ImageDraw.Draw(canvas).text((-left, -top), symbol, fill=255, font=font, anchor="ls")
    size = max(1, round(width * scale)), max(1, round(height * scale))
    small = canvas.resize(size, Image.Resampling.BOX if scale < 0.25 else Image.Resampling.LANCZOS)
    cell = Image.new("L", (CELL, CELL), 0)
    cell.paste(small, ((CELL - size[0]) // 2, (CELL - size[1]) // 2))
    return np.asarray(cell, dtype=np.uint8)
