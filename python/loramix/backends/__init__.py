"""Where the arithmetic runs: one protocol, one file per device library."""

from loramix.backends.base import Backend
from loramix.backends.rust import RustBackend
from loramix.errors import ParamError

BACKENDS: tuple[str, ...] = ("rust", "torch")


def backend_of(backend: str | Backend) -> Backend:
    """A backend from its name; ``torch:cuda:1`` names a device.  Objects pass through.

    Raises
    ------
    ParamError : no such backend, or torch is not installed.
    """
    if not isinstance(backend, str):
        return backend
    name, _, device = backend.partition(":")
    if name == "rust" and not device:
        return RustBackend()
    if name == "torch":
        try:
            from loramix.backends.torch import TorchBackend
        except ModuleNotFoundError as error:
            message = f"backend {backend!r} needs {error.name}: pip install {error.name}"
            raise ParamError(message) from None
        return TorchBackend(device or None)
    message = f"backend = {backend!r}: allowed is {', '.join(BACKENDS)}, or torch:DEVICE"
    raise ParamError(message)
