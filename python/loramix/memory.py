"""The methods on deltas in memory: NumPy arrays or torch tensors, without files."""

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np
import numpy.typing as npt

from loramix import _core, arrays
from loramix.arguments import check_threads, deltas_of, weights_of, word
from loramix.backends import backend_of
from loramix.backends.base import Backend, Job
from loramix.errors import OutputError, ParamError
from loramix.executing.making import make
from loramix.methods import (
    METHODS,
    Coefficients,
    Composite,
    Elementwise,
    Level,
    Linear,
    Method,
    Space,
    apply,
    method_of,
    published,
    reads_gram,
    site_of,
)
from loramix.methods.composite import mixer_of, space_of
from loramix.planning.steps import Part, Step
from loramix.policies import POLICIES
from loramix.raw import Site
from loramix.refusals import with_names
from loramix.tensors import F64, Tensor
from loramix.types import Factors, Group, Target

if TYPE_CHECKING:
    import torch

Array = TypeVar("Array", "np.ndarray[Any, Any]", "torch.Tensor")


def combine(
    deltas: Sequence[Array],
    method: str | Method = "linear",
    *,
    weights: Sequence[float] | None = None,
    sparsify: str | Method | None = None,
    refine: Level = "none",
    space: Space = "weight",
    seed: int = 0,
    threads: int | None = None,
    backend: str | Backend = "rust",
) -> Array:
    """Combine dense deltas of one weight.

    Parameters
    ----------
    deltas : arrays or tensors of one shape and type: f64, f32, f16, and bf16 (torch).
        Contiguous CPU memory is used in place, anything else is copied first.
    method, sparsify, refine, space : see `merge`.
    weights : one number per delta, any sign, default 1.
    seed : of the random draws of methods that have them.
    threads : default all cores.  The result does not depend on it.
    backend : see `merge`; ``torch`` runs where the tensors are, for methods of entries.

    Returns
    -------
    A new array of the same kind, type, shape (and device).

    Raises
    ------
    ShapeError : different shapes.  FormatError : types that are not floating point, NaN,
    infinity.  OutputError : overflow of f16.  ParamError : no deltas, unknown method.

    Notes
    -----
    Cost: two reads of the deltas, one write, for methods that are linear combinations (summed in
    f64) or decide entry by entry (in f32).  Methods in joint bases (``space``, ``iso-c``, ...)
    need those of dense matrices: O((n s)^3) for n deltas of smaller side s.  Of f16 and bf16
    deltas they see the directions that are above the rounding of the entries (`loramix.rounding`),
    so a rounded product of factors counts by its own rank; O(s^3) more for each.

    Examples
    --------
    >>> import numpy as np
    >>> combine([np.eye(2), 3 * np.eye(2)], "average")
    array([[2., 0.],
           [0., 2.]])
    """
    check_threads(threads)
    deltas, seed = deltas_of(deltas), word("seed", seed)
    each = weights_of(weights, len(deltas))
    _refuse_policies(method)
    chosen = method_of(method, sparsify=sparsify, refine=refine, space=space)
    if isinstance(chosen, Coefficients):
        return cast("Array", _linear(deltas, chosen, each, threads))
    used = [(d, float(w)) for d, w in zip(deltas, each, strict=True) if w != 0]
    if len(used) < 2:  # one adapter alone is its weighted delta
        return cast("Array", _linear(deltas, Linear(), each, threads))
    if len(used) < len(deltas):
        with_names([], partial(_gram, deltas, threads))  # 0 * NaN is no 0
    device = backend_of(backend)
    values = _not_linear(used, chosen, seed, device, threads)
    return cast("Array", _checked(values, deltas[0]))


def _refuse_policies(method: str | Method) -> None:
    name = method.partition(":")[0] if isinstance(method, str) else getattr(method, "name", "")
    if name in POLICIES:
        message = (
            f"method {name!r} is a policy: it chooses a method for every group of weights of "
            f"adapters, see loramix.merge; of deltas, say which of {', '.join(METHODS)}"
        )
        raise ParamError(message)


def _linear(
    deltas: Sequence[Any], method: Coefficients, weights: F64, threads: int | None
) -> object:
    views = [arrays.bytes_of(delta) for delta in deltas]

    def run() -> object:
        numbers = apply(method, _gram(deltas, threads), weights).tolist()
        result, raw = arrays.empty_like(deltas[0])
        _core.dense_combine(views, numbers, raw, dtype=views[0][0], threads=threads)
        return result.to(deltas[0].device) if arrays.is_torch(result) else result

    return with_names([], run)


def _gram(deltas: Sequence[Any], threads: int | None) -> F64:
    """Inner products, which must be numbers: deltas of 1e160 or 1e-170 are refused."""
    views = [arrays.bytes_of(delta) for delta in deltas]
    gram = np.array(_core.dense_gram(views, threads=threads)).reshape(len(deltas), -1)
    for index, (square, delta) in enumerate(zip(np.diag(gram), deltas, strict=True)):
        if not np.isfinite(square) or (square < np.finfo(float).tiny and bool((delta != 0).any())):
            message = (
                f"delta {index}: the square of its norm leaves the range of float64; rescale the "
                "deltas by one factor"
            )
            raise ParamError(message)
    return gram


def _not_linear(
    used: Sequence[tuple[Any, float]],
    method: Method,
    seed: int,
    backend: Backend,
    threads: int | None,
) -> Any:  # noqa: ANN401 - numpy or torch
    """In f32, like the deltas of files."""
    deltas, sizes = [d for d, _ in used], np.array([w for _, w in used])
    space = space_of(method) if isinstance(method, Elementwise | Composite) else "core"
    gram = np.zeros((len(used), len(used)))
    if reads_gram(method):
        gram = with_names([], partial(_gram, deltas, threads))
    site = site_of(method, gram, sizes, key=0, seed=seed)
    if space != "weight":
        step = _step(method, deltas, sizes, site)
        return with_names([], partial(_jointly, step, deltas[0], backend, threads))
    assert isinstance(method, Elementwise | Composite)
    if isinstance(method, Composite):
        rows, cols = arrays.matrix_shape(deltas[0])
        if method.whole(rows, cols, len(deltas)):
            return with_names([], partial(_whole, method, deltas, sizes, site, backend, threads))
    run = partial(
        backend.run,
        deltas,
        sizes.tolist(),
        method.program(),
        site,
        mix=mixer_of(method),
        threads=threads,
    )
    return with_names([], run)


def _whole(
    method: Composite,
    deltas: Sequence[Any],
    sizes: F64,
    site: Site,
    backend: Backend,
    threads: int | None,
) -> Any:  # noqa: ANN401 - numpy or torch
    """By way of arrays on the CPU; only the programs run where the backend does."""
    shape = arrays.matrix_shape(deltas[0])
    dense = [arrays.to_numpy(delta).reshape(shape) for delta in deltas]
    run = partial(backend.run, threads=threads)
    result = published.merged(method, dense, sizes.tolist(), site, run)
    return arrays.from_f32(result.reshape(tuple(deltas[0].shape)), deltas[0])


def _step(method: Method, deltas: Sequence[Any], sizes: F64, site: Site) -> Step:
    shape = arrays.matrix_shape(deltas[0])

    def factors(delta: Any) -> Factors:  # noqa: ANN401 - numpy or torch
        code, data = arrays.bytes_of(delta)
        return Factors.of_dense(Tensor(code, shape, _view(data)), "", "")

    target, owners = Target("", shape), tuple(range(len(deltas)))
    group = Group(target, tuple(factors(delta) for delta in deltas), owners)
    weights = tuple(sizes.tolist())
    part = Part(group, method, weights, weights, 0, site)
    return Step(target, "", (), swap=False, parts=(part,), kind="joint")


def _view(data: "npt.NDArray[np.uint8]") -> memoryview:
    return memoryview(cast("Any", data))  # arrays have no buffer type before Python 3.12


def _jointly(
    step: Step,
    delta: Any,  # noqa: ANN401 - numpy or torch
    backend: Backend,
    threads: int | None,
) -> Any:  # noqa: ANN401 - likewise
    rows, cols = step.target.shape
    if rows == 0 or cols == 0:
        return arrays.from_f32(np.zeros(tuple(delta.shape), dtype=np.float32), delta)
    room = (rows + cols) * min(rows, cols)
    arena = np.empty(4 * room, dtype=np.uint8)
    job = Job(arena, [0, len(arena)], "F32", rank=max(min(rows, cols), 1), threads=threads)
    (made,) = make([step], backend, job)
    values = arena.view(np.float32)
    up = values[: rows * made.rank].reshape(rows, -1)
    down = values[rows * made.rank :][: made.rank * cols].reshape(-1, cols)
    return arrays.from_f32((up @ down).reshape(tuple(delta.shape)), delta)


def _checked(values: Any, delta: Any) -> object:  # noqa: ANN401 - likewise
    """Values in the type of the deltas, if they fit."""
    with np.errstate(over="ignore", invalid="ignore"):
        result = arrays.cast_like(values, delta)
    if not (arrays.is_finite(values) and arrays.is_finite(result)):
        message = (
            f"a result too large for {delta.dtype}: this method works in float32, and its result "
            "must fit into both; give smaller weights, or deltas of a wider type"
        )
        raise OutputError(message)
    return result
