"""All tensors go where the device argument says: on ``meta``, one left behind is an error."""

from pathlib import Path

import pytest
import torch

from loramix_testbed.__main__ import main
from loramix_testbed.matrix.methods import METHODS
from loramix_testbed.matrix.running import Cell, Record, run
from loramix_testbed.matrix.stacks import Stack
from loramix_testbed.training.adapters import adapted
from loramix_testbed.training.denoising import velocity_loss
from loramix_testbed.world.adapters import SPECS
from loramix_testbed.world.pipeline import load, words

_ASKED = (("&", "ember"),)
_STEPPING = "Tensor.item.. cannot be called on meta tensors"
"""What the scheduler says when it looks for a time in its table, after the denoiser and
guidance: there are no values, and nothing else is wrong."""


@pytest.mark.parametrize("name", ["no adapter", "sum", "auto"])
def test_a_cell_is_drawn_on_the_device(name: str, tmp_path: Path) -> None:
    stack = Stack("ampersand+ember", "mixed", "held-out", ("ampersand", "ember"), _ASKED, 2)
    with pytest.raises(RuntimeError, match=_STEPPING) as found:
        run([Cell(stack, name, METHODS[name])], Record(tmp_path / "a.json"), device="meta")
    assert any(Path(entry.path).stem == "scheduling_ddim" for entry in found.traceback)


def test_training_is_on_the_device() -> None:
    pipe, generator = load(device="meta"), torch.Generator().manual_seed(0)
    unet, trained = adapted(pipe, SPECS["ampersand"])
    loss = velocity_loss(
        unet, pipe.scheduler, torch.zeros(2, 12, 12, 12), words(pipe, ["A", "B"]), generator
    )
    loss.backward()
    assert {value.device.type for value in trained} == {"meta"}
    assert all(value.grad is not None for value in trained)


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--device", "nonsense", "--device nonsense: Expected one of cpu, cuda"),
        ("--only", "auto; sums", "--only: no method sums;"),
    ],
)
def test_what_is_not_there_is_refused_before_anything_is_drawn(
    option: str, value: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["--quick", option, value, "--out", str(tmp_path / "out")])
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
