"""What LyCORIS was recorded to make of its own modules, against what we read in their files.

``scripts/make_family_goldens.py`` made the file; its metadata has the version.
"""

from pathlib import Path

import numpy as np
import pytest
from families.files import Model, deltas
from helpers import relative
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from loramix import load

PLACE = Path(__file__).parent.parent / "data" / "goldens" / "lycoris.safetensors"
RECORD = load_file(PLACE)
CASES = sorted({name.partition("/")[0] for name in RECORD})


def test_the_record_says_whose_it_is() -> None:
    with safe_open(PLACE, "np") as file:
        assert file.metadata() == {"lycoris-lora": "4.1.3"}
    assert len(CASES) == 28


@pytest.mark.parametrize("name", CASES)
def test_modules_of_lycoris(name: str, tmp_path: Path) -> None:
    head = f"{name}/file/"
    tensors = {
        f"lora_unet_x.{key.removeprefix(head)}": value
        for key, value in RECORD.items()
        if key.startswith(head)
    }
    save_file(tensors, tmp_path / "a.safetensors")
    base, delta = (RECORD[f"{name}/{part}"].astype(float) for part in ("base", "delta"))
    key = "model.lora_unet_x"
    found = deltas(load(tmp_path / "a.safetensors", base=Model({key: base})))
    # The record is a difference of float32 weights.
    meant, error = delta.reshape(len(delta), -1), 2e-7 * np.abs(base).max() * delta.size**0.5
    assert np.linalg.norm(found[key] - meant) < max(error, 1e-5 * np.linalg.norm(meant))
    assert relative(found[key], meant) < 1e-3
