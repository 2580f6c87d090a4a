"""Numbers in tensors: NaN, nothing at all, too small for their type; ranks; types."""

from collections import Counter
from collections.abc import Iterator, Sequence

from loramix.diagnosing.findings import Finding, convert, without
from loramix.diagnosing.subject import Module, Subject
from loramix.tensors import ITEM_BYTES

_MANY = 0.05
"""Share of the entries of a file below which those that are too small do not matter."""
_NARROW = ("F8_E4M3", "F8_E5M2")


def not_finite(subject: Subject) -> Iterator[Finding]:
    """NaN or infinity: the image is black, or noise."""
    bad = {name: values for name, values in subject.values.items() if values.bad}
    if bad:
        first = next(iter(bad))
        what = (
            f"{bad[first].bad:,} of {bad[first].entries:,} numbers are NaN or infinite: training "
            "diverged, or the file is damaged"
        )
        owners = {s: e for s, e in subject.entries.items() if bad.keys() & set(e.names.values())}
        names = [name for entry in owners.values() for name in entry.names.values()]
        others = [name for name in subject.tensors if name not in set(names)]
        mend = "take an earlier checkpoint, or another copy"
        if names and others:
            mend += f"; {without(subject, names, others)} writes the rest"
        yield Finding("not-finite", "error", first, what, mend, len(bad))


def untrained(subject: Subject) -> Iterator[Finding]:
    """Factors that are all zero: up is, before the first step of training."""
    zero = [m for m in subject.modules if _is_zero(m, subject)]
    if not zero:
        return
    first, count = zero[0], len(subject.modules)
    if len(zero) < count:
        what = f"{len(zero)} of {count} modules are all zero: they were not trained, and do nothing"
        names = [name for module in zero for name in module.entry.names.values()]
        others = [name for name in subject.tensors if name not in set(names)]
        mend = f"{without(subject, names, others)} writes a smaller file"
        yield Finding("untrained", "note", first.entry.names["up"], what, mend, len(zero))
        return
    what = (
        "all modules are zero: the file was saved before training, or by a script that lost the "
        "trained values (an adapter name such as .default. in its keys that it did not look for)"
    )
    mend = "save it again from the trained model"
    yield Finding("untrained", "warning", first.entry.names["up"], what, mend, len(zero))


def _is_zero(module: Module, subject: Subject) -> bool:
    sides = [subject.values.get(module.entry.names[role]) for role, _ in module.sides]
    return any(side is not None and side.entries > 0 and side.all_zero for side in sides)


def rank_zero(subject: Subject) -> Iterator[Finding]:
    """Pairs of rank 0, as pruning leaves them."""
    empty = [m for m in subject.modules if 0 in m.up.shape or 0 in m.down.shape]
    if empty:
        what = "pairs of rank 0, which do nothing; diffusers refuses a file that has one"
        mend = f"{convert(subject)} leaves them out"
        yield Finding("rank-0", "warning", empty[0].entry.names["up"], what, mend, len(empty))


def subnormal(subject: Subject) -> Iterator[Finding]:
    """Numbers too small for all digits of a narrow type: what was trained is partly lost."""
    some = {n: v for n, v in subject.values.items() if _width(subject, n) <= 2 and v.subnormal}
    total = sum(subject.values[name].entries for name in subject.values)
    lost = sum(values.subnormal for values in some.values())
    if total and lost > _MANY * total:
        worst = max(some, key=lambda name: some[name].subnormal / some[name].entries)
        kind = subject.tensors[worst].dtype.lower()
        what = (
            f"{lost / total:.0%} of all numbers are so small that {kind} has not all digits for "
            "them: a part of what was trained is lost"
        )
        mend = "save it as bf16 or f32 from the trained model; converting does not bring it back"
        yield Finding("subnormal", "warning", worst, what, mend, len(some))


def _width(subject: Subject, name: str) -> int:
    return ITEM_BYTES.get(subject.tensors[name].dtype, 8)


def dtypes(subject: Subject) -> Iterator[Finding]:
    """Types of factors: several, or very narrow ones."""
    factors = {
        module.entry.names[role]: tensor.dtype
        for module in subject.modules
        for role, tensor in module.sides
    }
    counts = Counter(factors.values()).most_common()
    narrow = [name for name, dtype in factors.items() if dtype in _NARROW]
    if narrow:
        what = "factors of 8 bits: two or three digits are left, and older clients refuse them"
        mend = f"{convert(subject, '--dtype bf16')} lets more clients read it"
        yield Finding("dtypes", "note", narrow[0], what, mend, len(narrow))
    elif len(counts) > 1:
        odd = [name for name, dtype in factors.items() if dtype != counts[0][0]]
        what = f"several types: {_listed(counts)}"
        mend = f"{convert(subject)} writes one type"
        yield Finding("dtypes", "note", odd[0], what, mend, len(odd))


def _listed(counts: Sequence[tuple[str, int]]) -> str:
    return ", ".join(f"{name.lower()} ({count})" for name, count in counts)
