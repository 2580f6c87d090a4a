"""A plan as text: what is done with every group, with which weights, by which rule."""

import textwrap
from collections import Counter
from collections.abc import Sequence
from itertools import groupby

from loramix.planning.steps import Choice, Plan, Step
from loramix.recipes import rules
from loramix.report import cells, naming
from loramix.report.facts import Overview
from loramix.report.text import render_plan, suggested

FEW = 12
"""Groups that are shown one by one without being asked for."""
_RULES = 4
"""Rules on ranks that are shown one by one; of more, how many targets have which rank."""


def render(plan: Plan, found: Overview, width: int = 80, *, groups: bool = False) -> str:
    """Lay a plan out.

    Parameters
    ----------
    found : the report on it.
    groups : whether every group is shown, and not only blocks.
    """
    letters = naming.letters(len(plan.adapters))
    parts = [render_plan(found, width), *resolved(plan, width)]
    if plan.suggested is not None:
        parts.append(cells.fields(suggested(plan.suggested), width))
    if groups or len(plan.choices) <= FEW:
        parts.append("\n".join(_groups(plan, letters, width)))
    return "\n\n".join(parts)


def resolved(plan: Plan, width: int = 80) -> list[str]:
    """What became of weights by block and of rules; nothing where there are none."""
    letters = naming.letters(len(plan.adapters))
    return [*_weights(plan, letters, width), *_rules(plan, width)]


def _weights(plan: Plan, letters: Sequence[str], width: int) -> list[str]:
    """The users' weights block by block, where they are not the same everywhere."""
    blocks = naming.blocks_of(choice.target.key for choice in plan.choices)
    rows: dict[str, dict[int, set[float]]] = {}
    for choice in plan.choices:
        row = rows.setdefault(blocks[choice.target.key], {})
        for owner, weight in zip(choice.owners, choice.asked, strict=True):
            row.setdefault(owner, set()).add(weight)
    found: list[set[float]] = [set() for _ in letters]
    for row in rows.values():
        for owner, weights in row.items():
            found[owner] |= weights
    if all(len(weights) < 2 for weights in found):
        return []
    spans = [
        (naming.brief(name), tuple(_span(row.get(i, set())) for i in range(len(letters))))
        for name, row in sorted(rows.items(), key=lambda item: naming.in_order(item[0]))
    ]
    body = []
    for weights_, alike in groupby(spans, key=lambda pair: pair[1]):
        names = [name for name, _ in alike]
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        body.append((names[0] + more, *weights_))
    header = ("weights of", *letters)
    return [cells.table(header, body, "l" + "r" * len(letters), width)]


def _span(weights: set[float]) -> str:
    return cells.span(min(weights), max(weights)) if weights else "-"


def _rules(plan: Plan, width: int) -> list[str]:
    if not plan.rules:
        return []
    if len(plan.rules) > _RULES and all(_is_of_rank(row) for row in plan.rules):
        return [cells.fields([("ranks", _distribution(plan.rules))], width)]
    lines = [
        (
            f"rule {places}" if places != "-" else "no rule",
            f"{count} targets, such as {first}: "
            + ", ".join(f"{name} {cell}" for name, cell in zip(rules.HEADER[3:], rest, strict=True)
                        if cell != "-"),
        )
        for places, count, first, *rest in plan.rules
    ]  # fmt: skip
    return [cells.fields([(label, text.removesuffix(": ")) for label, text in lines], width)]


def _is_of_rank(row: Sequence[str]) -> bool:
    """Whether rules say the rank of some targets, and nothing else."""
    said = dict(zip(rules.HEADER[3:], row[3:], strict=True))
    return said["rank"] != "-" and set(said.values()) == {"-", said["rank"]}


def _distribution(rows: Sequence[Sequence[str]]) -> str:
    """How many targets have which rank: what a budget chose has a rule for each."""
    place = rules.HEADER.index("rank")
    counts: Counter[int] = Counter()
    for row in rows:
        counts[int(row[place])] += int(row[1])
    return ", ".join(f"{rank} ({counts[rank]})" for rank in sorted(counts)) + " targets"


def _groups(plan: Plan, letters: Sequence[str], width: int) -> list[str]:
    steps = plan.steps_by_group()
    lines = []
    for choice in plan.choices:
        step = steps[choice.target.key]
        lines.append(f"  {cells.printable(choice.target.key)}")
        for text in (_does(choice, step, plan, letters), choice.decision.why):
            lines += textwrap.wrap(
                cells.printable(text), max(width, 40), initial_indent="    ",
                subsequent_indent="    ", break_long_words=False,
            )  # fmt: skip
    return lines


def _does(choice: Choice, step: Step, plan: Plan, letters: Sequence[str]) -> str:
    decision = choice.decision
    sides = decision.sides or ("all",) * len(choice.owners)
    members = ", ".join(
        f"{letters[owner]} {weight:.4g}{'' if side == 'all' else f' ({side})'}"
        for owner, weight, side in zip(choice.owners, decision.weights, sides, strict=True)
    )
    facts = ", ".join(
        (
            *([decision.regime] if decision.regime else []),
            f"rank {'' if step.kind == 'sum' else 'up to '}{step.largest_rank(plan.output)}",
            plan.backend,
            cells.size(step.bytes(plan.output, plan.dtype)),
        )
    )
    return f"{naming.method_name(decision.method)} of {members} ({facts})"
