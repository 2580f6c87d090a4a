"""Which base model an adapter was trained for: the table its names *and shapes* hit.

Several tables may hit equally well, because models share blocks.  Rules decide between them, one
after the other, each by one kind of evidence; what none decides stays open.  The candidates are
kept: in a stack, what fits several models goes with an adapter that fits one.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from loramix.formats.dialects import NETWORKS, Stem, lookup
from loramix.formats.hints import hint_of
from loramix.formats.layout import LAYOUTS, Hit, Layout, flatten, load_layout
from loramix.formats.layout_text import World
from loramix.formats.sketches import Size, patterns, sketch

ACCEPT = 0.8
"""Share of the modules that must hit a table before we believe it."""

# Models, and larger ones that have all of their blocks.  What fits both was trained on either.
LARGER: Mapping[str, tuple[str, ...]] = {
    "wan21_t2v_14b": ("wan21_i2v_14b",),
    "wan21_t2v_1_3b": ("wan21_vace_1_3b",),
    "sd3_medium": ("sd35_medium",),
}

_OWN: tuple[World, ...] = ("name", "original")
_INDEX = re.compile(r"(.*?)_([0-9]+)_")


@dataclass(frozen=True, slots=True)
class Match:
    """Result of a detection.

    Attributes
    ----------
    layout : the table, or None if none hits well, or several hit equally well.
    share : of the modules that hit the (best) table with name and shape, 0 to 1.
    hits : how many they are.
    candidates : tables that share the best score, if it is good enough.
    runner_up : the next best table and its share; of an unknown model, the best.
    because : what decided between the candidates, or narrowed them; empty if nothing had to.
    """

    layout: Layout | None
    share: float
    hits: int
    candidates: tuple[str, ...]
    runner_up: tuple[str, float] | None
    because: str = ""


@dataclass(frozen=True, slots=True)
class _File:
    """What a file holds.

    Attributes
    ----------
    modules : stems with the sizes of their deltas.
    flat : the flattened path of every stem.
    others : how many of them are of no text encoder.
    hint : architectures that the header names.
    """

    modules: Sequence[tuple[Stem, Size]]
    flat: Sequence[str]
    others: int
    hint: tuple[str, ...]

    @classmethod
    def of(cls, modules: Sequence[tuple[Stem, Size]], metadata: Mapping[str, str]) -> "_File":
        texts = sum((stem.component or "").startswith("text_encoder") for stem, _ in modules)
        flat = [flatten(stem.path) for stem, _ in modules]
        return cls(modules, flat, len(modules) - texts, hint_of(metadata))

    def counted(self, components: frozenset[str]) -> int:
        """Modules that speak for or against a table that lists these components.

        Where a table lists no text encoder, one says nothing about the model.
        """
        return self.others if components <= set(NETWORKS) else len(self.modules)

    def hits(self, layout: Layout) -> list[Hit | None]:
        """What every module is in a table."""
        return [lookup(stem, layout, size) for stem, size in self.modules]


@dataclass(frozen=True, slots=True)
class _Score:
    """How well a table fits: the share of what counts, and what every module of the file is."""

    name: str
    share: float
    hits: tuple[Hit | None, ...]

    @classmethod
    def of(cls, file: _File, name: str) -> "_Score":
        layout = load_layout(name)
        hits = tuple(file.hits(layout))
        known = sum(hit is not None for hit in hits)
        counted = file.counted(frozenset(layout.prefixes))
        return cls(name, known / counted if counted else 0.0, hits)

    @property
    def known(self) -> int:
        return sum(hit is not None for hit in self.hits)


def detect(
    modules: Sequence[tuple[Stem, Size]],
    only: str | None = None,
    metadata: Mapping[str, str] | None = None,
) -> Match:
    """Score every table by the share of (stem, (rows, cols)) that it knows.

    Parameters
    ----------
    modules : what a file holds: stems with the sizes of their deltas, None where unknown.
    only : name of the table to use whatever its score.
    metadata : strings of the header; a hint between tables that fit equally well, no more.

    Notes
    -----
    Cost: all layout files are read in the first call, then 2 to 5 tables are expanded, and kept;
    afterwards one look-up per module and table.
    """
    file = _File.of(modules, metadata or {})
    if only:
        one = _Score.of(file, only)
        return Match(load_layout(only), one.share, one.known, (only,), None)
    scores = _best(file)
    if not scores:
        return Match(None, 0.0, 0, (), None)
    best, names = scores[0], list(LAYOUTS)
    if best.share < ACCEPT:
        nearest = (best.name, best.share) if best.known else None
        return Match(None, best.share, best.known, (), nearest)
    top = sorted((s for s in scores if s.share == best.share), key=lambda s: names.index(s.name))
    rest = next(((s.name, s.share) for s in scores if s.share < best.share), None)
    found = Match(None, best.share, best.known, tuple(s.name for s in top), rest)
    left, because = _decided(file, top)
    if len(left) > 1:
        return replace(found, because=because)
    return replace(found, layout=load_layout(left[0].name), hits=left[0].known, because=because)


def _best(file: _File) -> list[_Score]:
    """All tables with the best score, and those behind them down to the runner-up; best first."""
    names = patterns(zip(file.flat, (size for _, size in file.modules), strict=True))
    most = {}
    for name in LAYOUTS:
        rough = sketch(name)
        counted = file.counted(rough.components)
        most[name] = min(rough.most(names) / counted, 1.0) if counted else 0.0
    found: list[_Score] = []
    for name in sorted(LAYOUTS, key=lambda name: -most[name]):
        shares = sorted({score.share for score in found}, reverse=True)
        if not most[name] or (len(shares) > 1 and most[name] <= shares[1]):
            break
        found.append(_Score.of(file, name))
    return sorted(found, key=lambda score: -score.share)


def _decided(file: _File, scores: list[_Score]) -> tuple[list[_Score], str]:
    """What the rules leave, and why."""
    reasons = []
    for rule, reason in _RULES:
        left = rule(file, scores) if len(scores) > 1 else scores
        if 0 < len(left) < len(scores):
            names = " or ".join(score.name for score in left)
            reasons.append(reason.format(names))
            scores = left
    return scores, "; ".join(reasons)


def _by_text_encoders(_file: _File, scores: list[_Score]) -> list[_Score]:
    """Text encoders count for a model that lists them, and not against one that lists none."""
    most = max(score.known for score in scores)
    return [score for score in scores if score.known == most]


def _by_last_blocks(file: _File, scores: list[_Score]) -> list[_Score]:
    """A file that was trained on whole models ends where the model ends."""
    left = []
    for score in scores:
        pairs = zip(file.flat, score.hits, strict=True)
        own = _last((hit.modules[0].component, flat) for flat, hit in pairs if hit is not None)
        table = _last(load_layout(score.name).hits)
        if own and all(table[family] == last for family, last in own.items()):
            left.append(score)
    return left


def _last(names: Iterable[tuple[str, str]]) -> dict[tuple[str, str], int]:
    """Component and beginning of a name to the largest number that follows."""
    found: dict[tuple[str, str], int] = {}
    for component, flat in names:
        match = _INDEX.match(flat)
        if match:
            family = component, match[1]
            found[family] = max(found.get(family, 0), int(match[2]))
    return found


def _by_spelling(file: _File, scores: list[_Score]) -> list[_Score]:
    """Flattened names may be alike where dotted ones are not."""
    wrong = {}
    for score in scores:
        pairs = zip(file.modules, score.hits, strict=True)
        wrong[score.name] = sum(
            "." in stem.path and hit is not None and stem.path not in _spelled(hit)
            for (stem, _), hit in pairs
        )
    least = min(wrong.values())
    return [score for score in scores if wrong[score.name] == least]


def _by_metadata(file: _File, scores: list[_Score]) -> list[_Score]:
    """What a trainer wrote down; before blocks, because blocks can end anywhere by choice."""
    return [score for score in scores if score.name in file.hint]


def _by_size(_file: _File, scores: list[_Score]) -> list[_Score]:
    """The smaller of two models is what most adapters that fit both were trained on."""
    larger = {name for score in scores for name in LARGER.get(score.name, ())}
    left = [score for score in scores if score.name not in larger]
    return left if len(left) == 1 else scores


def _by_world(_file: _File, scores: list[_Score]) -> list[_Score]:
    """What is called as in a model's own code is less likely another's, renamed."""
    own = {
        score.name: sum(hit is not None and hit.world in _OWN for hit in score.hits)
        for score in scores
    }
    most = max(own.values())
    return [score for score in scores if own[score.name] == most]


def _by_order(_file: _File, scores: list[_Score]) -> list[_Score]:
    """Where no name and no row depends on it, the first: what is written is the same for all."""
    first, *others = ([_placed(hit) for hit in score.hits] for score in scores)
    return scores[:1] if all(other == first for other in others) else scores


def _placed(hit: Hit | None) -> list[tuple[object, ...]]:
    """What a target, its rows and its Kohya name follow from."""
    modules = hit.modules if hit else ()
    return [(m.component, m.name, m.shape, m.rows, m.swap, m.kohya) for m in modules]


def _spelled(hit: Hit) -> set[str]:
    """All dotted names of what a name stands for."""
    first, *more = hit.modules
    names = {first.original, *(alias.name for alias in first.aliases)}
    return names if more else {*names, first.name}


_Rule: TypeAlias = Callable[[_File, list[_Score]], list[_Score]]

# Rules and what they say of those they leave, in the order in which they are asked.
_RULES: tuple[tuple[_Rule, str], ...] = (
    (_by_text_encoders, "its text encoders are those of {}"),
    (_by_metadata, "its metadata name {}"),
    (_by_last_blocks, "its last blocks are those of {}"),
    (_by_spelling, "its names have their dots where those of {} have them"),
    (_by_size, "larger models have all modules of {}"),
    (_by_world, "its names are those of the code of {}"),
    (_by_order, "its names and rows are those of {} in all of them"),
)
