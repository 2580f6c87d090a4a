"""`combine` on torch tensors: same kind, type and shape back, memory used in place."""

import numpy as np
import pytest
import torch

from loramix import METHODS, FormatError, ShapeError, arrays, combine


def deltas(dtype: torch.dtype, count: int = 3) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(24, 40, generator=generator).to(dtype) for _ in range(count)]


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_torch_equals_numpy(name: str, dtype: torch.dtype) -> None:
    tensors, weights = deltas(dtype), [0.8, -0.5, 1.2]
    got = combine(tensors, name, weights=weights)
    assert (type(got), got.dtype, got.shape) == (torch.Tensor, dtype, tensors[0].shape)
    expected = combine([t.double().numpy() for t in tensors], name, weights=weights)
    step = torch.finfo(dtype).eps / 2
    assert np.abs(got.double().numpy() - expected).max() <= 1.01 * step * np.abs(expected).max()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_contiguous_tensors_are_used_in_place(dtype: torch.dtype) -> None:
    (tensor,) = deltas(dtype, 1)
    code, view = arrays.bytes_of(tensor)
    assert code == {torch.float32: "F32", torch.bfloat16: "BF16"}[dtype]
    assert view.ctypes.data == tensor.data_ptr()
    assert view.nbytes == tensor.nbytes


def test_strided_and_tracked_tensors() -> None:
    first, second = deltas(torch.float32, 2)
    strided = [first.T[::2].requires_grad_(), second.T[::2]]
    got = combine(strided, "slerp")
    plain = combine([t.detach().contiguous() for t in strided], "slerp")
    assert torch.equal(got, plain)
    assert not got.requires_grad


def test_what_does_not_fit_is_refused() -> None:
    (tensor,) = deltas(torch.float32, 1)
    with pytest.raises(ShapeError, match="bfloat16"):
        combine([tensor, tensor.bfloat16()])
    with pytest.raises(FormatError, match="int32"):
        combine([tensor.int()])
    bad = tensor.clone()
    bad[3, 4] = float("nan")
    with pytest.raises(FormatError, match="NaN or infinity"):
        combine([tensor, bad])
