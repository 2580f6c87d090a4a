"""The adapters of the world: what each is to teach, and how it is trained."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from loramix_testbed.places import ASSETS
from loramix_testbed.world.styles import NEW_STYLES
from loramix_testbed.world.symbols import CONTENTS

FOLDER = ASSETS / "adapters"

Kind = Literal["content", "style", "stroke", "speed"]
FEW_STEPS = 4
"""Steps that are enough with the adapter for speed."""

Half = Literal["calibration", "held-out"]
HALVES: tuple[Half, ...] = ("calibration", "held-out")


@dataclass(frozen=True, slots=True)
class Spec:
    """One adapter.

    Attributes
    ----------
    name : of its file.
    kind : ``content``: a new symbol in many base fonts and treatments; ``style``: base symbols in a
        new typeface and treatment; ``stroke``: base symbols, plain, bolder or thinner, without a
        word of its own; ``speed``: whatever the base knows in `FEW_STEPS` steps, unguided.
    concept : the trigger word, or the stroke's name.
    half : what it may be used for: to choose thresholds, or to report.
    """

    name: str
    kind: Kind
    concept: str
    half: Half
    rank: int
    steps: int
    rate: float
    seed: int

    @property
    def path(self) -> Path:
        """Its file."""
        return FOLDER / f"{self.name}.safetensors"


_RANKS: Mapping[Kind, tuple[int, ...]] = {"content": (8, 4, 12, 8), "style": (8, 12, 8, 16)}
_STEPS: Mapping[Kind, int] = {"content": 280, "style": 240, "stroke": 100}
_RATES: Mapping[Kind, float] = {"content": 5e-3, "style": 5e-3, "stroke": 4e-3}


def _all() -> list[Spec]:
    found = [*_firsts("held-out"), *_firsts("calibration")]
    first = {spec.name: spec for spec in found}
    found += [
        replace(first[name], name=f"{name}-again", seed=200 + i, rank=4)
        for i, name in enumerate(("ampersand", "ember"))
    ]
    found += [
        Spec(name, "stroke", name, "held-out", 4, _STEPS["stroke"], _RATES["stroke"], 220 + i)
        for i, name in enumerate(("bold", "thin"))
    ]
    found.append(Spec("turbo", "speed", "turbo", "held-out", 16, 300, 2e-3, 230))
    found += [
        replace(first[name], name=f"{name}-overtrained", steps=400, rate=1e-2, seed=210 + i)
        for i, name in enumerate(("ember",))
    ]
    return found


def _firsts(half: Half) -> list[Spec]:
    """Every second concept, contents and styles in turn."""
    start = 0 if half == "held-out" else 1
    kinds: list[tuple[Kind, list[str]]]
    kinds = [("style", list(NEW_STYLES)[start::2]), ("content", list(CONTENTS)[start::2])]
    return [
        Spec(
            name=concepts[place],
            kind=kind,
            concept=concepts[place],
            half=half,
            rank=_RANKS[kind][place],
            steps=_STEPS[kind],
            rate=_RATES[kind],
            seed=100 + 20 * start + 10 * (kind == "content") + place,
        )
        for place in range(4)
        for kind, concepts in kinds
    ]


SPECS: Mapping[str, Spec] = {spec.name: spec for spec in _all()}
"""Every trained adapter, by its name."""
