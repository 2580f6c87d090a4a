"""Names: tensors that nobody understands, modules that are there twice, unknown models."""

import re
import shlex
from collections.abc import Iterator, Sequence

from loramix.adapters.turning import turned_of
from loramix.diagnosing.findings import Finding, command, convert, without
from loramix.diagnosing.subject import Module, Subject
from loramix.errors import LoramixError
from loramix.formats import keys
from loramix.formats.detect import ACCEPT
from loramix.groups import fusions
from loramix.types import Target

_SHOWN = 3
_NOTHING = "there is nothing else in the file: get it in another form"
_BASE = re.compile(r"\bbase (weights|model)\b|--base\b")
# What `load` says of the whole file, and to everybody.
_ADVICE = re.compile(r"(?:; \d+ such tensors)?\. Nothing is dropped.*|: leave it out with --skip.*")


def refused(subject: Subject) -> Iterator[Finding]:
    """Whatever `load` refuses: module by module, those of one kind together."""
    if subject.refusal is None:
        return
    if keys.is_model(subject.entries.values(), subject.unknown):
        what = "no adapter, but the weights of a model"
        mend = (
            f"to merge adapters into it: loramix bake {shlex.quote(str(subject.path))} "
            "A.safetensors -o OUT.safetensors"
        )
        count = len(subject.tensors)
        yield Finding("refused", "error", subject.unknown[0], what, mend, count)
        return
    in_strings = subject.refusal_of(())
    if in_strings is not None:
        what = _without_path(in_strings, subject)
        mend = "mend the string, or leave it out"
        yield Finding("refused", "error", what.partition(":")[0], what, mend)
        return
    kinds: dict[str, list[str]] = {}
    said: dict[str, str] = {}
    for probe in _probes(subject):
        error = subject.refusal_of(probe)
        if error is not None:
            kind = _kind(error, probe)
            kinds.setdefault(kind, []).extend(probe)
            said.setdefault(kind, _without_path(error, subject))
    bad = {name for names in kinds.values() for name in names}
    others = [name for name in subject.tensors if name not in bad]
    for kind, names in kinds.items():
        mend = _left_out(names, others, subject)
        if _BASE.search(said[kind]):
            folded = f"{command(subject, '--base MODEL.safetensors')} folds it in"
            mend = folded if mend == _NOTHING else f"{folded}; or {mend}"
        yield Finding("refused", "error", names[0], said[kind], mend, len(set(names)))
    if not kinds and next(duplicate(subject), None) is None:
        yield Finding("refused", "error", "", _without_path(subject.refusal, subject))


def _probes(subject: Subject) -> Iterator[tuple[str, ...]]:
    """What may be refused for itself: modules, and tensors without one."""
    for entry in subject.entries.values():
        yield tuple(entry.names.values())
    for name in subject.unknown:
        # A second tensor for one role is wrong only beside the first.
        own, _ = keys.parse([name])
        beside = [subject.entries[stem].names.values() for stem in own if stem in subject.entries]
        yield (name, *(other for names in beside for other in names))


def _kind(error: LoramixError, names: Sequence[str]) -> str:
    """The message without the names and numbers of this one module."""
    text = str(error)
    for name in sorted(names, key=len, reverse=True):
        text = text.replace(name, "_")
    return "".join("0" if c.isdigit() else c for c in text)


def _without_path(error: LoramixError, subject: Subject) -> str:
    text = str(error).removeprefix(f"{subject.file.path}: ")
    return _ADVICE.sub("", text)


def _left_out(names: Sequence[str], others: Sequence[str], subject: Subject) -> str:
    if not any(name.rpartition(".")[2] != "alpha" for name in others):
        return _NOTHING
    return f"{without(subject, names, others)} writes the rest"


def duplicate(subject: Subject) -> Iterator[Finding]:
    """Modules under two spellings, or fused and split: clients apply one of them, or both."""
    table = fusions(subject.layout)
    found: dict[str, list[Module]] = {}
    for module in subject.modules:
        for target in subject.targets_of(module):
            whole = table.get(target.key)
            fused = whole is not None and whole.target == target
            for key in [part.key for part, _ in whole.parts] if whole and fused else [target.key]:
                found.setdefault(key, []).append(module)
    twice = [modules for modules in found.values() if len(modules) > 1]
    for equal in (True, False):
        some = [modules for modules in twice if _equal(modules) == equal]
        if some:
            yield _twice(subject, some, equal=equal)


def _twice(subject: Subject, some: Sequence[Sequence[Module]], *, equal: bool) -> Finding:
    first, second = some[0][:2]
    spelled = f"{first.entry.stem} and {second.entry.stem} change the same weight"
    if equal:
        what = f"{spelled}, by the same values: some clients apply both"
        mend = convert(subject) + " writes it once"
        return Finding("duplicate", "warning", second.entry.stem, what, mend, len(some))
    what = f"{spelled}, by different values: clients disagree on what counts"
    names = list(second.entry.names.values())
    others = [name for name in subject.tensors if name not in names]
    mend = f"leave one out, such as {without(subject, names, others)}"
    return Finding("duplicate", "error", second.entry.stem, what, mend, len(some))


def _equal(modules: Sequence[Module]) -> bool:
    first = modules[0]
    return all(
        (one.up.shape, one.down.shape, one.alpha) == (first.up.shape, first.down.shape, first.alpha)
        and one.up.data == first.up.data
        and one.down.data == first.down.data
        for one in modules[1:]
    )


def unrecognised(subject: Subject) -> Iterator[Finding]:
    """A base model that no table knows, that several fit, or that not all modules belong to."""
    count, layout = len(subject.modules), subject.layout
    if layout is not None:
        known = {Target(f"{m.component}.{m.name}", m.shape) for m in layout.modules}
        known |= {fusion.target for fusion in fusions(layout).values()}
        strange = [
            m.entry.stem for m in subject.modules if not known.issuperset(subject.targets_of(m))
        ]
        if strange:
            more = f" and {len(strange) - _SHOWN} more" if len(strange) > _SHOWN else ""
            what = f"{layout.name} has no such module of that shape: {', '.join(strange[:_SHOWN])}"
            mend = "clients leave it out; was it trained on a changed model?"
            yield Finding("unrecognised", "warning", strange[0], what + more, mend, len(strange))
    elif subject.candidates:
        what = f"its {count} modules fit {' or '.join(subject.candidates)} equally well"
        mend = f"where it matters, say --architecture {subject.candidates[0]}"
        yield Finding("unrecognised", "note", "", what, mend)
    elif count:
        best = subject.match.runner_up
        what = f"no known base model has {ACCEPT:.0%} of its {count} modules"
        mend = "it can be merged with adapters whose names are of the same kind"
        if best is not None:
            what += f"; the nearest is {best[0]}, which {best[1]:.0%} fit"
            mend = f"if it is for {best[0]}, say --architecture {best[0]}"
        yield Finding("unrecognised", "note", "", what, mend)


def transposed(subject: Subject) -> Iterator[Finding]:
    """Pairs as (rank, rows) and (columns, rank), which scripts that transpose twice leave."""
    if subject.adapter is None:
        return
    names = list(dict.fromkeys(one.keys[0] for one in turned_of(subject.adapter.targets)))
    if names:
        what = (
            f"{len(names)} of {len(subject.modules)} pairs are stored transposed: most clients "
            "refuse them, or take square ones for other weights"
        )
        mend = f"{convert(subject)} writes them the right way round"
        yield Finding("transposed", "warning", names[0], what, mend, len(names))
