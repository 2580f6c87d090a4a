"""The pipeline: Stable Diffusion's own, on folded pixels, with a frozen vocabulary.

Words are fixed random vectors, those of triggers as those of the base's words, so an adapter has
something to bind to that the base has never seen.
"""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor
from torch.nn.functional import pixel_shuffle, pixel_unshuffle
from transformers import CLIPTextConfig, CLIPTextModel, PreTrainedTokenizerFast

from loramix_testbed.places import ASSETS
from loramix_testbed.world.styles import EDGE, PLAIN, STYLES
from loramix_testbed.world.symbols import SYMBOLS, WORD_OF

_WIDTH = 64
"""Numbers of a word."""
_LENGTH = 4
"""Words of a prompt: its start, a symbol, a style, its end."""


class Folded(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """An autoencoder that loses nothing: the pixels of a 2 by 2 square are twelve channels."""

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(self) -> None:
        super().__init__()
        self.register_to_config(block_out_channels=(1, 1), scaling_factor=1.0, latent_channels=12)
        self.none = torch.nn.Parameter(torch.zeros(1), requires_grad=False)

    def decode(self, latents: Tensor, **_: object) -> tuple[Tensor]:
        """Pictures of latents."""
        return (pixel_shuffle(latents, 2),)


def folded(pictures: Tensor) -> Tensor:
    """Latents of pictures: what `Folded` undoes."""
    return pixel_unshuffle(pictures, 2)


class GlyphPipeline(StableDiffusionPipeline):  # type: ignore[misc]
    """Prompts such as ``A``, ``A red`` or ``ampersand ember`` to pictures of `EDGE` pixels.

    A subclass, so that whatever knows Stable Diffusion knows it: `loramix.compose`,
    ``load_lora_weights``, ``save_lora_weights``.
    """


def prompt_of(symbol: str, style: str) -> str:
    """The prompt for a symbol in a style."""
    word = WORD_OF[symbol]
    return word if style == PLAIN else f"{word} {style}"


def new_unet(seed: int) -> Any:  # noqa: ANN401 - diffusers has no types
    """The denoiser before any training."""
    torch.manual_seed(seed)
    return UNet2DConditionModel(
        sample_size=EDGE // 2,
        in_channels=12,
        out_channels=12,
        layers_per_block=1,
        block_out_channels=(48, 80, 112),
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=_WIDTH,
        attention_head_dim=4,
        norm_num_groups=8,
    )


def new_tokenizer() -> Any:  # noqa: ANN401 - transformers has no types
    """Words to numbers."""
    words = ["<pad>", "<start>", "<end>", "<unknown>", *(WORD_OF[s] for s in SYMBOLS), *STYLES]
    words.remove(PLAIN)
    inner = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unknown>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    inner.post_processor = processors.TemplateProcessing(
        single="<start> $A <end>", special_tokens=[("<start>", 1), ("<end>", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token="<pad>",
        bos_token="<start>",
        eos_token="<end>",
        unk_token="<unknown>",
        model_max_length=_LENGTH,
    )


def new_encoder(vocabulary: int, seed: int) -> Any:  # noqa: ANN401 - transformers has no types
    """Frozen random vectors of words, and of their places in a prompt: no layers."""
    torch.manual_seed(seed)
    config = CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=_WIDTH,
        intermediate_size=_WIDTH,
        num_hidden_layers=0,
        num_attention_heads=1,
        max_position_embeddings=_LENGTH,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    encoder = CLIPTextModel(config)
    with torch.no_grad():
        for name, value in encoder.named_parameters():
            if name.endswith("token_embedding.weight"):
                value.copy_(torch.randn(value.shape))
            if name.endswith("position_embedding.weight"):
                value.copy_(torch.randn(value.shape) * 0.3)
    return encoder.eval().requires_grad_(False)


def new_scheduler() -> Any:  # noqa: ANN401 - diffusers has no types
    """How noise is added, and taken away again: velocities on a cosine schedule."""
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_schedule="squaredcos_cap_v2",
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        clip_sample=False,
        steps_offset=1,
        set_alpha_to_one=True,
    )


def assemble(unet: Any, tokenizer: Any, encoder: Any) -> GlyphPipeline:  # noqa: ANN401
    """The pipeline of these parts, silent."""
    pipe = GlyphPipeline(
        vae=Folded(),
        text_encoder=encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=new_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def load(folder: Path = ASSETS / "base", device: str = "cpu") -> GlyphPipeline:
    """The committed base model, in float32."""
    parts = SimpleNamespace(
        unet=UNet2DConditionModel.from_pretrained(folder / "unet", torch_dtype=torch.float32),
        tokenizer=PreTrainedTokenizerFast.from_pretrained(folder / "tokenizer"),
        encoder=CLIPTextModel.from_pretrained(
            folder / "text_encoder", torch_dtype=torch.float32
        ).eval(),
    )
    pipe = assemble(parts.unet, parts.tokenizer, parts.encoder)
    pipe.to(device)
    return pipe


def words(pipe: GlyphPipeline, prompts: list[str]) -> Tensor:
    """What the denoiser is told of prompts: (prompts, words, numbers)."""
    ids = pipe.tokenizer(
        prompts, padding="max_length", max_length=_LENGTH, truncation=True, return_tensors="pt"
    ).input_ids
    with torch.no_grad():
        found: Tensor = pipe.text_encoder(ids.to(pipe.device))[0]
    return found
