"""Which adapters go together: a score for every pair, clusters of a stack, and words.

The question is what a plain sum of two adapters would do to both, as that is what applying both
does.  Three things go wrong, and each takes its share off a score of 1:

    score = survival * (1 - clash) * (1 - contention / 2)

- *survival*: what is left of the adapter that suffers more: 1 less what the other takes from it,
  by exact inner products, group by group, over its whole energy;
- *clash*: significant excess conflict, see `pooling.Signs`: signs that differ more than the angle
  says, so that entries undo each other whose inner products add up to nothing;
- *contention*: overlap of the subspaces beyond chance that is no agreement: both write into the
  same directions, but not the same; half of it, as nothing is lost for certain.

Adapters of the same concept are not punished: they go together as a mean, and the words say so.
The published score, ``cosine * (1 - conflict)``, counts the angle twice (the conflict of
independent adapters is a half because their cosine is 0) and ranks independent ones last; it is
kept beside for comparison.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Literal

from loramix.analysis.pooling import Meetings, Pooled, weights_of
from loramix.analysis.statistics import Analysis
from loramix.errors import ParamError
from loramix.types import Weight

Kind = Literal["disjoint", "opposed", "mixed", "conflicted", "same", "related", "independent"]
Confidence = Literal["high", "moderate", "low"]

_NOTABLE = 0.05
"""Share of an adapter that somebody would see: less is called nothing."""
_CLASHING = 0.02
"""Clash that matters to a stack as a whole."""
_SAME = 0.5
"""Cosine from which two adapters teach the same rather than share something."""
_CONTENDED = 0.1
_TOGETHER = 0.75
"""Least mean score of adapters that are put into one stack."""
_ERRORS: tuple[tuple[float, Confidence], ...] = ((0.01, "high"), (0.05, "moderate"))


@dataclass(frozen=True, slots=True)
class Pairing:
    """Two adapters, next to each other in a plain sum.

    Attributes
    ----------
    first, second : their positions, first < second.
    score : 0 (one destroys the other) to 1 (neither notices the other, or both say the same).
    error : standard error of the score; None where signs were not looked at.
    confidence : high up to an error of 0.01, moderate up to 0.05; low also without signs.
    kind : what they are to each other.
    words : what would happen, and what to do.
    survival, clash, contention : the parts of the score, 0 to 1.
    published : the published score, -1 to 1.1; None where signs were not looked at.
    """

    first: int
    second: int
    score: float
    error: float | None
    confidence: Confidence
    kind: Kind
    words: str
    survival: float
    clash: float
    contention: float
    published: float | None


@dataclass(frozen=True, slots=True)
class Cluster:
    """Adapters to use together.

    Attributes
    ----------
    adapters : positions, rising.
    score : mean score of its pairs; 1 for a single adapter.
    words : how to merge them.
    """

    adapters: tuple[int, ...]
    score: float
    words: str


@dataclass(frozen=True, slots=True)
class Compatibility:
    """How the adapters of a stack go together.

    Attributes
    ----------
    names : of the adapters.
    pairs : best first.
    clusters : by average linkage of the scores, largest first; those of two or more adapters are
        the suggested stacks.
    opponents : for every adapter, those it should not be summed with, worst first.
    """

    names: tuple[str, ...]
    pairs: tuple[Pairing, ...]
    clusters: tuple[Cluster, ...]
    opponents: tuple[tuple[int, ...], ...]

    @property
    def stacks(self) -> tuple[Cluster, ...]:
        """Suggested stacks."""
        return tuple(cluster for cluster in self.clusters if len(cluster.adapters) > 1)

    def as_dict(self) -> dict[str, object]:
        """Plain data for JSON."""
        return asdict(self)


def compatibility(
    names: Sequence[str], analysis: Analysis, weights: Sequence[Weight] | None = None
) -> Compatibility:
    """How adapters go together.

    Parameters
    ----------
    names : of the adapters, in the order of the stack.
    weights : as for `merge`; default 1 for all, the adapters as their authors made them.

    Raises
    ------
    ParamError : fewer than two adapters, or an analysis without inner products.

    Notes
    -----
    Cost: O(N^2) numbers for every group, O(N^3) for the clusters.
    """
    if len(names) < 2:
        message = f"{len(names)} adapters: give two or more to compare"
        raise ParamError(message)
    own = weights_of(analysis, weights)
    return judge(names, Meetings.of(analysis.groups, own, len(names)).pool())


def judge(names: Sequence[str], pooled: Sequence[Pooled]) -> Compatibility:
    """The same from pairs that were pooled before.

    Raises
    ------
    ParamError : pairs without inner products.
    """
    pairs = [_pairing(pair, names) for pair in pooled]
    clusters = [_cluster(each, pairs, names) for each in linked(pairs, len(names))]
    return Compatibility(
        names=tuple(names),
        pairs=tuple(sorted(pairs, key=lambda p: (-p.score, p.first, p.second))),
        clusters=tuple(sorted(clusters, key=lambda c: (-len(c.adapters), c.adapters))),
        opponents=tuple(_opponents(i, pairs) for i in range(len(names))),
    )


def _pairing(pair: Pooled, names: Sequence[str]) -> Pairing:
    if pair.cosine is None or pair.cancels is None:
        message = (
            f"{names[pair.first]} and {names[pair.second]}: the analysis holds no inner "
            "products of them; analyse the stack first"
        )
        raise ParamError(message)
    signs = pair.signs
    survival = 1 - max(pair.cancels)
    clash = min(1.0, signs.clash) if signs else 0.0
    contention = signs.contention if signs else 0.0
    rest = survival * (1 - contention / 2)
    # What was too uncertain to count may be there all the same.
    doubt = max(signs.clash_error, signs.excess_error, signs.lost_error) if signs else 0.0
    error = rest * doubt if signs else None
    kind = _kind(pair, clash, contention)
    return Pairing(
        first=pair.first,
        second=pair.second,
        score=rest * (1 - clash),
        error=error,
        confidence=_confidence(error) if pair.groups else "high",
        kind=kind,
        words=_words(kind, pair, names),
        survival=survival,
        clash=clash,
        contention=contention,
        published=signs.published if signs else None,
    )


def _confidence(error: float | None) -> Confidence:
    if error is None:
        return "low"
    return next((word for limit, word in _ERRORS if error <= limit), "low")


def _kind(pair: Pooled, clash: float, contention: float) -> Kind:
    cancels, repeats = max(pair.cancels or (0.0,)), max(pair.repeats or (0.0,))
    cases: tuple[tuple[bool, Kind], ...] = (
        (pair.groups == 0, "disjoint"),
        (cancels >= _NOTABLE and repeats >= _NOTABLE, "mixed"),
        (cancels >= _NOTABLE, "opposed"),
        (clash >= _CLASHING, "conflicted"),
        ((pair.cosine or 0.0) >= _SAME, "same"),
        (repeats >= _NOTABLE or contention >= _CONTENDED, "related"),
    )
    return next((kind for holds, kind in cases if holds), "independent")


def _words(kind: Kind, pair: Pooled, names: Sequence[str]) -> str:
    both = (names[pair.first], names[pair.second])
    cancels, repeats = _of(pair.cancels, both), _of(pair.repeats, both)
    clash = 100 * pair.signs.clash if pair.signs else 0.0
    if kind == "related" and not repeats:
        return "share directions, not what they do there: sum with care"
    texts: dict[Kind, str] = {
        "disjoint": "never meet: add them up, both are kept",
        "opposed": f"opposed: a sum cancels {cancels}",
        "mixed": f"differ by block: a sum cancels {cancels}, repeats {repeats}: choose by group",
        "conflicted": f"signs clash beyond their angle (by {clash:.0f} %): let one win (ties)",
        "same": f"same concept: average; a sum repeats {repeats}",
        "related": f"related: a sum repeats {repeats}; ortho takes it out",
        "independent": "independent: add them up, both are kept",
    }
    return texts[kind]


def _of(shares: tuple[float, float] | None, names: tuple[str, str]) -> str:
    """Shares that somebody would see, in words."""
    each = zip(shares or (), names, strict=False)
    return " and ".join(
        f"{100 * share:.0f} % of {name}" for share, name in each if share >= _NOTABLE
    )


def linked(pairs: Sequence[Pairing], count: int) -> list[tuple[int, ...]]:
    """Clusters by average linkage.

    The two clusters of the highest mean score are joined (the first ones, where several are
    equal) as long as it is 0.75 or more, but never two of which any members are opposed.
    """
    score = {(p.first, p.second): p.score for p in pairs}
    apart = {(p.first, p.second) for p in pairs if p.kind == "opposed"}
    clusters: list[tuple[int, ...]] = [(i,) for i in range(count)]

    def between(a: tuple[int, ...], b: tuple[int, ...]) -> float:
        met = [(min(i, j), max(i, j)) for i in a for j in b]
        if any(one in apart for one in met):
            return -1.0
        return sum(score[one] for one in met) / len(met)

    while len(clusters) > 1:
        best = max(combinations(clusters, 2), key=lambda two: between(*two))
        if between(*best) < _TOGETHER:
            break
        clusters = [c for c in clusters if c not in best]
        clusters = sorted([*clusters, tuple(sorted(best[0] + best[1]))])
    return clusters


def _cluster(members: tuple[int, ...], pairs: Sequence[Pairing], names: Sequence[str]) -> Cluster:
    inside = [p for p in pairs if p.first in members and p.second in members]
    if not inside:
        return Cluster(members, 1.0, "apart from the others")
    mean = sum(p.score for p in inside) / len(inside)
    kinds = {p.kind for p in inside}
    if kinds == {"same"}:
        words = "average them"
    elif kinds & {"mixed", "conflicted"}:
        words = "let a policy choose by group: they differ by block, or their signs clash"
    elif kinds & {"same", "related"}:
        shared = next(p for p in inside if p.kind in ("same", "related"))
        words = f"sum with ortho: {names[shared.first]} and {names[shared.second]} share a part"
    else:
        words = "add them up: each is kept"
    return Cluster(members, mean, words)


def _opponents(one: int, pairs: Sequence[Pairing]) -> tuple[int, ...]:
    against = [
        p for p in pairs if one in (p.first, p.second) and p.kind in ("opposed", "conflicted")
    ]
    against.sort(key=lambda p: p.score)
    return tuple(p.first if p.second == one else p.second for p in against)
