"""Pictures beside each other: what came of each way to use the adapters."""

from collections.abc import Sequence
from typing import NamedTuple

from loramix.report.html.markup import Markup, section, tag


class Strip(NamedTuple):
    """A row of pictures.

    Attributes
    ----------
    label : what made them.
    note : what is to be said of them.
    png : the row as one PNG, in base64.
    """

    label: str
    note: str
    png: str


def pictures(strips: Sequence[Strip], prompts: str) -> Markup:
    """The rows, one below the other."""
    rows = [
        tag(
            "tr",
            tag("th", one.label, scope="row"),
            tag("td", tag("img", src=f"data:image/png;base64,{one.png}", alt=one.label)),
            tag("td", one.note),
        )
        for one in strips
    ]
    note = tag("p", prompts, class_="note")
    return section("Pictures", note, tag("table", *rows, class_="pictures"), name="pictures")
