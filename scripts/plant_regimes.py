"""What the policies make of groups whose truth was planted: the tables of docs/POLICIES.md.

python scripts/plant_regimes.py            # prints them
python scripts/plant_regimes.py --write    # and puts them into the page
"""

import argparse
import sys
from collections import Counter
from pathlib import Path

HERE = Path(__file__).parent.parent
PAGE = HERE / "docs" / "POLICIES.md"
BEGIN, END = "<!-- planted: begin -->\n", "<!-- planted: end -->\n"
DRAWS = 200


def tables() -> str:
    """Regimes named by auto, and operators chosen by published, for every planted regime."""
    sys.path.insert(0, str(HERE / "tests"))
    from policies.auto.planted import REGIMES, planted
    from policies.auto.stacks import stack_of

    from loramix.policies.auto import Auto
    from loramix.policies.published import Published

    named: dict[str, Counter[str]] = {}
    chosen: dict[str, Counter[str]] = {}
    for regime in REGIMES:
        truths = [planted(regime, seed) for seed in range(DRAWS)]
        stacks = [stack_of([truth.group], [truth.weights]) for truth in truths]
        named[regime] = Counter(Auto().decide(one).decisions[0].regime for one in stacks)
        chosen[regime] = Counter(Published().decide(one).decisions[0].regime for one in stacks)
    return "\n".join(
        (_table("`auto` says", named), _table("`published` chooses", chosen)),
    )


def _table(title: str, rows: dict[str, Counter[str]]) -> str:
    columns = list(dict.fromkeys(name for row in rows.values() for name in row))
    lines = [
        f"| planted, {title} | {' | '.join(columns)} |",
        f"|---|{'---:|' * len(columns)}",
        *(
            f"| {regime} | {' | '.join(str(row[name] or '') for name in columns)} |"
            for regime, row in rows.items()
        ),
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Print or write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true")
    found = tables()
    print(found)
    if parser.parse_args().write:
        text = PAGE.read_text(encoding="utf-8")
        before, _, rest = text.partition(BEGIN)
        PAGE.write_text(before + BEGIN + found + END + rest.partition(END)[2], encoding="utf-8")


if __name__ == "__main__":
    main()
