"""ImageReward-v1.0: what people prefer, by a BLIP that reads the prompt with the picture in view (arXiv:2304.05977).

The weights are those of the package ``image-reward`` 1.5, whose classes stand on releases that cannot be together today. Here
they are read into transformers' classes of the same architecture. The reward is standardised with the package's mean and
deviation, so that about 0 is usual. The package resizes a picture with a palette before it is in colour, by nearest
neighbours; this judge after.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from . import kit

KIND = "score"
LICENCE = "Apache-2.0 (code); of the weights not known here"
PINS = kit.NETWORK
FILE = "ImageReward.pt"
WEIGHTS = kit.Weights(
    f"hf download THUDM/ImageReward {FILE} med_config.json --local-dir {{folder}} && "
    "hf download google-bert/bert-base-uncased vocab.txt --local-dir {folder}",
    {FILE: ""},
    ("med_config.json", "vocab.txt"),
)
MEAN, STD = 0.16717362830052426, 1.0333394966054072
"""Of rewards, in the package."""
LONGEST = 35
"""Words of a prompt, with both ends; what is longer is cut."""
HEAD_WIDTH = 64
"""Numbers of an attention head of its vision transformer; its other sizes are read from the weights."""
NAMES = (
    ("cls_token", "embeddings.class_embedding"),
    ("pos_embed", "embeddings.position_embedding"),
    ("patch_embed.proj.", "embeddings.patch_embedding."),
    ("blocks.", "encoder.layers."),
    ("norm.", "post_layernorm."),
)
"""How the beginning of a name in the vision transformer is spelled by BLIP and by transformers."""
WITHIN = (
    (".attn.qkv.", ".self_attn.qkv."),
    (".attn.proj.", ".self_attn.projection."),
    (".norm1.", ".layer_norm1."),
    (".norm2.", ".layer_norm2."),
)
"""The same within a block."""


def renamed(name: str) -> str:
    """A weight's name in transformers' vision transformer."""
    for theirs, ours in NAMES:
        if name.startswith(theirs):
            name = ours + name[len(theirs) :]
            break
    for theirs, ours in WITHIN:
        name = name.replace(theirs, ours)
    return name


def below(state: Mapping[str, Any], place: str) -> dict[str, Any]:
    """The weights of one part. Raises ValueError where there are none."""
    found = {key[len(place) :]: value for key, value in state.items() if key.startswith(place)}
    if not found:
        raise ValueError(f"{FILE} holds no weights of {place[:-1]}: it is not that of ImageReward-v1.0, fetch it again")
    return {key: value for key, value in found.items() if not key.endswith("position_ids")}


def vision(state: Mapping[str, Any]) -> Any:
    """The empty vision transformer that these weights belong in."""
    import transformers

    patch = state["embeddings.patch_embedding.weight"]
    side = patch.shape[-1] * round((state["embeddings.position_embedding"].shape[1] - 1) ** 0.5)
    config: Any = {
        "hidden_size": patch.shape[0],
        "intermediate_size": len(state["encoder.layers.0.mlp.fc1.bias"]),
        "num_hidden_layers": sum(key.endswith("layer_norm1.bias") for key in state),
        "num_attention_heads": patch.shape[0] // HEAD_WIDTH,
        "image_size": side,
        "patch_size": patch.shape[-1],
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-6,
    }
    return transformers.BlipVisionModel(transformers.BlipVisionConfig(**config))


def text(told: Mapping[str, Any], width: int) -> Any:
    """The empty text encoder of ``med_config.json``, which sees pictures as rows of ``width``."""
    import transformers
    from transformers.models.blip.modeling_blip_text import BlipTextModel

    own = (
        "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size",
        "max_position_embeddings", "hidden_act", "layer_norm_eps",
    )  # fmt: skip
    config: Any = {"encoder_hidden_size": width, "is_decoder": True, **{key: told[key] for key in own}}
    return BlipTextModel(transformers.BlipTextConfig(**config), add_pooling_layer=False)


class Score:
    """The standardised reward, of the first word's state after it has seen prompt and picture."""

    resizer = "pil-bicubic-224-center-crop"

    def __init__(self, asked: kit.Asked) -> None:
        import torch
        from transformers import BertTokenizer

        self.device, path = asked.device, f"{asked.weights}/{FILE}"
        state = kit.tensors(path)
        try:
            seen = {renamed(key): value for key, value in below(state, "blip.visual_encoder.").items()}
            self.vision = kit.filled(vision(seen), seen, path, asked.device)
            self.side, width = self.vision.config.image_size, self.vision.config.hidden_size
            told = json.loads((Path(asked.weights) / "med_config.json").read_text("utf-8"))
            self.text = kit.filled(text(told, width), below(state, "blip.text_encoder."), path, asked.device)
        except KeyError as error:
            raise ValueError(f"{asked.weights} holds no ImageReward: {error} is missing") from None
        layers = below(state, "mlp.layers.")
        order = sorted({int(key.split(".")[0]) for key in layers})
        head = torch.nn.Sequential(*(torch.nn.Linear(*layers[f"{i}.weight"].shape[::-1]) for i in order))
        renumbered = {
            f"{order.index(int(key.split('.')[0]))}.{key.split('.')[1]}": value for key, value in layers.items()
        }
        self.head = kit.filled(head, renumbered, path, asked.device)
        self.tokenizer = BertTokenizer.from_pretrained(asked.weights, local_files_only=True)

    def __call__(self, pictures: Sequence[str], prompts: Sequence[str]) -> Iterator[float]:
        """One score a picture."""
        import torch

        for files, texts in kit.batches(pictures, prompts):
            pixels = kit.pixels(files, self.side, kit.CLIP_MEAN, kit.CLIP_STD, "even").to(self.device)
            words = self.tokenizer(
                list(texts), padding="max_length", truncation=True, max_length=LONGEST, return_tensors="pt"
            ).to(self.device)
            with torch.no_grad():
                read = self.text(
                    input_ids=words["input_ids"], attention_mask=words["attention_mask"], is_decoder=False,
                    encoder_hidden_states=self.vision(pixel_values=pixels).last_hidden_state,
                ).last_hidden_state  # fmt: skip
                yield from ((self.head(read[:, 0])[:, 0] - MEAN) / STD).tolist()


load = Score


def tiny(folder: str) -> None:
    """The package's names with two blocks a side and random weights."""
    import torch

    wide, high, words = 2 * HEAD_WIDTH, 32, ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words += [letter for code in range(ord("a"), ord("z") + 1) for letter in (chr(code), f"##{chr(code)}")]
    (Path(folder) / "vocab.txt").write_text("\n".join(words) + "\n", "utf-8")
    told = {
        "hidden_size": high, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
        "vocab_size": len(words), "max_position_embeddings": 64, "hidden_act": "gelu", "layer_norm_eps": 1e-12,
    }  # fmt: skip
    (Path(folder) / "med_config.json").write_text(json.dumps(told), "utf-8")
    seeing, reading = "blip.visual_encoder.", "blip.text_encoder."
    shapes: dict[str, Sequence[int]] = {
        f"{seeing}cls_token": (1, 1, wide), f"{seeing}pos_embed": (1, 5, wide), f"{seeing}patch_embed.proj.bias": (wide,),
        f"{seeing}patch_embed.proj.weight": (wide, 3, 14, 14), **kit.norms(wide, f"{seeing}norm"),
        f"{reading}embeddings.word_embeddings.weight": (len(words), high),
        f"{reading}embeddings.position_embeddings.weight": (64, high), **kit.norms(high, f"{reading}embeddings.LayerNorm"),
    }  # fmt: skip
    for i in range(2):
        at = f"{seeing}blocks.{i}."
        shapes |= kit.norms(wide, f"{at}norm1", f"{at}norm2") | kit.linear(f"{at}attn.qkv", wide, 3 * wide)
        shapes |= kit.linear(f"{at}attn.proj", wide, wide)
        shapes |= kit.linear(f"{at}mlp.fc1", wide, 40) | kit.linear(f"{at}mlp.fc2", 40, wide)
        at = f"{reading}encoder.layer.{i}."
        for kind, seen in (("attention", high), ("crossattention", wide)):
            shapes |= kit.linear(f"{at}{kind}.self.query", high, high) | kit.linear(f"{at}{kind}.self.key", seen, high)
            shapes |= kit.linear(f"{at}{kind}.self.value", seen, high)
            shapes |= kit.linear(f"{at}{kind}.output.dense", high, high)
            shapes |= kit.norms(high, f"{at}{kind}.output.LayerNorm", f"{at}output.LayerNorm")
        shapes |= kit.linear(f"{at}intermediate.dense", high, 48) | kit.linear(f"{at}output.dense", 48, high)
    for i, below_it, above in ((0, high, 24), (2, 24, 16), (4, 16, 8), (6, 8, 4), (7, 4, 1)):
        shapes |= kit.linear(f"mlp.layers.{i}", below_it, above)
    torch.save(kit.drawn(shapes), f"{folder}/{FILE}")
