"""The published policy: filters, figures, smoothing, tree, strength, in this order."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import ClassVar, Literal

from loramix.analysis.strengths import Strength
from loramix.policies.base import Decision, Reads, Stack, Verdict
from loramix.policies.published.measures import Figures, figures_of, figures_of_all, mean_rank
from loramix.policies.published.members import (
    ConflictMode,
    KeyFilter,
    Members,
    members_of,
    sides_of,
)
from loramix.policies.published.notes import notes_of
from loramix.policies.published.options import Mode, check_options, check_stack
from loramix.policies.published.presets import PRESETS, PresetName, floor_for, preset_for
from loramix.policies.published.smoothing import block_of, smoothed
from loramix.policies.published.strength import strengths_of, suggested_strength, weights_for
from loramix.policies.published.tree import Choice, Regime, StrategySet, Tree, alone


@dataclass(frozen=True, slots=True)
class Published:
    """The published adaptive composition: its decision tree and its constants, to the letter.

    Every group becomes, by the first rule that holds for its smoothed figures (see `Figures`;
    c is the cosine, e the effective conflict, o the overlap):

    1. ``weighted_sum`` with one contributor;
    2. ``consensus`` if c > 0.5, e < 0.15 and o >= 0.35;
    3. ``weighted_average`` if abs(c) < 0.25, e < 0.60 and o < 0.35;
    4. ``ties`` if e > 0.25, its density from the magnitudes, electing by the sum where the
       magnitude ratio is above 2 and by heads elsewhere;
    5. ``weighted_average``.

    A mean becomes ``slerp`` where the group's own cosine is not negative.  In stacks of a mean
    rank of 512 or more it does not, and an orthogonal one becomes a sum.

    Flaws of the publication are kept, so that it can be compared:

    - ties is out of reach of ordinary data: the excess conflict is a share of magnitudes less a
      share of positions; cut at 0, that leaves nothing of elliptical data of c >= 0, and at most
      0.14 where c < 0;
    - slerp or mean hangs on the sign of a cosine that is noise for independent adapters;
    - means, slerp and consensus divide by the sum of the weights, so the size of all weights
      cancels.  The methods here make something as strong as the heaviest adapter, so they get the
      weights divided by the largest one.  The scale of the model's branch cancels likewise; that
      of the text encoders is applied to the result;
    - groups of one contributor have their full strength, outside the energy normalisation, as the
      publication says (its implementation scales them), although they count in the energies.

    What is not as published:

    - the methods are those of this package: `Slerp` is of directions and does not depend on the
      order, `Consensus` shrinks singular values by the noise that is there;
    - figures are of whole deltas, also where a conflict mode keeps only a side of them;
    - blocks are those of canonical keys, so they do not depend on a dialect, and the text encoders
      have their own;
    - ``global``, in which the published implementation only adds, does what it says.

    Parameters
    ----------
    preset : constants; ``auto`` takes those of the architecture (UNets where it is unknown).
    strategy_set : ``full``; ``no_slerp``, which forbids consensus as well, as published; ``basic``,
        without rule 3 in addition.
    mode : the tree for each group; once for the stack, on figures over all groups, which are not
        smoothed (``global``); or sums everywhere, without the tree and the override
        (``additive``).
    override : what every group of two and more contributors becomes instead.  Ties that the tree
        did not choose have density 0.5 and elect by heads.
    smoothing : lambda in [0, 1], how much of a figure is the mean of its block.
    smooth_slerp_gate : slerp reads the smoothed cosine.
    auto_strength : energy normalisation, for the model and the text encoders apart.
    floor : least scale of a branch of orthogonal adapters, [0, 1]; None: 1 for full rank and for
        video models, otherwise the preset's.
    key_filters : for each adapter ``all``; or only targets that others have, too
        (``shared_only``), or only those that nobody else has (``unique_only``); empty: all.
    conflict_modes : for each adapter ``all``; or only entries with the majority's sign (``low``),
        or only the others (``high``), where two and more contribute; empty: all.

    Raises
    ------
    ParamError : one of them is something else.

    Notes
    -----
    Cost: a few numbers per pair; three N x N products per group.
    """

    name: ClassVar[str] = "published"
    reads: ClassVar[Reads] = "statistics"

    preset: PresetName | Literal["auto"] = "auto"
    strategy_set: StrategySet = "full"
    mode: Mode = "per_group"
    override: Regime | None = None
    smoothing: float = 0.25
    smooth_slerp_gate: bool = False
    auto_strength: bool = True
    floor: float | None = None
    key_filters: tuple[KeyFilter, ...] = ()
    conflict_modes: tuple[ConflictMode, ...] = ()

    def __post_init__(self) -> None:
        check_options({field.name: getattr(self, field.name) for field in fields(self)})

    def describe(self) -> dict[str, object]:
        """Name and parameters."""
        return {"name": self.name, **asdict(self)}

    def decide(self, stack: Stack) -> Verdict:
        """One decision for every group.

        Raises
        ------
        ParamError : statistics are missing, or a filter or a mode is not there for every adapter.
        """
        each = {"key_filters": self.key_filters, "conflict_modes": self.conflict_modes}
        check_stack(stack, each)
        rows = members_of(stack, self.key_filters)
        architecture = _architecture(stack)
        preset = PRESETS[preset_for(architecture) if self.preset == "auto" else self.preset]
        rank = mean_rank(rows)
        tree = Tree(preset, self.strategy_set, rank >= preset.full_rank, self.override)
        strengths: dict[str, Strength] = {}
        if self.auto_strength:
            usual = floor_for(preset, architecture, full_rank=tree.full_rank)
            floor = usual if self.floor is None else self.floor
            count, alignment = len(stack.adapters), preset.alignment
            strengths = strengths_of(rows, count, floor=floor, alignment=alignment)
        decisions = tuple(
            Decision(
                method=choice.method,
                weights=tuple(weights_for(choice.method, members, strengths).tolist()),
                regime=choice.regime,
                why=choice.why,
                numbers=numbers,
                sides=sides_of(members, self.conflict_modes),
                published_sides=bool(self.conflict_modes),
            )
            for members, (choice, numbers) in zip(rows, self._choices(tree, rows), strict=True)
        )
        notes = notes_of(stack, rows)
        if tree.full_rank:
            notes.append(
                f"a stack of full rank (mean rank {rank:.0f} >= {preset.full_rank:.0f}): no slerp, "
                "and sums where adapters are orthogonal"
            )
        if any(decision.sides for decision in decisions):
            notes.append("the figures are of whole deltas, also where a conflict mode keeps a side")
        suggested = suggested_strength(rows, decisions, strengths, preset.cap)
        return Verdict(decisions, strengths, tuple(notes), suggested)

    def _choices(
        self, tree: Tree, rows: Sequence[Members]
    ) -> list[tuple[Choice, dict[str, float]]]:
        """What becomes of every group, and the numbers to show."""
        own = [figures_of(members) for members in rows]
        if self.mode == "per_group":
            chosen = self._by_group(tree, rows, own)
        else:
            common, shown = self._in_common(tree, rows)
            chosen = [
                (common, shown) if figures.contributors > 1 else (alone(figures.contributors), {})
                for figures in own
            ]
        return [
            (choice, {"members": members.count} | figures.numbers() | numbers)
            for members, figures, (choice, numbers) in zip(rows, own, chosen, strict=True)
        ]

    def _by_group(
        self, tree: Tree, rows: Sequence[Members], own: Sequence[Figures]
    ) -> list[tuple[Choice, dict[str, float]]]:
        """The tree for every group, on its smoothed figures."""
        blocks = [block_of(members.group.target.key) for members in rows]
        energies = [float(members.norms @ members.norms) for members in rows]
        found = []
        for members, figures, mixed in zip(
            rows, own, smoothed(own, blocks, energies, self.smoothing), strict=True
        ):
            gate = mixed.cosine if self.smooth_slerp_gate else figures.cosine
            choice = tree.choose(mixed, gate, members.magnitudes)
            found.append((choice, mixed.numbers("smoothed_") | choice.numbers))
        return found

    def _in_common(self, tree: Tree, rows: Sequence[Members]) -> tuple[Choice, dict[str, float]]:
        """One choice for all groups in which adapters meet."""
        if self.mode == "additive":
            return Choice("weighted_sum", "Additive mode: a sum everywhere."), {}
        figures = figures_of_all(rows)
        pooled = [values for members in rows for values in members.magnitudes]
        choice = tree.choose(figures, figures.cosine, pooled)
        common = replace(choice, why=f"For the whole stack: {choice.why}")
        return common, figures.numbers("global_") | common.numbers


def _architecture(stack: Stack) -> str | None:
    """That of the stack, or of the first adapter that is recognised."""
    known = (adapter.architecture for adapter in stack.adapters if adapter.architecture)
    return stack.architecture or next(known, None)
