"""What a diagnosis is made of."""

import shlex
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatchcase
from glob import escape
from typing import Literal, TypeAlias

from loramix.diagnosing.subject import Subject

Severity: TypeAlias = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
_GLOBS = 6
"""Options that a command may have before it is described instead."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as it should be.

    Attributes
    ----------
    rule : name of what found it.
    severity : ``error``: loramix, or every client, refuses the file or gets nothing but NaN from
        it; ``warning``: some of it does not do what it seems to; ``note``: good to know.
    where : the first tensor or string that it is about; empty: the file.
    what : what was found.
    mend : what to do about it; empty: nothing needs to be done.
    count : how many tensors, modules or strings it is about.
    """

    rule: str
    severity: Severity
    where: str
    what: str
    mend: str = ""
    count: int = 1


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """All that was found in one file.

    Attributes
    ----------
    path : the file that was looked at.
    format : ``safetensors``, or what it is instead.
    size : bytes.
    tensors : number of them, 0 if they cannot be read.
    architecture, dialect : as far as they are known.
    match : share of its modules that are in the table of the architecture, 0 to 1.
    findings : errors first.
    """

    path: str
    format: str
    size: int
    tensors: int = 0
    architecture: str | None = None
    dialect: str | None = None
    match: float = 0.0
    findings: tuple[Finding, ...] = field(default=())

    @property
    def healthy(self) -> bool:
        """Whether nothing was found."""
        return not self.findings

    @property
    def counts(self) -> Mapping[Severity, int]:
        """Number of findings by severity."""
        return {one: sum(f.severity == one for f in self.findings) for one in SEVERITIES}

    def as_dict(self) -> dict[str, object]:
        """Plain data for JSON."""
        return {**asdict(self), "healthy": self.healthy, "counts": dict(self.counts)}


def in_order(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Errors first; otherwise as the rules stand in their table."""
    return tuple(sorted(findings, key=lambda one: SEVERITIES.index(one.severity)))


def convert(subject: Subject, options: str = "") -> str:
    """What to do to have the file written anew: what `load` refuses has to be mended first."""
    first = "" if subject.adapter is not None else "once the errors are mended, "
    return f"{first}{command(subject, options)}"


def command(subject: Subject, options: str) -> str:
    """The command that writes the file anew."""
    named = "--dialect" in options or "--for" in options
    place = "OUT" if subject.is_folder and not named else "OUT.safetensors"
    words = ["loramix convert", shlex.quote(str(subject.path)), options, f"-o {place}"]
    return " ".join(word for word in words if word)


def without(subject: Subject, names: Iterable[str], others: Iterable[str]) -> str:
    """The command that writes the file without some tensors.

    Parameters
    ----------
    names : what to leave out.
    others : what to keep.
    """
    left, kept = list(dict.fromkeys(names)), list(others)
    count = len(left)
    globs: list[str] = []
    while left and len(globs) <= _GLOBS:
        glob = next(one for one in _globs(left[0]) if not any(fnmatchcase(k, one) for k in kept))
        globs.append(f"--skip {shlex.quote(glob)}")
        left = [name for name in left if not fnmatchcase(name, glob)]
    if len(globs) > _GLOBS:
        return f"'loramix convert' with a --skip 'GLOB' for each of these {count} tensors"
    return command(subject, " ".join(globs))


def _globs(name: str) -> Iterable[str]:
    """Ways to name a tensor: by the end of its name, by its beginning, whole; short ones first."""
    parts = name.split(".")
    for start in range(len(parts) - 1, 0, -1):
        yield "*." + escape(".".join(parts[start:]))
    for end in range(1, len(parts)):
        yield escape(".".join(parts[:end])) + ".*"
    yield escape(name)
