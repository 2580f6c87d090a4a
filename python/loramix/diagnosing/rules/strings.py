"""Strings of the header against what is in the file.  Shapes win; strings mislead people."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping

from loramix.diagnosing.findings import Finding, convert
from loramix.diagnosing.subject import Subject
from loramix.formats import hints

_STATING = (hints.BASE, hints.SPEC)


def stated_rank(subject: Subject) -> Iterator[Finding]:
    """``ss_network_dim`` that no module has."""
    stated = _number(subject.strings.get("ss_network_dim"))
    ranks = Counter(module.rank for module in subject.modules)
    if stated is not None and ranks and stated not in ranks:
        what = f"the header says rank {stated:g}, the tensors have {_listed(ranks)}: it was resized"
        mend = f"clients read the tensors; {convert(subject)} writes what is true"
        yield Finding("stated-rank", "warning", "ss_network_dim", what, mend)


def stated_alpha(subject: Subject) -> Iterator[Finding]:
    """``ss_network_alpha`` that no module has."""
    stated = _number(subject.strings.get("ss_network_alpha"))
    alphas = Counter(m.alpha for m in subject.modules if m.alpha is not None)
    # Stored in 8 digits or 3; a rounded one is the same.
    if stated is None or not alphas or any(math.isclose(stated, a, rel_tol=0.01) for a in alphas):
        return
    what = f"the header says alpha {stated:g}, the tensors have {_listed(alphas)}"
    mend = f"clients read the tensors; {convert(subject)} writes what is true"
    yield Finding("stated-alpha", "note", "ss_network_alpha", what, mend)


def stated_model(subject: Subject) -> Iterator[Finding]:
    """A base model that names and shapes contradict."""
    if subject.architecture is None:
        return
    for name in _STATING:
        said = subject.strings.get(name, "")
        meant = hints.named(name, said)
        if meant and subject.architecture not in meant:
            what = (
                f"the header says {said[:40]}, names and shapes are those of "
                f"{subject.architecture}: it will not work on {' or '.join(meant)}"
            )
            mend = f"{convert(subject)} writes what is true"
            yield Finding("stated-model", "warning", name, what, mend)


def stale_hash(subject: Subject) -> Iterator[Finding]:
    """``sshs_model_hash`` that is not the sha256 of what follows the header."""
    said = subject.strings.get("sshs_model_hash", "").lower()
    if said and said != subject.digest():
        what = (
            "it is not the sha256 of the tensors: they were edited after training, and sites that "
            "look adapters up by this hash find another one"
        )
        mend = f"{convert(subject)} leaves it out"
        yield Finding("stale-hash", "note", "sshs_model_hash", what, mend)


def _number(text: str | None) -> float | None:
    """A number, where the string is one: it may be ``None`` or ``Dynamic``."""
    try:
        found = float(text or "")
    except ValueError:
        return None
    return found if math.isfinite(found) else None


def _listed(counts: Mapping[int, int] | Mapping[float, int]) -> str:
    numbers = sorted(counts)
    shown = ", ".join(f"{number:g}" for number in numbers[:4])
    return shown + (", ..." if len(numbers) > 4 else "")
