"""Names: tensors that nobody understands, modules that are there twice, unknown models."""

import re
from collections.abc import Iterator, Sequence

from loramix.diagnosing.findings import Finding, convert, without
from loramix.diagnosing.subject import Module, Subject
from loramix.errors import LoramixError
from loramix.formats import keys
from loramix.formats.detect import ACCEPT
from loramix.formats.dialects import lookup

_SHOWN = 3
_BASE = re.compile(r"\bbase (weights|model)\b|--base\b")
# What `load` says of the whole file, and to everybody.
_ADVICE = re.compile(r"; \d+ such tensors\. Nothing is dropped.*|: leave it out with --skip.*")


def refused(subject: Subject) -> Iterator[Finding]:
    """Whatever `load` refuses: module by module, those of one kind together."""
    if subject.refusal is None:
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
            mend = f"{convert(subject.path, '--base MODEL.safetensors')} folds it in; or {mend}"
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
        return "there is nothing else in the file: get it in another form"
    return f"{without(subject.path, names, others)} writes the rest"


def duplicate(subject: Subject) -> Iterator[Finding]:
    """Modules under two spellings: clients apply one of them, or both."""
    found: dict[str, list[Module]] = {}
    for module in subject.modules:
        known = (
            lookup(module.stem, subject.match.layout, module.size) if subject.match.layout else ()
        )
        for key in [f"{m.component}.{m.name}" for m in known] or [module.stem.key]:
            found.setdefault(key, []).append(module)
    twice = [modules for modules in found.values() if len(modules) > 1]
    for equal in (True, False):
        some = [modules for modules in twice if _equal(modules) == equal]
        if not some:
            continue
        first, second = some[0][:2]
        spelled = f"{first.entry.stem} and {second.entry.stem} are one module"
        others = [n for n in subject.tensors if n not in second.entry.names.values()]
        if equal:
            what = f"{spelled}, with the same values: some clients apply it twice"
            mend = convert(subject.path) + " writes it once"
            yield Finding("duplicate", "warning", second.entry.stem, what, mend, len(some))
        else:
            what = f"{spelled}, with different values: clients disagree on which counts"
            left_out = without(subject.path, second.entry.names.values(), others)
            mend = f"leave one out, such as {left_out}"
            yield Finding("duplicate", "error", second.entry.stem, what, mend, len(some))


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
    match, count = subject.match, len(subject.modules)
    if not count:
        return
    if match.layout is None and match.candidates:
        names = " or ".join(match.candidates)
        what = f"its {count} modules fit {names} equally well"
        mend = "where it matters, say --architecture " + match.candidates[0]
        yield Finding("unrecognised", "note", "", what, mend)
    elif match.layout is None:
        best = match.runner_up
        near = f"; the nearest is {best[0]}, which {best[1]:.0%} fit" if best else ""
        what = f"no known base model has {ACCEPT:.0%} of its {count} modules{near}"
        mend = f"if it is for {best[0]}, say --architecture {best[0]}" if best else (
            "it can be merged with adapters whose names are of the same kind"
        )  # fmt: skip
        yield Finding("unrecognised", "note", "", what, mend)
    elif match.share < 1:
        layout = match.layout
        strange = [m.entry.stem for m in subject.modules if not lookup(m.stem, layout, m.size)]
        what = f"{layout.name} has no such module of that shape: {', '.join(strange[:_SHOWN])}" + (
            f" and {len(strange) - _SHOWN} more" if len(strange) > _SHOWN else ""
        )
        mend = "clients leave it out; was it trained on a changed model?"
        yield Finding("unrecognised", "warning", strange[0], what, mend, len(strange))
