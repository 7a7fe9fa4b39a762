"""Judges that learned what people prefer: at small random weights in a process, against plain arithmetic of their own."""

from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from torch.nn import functional as F

from fewstep.judges import hpsv2, kit
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
