"""Which adapters take part in a step."""

from loramix.compose.functional.arrays import Array, library_of, like, wide
from loramix.compose.functional.checks import check_count, check_number


def select(
    scores: Array, k: int, *, previous: Array | None = None, hysteresis: float = 0.0
) -> Array:
    """The k adapters of the highest score: the hard mask of dynamic module selection.

    Parameters
    ----------
    scores : (n, ...), at least 0: `level` of the divergences for one choice per image, the
        divergences themselves for one per patch.  Adapters with a negative score are never chosen.
    k : how many, at least 1.  All where there are no more.
    previous : bool as ``scores``, the choice of the step before.
    hysteresis : how much higher a score must be to replace one of that choice, as a share of it,
        [0, inf).  0: the choice is free in every step.

    Returns
    -------
    bool, as ``scores``; at most k along the first axis.  Of equal scores the first adapters win.

    Raises
    ------
    ParamError : k or the hysteresis out of range.

    Notes
    -----
    The publication ranks by "the same similarity" in every step; whether per image or per patch,
    and k, are not known to us.  Hysteresis is ours.
    Cost: one sort along the first axis.
    """
    check_count("select", "k", k)
    check_number("select", "hysteresis", hysteresis)
    scores = wide(scores)
    xp = library_of(scores)
    allowed = scores >= 0
    if previous is not None:
        scores = scores * (1 + hysteresis * like(previous, scores))
    # Sorted twice, stably: the place of every adapter in the order of falling scores.
    order = xp.argsort(xp.argsort(-scores, axis=0, stable=True), axis=0, stable=True)
    return (order < k) & allowed
