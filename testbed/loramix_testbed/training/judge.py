"""Training of the judge, on true pictures of all symbols in all styles."""

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, cross_entropy, interpolate

from loramix_testbed.judging.judge import Judge, save
from loramix_testbed.places import ASSETS
from loramix_testbed.training.denoising import train
from loramix_testbed.world.images import pictures
from loramix_testbed.world.styles import STYLES
from loramix_testbed.world.symbols import SYMBOLS

STEPS = 1500
_BATCH = 96


def drawn(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Pictures, the numbers of their symbols and of their styles."""
    symbol = torch.randint(len(SYMBOLS), (count,), generator=generator)
    style = torch.randint(len(STYLES), (count,), generator=generator)
    names = list(STYLES)
    true = pictures([SYMBOLS[i] for i in symbol], [names[i] for i in style], generator)
    return true, symbol, style


def worn(true: Tensor, generator: torch.Generator) -> Tensor:
    """Pictures as a sampler may leave them: noisy, and a third of them blurred."""
    strength = torch.rand(len(true), 1, 1, 1, generator=generator) * 0.2
    noisy = true + torch.randn(true.shape, generator=generator) * strength
    soft = interpolate(avg_pool2d(noisy, 2), scale_factor=2.0, mode="bilinear")
    blurred = torch.rand(len(true), 1, 1, 1, generator=generator) < 0.3
    return torch.where(blurred, soft, noisy)


def train_judge(*, steps: int = STEPS, seed: int = 2, device: str = "cpu") -> tuple[float, float]:
    """Train and save it.

    Returns
    -------
    shares of symbols and of styles that it names rightly in fresh true pictures.
    """
    torch.manual_seed(seed)
    judge = Judge().to(device)

    def loss_of(generator: torch.Generator) -> Tensor:
        true, symbol, style = drawn(_BATCH, generator)
        seen = judge(worn(true, generator).to(device))
        lost = cross_entropy(seen.symbol, symbol.to(device))
        return lost + cross_entropy(seen.style, style.to(device))

    log = ASSETS / "judge.log"
    log.unlink(missing_ok=True)
    train(list(judge.parameters()), loss_of, steps=steps, rate=2e-3, seed=seed, log=log)
    save(judge.cpu())
    true, symbol, style = drawn(2000, torch.Generator().manual_seed(seed + 1000))
    with torch.no_grad():
        seen = judge.eval()(true)
    return (
        float((seen.symbol.argmax(1) == symbol).float().mean()),
        float((seen.style.argmax(1) == style).float().mean()),
    )
