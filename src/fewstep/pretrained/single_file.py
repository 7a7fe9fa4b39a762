"""One file in the layout of the first Stable Diffusion code, which ComfyUI, A1111 and Forge read: SD 1, SD 2 and SDXL.

The names of a pipeline's weights become those of ``ldm`` (SD 1, 2) and ``sgm`` (SDXL): ``model.diffusion_model`` is the UNet,
``first_stage_model`` the VAE, ``cond_stage_model`` or ``conditioner.embedders`` the text encoders, of which OpenCLIP's keep
query, key and value in one matrix. diffusers reads such a file with ``from_single_file``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from .families import Configs
from .schedules import kind_of
from .weights import weight_files

State = dict[str, Tensor]
RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
UNET = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
}
VAE = {
    r"mid_block\.resnets\.(\d+)": lambda m: f"mid.block_{int(m[1]) + 1}",
    r"mid_block\.attentions\.0": lambda m: "mid.attn_1",
    r"conv_norm_out": lambda m: "norm_out",
    r"conv_shortcut": lambda m: "nin_shortcut",
    r"group_norm": lambda m: "norm",
    r"to_([qkv])\.": lambda m: f"{m[1]}.",
    r"to_out\.0": lambda m: "proj_out",
    r"(?:down|up)samplers\.0\.conv": lambda m: "downsample.conv" if m[0][0] == "d" else "upsample.conv",
    r"\.resnets\.": lambda m: ".block.",
}  # fmt: skip
OPEN_CLIP = {
    "embeddings.token_embedding.weight": "token_embedding.weight",
    "embeddings.position_embedding.weight": "positional_embedding",
    "final_layer_norm": "ln_final",
    "encoder.layers": "transformer.resblocks",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}


def block_places(names: Mapping[str, Any]) -> dict[str, str]:
    """Where each block of a diffusers UNet stands among ``input_blocks`` and ``output_blocks``, by the beginning of its names."""
    found = {
        m[0]: (m[1], int(m[2]), int(m[3]))
        for n in names
        if (m := re.match(r"(down|up)_blocks\.(\d+)\.resnets\.(\d+)", n))
    }
    places, number = {}, {"down": 1, "up": 0}
    for way, block, layer in sorted(set(found.values())):
        at, start = f"{'input' if way == 'down' else 'output'}_blocks", f"{way}_blocks.{block}"
        places[f"{start}.resnets.{layer}"] = f"{at}.{number[way]}.0"
        attends = any(n.startswith(f"{start}.attentions.{layer}.") for n in names)
        if attends:
            places[f"{start}.attentions.{layer}"] = f"{at}.{number[way]}.1"
        if way == "up":  # it stands behind the last layer; the next one writes over it
            places[f"{start}.upsamplers.0"] = f"{at}.{number[way]}.{1 + attends}"
        elif (way, block, layer + 1) not in found.values() and any(
            n.startswith(f"{start}.downsamplers.") for n in names
        ):
            number[way] += 1
            places[f"{start}.downsamplers.0.conv"] = f"{at}.{number[way]}.0.op"
        number[way] += 1
    return places


def unet_names(state: State) -> State:
    """A diffusers UNet's weights under ldm's names."""
    places = {**UNET, **block_places(state)}
    made: State = {}
    for name, value in state.items():
        start = next((s for s in places if name.startswith(f"{s}.")), None)
        if start is None:
            raise ValueError(
                f"the network's {name} has no place in a single file of Stable Diffusion: save it as a folder"
            )
        rest = name[len(start) + 1 :]
        if ".resnets." in f".{start}":
            inner, _, last = rest.rpartition(".")
            rest = f"{RESNET[inner]}.{last}"
        made[f"{places[start]}.{rest}"] = value
    return made


def vae_names(state: State) -> State:
    """An AutoencoderKL's weights under ldm's names: its attention's matrices are 1x1 convolutions there."""
    levels = 1 + max((int(m[1]) for n in state if (m := re.match(r"decoder\.up_blocks\.(\d+)", n))), default=0)
    made: State = {}
    for name, value in state.items():
        new = re.sub(r"encoder\.down_blocks\.(\d+)", r"encoder.down.\1", name)
        new = re.sub(r"decoder\.up_blocks\.(\d+)", lambda m: f"decoder.up.{levels - 1 - int(m[1])}", new)
        for pattern, written in VAE.items():
            new = re.sub(pattern, written, new)
        matrix = ".mid.attn_1." in new and value.dim() == 2
        made[new] = value[..., None, None] if matrix else value
    return made


def bare(state: State) -> State:
    """A CLIP text encoder's weights without ``text_model.``, which transformers 4 writes and transformers 5 does not."""
    return {n.removeprefix("text_model."): v for n, v in state.items() if not n.endswith(".position_ids")}


def clip_names(state: State) -> State:
    """A CLIP text encoder's weights as transformers 4 names them."""
    return {f"text_model.{name}": value for name, value in bare(state).items() if name != "text_projection.weight"}


def open_clip_names(state: State) -> State:
    """A CLIP text encoder's weights under OpenCLIP's names; the projection is transposed there."""
    made: State = {}
    own = bare(state)
    for name, value in own.items():
        if match := re.fullmatch(r"encoder\.layers\.(\d+)\.self_attn\.q_proj\.(weight|bias)", name):
            parts = [own[name.replace("q_proj", f"{one}_proj")] for one in "qkv"]
            made[f"transformer.resblocks.{match[1]}.attn.in_proj_{match[2]}"] = torch.cat(parts)
        elif name == "text_projection.weight":
            made["text_projection"] = value.t()
        elif not re.search(r"\.[kv]_proj\.", name):
            for old, new in OPEN_CLIP.items():
                name = name.replace(old, new)
            made[name] = value
    return made


READERS_BETAS = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
}
"""The noise that every reader of such a file takes for granted: the file has no place for another."""
SDXL = "StableDiffusionXLPipeline"
PIPELINES = ("StableDiffusionPipeline", SDXL)
PARTS = {
    "unet": "UNet2DConditionModel",
    "vae": "AutoencoderKL",
    "text_encoder": "CLIPTextModel",
    "text_encoder_2": "CLIPTextModelWithProjection",
}
"""What a single file holds, by the classes of diffusers and transformers."""


def check_single_file(configs: Configs) -> None:
    """Raise ValueError with the fix where a folder's model cannot be told in one file; its configs alone are read."""
    found, folder = str(configs.index.get("_class_name")), configs.folder
    if found not in PIPELINES:
        raise ValueError(f"a {found} has no layout in a single file here: only Stable Diffusion 1, 2 and SDXL have one")
    for part, wanted in PARTS.items():
        kind = configs.kind(part)
        if kind != wanted and (kind or part != "text_encoder_2" or found == SDXL):
            raise ValueError(
                f"the {part} of {folder} is {kind or 'missing'}, and a single file has a place for the class {wanted}"
            )
    noise = {key: configs.scheduler.get(key, value) for key, value in READERS_BETAS.items()}
    if noise != READERS_BETAS:
        raise ValueError(
            f"{folder} was trained with other noise ({noise}) than the readers of single files take for granted: "
            "use it as a folder"
        )
    if (kind := kind_of(dict(configs.scheduler))) not in ("eps", "v"):
        raise ValueError(f"{folder} predicts {kind}, which no reader of single files knows: use it as a folder")


def read_part(folder: Path) -> State:
    """All weights of a network's folder that are read, as they are stored."""
    return {name: value for path in weight_files(folder)[1] for name, value in load_file(path).items()}


def single_file(configs: Configs) -> State:
    """The weights of a folder in one dictionary, in the layout that ComfyUI, A1111 and Forge read, in the numbers they have.

    Raises ValueError with the fix for what has no place there.
    """
    check_single_file(configs)
    folder, xl = configs.folder, configs.index["_class_name"] == SDXL
    open_clip = configs.of("text_encoder").get("hidden_act") == "gelu"  # SD 2: OpenCLIP's; CLIP's own has quick_gelu
    first = "conditioner.embedders.0.transformer." if xl else "cond_stage_model.transformer."
    plan: list[tuple[str, str, Callable[[State], State]]] = [
        ("unet", "model.diffusion_model.", unet_names),
        ("vae", "first_stage_model.", vae_names),
        ("text_encoder", first, clip_names),
    ]
    if xl:
        plan.append(("text_encoder_2", "conditioner.embedders.1.model.", open_clip_names))
    elif open_clip:
        plan[-1] = ("text_encoder", "cond_stage_model.model.", open_clip_names)
    made = {
        f"{start}{n}": v.contiguous() for part, start, names in plan for n, v in names(read_part(folder / part)).items()
    }
    if kind_of(dict(configs.scheduler)) == "v":
        made["v_pred"] = torch.zeros(0)
    if configs.scheduler.get("rescale_betas_zero_snr"):
        made["ztsnr"] = torch.zeros(0)
    return made
