"""The rules, by subject.  Each looks at a file and yields what it finds."""

from collections.abc import Callable, Iterator, Mapping

from loramix.diagnosing.findings import Finding
from loramix.diagnosing.rules import clients, naming, numbers, scaling, strings
from loramix.diagnosing.subject import Subject

Rule = Callable[[Subject], Iterator[Finding]]

RULES: Mapping[str, Rule] = {
    "refused": naming.refused,
    "duplicate": naming.duplicate,
    "unrecognised": naming.unrecognised,
    "transposed": naming.transposed,
    "not-finite": numbers.not_finite,
    "untrained": numbers.untrained,
    "rank-0": numbers.rank_zero,
    "subnormal": numbers.subnormal,
    "dtypes": numbers.dtypes,
    "alpha-0": scaling.alpha_zero,
    "alpha-missing": scaling.alpha_missing,
    "alpha-odd": scaling.alpha_odd,
    "alpha-in-header": scaling.alpha_in_header,
    "stated-rank": strings.stated_rank,
    "stated-alpha": strings.stated_alpha,
    "stated-model": strings.stated_model,
    "stale-hash": strings.stale_hash,
    **clients.RULES,
}
"""Name to rule, in the order of their findings."""
