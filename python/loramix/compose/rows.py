"""The arguments of one denoiser call, repeated for several adapters in one batch."""

from typing import Any

from loramix.arrays import is_torch
from loramix.compose.families import Family
from loramix.errors import ParamError


def repeated(family: Family, name: str, value: Any, rows: int, times: int) -> Any:  # noqa: ANN401
    """An argument with all its rows ``times`` times over, one block after the other.

    Parameters
    ----------
    name : of the argument.
    value : tensors with ``rows`` along their first axis, in lists, tuples and dictionaries too;
        what has no rows (numbers, tensors without axes or of one row, the family's ``shared``)
        stays.

    Raises
    ------
    ParamError : a tensor with another number of rows.
    """
    if name in family.shared or value is None:
        return value
    if name in family.listed:
        return [*value] * times
    if is_torch(value):
        return _tensor(name, value, rows, times)
    if isinstance(value, dict):
        return {k: repeated(family, k, v, rows, times) for k, v in value.items()}
    if isinstance(value, list | tuple) and any(is_torch(one) for one in value):
        return type(value)(repeated(family, name, one, rows, times) for one in value)
    return value


def _tensor(name: str, value: Any, rows: int, times: int) -> Any:  # noqa: ANN401 - a tensor
    if value.ndim == 0 or (len(value) == 1 and rows > 1):
        return value
    if len(value) != rows:
        message = (
            f"argument {name} of the denoiser has {len(value)} rows, the latents {rows}: "
            "adapters cannot share a batch here; use max_batch=1"
        )
        raise ParamError(message)
    return value.repeat(times, *(1,) * (value.ndim - 1))
