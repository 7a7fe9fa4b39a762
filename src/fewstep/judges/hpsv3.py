"""HPSv3: what people prefer, by a Qwen2-VL of 7 billion weights that was taught to rate pictures (arXiv:2508.03789).

The score is the first number, the mean, of the head's two, at the word ``<|Reward|>``. The package ``hpsv3`` 1.0.0 pins
transformers 4.45.2 and asks for deepspeed; here its weights are read into transformers' own class, in the precision that they
are stored in, on a picture and a prompt at a time. As in the package, positions count on through picture and text, and the
words of the instruction are the package's: they are read from its wheel, which is fetched with the weights and never run.
"""

from __future__ import annotations

import ast
import json
import math
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from . import kit

KIND = "score"
LICENCE = "MIT (code); of the weights not known here"
PINS = kit.NETWORK
FILE = "HPSv3.safetensors"
WHEEL = "hpsv3-1.0.0-py3-none-any.whl"
WORDS = "hpsv3/dataset/data_collator_qwen.py"
"""Where the wheel has the instruction."""
WEIGHTS = kit.Weights(
    f"hf download MizzenAI/HPSv3 {FILE} --local-dir {{folder}} && "
    "hf download Qwen/Qwen2-VL-7B-Instruct config.json tokenizer.json tokenizer_config.json chat_template.json "
    "--local-dir {folder} && pip download hpsv3==1.0.0 --no-deps --dest {folder}",
    {FILE: "", WHEEL: "1a1b3ed1f538315ddf0e90c55b9f5c8ab3248d772cd713c11f7dfe35bf867ab3"},
    ("config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.json"),
)
AREA = 256 * 28 * 28
"""Pixels that a picture is brought to."""
REWARD = "<|Reward|>"
HEAD = (0, 3, 5)
"""The head's linear layers, with max(x, 0) between them."""


def sized(wide: int, high: int, factor: int) -> tuple[int, int]:
    """Width and height in multiples of ``factor`` whose product is about `AREA`, of nearly the same shape."""
    new = [max(factor, round(length / factor) * factor) for length in (wide, high)]
    scale = math.sqrt(AREA / (wide * high))
    if new[0] * new[1] > AREA:
        new = [max(factor, math.floor(length * scale / factor) * factor) for length in (wide, high)]
    elif new[0] * new[1] < AREA:
        new = [math.ceil(length * scale / factor) * factor for length in (wide, high)]
    return new[0], new[1]


def patches(path: str, vision: Any) -> tuple[Any, tuple[int, int]]:
    """A picture as Qwen2-VL reads it: rows of pixels, one a patch, four neighbours together; and how many patches high, wide."""
    import numpy
    import torch
    from PIL import Image

    side, merge, times = vision.patch_size, vision.spatial_merge_size, vision.temporal_patch_size
    picture = kit.rgb(path)
    wide, high = picture.size
    picture = picture.resize(sized(wide, high, side * merge), Image.Resampling.BICUBIC)
    seen = torch.from_numpy(numpy.array(picture)).permute(2, 0, 1).float() / 255
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (kit.CLIP_MEAN, kit.CLIP_STD))
    seen = (seen - mean) / std
    high, wide = seen.shape[1] // side, seen.shape[2] // side
    blocks = seen.reshape(3, high // merge, merge, side, wide // merge, merge, side).permute(1, 4, 2, 5, 0, 3, 6)
    rows = blocks[:, :, :, :, :, None].expand(-1, -1, -1, -1, -1, times, -1, -1)
    return rows.reshape(high * wide, -1), (high, wide)


def instruction(wheel: str) -> tuple[str, str]:
    """What the model is told before and after a prompt, from the wheel's text. Raises ValueError where it is not there."""
    try:
        with zipfile.ZipFile(wheel) as held:
            tree = ast.parse(held.read(WORDS).decode("utf-8"))
        named = {
            target.id: ast.literal_eval(node.value)
            for node in tree.body
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        return named["INSTRUCTION"], named["prompt_with_special_token"]
    except (OSError, KeyError, SyntaxError, zipfile.BadZipFile) as error:
        raise ValueError(f"{wheel} holds no instruction of HPSv3: {error}") from None


class Score:
    """The mean that the head gives for a picture and its prompt."""

    resizer = "pil-bicubic-448-area"

    def __init__(self, asked: kit.Asked) -> None:
        import torch
        import transformers
        from safetensors.torch import load_file

        folder, self.device = Path(asked.weights), asked.device
        state = load_file(folder / FILE)
        self.before, self.after = instruction(str(folder / WHEEL))
        self.template = json.loads((folder / "chat_template.json").read_text("utf-8"))["chat_template"]
        self.tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
        self.tokenizer.add_special_tokens({"additional_special_tokens": [REWARD]})
        config: Any = transformers.Qwen2VLConfig.from_pretrained(folder, local_files_only=True)
        inner = {  # transformers has since given the part for text a name of its own
            key.replace("model.", "language_model.", 1) if key.startswith("model.") else key: value
            for key, value in state.items()
            if not key.startswith(("lm_head.", "rm_head."))
        }
        needed = ("model.embed_tokens.weight", *(f"rm_head.{i}.{part}" for i in HEAD for part in ("weight", "bias")))
        if lacking := [name for name in needed if name not in state]:
            raise ValueError(f"{folder / FILE} does not hold the weights of HPSv3: {lacking[0]} is missing")
        config.text_config.vocab_size = len(state["model.embed_tokens.weight"])
        self.model = kit.pretrained("Qwen2VLModel", str(folder / FILE), asked.device, state=inner, config=config)
        layers: list[Any] = []
        for i in HEAD:
            layers += [torch.nn.Linear(*state[f"rm_head.{i}.weight"].shape[::-1]), torch.nn.ReLU()]
        head = {
            f"{2 * n}.{part}": state[f"rm_head.{i}.{part}"].float()
            for n, i in enumerate(HEAD)
            for part in ("weight", "bias")
        }
        self.head = kit.filled(torch.nn.Sequential(*layers[:-1]), head, str(folder / FILE), asked.device)

    def words(self, prompt: str, n: int) -> Any:
        """Numbers of what the model reads up to the reward, with ``n`` places for the picture. Raises ValueError for a prompt
        that holds a word of its own, as ``<|Reward|>``."""
        if "<|" in prompt:
            raise ValueError(f"the prompt {prompt[:40]!r} holds <|, which is Qwen2-VL's own: take it out")
        content = [{"type": "image"}, {"type": "text", "text": self.before.format(text_prompt=prompt) + self.after}]
        told = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": content}],
            chat_template=self.template,
            tokenize=False,
            add_generation_prompt=True,
        )
        told = told[: told.index(REWARD) + len(REWARD)]  # nothing looks ahead: what follows changes nothing
        return self.tokenizer(told.replace("<|image_pad|>", "<|image_pad|>" * n), return_tensors="pt")["input_ids"]

    def __call__(self, pictures: Sequence[str], prompts: Sequence[str]) -> Iterator[float]:
        """One score a picture."""
        import torch

        config = self.model.config
        for path, prompt in zip(pictures, prompts):
            rows, grid = patches(path, config.vision_config)
            words = self.words(prompt, len(rows) // config.vision_config.spatial_merge_size**2)
            places = torch.arange(words.shape[1]).expand(3, 1, -1)
            with torch.no_grad():
                state = self.model(
                    input_ids=words.to(self.device), pixel_values=rows.to(self.device, self.model.dtype),
                    image_grid_thw=torch.tensor([[1, *grid]]).to(self.device), position_ids=places.to(self.device),
                ).last_hidden_state[0, -1]  # fmt: skip
                yield self.head(state.float())[0].item()


load = Score


def tiny(folder: str) -> None:
    """A Qwen2-VL of two blocks a part with random weights, a tokenizer of single letters and an instruction of a few words."""
    import tokenizers
    import transformers
    from safetensors.torch import save_file

    marks = ["<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|image_pad|>", "<|vision_end|>", "<|video_pad|>"]
    letters = [*map(chr, range(ord(" "), ord("~") + 1)), "\n"]
    letters_of = tokenizers.models.WordLevel({letter: i for i, letter in enumerate(letters)}, unk_token=" ")
    made = tokenizers.Tokenizer(letters_of)
    made.pre_tokenizer = tokenizers.pre_tokenizers.Split(tokenizers.Regex(r"[\s\S]"), "isolated")
    made.add_special_tokens(marks)
    transformers.PreTrainedTokenizerFast(tokenizer_object=made).save_pretrained(folder)
    each = (
        "{% for one in messages %}<|im_start|>{% for part in one.content %}{% if part.type == 'image' %}"
        "<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part.text }}{% endif %}{% endfor %}<|im_end|>{% endfor %}"
    )
    (Path(folder) / "chat_template.json").write_text(json.dumps({"chat_template": each}), "utf-8")
    with zipfile.ZipFile(Path(folder) / WHEEL, "w") as wheel:
        wheel.writestr(
            WORDS, f"INSTRUCTION = 'Rate {{text_prompt}}'\nprompt_with_special_token = ' now: {REWARD} end'\n"
        )
    text: Any = {
        "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 1, "vocab_size": len(letters) + len(marks) + 1,
        "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]}, "bos_token_id": 0, "eos_token_id": 0,
    }  # fmt: skip
    vision: Any = {"depth": 2, "embed_dim": 32, "hidden_size": 32, "num_heads": 2, "mlp_ratio": 2}
    config: Any = transformers.Qwen2VLConfig(
        text_config=text, vision_config=vision, image_token_id=len(letters) + 3, video_token_id=len(letters) + 5
    )
    config.save_pretrained(folder)
    shapes: dict[str, Sequence[int]] = {
        key.replace("language_model.", "model."): value.shape
        for key, value in transformers.Qwen2VLModel(config).state_dict().items()
    }
    for i, below, above in zip(HEAD, (32, 16, 8), (16, 8, 2)):
        shapes |= kit.linear(f"rm_head.{i}", below, above)
    save_file(kit.drawn(shapes), Path(folder) / FILE)
