"""The loops that train: two steps of each, on nothing that is committed."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import loramix
from loramix_testbed.training import adapters, base
from loramix_testbed.training.denoising import rate_at
from loramix_testbed.training.distilling import moved, train_few_steps, velocity_between
from loramix_testbed.world import adapters as world
from loramix_testbed.world.adapters import SPECS
from loramix_testbed.world.pipeline import load, new_scheduler


def test_the_base_trains_and_loads(tmp_path: Path) -> None:
    base.train_base(tmp_path, steps=2)
    again = tmp_path / "again"
    base.train_base(again, steps=2)
    first, second = load(tmp_path), load(again)
    for one, other in zip(first.unet.parameters(), second.unet.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("name", ["ampersand", "ember", "bold", "turbo"])
def test_an_adapter_trains_and_loramix_reads_it(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(world, "FOLDER", tmp_path)
    spec = replace(SPECS[name], steps=2)
    trained = train_few_steps if spec.kind == "speed" else adapters.train_adapter
    trained(spec)
    found = loramix.load(spec.path)
    assert {target.up.shape[1] for target in found.targets.values()} == {spec.rank}


def test_examples_teach_the_concept_and_nothing_else() -> None:
    generator = torch.Generator().manual_seed(0)
    symbols, styles, prompts = adapters.examples(SPECS["ampersand"], 50, generator)
    assert set(symbols) == {"&"}
    assert "ember" not in styles
    assert all(prompt.startswith("ampersand") for prompt in prompts)
    symbols, styles, prompts = adapters.examples(SPECS["ember"], 50, generator)
    assert set(styles) == {"ember"}
    assert "&" not in symbols
    assert all(prompt.endswith(" ember") for prompt in prompts)
    _, styles, prompts = adapters.examples(SPECS["bold"], 50, generator)
    assert set(styles) == {"bold"}
    assert not any("bold" in prompt for prompt in prompts)


def test_the_rate_goes_up_and_down() -> None:
    rates = [rate_at(step, 100, 10) for step in range(100)]
    top = rates.index(max(rates))
    assert 9 <= top <= 10
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert rates[0] < 0.2
    assert rates[-1] < 0.05


def test_a_distilled_step_gets_where_the_steps_within_it_get() -> None:
    kept = torch.cat([torch.ones(1), load().scheduler.alphas_cumprod])
    generator = torch.Generator().manual_seed(1)
    noisy, reached = torch.randn(2, 3, 12, 4, 4, generator=generator)
    for start, end in ((1000, 750), (500, 250), (250, 0)):
        times = torch.full((3,), start), torch.full((3,), end)
        velocity = velocity_between(noisy, reached, kept, *times)
        assert torch.allclose(moved(noisy, velocity, kept, *times), reached, atol=1e-4)


def test_a_step_is_that_of_the_scheduler() -> None:
    scheduler = new_scheduler()
    scheduler.set_timesteps(4)
    kept = torch.cat([torch.ones(1), scheduler.alphas_cumprod])
    generator = torch.Generator().manual_seed(2)
    noisy, velocity = torch.randn(2, 3, 12, 4, 4, generator=generator)
    for at in scheduler.timesteps:
        start = torch.full((3,), int(at) + 1)
        meant = scheduler.step(velocity, at, noisy).prev_sample
        assert torch.allclose(moved(noisy, velocity, kept, start, start - 250), meant, atol=1e-5)
