"""Pass 2: execute a plan, step by step, into a file that is verified before it gets its name."""

import math
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from loramix.adapters import loading
from loramix.backends.base import Backend
from loramix.digests import Hashing, placeholders
from loramix.executing import placing
from loramix.executing.accounting import Share, total
from loramix.executing.carrying import Carrying
from loramix.executing.verifying import Row, verify
from loramix.executing.writing import write, write_alphas
from loramix.formats import metadata, scales
from loramix.io.safetensors import SafetensorsFile
from loramix.io.writing import MemoryWriter, Writer, header_room
from loramix.planning.steps import Plan
from loramix.recipes.provenance import provenance, sources
from loramix.tensors import ITEM_BYTES
from loramix.types import Adapter


@dataclass(frozen=True, slots=True)
class Merged:
    """A finished merge.

    Attributes
    ----------
    adapter : the result, opened.
    path : where it is; None if it was kept in memory.
    log : one row per target, largest first.
    plan : what was executed.
    """

    adapter: Adapter
    path: Path | None
    log: tuple[Row, ...] = field(repr=False)
    plan: Plan = field(repr=False)

    @property
    def error(self) -> float:
        """Relative error of the whole file against what was meant."""
        sizes = [(row.norm, row.error) for row in self.log if row.norm is not None]
        norm = math.fsum(size**2 for size, _ in sizes)
        gap = math.fsum((error * size) ** 2 for size, error in sizes)
        return math.sqrt(gap / norm) if norm > 0 else 0.0

    @property
    def shares(self) -> tuple[Share, ...]:
        """What became of every adapter, over all targets."""
        return total(row.shares for row in self.log)


def execute(
    plan: Plan,
    path: Path | None,
    *,
    backend: Backend,
    threads: int | None = None,
    step: Callable[[int], None],
    hashing: Hashing | None = None,
) -> Merged:
    """Execute a plan.

    Parameters
    ----------
    path : output file, or folder for the PEFT dialect; None keeps the result in memory.
    backend : carries out the arithmetic.
    step : called with numbers of finished steps, twice for each: written, verified.
    hashing : makes the digests of the plan's adapters, where it is at them already.

    Raises
    ------
    OutputError : the result does not fit its type, or is not what was meant when read back.
    OSError : the file cannot be written.  In every case nothing is left behind and a file that
        was there before is untouched.
    """
    with ExitStack() as stack:
        digests = (hashing or stack.enter_context(Hashing())).of(plan.adapters)
        place = None
        made = provenance(plan, placeholders(plan.adapters), backend.name)
        if path is not None:
            room = _room(plan, made)
            place = stack.enter_context(placing.Place(path, plan.dialect, room))
        writer: Writer = place.writer if place else MemoryWriter()
        write_alphas(plan, writer)
        copies = stack.enter_context(Carrying(plan, writer))
        copied = {item.step.target for item in copies.done}
        rest = [one for one in plan.steps if one.target not in copied]
        done = copies.done + write(plan, rest, writer, backend, threads, step)
        ranks = [(d.step.target, d.step.stem, d.made.rank) for d in done if not d.dense]
        config = _config(plan, ranks)
        made["sources"] = sources(plan, digests.result())
        if place is None:
            copies.wait(step)
        hidden = writer.finish(_strings(plan, ranks, made))
        if place is not None:
            hidden.path = place.tensors  # what it will be called, if it is right
        result = _open(plan, hidden, config, place.name if place else "merged")
        if place is not None:
            copies.wait(step)
        rows = verify(plan, result, done, threads, step)
        if place is not None:
            place.commit(config)
    return Merged(result, path, rows, plan)


def _strings(plan: Plan, ranks: metadata.Ranks, made: Mapping[str, object]) -> dict[str, str]:
    """Header metadata of the output.

    Parameters
    ----------
    ranks : those of the factors.
    made : its provenance.
    """
    return metadata.header(
        plan.dialect,
        plan.architecture,
        [adapter.metadata for adapter in plan.adapters],
        made,
        ranks,
        plan.alpha,
        names=[adapter.name for adapter in plan.adapters],
        dense=any(step.kind == "dense" for step in plan.steps),
        bias=_has_bias(plan),
    )


def _config(plan: Plan, ranks: metadata.Ranks) -> str | None:
    """Text of the ``adapter_config.json``, for the dialect that has one."""
    if not plan.dialect.folder:
        return None
    source = plan.adapters[0].metadata.get(scales.CONFIG)
    return metadata.peft_config(source, ranks, bias=_has_bias(plan))


def _has_bias(plan: Plan) -> bool:
    """Whether pairs have biases."""
    suffix = plan.dialect.vectors.bias
    return any(step.suffix == suffix for step in plan.steps if step.suffix)


def _room(plan: Plan, made: Mapping[str, object]) -> int:
    """Bytes that the header may need; ranks are not known yet, nor digests."""
    pairs = [step for step in plan.steps if step.kind != "dense"]
    names = [
        *(
            (name, len(step.target.shape))
            for step in plan.steps
            for name in step.tensors(plan.dialect)
        ),
        *((s.stem + ".alpha", 0) for s in pairs),
    ]
    ranks = [(s.target, s.stem, 10**9 + i) for i, s in enumerate(pairs)]
    return header_room(names, _strings(plan, ranks, made))


def bytes_around(plan: Plan, backend: str) -> int:
    """What the file of tensors takes beside its factors: length, header, alphas.

    Parameters
    ----------
    backend : name of what will carry the plan out; the header says it.
    """
    pairs = sum(step.kind != "dense" for step in plan.steps)
    alphas = pairs * ITEM_BYTES["F32"] if plan.alpha is not None else 0
    made = provenance(plan, placeholders(plan.adapters), backend)
    return 8 + -(-_room(plan, made) // 8) * 8 + alphas


def _open(plan: Plan, file: SafetensorsFile, config: str | None, name: str) -> Adapter:
    """Read the result with the reader that everyone uses."""
    strings = {**file.metadata, **({scales.CONFIG: config} if config else {})}
    return loading.read(file, name, strings, architecture=plan.architecture)
