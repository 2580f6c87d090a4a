"""Methods with something done to the deltas before: sparsified, refined, in another space."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import numpy as np

from loramix.errors import ParamError
from loramix.methods.base import Coefficients, Elementwise, Law, Program, Selfish, Subspace
from loramix.methods.ortho import GramSchmidt, gram_schmidt, orthogonalised
from loramix.methods.ties_upstream import TiesPublished
from loramix.raw import Side, Site
from loramix.tensors import F64

Level: TypeAlias = Literal["none", "refine", "full", "refine-published", "full-published"]
Space: TypeAlias = Literal["weight", "knots", "core"]
LEVELS: tuple[Level, ...] = ("none", "refine", "full", "refine-published", "full-published")
SPACES: tuple[Space, ...] = ("weight", "knots", "core")

QUOTA = 256
"""Directions that the published alignment keeps."""
_LAMBDA = 3.0
"""An entry is an adapter's own if it is this many times larger than the others'."""
_SPLIT = Selfish(1.0, published=True)


@dataclass(frozen=True, slots=True)
class Composite:
    """A method and what comes before it.

    In this order: the *space* that the deltas are looked at in; random or magnitude
    *sparsification*; *refinement*: entries that belong to one adapter (three times larger than
    those of all others) go around the rest, what is left is made nearly orthogonal (`Ortho`); the
    method itself.  A refined mean is brought back to the mean norm of its inputs, because what
    goes around the mean would otherwise add to it.

    The levels ``refine-published`` and ``full-published`` are the refinement of the published
    adaptive composition to the letter, for comparison.  With c the sparsified or trimmed weighted
    deltas and T their sum, an entry is an adapter's own where ``|c_i| >= |T - c_i|`` holds for it
    alone; it goes around the rest as it is.  What is left is orthogonalised without the weights,
    in stack order (`GramSchmidt`).  ``full-published`` then projects on the 256 leading left
    singular vectors of all of them side by side, and leaves groups of fewer rows or fewer columns
    in all as they are.  The method follows, and then the entries of one adapter are added:
    nothing brings the sum of both back to a norm.  `TiesPublished` elects by rows then, which is
    another result than by entries.  Of two adapters the larger entry goes around the rest
    everywhere: reason enough for another default.

    Choices where the letter leaves one: ``full`` is its alignment by singular vectors (KnOTS), not
    the rotations of random subspaces without a seed; the decomposition is exact, not randomised;
    norms count relative to the largest; a vector is one row.  Whether an average of opposed
    adapters is refined at all is the publication's choice of a strategy, and not made here.

    Parameters
    ----------
    inner : any method of entries or coefficients; one of rank-one pieces cannot be modified.
    sparsify : a method whose keep rule is applied to the deltas first; it takes the place of the
        inner method's own (the trimming of `Ties`).
    refine : ``none``; ``refine``: as above; ``full``: the same on the coefficients of the joint
        left basis (space ``knots``); ``refine-published``, ``full-published``: as published, in the
        space of weights.  Groups that are `whole` are multiplied out, one at a time; with a
        projection each takes from half a second (1280 rows) to minutes (9216).
    space : ``weight``: the entries of the deltas; ``knots``: their coefficients in the joint left
        basis of all deltas, (R, cols); ``core``: in both joint bases, (R, R).  The result of the
        latter two has at most rank R, the sum of the ranks.

    References
    ----------
    Spaces, alignment: Stoica et al. 2024, arXiv:2410.19735 (KnOTS); Panariello et al. 2025,
    arXiv:2509.17786 (Core Space).  Selfish entries: Wang et al. 2024, arXiv:2405.07813 (TALL
    masks).
    """

    inner: Coefficients | Elementwise
    sparsify: Elementwise | None = None
    refine: Level = "none"
    space: Space = "weight"

    def __post_init__(self) -> None:
        for name, value, allowed in (
            ("refine", self.refine, LEVELS),
            ("space", self.space, SPACES),
        ):
            if value not in allowed:
                message = f"{name} = {value!r}: allowed is {', '.join(allowed)}"
                raise ParamError(message)
        if isinstance(self.inner, Composite):
            message = f"{self.inner.name} has modifiers already: give them all at once"
            raise ParamError(message)
        if isinstance(self.inner, Subspace):
            message = (
                f"{self.inner.name} works on the factors of all deltas at once: it has no entries "
                "to sparsify or refine, and its result does not depend on the space"
            )
            raise ParamError(message)
        if self.sparsify is not None and self.sparsify.program() != Program(
            self.sparsify.program().keep
        ):
            message = f"sparsify = {self.sparsify.name}: give dare, della or breadcrumbs"
            raise ParamError(message)
        if self.refine == "full" and self.space == "core":
            message = "refine = full is the space knots: leave out the space, or say refine"
            raise ParamError(message)
        if self.published:
            self._check_published()

    def _check_published(self) -> None:
        if self.space != "weight":
            message = (
                f"refine = {self.refine} is in the space weight, not in {self.space}: leave out "
                "the space, or say refine"
            )
            raise ParamError(message)
        if isinstance(self.inner, Elementwise) and self.inner.program().selfish is not None:
            message = (
                f"refine = {self.refine} has its own rule for the entries of one adapter, and so "
                f"has {self.inner.name}: say average"
            )
            raise ParamError(message)

    @property
    def published(self) -> bool:
        """Whether the refinement is that of the publication."""
        return self.refine.endswith("-published")

    @property
    def name(self) -> str:
        """The inner method's."""
        return self.inner.name

    @property
    def mean(self) -> bool:
        """The inner method's."""
        return self.inner.mean

    @property
    def breaks(self) -> frozenset[Law]:
        """The inner method's, and what dropping entries or Gram-Schmidt breaks.

        Joint bases have no signs of their own: what is not odd in their entries depends on how
        the adapters were scaled and ordered.
        """
        more: set[Law] = {"continuity"}
        if self.where != "weight" and "odd" in self.inner.breaks:
            more |= {"homogeneous", "permutation"}
        if self.sparsify is not None:
            more |= self.sparsify.breaks
        if self.published:
            more |= GramSchmidt.breaks
        return frozenset(self.inner.breaks | more)

    @property
    def where(self) -> Space:
        """The space that the program runs in."""
        return "knots" if self.refine == "full" else self.space

    @property
    def mixes(self) -> bool:
        """Whether the inner products of the kept deltas are needed."""
        return self.refine != "none" or not isinstance(self.inner, Elementwise)

    def whole(self, rows: int, cols: int, members: int) -> bool:
        """Whether a group must be there as a whole: no program on tiles does what is asked.

        That is so where deltas are projected, where whole rows vote (`TiesPublished`), and where
        a method looks at its result before entries are added to it.  See `published.merged`.
        """
        if not self.published or members < 2:
            return False
        own = self.inner.program() if isinstance(self.inner, Elementwise) else Program()
        looks = own.calibrate or own.clean or isinstance(self.inner, TiesPublished)
        projects = self.refine == "full-published" and min(rows, cols * members) > QUOTA
        return looks or projects

    def program(self) -> Program:
        """What happens to the entries; of groups that are `whole`, which of them are kept."""
        plain = self.inner.program() if isinstance(self.inner, Elementwise) else Program()
        if self.sparsify is not None:
            plain = replace(plain, keep=self.sparsify.program().keep)
        if self.refine == "none":
            return plain
        if self.published:
            return replace(plain, selfish=_SPLIT, calibrate=False, clean=False)
        selfish = plain.selfish or Selfish(_LAMBDA, level=self.mean)
        return replace(plain, selfish=selfish, calibrate=plain.calibrate or self.mean)

    def mix(self, gram: F64, weights: F64) -> F64:
        """How much of each kept delta goes into each.

        Parameters
        ----------
        gram : (n, n) inner products of the kept, weighted deltas.
        weights : (n,) none is 0.

        Returns
        -------
        (n, n), rows are the new deltas.
        """
        turn = self._turn(gram, weights)
        if isinstance(self.inner, Elementwise):
            return turn
        new = turn @ gram @ turn.T / np.outer(weights, weights)
        largest = float(np.diag(new).max(initial=0.0))
        if largest == 0:
            return np.zeros_like(turn)
        unit = 2.0 ** round(math.log2(largest))
        factors = self.inner.coefficients(new / unit, weights)
        return np.asarray((factors / weights)[:, None] * turn)

    def _turn(self, gram: F64, weights: F64) -> F64:
        """How much of each kept delta goes into each that the method sees."""
        if self.refine == "none":
            return np.eye(len(weights))
        if not self.published:
            return orthogonalised(gram)
        plain = gram_schmidt(gram / weights / weights[:, None])
        return np.asarray(plain * np.outer(weights, 1 / weights))


Entrywise: TypeAlias = Elementwise | Composite


def space_of(method: Entrywise) -> Space:
    """Where a method's program runs."""
    return method.where if isinstance(method, Composite) else "weight"


def mixer_of(method: Entrywise) -> Callable[[F64, F64], F64] | None:
    """`Composite.mix` of a method that needs it."""
    return method.mix if isinstance(method, Composite) and method.mixes else None


_DRAWS = 1 << 14
_NOTHING = 1e-6
_EXCESS = 0.02
"""Conflict beyond what cosines let expect that is more than the shape of the distribution."""


def site_of(
    method: object,
    gram: F64,
    weights: F64,
    *,
    key: int,
    seed: int,
    sides: Sequence[Side] = (),
    published_sides: bool = False,
) -> Site:
    """What a program needs to know of a group; nothing but sides where the method is no program.

    Norms and guards are those of whole deltas, but for the members that go around the method.

    Parameters
    ----------
    gram : (n, n) inner products of the deltas; used only by programs that calibrate or guard.
    weights : (n,)
    key : stable hash of the target.
    sides : (n,), or empty.
    published_sides : see `Site`.

    Raises
    ------
    ParamError : a side asks for some of the entries of a method that sees none.
    """
    own = tuple(side for side, weight in zip(sides, weights, strict=bool(sides)) if weight != 0)
    if not isinstance(method, Elementwise | Composite):
        _check_whole(method, own)
        return Site(sides=own)
    program, used = method.program(), weights != 0
    if sides:
        used &= np.array([side != "around" for side in sides])
    inner = gram[np.ix_(used, used)]
    most = program.keep.most
    if most == "calibrated":
        limited = program.keep.conflicts and used.any()
        most = expected_conflict(inner, weights[used]) + _EXCESS if limited else 1.0
    norm = calibration(inner, weights[used]) if program.calibrate and used.any() else None
    return Site(key, seed, min(most, 1.0), norm, sides=own, published_sides=published_sides)


def _check_whole(method: object, sides: Sequence[Side]) -> None:
    """Refuse sides that leave entries out where a method sees none."""
    for side in sides:
        if side in ("low", "high"):
            name = getattr(method, "name", method)
            message = (
                f"side = {side}: {name} sees no entries; allowed is all, around; for a method of "
                "coefficients, give it as a Composite"
            )
            raise ParamError(message)


def calibration(gram: F64, weights: F64) -> float:
    """``max|w| * sum |w_i| |delta_i| / sum |w_i|``: the mean norm at the strength of the heaviest.

    Parameters
    ----------
    gram : (n, n) inner products of the deltas.
    weights : (n,) none is 0.
    """
    sizes = np.abs(weights)
    norms = np.sqrt(np.maximum(np.diag(gram), 0))
    return float(sizes.max() * (sizes @ norms) / sizes.sum())


def expected_conflict(gram: F64, weights: F64) -> float:
    """Share of positions where jointly Gaussian entries of these cosines disagree in sign.

    Exact for two (``arccos(c) / pi``) and three adapters (the orthant probability, David 1953);
    for more, the share among 16384 fixed normal draws, good to 0.004.
    """
    norms = np.sqrt(np.maximum(np.diag(gram), 0))
    used = norms > 0
    n = int(used.sum())
    if n < 2:
        return 0.0
    signs = np.sign(weights[used])
    cosines = gram[np.ix_(used, used)] / np.outer(norms[used], norms[used])
    cosines = np.clip(cosines * np.outer(signs, signs), -1, 1)
    pairs = np.arccos(cosines[np.triu_indices(n, 1)]) / math.pi
    if n <= 3:
        return float(min(pairs.sum() / (n - 1), 1.0))
    values, vectors = np.linalg.eigh(cosines)
    root = vectors * np.sqrt(np.maximum(values, 0))
    draws = np.random.Generator(np.random.Philox(0)).standard_normal((_DRAWS, n)) @ root.T
    # Directions that cancel exactly round to either sign.
    positive, negative = (draws > _NOTHING).any(axis=1), (draws < -_NOTHING).any(axis=1)
    return float((positive & negative).mean())
