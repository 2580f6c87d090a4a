"""Where torch computes, and in how many digits."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import RLock
from typing import Any, NoReturn

import torch

from loramix import _core
from loramix.errors import ParamError

_LOCK = RLock()


def device_of(name: str | None) -> torch.device:
    """The named device; None takes cuda, else mps, else the CPU.

    Raises
    ------
    ParamError : there is no such device here.
    """
    if name is None:
        name = "cuda" if torch.cuda.is_available() else "cpu"
        if name == "cpu" and torch.backends.mps.is_available():
            name = "mps"
    try:
        return torch.zeros(1, device=name).device
    except (RuntimeError, AssertionError) as error:
        first = str(error).partition("\n")[0]
        message = f"device = {name!r}: allowed is what torch finds here, such as cpu ({first})"
        raise ParamError(message) from None


def home_of(device: torch.device) -> torch.device:
    """Where the f64 of a device is: on the CPU for mps, which has none."""
    return torch.device("cpu") if device.type == "mps" else device


def wide(values: torch.Tensor) -> torch.Tensor:
    """As f64, exactly, where the device has its f64."""
    return values.to(home_of(values.device)).to(torch.float64)


def refuse(
    kind: str,
    text: str,
    number: int | None = None,
    member: int | None = None,
    side: str | None = None,
) -> NoReturn:
    """Raise what the Rust kernels raise: `CoreError` with these five, see `refusals.with_names`.

    Parameters
    ----------
    kind : ``shape``, ``dtype``, ``param``, ``non_finite`` or ``overflow``.
    number : of the group or step in its batch.
    """
    raise _core.CoreError(kind, text, number, member, side)


def narrow(values: torch.Tensor, device: torch.device) -> torch.Tensor:
    """As f32 on the device; rounded before it is moved, because mps takes no f64."""
    return values.to(torch.float32).to(device)


def single(values: object, device: torch.device) -> torch.Tensor:
    """Numbers of float64, rounded to f32 where they are."""
    return narrow(torch.tensor(values, dtype=torch.float64), device)


@contextmanager
def full_precision() -> Iterator[None]:
    """f32 products in f32, whatever the process allows (TF32, bf16); what it allows is put back.

    The switches belong to the process, not to a thread: one call at a time.
    """
    with _LOCK:
        products: list[Any] = [torch.backends.cuda.matmul, torch.backends.mkldnn.matmul]
        if not hasattr(products[0], "fp32_precision"):  # torch before 2.9
            before = torch.get_float32_matmul_precision()
            torch.set_float32_matmul_precision("highest")
            try:
                yield
            finally:
                torch.set_float32_matmul_precision(before)
            return
        allowed = [one.fp32_precision for one in products]
        try:
            for one in products:
                one.fp32_precision = "ieee"
            yield
        finally:
            for one, was in zip(products, allowed, strict=True):
                one.fp32_precision = was
