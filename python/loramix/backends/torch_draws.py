"""The random words of `rust/src/rng.rs` in torch: Philox4x32-10, addressed by element.

A device gives the same words as any other, so that masks do not depend on the backend.
"""

import torch

from loramix.backends.torch_device import wide

_MULTIPLIERS = (0xD251_1F53, 0xCD9E_8D57)
_WEYL = (0x9E37_79B9, 0xBB67_AE85)
_ROUNDS = 10
_LOW = 0xFFFF_FFFF
_HALF = 0xFFFF


def words(
    seed: int, target: int, adapter: int, count: int, device: torch.device, first: int = 0
) -> torch.Tensor:
    """Words of the elements ``first`` to ``first + count``.

    Parameters
    ----------
    seed, target : 0 to 2^64 - 1, the key and half of the counter.
    adapter : 0 to 2^16 - 1.
    first : below 2^50.

    Returns
    -------
    (count,) int64 on the device, values 0 to 2^32 - 1.

    Cost: 16 operations on int64 for each of ten rounds and four words, about 100 bytes an element
    at the peak.
    """
    start = first // 4
    blocks = torch.arange(start, (first + count + 3) // 4, dtype=torch.int64, device=device)
    x = [
        blocks & _LOW,
        (blocks >> 32 & _HALF) | adapter << 16,
        torch.full_like(blocks, target & _LOW),
        torch.full_like(blocks, target >> 32),
    ]
    keys = [seed & _LOW, seed >> 32]
    for _ in range(_ROUNDS):
        high0, low0 = _product(x[0], _MULTIPLIERS[0])
        high1, low1 = _product(x[2], _MULTIPLIERS[1])
        x = [high1 ^ x[1] ^ keys[0], low1, high0 ^ x[3] ^ keys[1], low0]
        keys = [(key + weyl) & _LOW for key, weyl in zip(keys, _WEYL, strict=True)]
    return torch.stack(x, dim=1).reshape(-1)[first - 4 * start :][:count]


def _product(x: torch.Tensor, factor: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Upper and lower 32 bits of ``x * factor``, in halves: int64 must not overflow."""
    low = x * (factor & _HALF)
    high = x * (factor >> 16) + (low >> 16)
    return high >> 16, (high & _HALF) << 16 | (low & _HALF)


def uniform(words: torch.Tensor) -> torch.Tensor:
    """Words as f32 in [0, 1): their upper 24 bits times 2^-24."""
    return (words >> 8).to(torch.float32) * 2.0**-24


def signs(words: torch.Tensor) -> torch.Tensor:
    """Words as f64 of -1 and 1: by the upper bit."""
    return 1.0 - 2.0 * wide(words >> 31)
