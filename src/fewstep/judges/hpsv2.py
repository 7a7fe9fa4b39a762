"""HPSv2.1: 100 times the cosine of picture and prompt in a CLIP ViT-H/14 tuned on people's choices (arXiv:2306.09341).

The weights are those of open_clip's network. Here they are read into transformers' class of the same architecture, in float32
(the package ``hpsv2`` 1.2.0 computes in half precision on a GPU). Pictures are prepared as that package prepares them: the
longer side becomes 224, the rest is black. Its resizing smooths since torchvision 0.17, and so does this judge; before 0.17 it
did not, so older figures of pictures above 224 pixels may differ.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from . import kit

KIND = "score"
LICENCE = "Apache-2.0 (code); of the weights not known here"
PINS = kit.NETWORK
FILE = "HPS_v2.1_compressed.pt"
WEIGHTS = kit.Weights(
    f"hf download xswu/HPSv2 {FILE} --local-dir {{folder}} && "
    "hf download laion/CLIP-ViT-H-14-laion2B-s32B-b79K vocab.json merges.txt --local-dir {folder}",
    {FILE: ""},
    ("vocab.json", "merges.txt"),
)
HEAD_WIDTHS = {"vision": 80, "text": 64}
"""Numbers of an attention head in ViT-H/14; all other sizes are read from the weights."""
NAMES = (
    ("token_embedding", "text_model.embeddings.token_embedding"),
    ("positional_embedding", "text_model.embeddings.position_embedding.weight"),
    ("ln_final", "text_model.final_layer_norm"),
    ("text_projection", "text_projection.weight"),
    ("transformer.resblocks", "text_model.encoder.layers"),
    ("visual.class_embedding", "vision_model.embeddings.class_embedding"),
    ("visual.positional_embedding", "vision_model.embeddings.position_embedding.weight"),
    ("visual.conv1", "vision_model.embeddings.patch_embedding"),
    ("visual.ln_pre", "vision_model.pre_layrnorm"),
    ("visual.ln_post", "vision_model.post_layernorm"),
    ("visual.proj", "visual_projection.weight"),
    ("visual.transformer.resblocks", "vision_model.encoder.layers"),
)
"""How the beginning of a weight's name is spelled by open_clip and by transformers."""
WITHIN = (
    ("ln_1", "layer_norm1"),
    ("ln_2", "layer_norm2"),
    ("attn.out_proj", "self_attn.out_proj"),
    ("mlp.c_fc", "mlp.fc1"),
    ("mlp.c_proj", "mlp.fc2"),
)
"""The same within a block."""


def converted(state: Mapping[str, Any]) -> dict[str, Any]:
    """open_clip's weights under transformers' names: projections transposed, queries, keys and values apart."""
    found = {}
    for name, weight in state.items():
        for theirs, ours in NAMES:
            if name == theirs or name.startswith(theirs + "."):
                name = ours + name[len(theirs) :]
                break
        for theirs, ours in WITHIN:
            name = name.replace(f".{theirs}.", f".{ours}.")
        if ".attn.in_proj_" in name:
            for letter, part in zip("qkv", weight.chunk(3)):
                found[name.replace("attn.in_proj_", f"self_attn.{letter}_proj.")] = part
        else:
            found[name] = weight.T if name in ("text_projection.weight", "visual_projection.weight") else weight
    return found


def network(state: Mapping[str, Any]) -> Any:
    """A CLIP of transformers with the sizes of these weights, by open_clip's names. Raises KeyError for a name that lacks."""
    import transformers

    def part(before: str, which: str) -> dict[str, Any]:
        wide = state[before + "transformer.resblocks.0.mlp.c_fc.weight"]
        return {
            "hidden_size": wide.shape[1],
            "intermediate_size": wide.shape[0],
            "num_hidden_layers": sum(key.startswith(before + "transformer.") and "ln_1.bias" in key for key in state),
            "num_attention_heads": wide.shape[1] // HEAD_WIDTHS[which],
            "hidden_act": "gelu",
        }

    words, patch = len(state["token_embedding.weight"]), state["visual.conv1.weight"].shape[-1]
    text = {
        **part("", "text"), "vocab_size": words, "max_position_embeddings": len(state["positional_embedding"]),
        "bos_token_id": words - 2, "eos_token_id": words - 1, "pad_token_id": words - 1,
    }  # fmt: skip
    side = patch * round((len(state["visual.positional_embedding"]) - 1) ** 0.5)
    vision = {**part("visual.", "vision"), "patch_size": patch, "image_size": side}
    width = state["text_projection"].shape[1]
    return transformers.CLIPModel(transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=width))


def tiny(folder: str) -> None:
    """A CLIP of open_clip's names with two blocks a side and random weights, as a file of torch."""
    import torch

    words = kit.tiny_words(folder)
    text, vision = 2 * HEAD_WIDTHS["text"], 2 * HEAD_WIDTHS["vision"]
    shapes = {
        "token_embedding.weight": (words, text), "positional_embedding": (77, text), "text_projection": (text, 8),
        "visual.class_embedding": (vision,), "visual.positional_embedding": (5, vision), "logit_scale": (),
        "visual.conv1.weight": (vision, 3, 14, 14), "visual.proj": (vision, 8),
        **kit.norms(text, "ln_final"), **kit.norms(vision, "visual.ln_pre", "visual.ln_post"),
    }  # fmt: skip
    for before, wide in (("", text), ("visual.", vision)):
        for i in range(2):
            at = f"{before}transformer.resblocks.{i}."
            shapes |= {f"{at}attn.in_proj_weight": (3 * wide, wide), f"{at}attn.in_proj_bias": (3 * wide,)}
            shapes |= kit.linear(f"{at}attn.out_proj", wide, wide) | kit.norms(wide, f"{at}ln_1", f"{at}ln_2")
            shapes |= kit.linear(f"{at}mlp.c_fc", wide, 4 * wide) | kit.linear(f"{at}mlp.c_proj", 4 * wide, wide)
    torch.save({"state_dict": kit.drawn(shapes)}, f"{folder}/{FILE}")


class Score(kit.Clip):
    """HPSv2.1 as its authors print it for models: in hundredths."""

    resizer = "torch-bicubic-antialias-224-longest-black"

    def network(self, folder: str, device: str) -> Any:
        """The CLIP in open_clip's file."""
        state = kit.tensors(f"{folder}/{FILE}")
        try:
            model = network(state)
        except KeyError as error:
            raise ValueError(f"{folder}/{FILE} holds no CLIP of open_clip: {error} is missing") from None
        return kit.filled(model, converted(state), f"{folder}/{FILE}", device)

    def pixels(self, files: Sequence[str]) -> Any:
        """Pictures with their longer side at the network's, in the middle of black."""
        import torch

        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (kit.CLIP_MEAN, kit.CLIP_STD))
        found = [(within(picture[0], self.side) - mean) / std for path in files for picture in kit.media([path])]
        return torch.stack(found)

    def prompts(self, texts: Sequence[str]) -> Any:
        """Embeddings of prompts, cleaned as open_clip cleans them."""
        return super().prompts([clean(text) for text in texts])

    def __call__(self, pictures: Sequence[str], prompts: Sequence[str]) -> Iterator[float]:
        """One score a picture."""
        for cosines in self.cosines(pictures, prompts):
            yield from (100 * cosines).tolist()


def within(picture: Any, side: int) -> Any:
    """A picture ``[3, H, W]`` in [-1, 1] as one in [0, 1] whose longer side is ``side``, in the middle of a black square."""
    import torch

    high, wide = picture.shape[1:]
    scale = side / max(high, wide)
    high, wide = max(1, round(high * scale)), max(1, round(wide * scale))
    shown = torch.nn.functional.interpolate(picture[None] / 2 + 0.5, (high, wide), mode="bicubic", antialias=True)[0]
    left, top = (side - wide) // 2, (side - high) // 2
    return torch.nn.functional.pad(shown, (left, side - wide - left, top, side - high - top))


def clean(text: str) -> str:
    """A prompt as open_clip's tokenizer cleans it: broken letters mended, HTML's signs read, one blank at a time, small."""
    if not text.isascii():
        import ftfy

        text = ftfy.fix_text(text)
    return re.sub(r"\s+", " ", html.unescape(html.unescape(text))).strip().lower()


def load(asked: kit.Asked) -> Score:
    """The CLIP from its folder."""
    return Score(asked.weights, asked.device)
