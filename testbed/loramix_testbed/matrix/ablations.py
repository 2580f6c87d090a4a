"""One change at a time: what each part of a method is worth."""

from collections.abc import Mapping

from loramix.compose.guidance import Cfg, Recentred
from loramix.compose.modes import Loratorio
from loramix.planning.output import Output
from loramix_testbed.matrix.methods import Composed, Merged, Way
from loramix_testbed.matrix.running import Cell
from loramix_testbed.matrix.stacks import Stack, mixed

WEIGHTED: Mapping[str, Way] = {
    f"sum, content {content:g}, style {style:g}": Merged("linear", content=content, style=style)
    for content in (1.0, 1.2, 1.4, 1.7)
    for style in (0.8, 1.0)
    if (content, style) != (1.0, 1.0)
}
"""Weights by one who knows which adapter is for what."""

ABLATIONS: Mapping[str, Way] = {
    **WEIGHTED,
    "published:mode=global": Merged("published:mode=global"),
    "published, no smoothing": Merged("published:smoothing=0"),
    "published, auto-strength off": Merged("published:auto_strength=false"),
    "auto:strength=1": Merged("auto:strength=1"),
    "auto:strength=8": Merged("auto:strength=8"),
    "auto:balance=1": Merged("auto:balance=1"),
    "votes in every group": Merged("core(elect)"),
    "sum, dare half": Merged("linear", options={"sparsify": "dare:density=0.5"}),
    "sum, della half": Merged("linear", options={"sparsify": "della:density=0.5"}),
    "sum, refine": Merged("linear", options={"refine": "refine"}),
    "sum, full": Merged("linear", options={"refine": "full"}),
    "ties, rank 4": Merged("ties", options={"output": Output(rank=4)}),
    "ties, rank 8": Merged("ties", options={"output": Output(rank=8)}),
    "sum, dense cut to rank 4": Merged("linear", options={"output": Output(rank=4)}),
    "sum, dense cut to rank 8": Merged("linear", options={"output": Output(rank=8)}),
    "loratorio, tau 0.01": Composed(Loratorio(tau=0.01)),
    "loratorio, tau 0.05": Composed(Loratorio(tau=0.05)),
    "loratorio, patch 2": Composed(Loratorio(patch=2)),
    "loratorio, patch 12": Composed(Loratorio(patch=12)),
    "loratorio, k 1": Composed(Loratorio(k=1)),
    "loratorio, lambda 0": Composed(Loratorio(), guidance=Recentred(0.0)),
    "loratorio, lambda 1": Composed(Loratorio(), guidance=Recentred(1.0)),
    "loratorio, plain guidance": Composed(Loratorio(), guidance=Cfg()),
    "loratorio, levels": Composed(Loratorio(level="adapter")),
}
"""Ways that differ from one of the matrix in one thing."""


def base_of(name: str) -> str:
    """The way of the matrix that one differs from."""
    return "auto" if name == "votes in every group" else name.replace(":", ",").split(",")[0]


def ablations() -> list[Cell]:
    """Merges on the held-out pairs and threes, modes where many pictures are asked for.

    What scales a whole result is asked of all sizes.
    """
    return [
        Cell(stack, name, way)
        for name, way in ABLATIONS.items()
        for stack in mixed("held-out")
        if _asked(name, way, stack)
    ]


def _asked(name: str, way: Way, stack: Stack) -> bool:
    if len(stack.adapters) > 3:
        return name.startswith("auto:")
    return isinstance(way, Merged) or stack.seeds > 4
