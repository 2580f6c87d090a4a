"""The map of a model: what happens in every block."""

from collections import Counter
from collections.abc import Sequence

from loramix.analysis.pooling import Meetings, Pooled, significant
from loramix.analysis.statistics import GroupStatistics
from loramix.report import naming
from loramix.report.facts import Block, Choice, Extreme, Pair, PairNumber, Used
from loramix.report.numbers import Names, finite

EXTREMES: tuple[PairNumber, ...] = ("cosine", "excess", "overlap")


def pair_of(pair: Pooled) -> Pair:
    """Plain data about two adapters."""
    signs = pair.signs
    return Pair(
        first=pair.first,
        second=pair.second,
        groups=pair.groups,
        cosine=pair.cosine if pair.groups else None,
        conflict=signs.conflict if signs else None,
        weighted_conflict=signs.weighted_conflict if signs else None,
        excess=signs.excess if signs else None,
        excess_error=signs.excess_error if signs else None,
        clash=signs.clash if signs else None,
        lost=signs.lost if signs else None,
        lost_excess=signs.lost_excess if signs else None,
        lost_error=signs.lost_error if signs else None,
        overlap=signs.overlap if signs else None,
        significant=signs is not None and significant(signs.excess, signs.excess_error),
    )


def _extremes(pairs: Sequence[Pair]) -> dict[str, Extreme]:
    found: dict[str, Extreme] = {}
    for name in EXTREMES:
        known = [(pair, value) for pair in pairs if (value := pair[name]) is not None]
        if known:
            pair, value = max(known, key=lambda one: abs(one[1]))
            found[name] = Extreme(
                first=pair["first"],
                second=pair["second"],
                value=value,
                significant=pair["significant"],
            )
    return found


def blocks(groups: Sequence[GroupStatistics], meetings: Meetings, names: Names) -> list[Block]:
    """All blocks, in the order of the network."""
    total = meetings.energy()
    members: dict[str, list[int]] = {block: [] for block in names.order}
    for index, group in enumerate(groups):
        members[names.blocks[group.target.key]].append(index)
    found = []
    for block, at in members.items():
        here = [groups[i] for i in at]
        parts = meetings.energy(at)
        pairs = [pair_of(pair) for pair in meetings.pool(at)]
        found.append(
            Block(
                name=block,
                section=naming.section(block),
                branch=here[0].target.branch,
                groups=len(here),
                shared=sum(len(group.owners) > 1 for group in here),
                pairs=pairs,
                extremes=_extremes(pairs),
                energy=[
                    finite(part / whole) if whole > 0 else finite(0.0 * whole)
                    for part, whole in zip(parts, total, strict=True)
                ],
                choice=_choice(here, names),
            )
        )
    return found


def _choice(groups: Sequence[GroupStatistics], names: Names) -> Choice | None:
    if not names.methods:
        return None
    open_ones = [group for group in groups if len(group.owners) > 1] or groups
    counts = Counter(names.methods[group.target.key] for group in open_ones)
    first = next(iter(_by_count(counts)))
    return Choice(
        method=first,
        letter=names.letters[first],
        mixed=len(counts) > 1,
        counts=_by_count(counts),
    )


def used(groups: Sequence[GroupStatistics], names: Names) -> list[Used]:
    """The methods of a plan, most frequent first."""
    counts = Counter(names.methods.values())
    single = [group.target.key for group in groups if len(group.owners) == 1]
    alone = Counter(names.methods[key] for key in single if key in names.methods)
    return [
        Used(method=name, letter=names.letters[name], groups=n, alone=alone[name])
        for name, n in _by_count(counts).items()
    ]


def _by_count(counts: Counter[str]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
