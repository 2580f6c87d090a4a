"""The adapters of the world: what each is to teach, and how it is trained."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from loramix_testbed.places import ASSETS
from loramix_testbed.world.styles import NEW_STYLES
from loramix_testbed.world.symbols import CONTENTS

FOLDER = ASSETS / "adapters"

Kind = Literal["content", "style", "stroke"]
Half = Literal["calibration", "held-out"]


@dataclass(frozen=True, slots=True)
class Spec:
    """One adapter.

    Attributes
    ----------
    name : of its file.
    kind : ``content``: a new symbol in many base fonts and treatments; ``style``: base symbols in a
        new typeface and treatment; ``stroke``: base symbols, plain, bolder or thinner, without a
        word of its own.
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


def _all() -> list[Spec]:
    ranks = (8, 4, 12, 4)
    found: list[Spec] = []
    kinds: list[tuple[Kind, list[str]]]
    kinds = [("content", list(CONTENTS)), ("style", list(NEW_STYLES))]
    for kind, concepts in kinds:
        for place, concept in enumerate(concepts):
            half: Half = "calibration" if place % 2 else "held-out"
            rank = ranks[place // 2]
            found.append(Spec(concept, kind, concept, half, rank, 160, 2e-3, 100 + len(found)))
    first = {spec.name: spec for spec in found}
    found += [
        replace(first[name], name=f"{name}-again", seed=200 + i, rank=4)
        for i, name in enumerate(("ampersand", "ember", "question", "lagoon"))
    ]
    found += [
        replace(first[name], name=f"{name}-overtrained", steps=500, rate=6e-3, seed=210 + i)
        for i, name in enumerate(("ember", "lagoon"))
    ]
    found += [
        Spec(name, "stroke", name, "held-out", 4, 100, 2e-3, 220 + i)
        for i, name in enumerate(("bold", "thin"))
    ]
    return found


SPECS: Mapping[str, Spec] = {spec.name: spec for spec in _all()}
"""Every trained adapter, by its name."""
