"""Files that loramix writes, loaded by diffusers into every architecture that both know.

The models are the real classes with few and narrow blocks and seeded weights (`clients.models`);
the inputs are adapters under the names of the original codes, with several ranks and alphas.
What is proved: the loaded adapter changes the output of the model by what the deltas do that are
added to its weights by hand.  What diffusers gets wrong is listed by name, and each entry has a
test that fails when diffusers is repaired.
"""

import contextlib
import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import pytest
import torch
from clients.applied import applied
from clients.models import CLIENTS
from clients.tiny import SPELLINGS, Choose, adapter, add_by_hand, among, table_of
from formats.builders import Built, Truth, gap, gaps, total
from peft import PeftModel

import loramix
from loramix.formats.layout import LAYOUTS, Layout, load_layout

pytestmark = pytest.mark.filterwarnings(
    "ignore::FutureWarning",
    "ignore::DeprecationWarning",
    # A top-level proj_out also names every proj_out of the blocks, if the file has not those.
    "ignore:While injecting the PEFT adapters:RuntimeWarning",
    # What is dropped may have had a rank of its own.
    "ignore:The following (rank|alpha)_pattern keys did not match:RuntimeWarning",
)

WEIGHTS = (0.7, -0.4)
EXACT = 1e-4
"""Largest relative distance of deltas, and of changes of an output; about 1e-6 is usual."""

# Modules that diffusers does not take from a dialect, and what happens instead: they are
# dropped without a word, they are wrong, or nothing is loaded and there is an error.  Sizes
# that a converter knows by heart are an error here; full models are in other tests.
_FLUX1_KOHYA = {
    "x_embedder": "dropped",
    "context_embedder": "dropped",
    "proj_out": "dropped",
    "norm_out.linear": "dropped",
    "time_text_embed.*": "dropped",
    "single_transformer_blocks.*.attn.to_?": "size",
    "single_transformer_blocks.*.proj_mlp": "size",
}
_FLUX2_KOHYA = {
    "double_stream_modulation_img.linear": "dropped",
    "double_stream_modulation_txt.linear": "dropped",
    "single_stream_modulation.linear": "dropped",
    "norm_out.linear": "dropped",
}
_FLUX2_COMFYUI = {"norm_out.linear": "wrong"}  # its halves stay where the original has them
_WAN_KOHYA = {"condition_embedder.*": "error", "patch_embedding": "error", "proj_out": "error"}
_Z_IMAGE = {"all_x_embedder.*": "dropped", "all_final_layer.*": "dropped"}
_VACE = {"vace_blocks.*": "error", "vace_patch_embedding": "error"}
WRONG: Mapping[tuple[str, str], Mapping[str, str]] = {
    ("sd15", "kohya"): {},
    ("sd21", "kohya"): {},
    ("sdxl", "kohya"): {},
    ("flux1", "kohya"): _FLUX1_KOHYA,
    ("flux2_dev", "kohya"): {**_FLUX2_KOHYA, "time_guidance_embed.guidance_*": "dropped"},
    ("flux2_dev", "comfyui"): _FLUX2_COMFYUI,
    ("flux2_klein_4b", "kohya"): _FLUX2_KOHYA,
    ("flux2_klein_4b", "comfyui"): _FLUX2_COMFYUI,
    ("chroma", "kohya"): {
        **{k: v for k, v in _FLUX1_KOHYA.items() if k[:4] not in ("time", "norm")},
        "distilled_guidance_layer.*": "error",
    },
    ("z_image", "kohya"): _Z_IMAGE,
    # What is fused or named otherwise is dropped, too, where names keep their dots.
    ("z_image", "comfyui"): {**_Z_IMAGE, "*.attention.to_*": "dropped"},
    ("qwen_image", "kohya"): {},
    ("qwen_image", "comfyui"): {},
    ("wan21_t2v_1_3b", "kohya"): _WAN_KOHYA,
    ("wan21_t2v_1_3b", "comfyui"): {"patch_embedding": "error"},
    ("wan21_i2v_14b", "kohya"): _WAN_KOHYA,
    ("wan21_i2v_14b", "comfyui"): {"patch_embedding": "error"},
    ("wan21_vace_1_3b", "kohya"): {**_WAN_KOHYA, **_VACE},
    ("wan21_vace_1_3b", "comfyui"): {"patch_embedding": "error", **_VACE},
    ("wan22_ti2v_5b", "kohya"): _WAN_KOHYA,
    ("wan22_ti2v_5b", "comfyui"): {"patch_embedding": "error"},
    ("ltx_video_2b", "comfyui"): {"proj_in": "dropped", "time_embed.*": "dropped"},
    ("ace_step_1_5", "original"): {"proj_in_conv": "dropped"},
}
# Dialects of which diffusers loads nothing.
FOREIGN = (
    ("sd15", "comfyui"),
    ("sd15", "original"),
    ("sd21", "comfyui"),
    ("sdxl", "comfyui"),
    ("sdxl", "plain"),
    ("sd3_medium", "kohya"),
    ("sd3_medium", "comfyui"),
    ("sd35_medium", "kohya"),
    ("sd35_medium", "comfyui"),
    ("sd35_large", "kohya"),
    ("sd35_large", "comfyui"),
    ("flux1", "comfyui"),
    ("flux1", "original"),
    ("flux2_dev", "original"),
    ("chroma", "comfyui"),
    ("lumina2", "kohya"),
    ("lumina2", "comfyui"),
    ("qwen_image", "plain"),
    ("wan21_t2v_1_3b", "original"),
    ("ltx_video_2b", "kohya"),
    ("hunyuan_video", "kohya"),
    ("hunyuan_video", "comfyui"),
    ("ace_step_1_5", "comfyui"),
)


class Stand:
    """One architecture: its tiny model, the table, and what the model says without an adapter."""

    def __init__(self, name: str, folder: Path) -> None:
        self.client = CLIENTS[name]
        model = self.client.make()
        self.layout: Layout = table_of(
            name, self.client.component, model, folder / f"{name}.layout"
        )
        self.before = self.client.run(model)

    def first(self, choose: Choose) -> Built:
        """An adapter with fused weights, several ranks, and alphas where files have them."""
        kohya = self.layout.modules[0].kohya is not None
        spelling = SPELLINGS["kohya" if kohya else "peft"]
        return adapter(self.layout, spelling, choose, 1, ranks=(4, 2), scales=(1.0, 0.5, 1.5))

    def merged(self, output: loramix.Output, choose: Choose, folder: Path) -> tuple[Path, Truth]:
        """Merge two adapters; the second has every other module, other ranks and other scales."""
        odd = {module.name for module in self.layout.modules[::2]}
        first = self.first(choose)
        second = adapter(
            self.layout, SPELLINGS["comfyui"], lambda m: choose(m) and m.name in odd, 1000,
            ranks=(2, 3), scales=(0.5, 2.0),
        )  # fmt: skip
        files = [one.save(folder / f"{i}.safetensors") for i, one in enumerate((first, second))]
        path = folder / ("merged" if output.client == "peft" else "merged.safetensors")
        loramix.merge(
            files, "linear", weights=WEIGHTS, output=output, path=path,
            architecture=self.layout.name,
        )  # fmt: skip
        return path, total([(first.truth, WEIGHTS[0]), (second.truth, WEIGHTS[1])])

    def loaded(self, path: Path) -> torch.nn.Module:
        """The model into which diffusers loaded a file."""
        model = self.client.make()
        self.client.load(model, str(path))
        return model

    def check(self, loaded: torch.nn.Module, truth: Truth) -> None:
        """Require that a model was given what is meant, layer by layer and in the output."""
        edited = self.client.make()
        assert gaps(truth, applied({self.client.component: loaded})) < EXACT
        add_by_hand(edited, self.client.component, truth)
        meant = self.client.run(edited).double() - self.before
        got = self.client.run(loaded).double() - self.before
        assert meant.norm() > 1e-2 * self.before.norm()  # or the next line would compare noise
        assert (got - meant).norm() < EXACT * meant.norm()


@cache
def _stand(name: str, folder: Path) -> Stand:
    return Stand(name, folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tables")


def test_no_architecture_is_forgotten() -> None:
    other_sizes = {"flux2_klein_9b", "wan21_t2v_14b", "ltx_video_13b"}
    not_in_diffusers = {"ace_step_v1", "llama3_8b", "qwen2_5_7b"}
    assert CLIENTS.keys() == set(LAYOUTS) - other_sizes - not_in_diffusers


def test_no_dialect_is_forgotten() -> None:
    """Every model has a row for the names of Kohya, if it has any, and for those of ComfyUI."""
    flat = {name for name in CLIENTS if load_layout(name).modules[0].kohya is not None}
    assert CLIENTS.keys() - flat == {"ace_step_1_5"}
    pairs = {(name, "kohya") for name in flat} | {(name, "comfyui") for name in CLIENTS}
    assert pairs <= WRONG.keys() | set(FOREIGN)
    assert not WRONG.keys() & set(FOREIGN)


@pytest.mark.parametrize("name", CLIENTS)
def test_the_universal_form_does_what_the_deltas_do(
    name: str, folder: Path, tmp_path: Path
) -> None:
    stand = _stand(name, folder)
    path, truth = stand.merged(loramix.Output(client="diffusers"), lambda _: True, tmp_path)
    assert truth.keys() == {f"{m.component}.{m.name}" for m in stand.layout.modules}
    stand.check(stand.loaded(path), truth)


@pytest.mark.parametrize("name", CLIENTS)
def test_conversions_do_what_the_deltas_do(name: str, folder: Path, tmp_path: Path) -> None:
    # Two of them: to the original names, which fuses again what was split, and from there.
    stand = _stand(name, folder)
    built, table = stand.first(lambda _: True), stand.layout.name
    source = built.save(tmp_path / "in.safetensors")
    middle, path = tmp_path / "middle.safetensors", tmp_path / "out.safetensors"
    loramix.convert(source, middle, client="comfyui", architecture=table)
    loramix.convert(middle, path, client="diffusers", architecture=table)
    stand.check(stand.loaded(path), built.truth)


@pytest.mark.parametrize("name", ["sd3_medium", "flux2_dev", "z_image", "wan21_i2v_14b"])
def test_peft_loads_networks_too(name: str, folder: Path, tmp_path: Path) -> None:
    stand = _stand(name, folder)
    path, truth = stand.merged(loramix.Output(client="peft"), lambda _: True, tmp_path)
    stand.check(PeftModel.from_pretrained(stand.client.make(), str(path)).base_model.model, truth)


@pytest.mark.parametrize(("name", "dialect"), WRONG)
def test_other_dialects_do_what_the_deltas_do(
    name: str, dialect: str, folder: Path, tmp_path: Path
) -> None:
    stand = _stand(name, folder)
    output = loramix.Output(dialect=dialect)
    wrong = WRONG[name, dialect]
    path, truth = stand.merged(output, lambda m: not among(m.name, wrong), tmp_path)
    stand.check(stand.loaded(path), truth)


@pytest.mark.parametrize(
    ("name", "dialect", "pattern"),
    [(*key, pattern) for key, wrong in WRONG.items() for pattern in wrong],
)
def test_what_diffusers_gets_wrong_is_still_wrong(
    name: str, dialect: str, pattern: str, folder: Path, tmp_path: Path
) -> None:
    stand, how = _stand(name, folder), WRONG[name, dialect][pattern]
    others = [other for other in WRONG[name, dialect] if other != pattern]
    output = loramix.Output(dialect=dialect)
    path, truth = stand.merged(output, lambda m: not among(m.name, others), tmp_path)
    rest = {k: v for k, v in truth.items() if not among(k.partition(".")[2], [pattern])}
    assert 0 < len(rest) < len(truth)
    if how == "dropped":
        stand.check(stand.loaded(path), rest)
        return
    if how in ("error", "size"):
        with pytest.raises((AssertionError, ValueError, IndexError)):
            stand.loaded(path)
        return
    loaded = applied({stand.client.component: stand.loaded(path)})
    assert loaded.keys() == truth.keys()
    bad = {key for key in truth if gap(truth[key], loaded[key]) > 0.1}
    assert bad == truth.keys() - rest.keys()


@pytest.mark.parametrize(("name", "dialect"), FOREIGN)
def test_dialects_that_diffusers_does_not_know(
    name: str, dialect: str, folder: Path, tmp_path: Path
) -> None:
    stand = _stand(name, folder)
    path, _ = stand.merged(loramix.Output(dialect=dialect), lambda _: True, tmp_path)
    model = stand.client.make()
    with contextlib.suppress(ValueError, RuntimeError):
        stand.client.load(model, str(path))
    assert not applied({stand.client.component: model})
