"""Sources that have been moved and renamed since something was made of them."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from helpers import pairs, write_adapter

MODULES = {
    "unet.a.to_q": (24, 20), "unet.a.to_k": (24, 20), "unet.a.conv": (12, 8, 3, 3),
    "text_encoder.b.fc1": (16, 12),
}  # fmt: skip
NAMES = ("style", "face", "hat")


def write_sources(folder: Path) -> list[Path]:
    """Three diffusers adapters whose names say nothing and everything."""
    folder.mkdir()
    return [
        write_adapter(folder / f"{name}.safetensors", pairs(seed, 3, modules=MODULES))
        for seed, name in enumerate(NAMES)
    ]


def move(paths: Sequence[Path], folder: Path) -> Path:
    """Move sources to a folder, deep below it, in another order and under other names."""
    for index, path in enumerate(reversed(paths)):
        place = folder / f"x{index}" / "deep"
        place.mkdir(parents=True)
        shutil.move(path, place / (f"{index}.safetensors" if path.is_file() else f"{index}"))
    return folder
