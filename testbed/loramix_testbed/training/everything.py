"""The one command that trains the world: judge, base, adapters."""

import multiprocessing
import os
import warnings
from functools import partial

import torch

from loramix_testbed.places import ASSETS
from loramix_testbed.training.adapters import train_adapter
from loramix_testbed.training.base import train_base
from loramix_testbed.training.distilling import train_few_steps
from loramix_testbed.training.judge import train_judge
from loramix_testbed.world.adapters import FOLDER, SPECS


def train_world(what: str = "all", *, workers: int | None = None, device: str = "cpu") -> None:
    """Train what is named: ``all``, ``judge``, ``base``, ``adapters``, or adapters by name.

    Adapters that are there already are kept; delete their files to train them anew.
    """
    if what in {"all", "judge"}:
        train_judge(device=device)
    if what in {"all", "base"}:
        train_base(ASSETS / "base", device=device)
    if what not in {"judge", "base"}:
        names = list(SPECS) if what in {"all", "adapters"} else what.split(",")
        FOLDER.mkdir(exist_ok=True)
        missing = [name for name in names if not SPECS[name].path.exists()]
        _train_adapters(missing, workers, device)


def _train_adapters(names: list[str], workers: int | None, device: str) -> None:
    """A core for each."""
    count = workers or os.cpu_count() or 1
    with multiprocessing.get_context("spawn").Pool(count, initializer=_single) as pool:
        for _ in pool.imap_unordered(partial(_one, device=device), names):
            pass


def _one(name: str, device: str) -> str:
    spec = SPECS[name]
    trained = train_few_steps if spec.kind == "speed" else train_adapter
    trained(spec, device=device)
    return name


def _single() -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
