"""From similarities to weights of adapters that sum to one, and what can be said about them."""

from collections.abc import Sequence
from typing import Literal, TypeAlias

from loramix.compose.functional.arrays import Array, library_of, like, wide
from loramix.compose.functional.checks import check_number, check_word
from loramix.errors import ParamError, ShapeError

Scope: TypeAlias = Literal["image", "patch"]

_TRACE = 1e-30
"""What is added before a mask: where all weights that it allows are 0 in float32, equal ones."""


def softmin(
    similarity: Array,
    *,
    tau: float = 1.0,
    prior: Sequence[float] | Array | None = None,
    chosen: Array | None = None,
) -> Array:
    """SoftMin over adapters: equation 4 of the publication.

    ``w[i, p] = prior_i chosen[i, p] exp(-s[i, p] / tau) / sum_j (the same of j)``.  What turns away
    further from the base weighs more.  A number added to the similarities of a patch changes
    nothing, so minus a `divergence` can be given as well, and has more digits.

    Parameters
    ----------
    similarity : (n, batch, *grid).
    tau : temperature, (0, inf].  With infinity the weights are the priors.  At 1 they are nearly
        uniform, because cosines of an adapter and its base are: a gap of 0.04 gives 0.51 and 0.49
        at tau = 1, 0.60 and 0.40 at 0.1, 0.69 and 0.31 at 0.05, 0.98 and 0.02 at 0.01.
    prior : (n,), none negative, not all zero; None: all alike.  0 excludes an adapter.
    chosen : bool, of a shape that goes with the similarities; None: all.  See `select`.

    Returns
    -------
    As ``similarity``, sums over adapters are 1; 0 where no adapter with a prior is chosen.

    Raises
    ------
    ParamError : tau or a prior out of range.
    ShapeError : not one prior per adapter.

    References
    ----------
    Foteinopoulou et al. 2025, arXiv:2508.11624.  The published value of tau is not known to us.
    """
    check_number("softmin", "tau", tau, above=True, infinite=True)
    similarity = wide(similarity)
    xp = library_of(similarity)
    factor = like(_priors(prior, len(similarity)), similarity)
    factor = factor.reshape((-1,) + (1,) * (similarity.ndim - 1))
    if chosen is not None:
        factor = factor * chosen
    # With patches of one pixel these arrays are large: nothing is made that is not needed.
    exponent = similarity / -tau
    if not bool((factor > 0).all()):
        exponent = xp.where(factor > 0, exponent, xp.full_like(exponent, -float("inf")))
    top = xp.amax(exponent, axis=0, keepdims=True)
    raised = exponent - xp.where(xp.isinf(top), xp.zeros_like(top), top)
    del exponent
    raised = xp.exp(raised)
    if not bool((factor == 1).all()):
        raised = raised * factor
    total = xp.sum(raised, axis=0, keepdims=True)
    return raised / xp.where(total == 0, xp.ones_like(total), total)


def _priors(prior: Sequence[float] | Array | None, count: int) -> list[float]:
    if prior is None:
        return [1.0] * count
    values = [float(value) for value in prior]
    if len(values) != count:
        message = f"prior has {len(values)} numbers for {count} adapters: give one each"
        raise ShapeError(message)
    for value in values:
        check_number("softmin", "prior", value)
    if not any(values):
        message = f"prior = {values}: at least one must be above 0"
        raise ParamError(message)
    return values


def standardise(similarity: Array, *, scope: Scope = "image") -> Array:
    """Similarities free of their unit: less their mean over adapters, by their spread.

    ``z[i, p] = (s[i, p] - mean_i s[i, p]) / spread``, so tau means the same for every model, step
    and strength.

    Parameters
    ----------
    similarity : (n, batch, *grid), or minus a `divergence`.
    scope : where the spread is taken.  ``patch``: the standard deviation over the adapters in
        each patch, so two adapters are always at -1 and 1 whatever lies between them.  ``image``:
        the root of its mean square over all patches, so patches without much difference stay
        near uniform.

    Returns
    -------
    As ``similarity``, mean 0 over adapters; 0 where the spread is.

    Notes
    -----
    Ours; nothing read says that the publication does it.
    """
    check_word("standardise", "scope", scope, ("image", "patch"))
    similarity = wide(similarity)
    xp = library_of(similarity)
    moved = similarity - similarity[:1]  # exact where all are near: equal ones stay equal
    moved = moved - xp.mean(moved, axis=0, keepdims=True)
    # By the largest first: squares of differences of 1e-20 and less leave float32.
    top = xp.amax(xp.abs(moved), axis=tuple(range(2, moved.ndim)), keepdims=True)
    top = xp.amax(top, axis=0, keepdims=True)
    moved = moved / xp.where(top == 0, xp.ones_like(top), top)
    axes = (0,) if scope == "patch" else (0, *range(2, moved.ndim))
    spread = xp.sqrt(xp.mean(moved**2, axis=axes, keepdims=True))
    return moved / xp.where(spread == 0, xp.ones_like(spread), spread)


def level(divergence: Array) -> Array:
    """Mean divergence of every adapter over the patches.

    Parameters
    ----------
    divergence : (n, batch, *grid).

    Returns
    -------
    (n, batch), of the same unit.
    """
    return library_of(divergence).mean(divergence, axis=tuple(range(2, divergence.ndim)))


def normalise(divergence: Array, levels: Array) -> Array:
    """Divergences in units of the adapter's own level.

    ``d[i, p] / levels[i]``.  Otherwise the adapter that is over-trained or too strong, and
    diverges most everywhere, wins everywhere.

    Parameters
    ----------
    divergence : (n, batch, *grid).
    levels : (n, batch), each at least 0, such as a running mean of `level` over the steps.

    Returns
    -------
    As ``divergence``, mean 1 if the levels are those of this step; 0 where the level is.
    """
    xp = library_of(divergence)
    levels = levels.reshape((*levels.shape, *(1,) * (divergence.ndim - 2)))
    found = divergence / xp.where(levels == 0, xp.ones_like(levels), levels)
    return xp.where(levels == 0, xp.zeros_like(found), found)


def restrict(weights: Array, mask: Array) -> Array:
    """Weights inside user masks: a prior for every pixel.

    ``w[i, x] = max_j m[j, x] * w[i, x] m[i, x] / sum_j w[j, x] m[j, x]``.

    Parameters
    ----------
    weights : (n, batch, *space), sums over adapters 1 or less.
    mask : (n, *space) or (n, batch, *space), each in [0, 1].

    Returns
    -------
    As ``weights``.  Sums over adapters are the largest mask of the pixel: the rest, all of it where
    no mask is, is for the base, see `aggregate`.  Where the masks allow only adapters whose weights
    are below 1e-30, these share by their masks.

    Raises
    ------
    ShapeError : masks of other sizes.
    """
    weights = wide(weights)
    xp = library_of(weights)
    mask = like(mask, weights)
    if mask.ndim == weights.ndim - 1:
        mask = mask[:, None]
    if tuple(mask.shape[2:]) != tuple(weights.shape[2:]) or len(mask) != len(weights):
        message = f"masks of {tuple(mask.shape)} for weights of {tuple(weights.shape)}"
        raise ShapeError(message)
    masked = (weights + _TRACE) * mask
    total = xp.sum(masked, axis=0, keepdims=True)
    share = masked / xp.where(total == 0, xp.ones_like(total), total)
    return share * xp.amax(mask, axis=0, keepdims=True)


def departure(weights: Array, prior: Sequence[float]) -> Array:
    """How far weights are from the priors, which are the weights of the composite.

    ``sqrt(mean_p sum_i (w[i, p] - q_i)^2 / q_i)`` with ``q = prior / sum(prior)``: the root mean
    square of what weights differ by, in units of the priors' own.

    Parameters
    ----------
    weights : (n, batch, *grid), sums over adapters 1.
    prior : (n,), none negative, not all zero; an adapter without one has no weight.

    Returns
    -------
    (batch,), at least 0; 1 where one of two adapters alike has all.

    Notes
    -----
    With e_i the predictions of adapters and e their mean by q, the sum by w differs from e by
    ``sum_i q_i (w_i / q_i - 1) (e_i - e)``, so in a patch by no more than the departure there times
    the root mean square distance of the adapters from their mean.
    """
    weights = wide(weights)
    xp = library_of(weights)
    values = _priors(prior, len(weights))
    total = sum(values)
    rows = [i for i, value in enumerate(values) if value > 0]
    own = like([values[i] / total for i in rows], weights)
    own = own.reshape((-1,) + (1,) * (weights.ndim - 1))
    square = xp.sum((weights[rows] - own) ** 2 / own, axis=0)
    return xp.sqrt(xp.mean(square.reshape((square.shape[0], -1)), axis=1))


def entropy(weights: Array) -> Array:
    """Entropy of the weights over adapters, in nats.

    ``-sum_i w_i ln w_i``: 0 where one adapter has all, ln n where all have the same.

    Parameters
    ----------
    weights : (n, ...), each at least 0.

    Returns
    -------
    The shape without the first axis, in [0, ln n] for weights that sum to 1.
    """
    weights = wide(weights)
    xp = library_of(weights)
    logs = xp.log(xp.where(weights > 0, weights, xp.ones_like(weights)))
    return -xp.sum(weights * logs, axis=0)
