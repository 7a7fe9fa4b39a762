"""Judges that learned what people prefer: at small random weights in a process, against plain arithmetic of their own."""

from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file
from torch.nn import functional as F

from fewstep.judges import hpsv2, hpsv3, image_reward, kit
from judge_helpers import PROMPTS, judged, pictures


def clip(state: dict[str, torch.Tensor], before: str, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """open_clip's blocks in torch's own attention, from its weights; ``x [n, words, width]``."""
    for i in range(2):
        at = f"{before}transformer.resblocks.{i}."
        w = {name.removeprefix(at): value for name, value in state.items() if name.startswith(at)}
        seen = F.layer_norm(x, x.shape[-1:], w["ln_1.weight"], w["ln_1.bias"]).transpose(0, 1)
        answer, _ = F.multi_head_attention_forward(
            seen, seen, seen, x.shape[-1], 2, w["attn.in_proj_weight"], w["attn.in_proj_bias"], None, None, False, 0.0,
            w["attn.out_proj.weight"], w["attn.out_proj.bias"], attn_mask=mask, need_weights=False,
        )  # fmt: skip
        x = x + answer.transpose(0, 1)
        seen = F.layer_norm(x, x.shape[-1:], w["ln_2.weight"], w["ln_2.bias"])
        x = (
            x
            + F.gelu(seen @ w["mlp.c_fc.weight"].T + w["mlp.c_fc.bias"]) @ w["mlp.c_proj.weight"].T
            + w["mlp.c_proj.bias"]
        )
    return x


def test_hpsv2_is_the_cosine_of_an_open_clip_with_its_own_weights(tmp_path: Path) -> None:
    given, folder = pictures(tmp_path), tmp_path / "weights"
    scores = judged("hpsv2", folder, given).scores
    state = torch.load(folder / hpsv2.FILE, weights_only=True)["state_dict"]
    tokens = transformers.CLIPTokenizer.from_pretrained(folder)(PROMPTS, truncation=True, max_length=77)["input_ids"]
    want = []
    for path, words in zip(given, tokens):
        x = state["token_embedding.weight"][words][None] + state["positional_embedding"][: len(words)]
        x = clip(state, "", x, torch.full((len(words), len(words)), -torch.inf).triu(1))[:, -1]
        text = (
            F.layer_norm(x, x.shape[-1:], state["ln_final.weight"], state["ln_final.bias"]) @ state["text_projection"]
        )
        seen = torch.from_numpy(np.array(kit.rgb(str(path)))).permute(2, 0, 1)[None] / 255
        scale = 28 / max(seen.shape[2:])
        size = [round(length * scale) for length in seen.shape[2:]]
        seen = F.interpolate(seen, size, mode="bicubic", antialias=True)
        black = torch.zeros(1, 3, 28, 28)
        top, left = (28 - size[0]) // 2, (28 - size[1]) // 2
        black[:, :, top : top + size[0], left : left + size[1]] = seen
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in (kit.CLIP_MEAN, kit.CLIP_STD))
        x = F.conv2d((black - mean) / std, state["visual.conv1.weight"], stride=14).flatten(2).transpose(1, 2)
        x = torch.cat([state["visual.class_embedding"].expand(1, 1, -1), x], 1) + state["visual.positional_embedding"]
        x = F.layer_norm(x, x.shape[-1:], state["visual.ln_pre.weight"], state["visual.ln_pre.bias"])
        x = clip(state, "visual.", x, None)[:, 0]
        x = F.layer_norm(x, x.shape[-1:], state["visual.ln_post.weight"], state["visual.ln_post.bias"])
        want.append(100 * F.cosine_similarity(x @ state["visual.proj"], text).item())
    assert np.std(want) > 1
    assert scores == pytest.approx(want, abs=1e-3)


Weights = dict[str, torch.Tensor]


def linear(w: Weights, name: str, x: torch.Tensor) -> torch.Tensor:
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def normed(w: Weights, name: str, x: torch.Tensor, eps: float) -> torch.Tensor:
    return F.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"], eps)


def attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Of two heads, over ``[words, width]``."""
    q, k, v = (x.unflatten(1, (2, -1)).transpose(0, 1) for x in (query, key, value))
    return ((q @ k.transpose(1, 2) / q.shape[-1] ** 0.5).softmax(-1) @ v).transpose(0, 1).flatten(1)


def test_image_reward_is_blips_first_word_through_lines_alone(tmp_path: Path) -> None:
    given, folder = pictures(tmp_path), tmp_path / "weights"
    scores = judged("image_reward", folder, given).scores
    w = torch.load(folder / image_reward.FILE, weights_only=True)
    words = (folder / "vocab.txt").read_text().split()
    want = []
    for path, prompt in zip(given, PROMPTS):
        letters = [("##" if i else "") + letter for word in prompt.split() for i, letter in enumerate(word)]
        tokens = [words.index(word) for word in ("[CLS]", *letters[:33], "[SEP]")]
        picture = kit.rgb(str(path))
        wide, high = (28 * length // min(picture.size) for length in picture.size)
        left, top = round((wide - 28) / 2), round((high - 28) / 2)
        picture = picture.resize((wide, high), Image.Resampling.BICUBIC).crop((left, top, left + 28, top + 28))
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in (kit.CLIP_MEAN, kit.CLIP_STD))
        pixels = (torch.from_numpy(np.array(picture)).permute(2, 0, 1) / 255 - mean) / std
        at = "blip.visual_encoder."
        patches = F.conv2d(pixels[None], w[at + "patch_embed.proj.weight"], w[at + "patch_embed.proj.bias"], 14)[0]
        x = torch.cat([w[at + "cls_token"][0], patches.flatten(1).T]) + w[at + "pos_embed"][0]
        for i in range(2):
            block = f"{at}blocks.{i}."
            three = linear(w, block + "attn.qkv", normed(w, block + "norm1", x, 1e-6)).chunk(3, 1)
            x = x + linear(w, block + "attn.proj", attention(*three))
            hidden = F.gelu(linear(w, block + "mlp.fc1", normed(w, block + "norm2", x, 1e-6)))
            x = x + linear(w, block + "mlp.fc2", hidden)
        seen = normed(w, at + "norm", x, 1e-6)
        at = "blip.text_encoder."
        x = w[at + "embeddings.word_embeddings.weight"][tokens]
        x = normed(w, at + "embeddings.LayerNorm", x + w[at + "embeddings.position_embeddings.weight"][: len(x)], 1e-12)
        for i in range(2):
            layer = f"{at}encoder.layer.{i}."
            for kind, source in (("attention", None), ("crossattention", seen)):
                name = f"{layer}{kind}.self."
                other = x if source is None else source
                mixed = attention(
                    linear(w, name + "query", x), linear(w, name + "key", other), linear(w, name + "value", other)
                )
                mixed = linear(w, f"{layer}{kind}.output.dense", mixed)
                x = normed(w, f"{layer}{kind}.output.LayerNorm", x + mixed, 1e-12)
            mixed = linear(w, layer + "output.dense", F.gelu(linear(w, layer + "intermediate.dense", x)))
            x = normed(w, layer + "output.LayerNorm", x + mixed, 1e-12)
        reward = x[0]
        for i in (0, 2, 4, 6, 7):
            reward = linear(w, f"mlp.layers.{i}", reward)
        want.append((reward.item() - 0.16717362830052426) / 1.0333394966054072)
    assert len({round(value, 4) for value in want}) == 4
    assert scores == pytest.approx(want, abs=1e-5)


def test_hpsv3_is_the_first_number_of_the_head_at_the_word_for_the_reward(tmp_path: Path) -> None:
    given, folder = pictures(tmp_path), tmp_path / "weights"
    scores = judged("hpsv3", folder, given).scores
    state = load_file(folder / hpsv3.FILE)
    model = transformers.Qwen2VLModel(transformers.Qwen2VLConfig.from_pretrained(folder)).eval()
    model.load_state_dict({k.replace("model.", "language_model."): v for k, v in state.items() if "rm_head" not in k})
    letters = [*map(chr, range(32, 127)), "\n"]
    start, end, before, place, after, _, reward = range(len(letters), len(letters) + 7)
    processor = transformers.Qwen2VLImageProcessorPil(min_pixels=448 * 448, max_pixels=448 * 448)
    want = []
    for path, prompt in zip(given, PROMPTS):
        seen = processor([kit.rgb(str(path))], return_tensors="pt")
        room = [place] * int(seen["image_grid_thw"].prod() // 4)
        words = [letters.index(letter) for letter in f"Rate {prompt} now: "]
        ids = [start, before, *room, after, *words, reward, *(letters.index(letter) for letter in " end"), end]
        count = torch.arange(len(ids)).expand(3, 1, -1)
        with torch.no_grad():
            x = model(input_ids=torch.tensor([ids]), position_ids=count, **seen).last_hidden_state[0, ids.index(reward)]
        x = linear(state, "rm_head.3", linear(state, "rm_head.0", x).relu()).relu()
        want.append(linear(state, "rm_head.5", x)[0].item())
    assert np.std(want) > 1e-3
    assert scores == pytest.approx(want, abs=1e-5)


def test_a_file_of_something_else_is_refused_in_one_sentence(tmp_path: Path) -> None:
    for make in (hpsv2.tiny, hpsv3.tiny, image_reward.tiny):
        make(str(tmp_path))
    (tmp_path / image_reward.FILE).write_bytes((tmp_path / hpsv2.FILE).read_bytes())
    (tmp_path / hpsv2.FILE).write_bytes(b"hello")
    (tmp_path / hpsv3.WHEEL).write_bytes(b"hello")
    for module, words in (
        (hpsv2, "is no file of weights that torch reads without running code"),
        (hpsv3, "holds no instruction of HPSv3"),
        (image_reward, "holds no weights of blip.visual_encoder"),
    ):
        with pytest.raises(ValueError, match=words) as said:
            module.load(kit.Asked("any", str(tmp_path)))
        assert "\n" not in str(said.value)
