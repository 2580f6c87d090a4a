"""What the members of a group do to each other, in one word; the strongest pair decides."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from loramix.policies.auto.evidence import Evidence

Regime: TypeAlias = Literal[
    "alone", "disjoint", "independent", "partial", "aligned", "opposed", "conflicted"
]


@dataclass(frozen=True, slots=True)
class Finding:
    """A regime and the pair that decided; none where a member is alone."""

    regime: Regime
    pair: Evidence | None


def find(pairs: Sequence[Evidence], *, aligned: float, opposed: float) -> Finding:
    """The first of these that holds for a pair with a full say.

    ``conflicted``: signs clash beyond the angle, most of all; ``aligned``, ``opposed``: by the
    cosine that is largest in size; ``partial``: such a cosine that is moderate but no chance, or
    the largest overlap if it is none; ``disjoint``: all pairs are apart; ``independent``.  Without
    a pair that has a full say: ``alone``.

    Parameters
    ----------
    aligned, opposed : see `Auto`.
    """
    heard = [pair for pair in pairs if pair.say == 1]
    if not heard:
        return Finding("alone", None)
    clashing = [pair for pair in heard if pair.clashes]
    if clashing:
        return Finding("conflicted", max(clashing, key=lambda pair: pair.clash))
    strongest = max(heard, key=lambda pair: abs(pair.cosine))
    nearest = max(heard, key=lambda pair: pair.shared)
    if not strongest.similar:
        if nearest.overlaps:
            return Finding("partial", nearest)
        apart = all(pair.apart for pair in heard)
        return Finding("disjoint" if apart else "independent", strongest)
    word: Regime = "partial"
    if strongest.cosine >= aligned:
        word = "aligned"
    elif strongest.cosine <= -opposed:
        word = "opposed"
    return Finding(word, strongest)


def explain(finding: Finding, method: str, names: Sequence[str]) -> str:
    """A sentence for users.

    Parameters
    ----------
    method : as users write it.
    names : of the adapters, for every member.
    """
    pair = finding.pair
    if pair is None:
        return f"{method}: one adapter counts here, nothing to decide"
    words = _WORDS[finding.regime](pair)
    return f"{method}: {names[pair.first]} and {names[pair.second]} {words}"


def _cosine(pair: Evidence) -> str:
    return f"cosine {pair.cosine:z.3f} (chance: ±{pair.cosine_bound:.3f})"


def _overlap(pair: Evidence) -> str:
    return f"overlap {pair.shared:z.3f} beyond chance (±{pair.shared_bound:.3f})"


def _end(pair: Evidence) -> str:
    if pair.cosine > pair.cosine_bound:
        return "what points the same way counts once"
    return "nothing points the same way, and they are added"


_WORDS: dict[str, Callable[[Evidence], str]] = {
    "disjoint": lambda pair: f"share no entries or no directions, {_cosine(pair)}; they are added",
    "independent": lambda pair: (
        f"have nothing in common that chance has not, {_cosine(pair)}, {_overlap(pair)}; "
        "they are added"
    ),
    "partial": lambda pair: f"meet in part, {_cosine(pair)}, {_overlap(pair)}; {_end(pair)}",
    "aligned": lambda pair: f"say much the same, {_cosine(pair)}; what they share counts once",
    "opposed": lambda pair: (
        f"work against each other, {_cosine(pair)}; they are added, and cancel as the weights say"
    ),
    "conflicted": lambda pair: (
        f"clash in sign: a sum would lose {100 * pair.clash:.1f} % (±{100 * pair.clash_bound:.1f}) "
        f"more of the energy than their {_cosine(pair)} explains; the heavier sign wins"
    ),
}
