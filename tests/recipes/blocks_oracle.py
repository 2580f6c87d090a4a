"""Which block a target is in, from the numbering of the original models, without the tables."""

import re

from loramix.formats.layout import Module

FORMS = {
    "sd15": {
        17: "BASE IN01 IN02 IN04 IN05 IN07 IN08 MID OUT03 OUT04 OUT05 OUT06 OUT07 OUT08 OUT09 "
        "OUT10 OUT11",
        26: "BASE IN00 IN01 IN02 IN03 IN04 IN05 IN06 IN07 IN08 IN09 IN10 IN11 MID OUT00 OUT01 "
        "OUT02 OUT03 OUT04 OUT05 OUT06 OUT07 OUT08 OUT09 OUT10 OUT11",
    },
    "sdxl": {
        12: "BASE IN04 IN05 IN07 IN08 MID OUT00 OUT01 OUT02 OUT03 OUT04 OUT05",
        20: "BASE IN00 IN01 IN02 IN03 IN04 IN05 IN06 IN07 IN08 MID OUT00 OUT01 OUT02 OUT03 OUT04 "
        "OUT05 OUT06 OUT07 OUT08",
    },
}
"""As their tools list them."""

FLUX = [f"D{i:02}" for i in range(19)] + [f"S{i:02}" for i in range(38)]

PRESETS = {
    "NONE": "0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0",
    "ALL": "1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1",
    "INS": "1,1,1,1,0,0,0,0,0,0,0,0,0,0,0,0,0",
    "IND": "1,0,0,0,1,1,1,0,0,0,0,0,0,0,0,0,0",
    "INALL": "1,1,1,1,1,1,1,0,0,0,0,0,0,0,0,0,0",
    "MIDD": "1,0,0,0,1,1,1,1,1,1,1,1,0,0,0,0,0",
    "OUTD": "1,0,0,0,0,0,0,0,1,1,1,1,0,0,0,0,0",
    "OUTS": "1,0,0,0,0,0,0,0,0,0,0,0,1,1,1,1,1",
    "OUTALL": "1,0,0,0,0,0,0,0,1,1,1,1,1,1,1,1,1",
    "ALL0.5": "0.5,0.5,0.5,0.5,0.5,0.5,0.5,0.5,0.5,0.5,0.5,0.5,0.5,0.5,0.5,0.5,0.5",
}
"""The defaults of sd-webui-lora-block-weight."""


def sd15(module: Module) -> str:
    """Three blocks a level: on the way down two resnets and the sampler, up three resnets."""
    if module.component == "text_encoder":
        return "BASE"
    name = module.name
    if name.startswith("mid_block"):
        return "MID"
    found = re.match(r"(down|up)_blocks\.(\d)\.(resnets|attentions|\w+samplers)\.(\d)", name)
    if found is None:
        return "OUT11" if name == "conv_out" else "IN00"
    level, place, sampler = int(found[2]), int(found[4]), "samplers" in found[3]
    if found[1] == "down":
        return f"IN{1 + 3 * level + (2 if sampler else place):02}"
    return f"OUT{3 * level + (2 if sampler else place):02}"


def sdxl(module: Module) -> str:
    """The layout's original names count the blocks themselves."""
    if module.component != "unet":
        return "BASE"
    found = re.match(r"(input|output)_blocks\.(\d+)\.", module.original)
    if found:
        return f"{found[1][:-3].upper()}{int(found[2]):02}"
    ends = {"middle_block": "MID", "out": "OUT08", "time_embed": "IN00", "label_emb": "IN00"}
    return ends[module.original.partition(".")[0]]


def flux1(module: Module) -> str:
    """Double and single blocks; the rest by what of the pipeline it is."""
    if module.component != "transformer":
        return {"text_encoder": "CLIP", "text_encoder_2": "T5"}[module.component]
    found = re.match(r"(double|single)_blocks\.(\d+)\.", module.original)
    if found:
        return f"{found[1][0].upper()}{int(found[2]):02}"
    return "OUT" if module.original.startswith("final_layer") else "IN"


BLOCK_OF = {"sd15": sd15, "sdxl": sdxl, "flux1": flux1}
