"""Adapters of the full size, loaded by diffusers into the real models of several architectures.

What tiny models cannot show: architectures recognised by names and shapes alone, and converters
of diffusers that know sizes by heart.  The models have no storage (`clients.models.weightless`),
so what is compared is ``scale * B @ A`` of every layer.  SDXL and FLUX.1 are in `test_diffusers`.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import diffusers
import pytest
from clients.applied import applied
from clients.models import CLIENTS, pipeline_of, weightless
from clients.tiny import SPELLINGS, adapter
from formats.builders import gaps, total

import loramix
from loramix.formats.layout import Module, load_layout

pytestmark = pytest.mark.filterwarnings(
    "ignore::FutureWarning",
    "ignore::DeprecationWarning",
    # A top-level proj_out also names every proj_out of the blocks, if the file has not those.
    "ignore:While injecting the PEFT adapters:RuntimeWarning",
)

# Where the defaults of the class are not those of the model.
CONFIGS: Mapping[str, dict[str, Any]] = {
    "sd15": {"cross_attention_dim": 768},
    "sd3_medium": {
        "num_layers": 24, "num_attention_heads": 24, "caption_projection_dim": 1536,
        "pos_embed_max_size": 192,
    },
    "flux2_klein_4b": {
        "num_layers": 5, "num_single_layers": 20, "num_attention_heads": 24,
        "joint_attention_dim": 7680, "guidance_embeds": False,
    },
    "chroma": {},
    "z_image": {},
    "lumina2": {"cap_feat_dim": 2304},
    "wan21_t2v_1_3b": {"num_attention_heads": 12, "ffn_dim": 8960, "num_layers": 30},
    "ltx_video_2b": {},
    "hunyuan_video": {},
}  # fmt: skip
WEIGHTS = (0.7, -0.4)


def sample(module: Module) -> bool:
    """The first and the tenth block of each kind, and what is in no block."""
    if module.component.startswith("text_encoder"):
        return False
    first = next((part for part in module.name.split(".") if part.isdigit()), "0")
    return first in ("0", "9")


@pytest.mark.parametrize(
    ("name", "dialect"),
    [*((name, "diffusers") for name in CONFIGS), ("sd15", "kohya"), ("chroma", "kohya")],
)
def test_full_models_load_the_intended_deltas(name: str, dialect: str, tmp_path: Path) -> None:
    client, layout = CLIENTS[name], load_layout(name)

    def chosen(module: Module) -> bool:
        # Of Chroma in Kohya's names diffusers takes the blocks only.
        blocks = "blocks" in module.name or (name, dialect) != ("chroma", "kohya")
        return sample(module) and blocks

    built = [
        adapter(layout, SPELLINGS["kohya"], chosen, seed, ranks=ranks, scales=(1.0, 0.5))
        for seed, ranks in ((1, (2, 1)), (1000, (1, 3)))
    ]
    files = [one.save(tmp_path / f"{i}.safetensors") for i, one in enumerate(built)]
    path = tmp_path / "merged.safetensors"
    result = loramix.merge(
        files, "linear", weights=WEIGHTS, output=loramix.Output(dialect=dialect), path=path,
        architecture=name,
    )  # fmt: skip
    assert result.adapter.architecture == name
    model = weightless(lambda: getattr(diffusers, client.model)(**CONFIGS[name]))
    pipeline_of(client.pipeline, {client.component: model}).load_lora_weights(str(path))
    truth = total((one.truth, weight) for one, weight in zip(built, WEIGHTS, strict=True))
    assert gaps(truth, applied({client.component: model})) < 1e-6
