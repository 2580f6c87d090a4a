"""Pictures of before and after, drawn by the testbed's small model on this machine."""

from dataclasses import dataclass

from loramix.errors import ParamError
from loramix.executing.running import Merged
from loramix.report.html.markup import Markup
from loramix.report.html.pictures import Strip, pictures
from loramix.types import Progress

WAYS = ("truth", "no adapter", "sum", "1/N", "auto", "loratorio")
"""Of the testbed's methods, those that are shown."""
_SEEDS = 4


@dataclass(frozen=True, slots=True)
class Drawn:
    """What was drawn.

    Attributes
    ----------
    names : of the adapters, as a sentence has them.
    merged : by ``auto``.
    """

    names: str
    merged: Merged
    strips: tuple[Strip, ...]
    section: Markup


def draw(progress: Progress | None = None) -> Drawn:
    """Put three held-out adapters together, a content and two styles, in each way, and draw.

    Raises
    ------
    ParamError : torch, diffusers, PEFT or the testbed are not there.
    """
    try:
        from loramix_testbed.demonstrating import STACK, merged_by, strip
    except ModuleNotFoundError as error:
        message = (
            f"--images: no module {error.name}: it needs torch, diffusers and peft (pip install "
            "'loramix[diffusers]') and the folder testbed of loramix's repository on PYTHONPATH"
        )
        raise ParamError(message) from error
    strips = []
    for done, way in enumerate(WAYS):
        if progress is not None:
            progress(done, len(WAYS))
        png, right, total = strip(way, _SEEDS)
        strips.append(Strip(way, f"the judge finds what was asked for in {right} of {total}", png))
    asked = ", ".join(f"{symbol} in {style}" for symbol, style in STACK.asked)
    said = f"Asked for: {asked}; the same noise in every row."
    return Drawn(
        names=" + ".join(STACK.adapters),
        merged=merged_by("auto"),
        strips=tuple(strips),
        section=pictures(strips, said),
    )
