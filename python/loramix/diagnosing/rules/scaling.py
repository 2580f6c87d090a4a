"""Alphas: missing, zero, far from the rank, in a place where no client looks."""

import math
from collections.abc import Iterator

from loramix.diagnosing.findings import Finding, convert, without
from loramix.diagnosing.subject import Module, Subject
from loramix.formats.dialects import is_flat
from loramix.formats.scales import CONFIG, header_alpha
from loramix.formats.trained import KEY

_FAR = 4.0
"""Largest scale that nobody wonders at; rs-LoRA as LyCORIS stores it has up to sqrt(rank)."""


def alpha_zero(subject: Subject) -> Iterator[Finding]:
    """Alphas of 0: trainers mean the rank, whoever reads the file takes it literally."""
    zero = [module for module in subject.modules if module.alpha == 0]
    if zero:
        names = [module.entry.names["alpha"] for module in zero]
        others = [name for name in subject.tensors if name not in set(names)]
        what = f"alpha is 0 in {len(zero)} of {len(subject.modules)} modules: they do nothing"
        mend = f"if alpha = rank was meant, as trainers take it: {without(subject, names, others)}"
        yield Finding("alpha-0", "warning", names[0], what, mend, len(zero))


def alpha_missing(subject: Subject) -> Iterator[Finding]:
    """No alpha where others have one, or where the dialect has one everywhere."""
    without = [module for module in subject.modules if not _has_scale(module)]
    if not without or _has_config(subject):
        return
    first = without[0].entry.names["up"]
    if len(without) < len(subject.modules):
        what = (
            f"no alpha in {len(without)} of {len(subject.modules)} modules: those have scale 1, "
            "the others alpha / rank"
        )
        mend = "compare the strengths that the modules were trained with"
        yield Finding("alpha-missing", "warning", first, what, mend, len(without))
    elif subject.dialect is not None and is_flat(subject.dialect):
        what = "no alpha at all, as Kohya files have it: every client takes scale 1"
        mend = f"{convert(subject)} writes alphas that say the same"
        yield Finding("alpha-missing", "note", first, what, mend, len(without))


def _has_scale(module: Module) -> bool:
    return "alpha" in module.entry.names or "scale" in module.entry.names


def _has_config(subject: Subject) -> bool:
    return "lora_adapter_metadata" in subject.strings or CONFIG in subject.strings


def alpha_odd(subject: Subject) -> Iterator[Finding]:
    """Alphas far above the rank, or negative."""
    odd = [module for module in subject.modules if _is_odd(module)]
    # One alpha for all modules, as diffusers demands it of Kohya files, is far above small ranks;
    # what loramix writes so has ups that are as much smaller.
    if odd and KEY not in subject.strings:
        first = odd[0]
        what = (
            f"alpha {first.alpha:g} at rank {first.rank}: a scale of "
            f"{(first.alpha or 0.0) / first.rank:.3g}; usual is up to 1 (2 at most)"
        )
        mend = (
            "if images are burnt at strength 1: the ranks may have been changed without the "
            "alphas; use it at a lower strength"
        )
        yield Finding("alpha-odd", "warning", first.entry.names["alpha"], what, mend, len(odd))


def _is_odd(module: Module) -> bool:
    if module.alpha is None or module.rank == 0:
        return False
    scale = module.alpha / module.rank
    return scale < 0 or scale > 1.01 * max(_FAR, math.sqrt(module.rank))


def alpha_in_header(subject: Subject) -> Iterator[Finding]:
    """Some writers put alpha into the header, where no client looks."""
    said = header_alpha(subject.strings)
    if said is not None and not any(_has_scale(module) for module in subject.modules):
        where, text = said
        what = f"the header says alpha = {text[:20]}, and no tensor does: clients take scale 1"
        mend = "use it at the strength alpha / rank"
        yield Finding("alpha-in-header", "warning", where, what, mend)
