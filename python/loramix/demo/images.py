"""Pictures of before and after, drawn by the testbed's small model on this machine."""

from dataclasses import dataclass

from loramix.errors import ParamError
from loramix.executing.running import Merged
from loramix.report.html.markup import Markup
from loramix.report.html.pictures import Strip, pictures
from loramix.types import Progress

WAYS = {
    "truth": "what was asked for: true pictures, which no model drew",
    "no adapter": "the base model alone, which knows neither the symbol nor the styles",
    "sum": "all deltas added up",
    "1/N": "the mean of all deltas",
    "auto": "one adapter, merged by loramix as it is by default",
    "loratorio": "not merged: predictions of the adapters, weighted by patch at every step",
}
"""Of the testbed's methods, those that are shown, and what they are."""
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
        found = f"A classifier finds both symbol and style in {right} of {total}."
        strips.append(Strip(way, f"{WAYS[way][0].upper()}{WAYS[way][1:]}. {found}", png))
    asked = ", then ".join(f"{symbol} in the style {style}" for symbol, style in STACK.asked)
    said = (
        f"Each row was asked for {asked}, {_SEEDS} pictures each, and starts from the same noise. "
        "Each adapter was trained by itself: no model has seen the symbol in one of the styles."
    )
    return Drawn(
        names=" + ".join(STACK.adapters),
        merged=merged_by("auto"),
        strips=tuple(strips),
        section=pictures(strips, said),
    )
