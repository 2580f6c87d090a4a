"""The judge: a small network that names the symbol and the style of a picture."""

from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from loramix_testbed.places import ASSETS
from loramix_testbed.world.styles import STYLES
from loramix_testbed.world.symbols import SYMBOLS

_FILE = ASSETS / "judge.safetensors"
FEATURES = 96


@dataclass(frozen=True, slots=True)
class Seen:
    """What the judge sees in pictures.

    Attributes
    ----------
    symbol, style : scores of the classes, (n, classes).
    features : (n, `FEATURES`), before the classes.
    maps : feature maps of three depths, fine to coarse.
    """

    symbol: Tensor
    style: Tensor
    features: Tensor
    maps: tuple[Tensor, ...]


class Judge(nn.Module):  # type: ignore[misc]
    """Three convolutional stages, and a head for each question."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 24, 48, FEATURES)
        self.stages = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(before, after, 3, stride=1 if before == 3 else 2, padding=1),
                nn.GroupNorm(8, after),
                nn.SiLU(),
                nn.Conv2d(after, after, 3, padding=1),
                nn.SiLU(),
            )
            for before, after in pairwise(widths)
        )
        self.mix = nn.Linear(FEATURES * 9, FEATURES)
        self.symbol = nn.Linear(FEATURES, len(SYMBOLS))
        self.style = nn.Linear(FEATURES, len(STYLES))

    def forward(self, pictures: Tensor) -> Seen:
        """Judge pictures, (n, 3, 24, 24) in -1 to 1; what is beyond is cut, as a screen does."""
        now, maps = pictures.clamp(-1, 1), []
        for stage in self.stages:
            now = stage(now)
            maps.append(now)
        features = torch.nn.functional.silu(self.mix(nn.functional.avg_pool2d(now, 2).flatten(1)))
        return Seen(self.symbol(features), self.style(features), features, tuple(maps))


def save(judge: Judge, path: Path = _FILE) -> None:
    """Write the weights, as float16."""
    save_file({name: value.half() for name, value in judge.state_dict().items()}, path)


@cache
def judge() -> Judge:
    """The committed judge."""
    found = Judge()
    found.load_state_dict({name: value.float() for name, value in load_file(_FILE).items()})
    found.eval().requires_grad_(False)
    return found
