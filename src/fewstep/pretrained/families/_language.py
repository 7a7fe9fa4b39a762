"""What the families share whose prompts a language model reads: tokens with a mask, of a prompt within a text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...tensors import Conditioning
from ..text import PretrainedConditioner, Written, tokenized


class LanguageConditioner(PretrainedConditioner):
    """A language model's hidden states of a prompt within a text, padded to one length, with a mask; pooled is their mean."""

    written: Written

    def __init__(self, tokenizer: Any, encoder: nn.Module, length: int, written: Written) -> None:
        """``length`` tokens are read of what ``written`` makes of a prompt."""
        super().__init__()
        self.tokenizer, self.encoder = tokenizer, encoder.eval().requires_grad_(False)
        self.length, self.written = length, written

    def forward(self, prompts: Sequence[str]) -> Conditioning:
        """``[B, L, D]`` and ``[B, L]``."""
        return self.read([self.written(prompt) for prompt in prompts], self.length)

    @torch.no_grad()
    def read(self, texts: Sequence[str], length: int) -> Conditioning:
        """Encode texts as they stand."""
        ids = tokenized(self.tokenizer, texts, length).to(self.encoder.device)
        return masked(self.states(ids.input_ids, ids.attention_mask), ids.attention_mask)

    def states(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Those of the last layer but one, ``[B, L, D]``."""
        return self.encoder(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states[-2]

    def readers(self) -> Iterator[tuple[Any, Any, int | None]]:
        """The one."""
        yield self.tokenizer, self.encoder, self.length


def masked(tokens: Tensor, mask: Tensor) -> Conditioning:
    """Tokens ``[B, L, D]`` with their mask, and the mean of those that count."""
    cond = Conditioning(tokens=tokens, mask=mask)
    return Conditioning(tokens=tokens, mask=mask, pooled=cond.mean_token)
