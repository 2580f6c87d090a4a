"""A stack, its plan and its result in one piece of plain data; see `loramix.report.facts`."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from loramix import __version__
from loramix.analysis.compat import Compatibility, judge
from loramix.analysis.pooling import Meetings, Pooled, energies, weights_of
from loramix.analysis.statistics import Analysis, GroupStatistics
from loramix.executing.running import Merged
from loramix.executing.verifying import Row
from loramix.groups import common_architecture
from loramix.planning.steps import Choice
from loramix.report import naming
from loramix.report.blocks import blocks, pair_of, used
from loramix.report.certificate import certificate
from loramix.report.facts import Energy, Entrant, Fate, GroupRow, Overview
from loramix.report.model import became, input_of
from loramix.report.numbers import Names, finite, root
from loramix.report.verdict import verdict, warnings
from loramix.types import Adapter, Target, Weight


def overview(
    adapters: Sequence[Adapter],
    weights: Sequence[Weight],
    analysis: Analysis,
    *,
    choices: Sequence[Choice] | None = None,
    merged: Merged | None = None,
    recipe: str | None = None,
    notes: Sequence[str] = (),
) -> Overview:
    """Everything that a report says.

    Parameters
    ----------
    weights : one for each adapter.
    analysis : of the same stack; one with inner products only leaves the signs open.
    choices : what was decided for every group, in the order of the analysis.
    merged : the result.
    recipe : text that makes it again.
    notes : what a policy has to say.

    Notes
    -----
    Cost: O(N^2) numbers for every group.
    """
    own = weights_of(analysis, weights)
    if choices is not None:  # what rules make of the weights included
        own = tuple(choice.asked for choice in choices)
    meetings = Meetings.of(analysis.groups, own, len(adapters))
    source = _Source(tuple(adapters), tuple(weights), analysis, own, meetings, choices, merged)
    return source.overview(recipe, notes)


@dataclass(frozen=True, slots=True)
class _Source:
    """What a report is made of."""

    adapters: tuple[Adapter, ...]
    weights: tuple[Weight, ...]
    analysis: Analysis
    own: tuple[tuple[float, ...], ...]  # the users' weights of the members of every group
    meetings: Meetings
    choices: Sequence[Choice] | None
    merged: Merged | None

    @property
    def groups(self) -> tuple[GroupStatistics, ...]:
        return self.analysis.groups

    @property
    def count(self) -> int:
        return len(self.adapters)

    def overview(self, recipe: str | None, notes: Sequence[str]) -> Overview:
        pooled = self.meetings.pool()
        compat = self._compatibility(pooled)
        names = Names.of(self.groups, self.choices)
        found = Overview(
            version=__version__,
            verdict="",
            architecture=common_architecture(self.adapters),
            samples=self.analysis.samples,
            adapters=self._entrants(pooled),
            shared=sum(len(group.owners) > 1 for group in self.groups),
            pairs=[pair_of(pair) for pair in pooled],
            compatibility=compat.as_dict() if compat else None,
            blocks=blocks(self.groups, self.meetings, names),
            groups=self._rows(names),
            methods=used(self.groups, names),
            energy=self._energy(),
            strengths=self._strengths(),
            became=self._became(),
            certificate=certificate(self.merged) if self.merged else None,
            warnings=[],
            recipe=recipe,
        )
        found["warnings"] = [*notes, *warnings(found, compat)]
        found["verdict"] = verdict(found, compat)
        return found

    def _compatibility(self, pooled: Sequence[Pooled]) -> Compatibility | None:
        if self.count < 2 or any(pair.cosine is None for pair in pooled):
            return None
        return judge([adapter.name for adapter in self.adapters], pooled)

    def _entrants(self, pooled: Sequence[Pooled]) -> list[Entrant]:
        norms = self.meetings.energy()
        found = []
        for index, (adapter, weight) in enumerate(zip(self.adapters, self.weights, strict=True)):
            added = [
                pair.adds[(pair.first, pair.second).index(index)]
                for pair in pooled
                if index in (pair.first, pair.second) and pair.adds is not None
            ]
            meets = [g for g in self.groups if index in g.owners and len(set(g.owners)) > 1]
            known = finite(norms[index]) is not None
            entrant = Entrant(
                **input_of(adapter, weight),
                letter=naming.letters(self.count)[index],
                shared=len(meets),
                norm=root(norms[index]),
                interference=sum(added) if known else None,
            )
            found.append(entrant)
        return found

    def _rows(self, names: Names) -> list[GroupRow]:
        written = {row.target: row for row in self.merged.log} if self.merged else {}
        found = []
        for place, group in enumerate(self.groups):
            row = written.get(group.target.key)
            found.append(self._row(place, group, names, row))
        order = {key: i for i, key in enumerate(names.blocks)}
        return sorted(found, key=lambda row: order[row["target"]])

    def _row(self, place: int, group: GroupStatistics, names: Names, row: Row | None) -> GroupRow:
        key = group.target.key
        decision = self.choices[place].decision if self.choices else None
        return GroupRow(
            target=key,
            block=names.order[names.blocks[key]],
            shape=list(group.target.shape),
            owners=list(group.owners),
            weights=list(self.own[place]),
            planned=list(decision.weights) if decision else [],
            norms=[root(energy) for _, energy in self.meetings.energies[place]],
            pairs=[pair_of(pair) for pair in self.meetings.pool([place]) if pair.groups],
            method=names.methods.get(key),
            letter=names.letters[names.methods[key]] if decision else None,
            regime=decision.regime if decision else "",
            why=decision.why if decision else "",
            numbers={k: finite(v) for k, v in decision.numbers.items()} if decision else {},
            sides=list(decision.sides) if decision else [],
            rank=row.rank if row else None,
            error=row.error if row else None,
        )

    def _energy(self) -> list[Energy]:
        found = []
        planned = [choice.decision.weights for choice in self.choices or ()]
        for branch in ("model", "text_encoder"):
            here = [i for i, group in enumerate(self.groups) if group.target.branch == branch]
            groups = [self.groups[i] for i in here]
            given = self.meetings.energy(here)
            after = energies(groups, [planned[i] for i in here], self.count) if planned else None
            kept = self._kept(branch)
            for index in range(self.count):
                if any(index in group.owners for group in groups):
                    energy = Energy(
                        adapter=index,
                        branch=branch,
                        given=root(given[index]),
                        planned=root(after[index]) if after else None,
                        kept=kept.get(index),
                    )
                    found.append(energy)
        return found

    def _kept(self, branch: str) -> dict[int, float]:
        """Length of the result along each adapter."""
        sums: dict[int, list[float]] = {}
        for row in self.merged.log if self.merged else ():
            if Target(row.target, ()).branch == branch:
                for share in row.shares:
                    one = sums.setdefault(share.owner, [0.0, 0.0])
                    one[0] += share.along
                    one[1] += share.energy
        return {i: along / energy**0.5 for i, (along, energy) in sums.items() if energy > 0}

    def _became(self) -> list[Fate]:
        shares = self.merged.shares if self.merged else ()
        letters = naming.letters(self.count)
        facts = zip(shares, became(self.adapters, shares), strict=True)
        return [Fate(**fact, letter=letters[share.owner]) for share, fact in facts]

    def _strengths(self) -> dict[str, dict[str, float]]:
        strengths = self.merged.plan.strengths if self.merged else {}
        return {branch: asdict(found) for branch, found in strengths.items()}
