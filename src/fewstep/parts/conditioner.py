"""Conditioners: prompts or labels -> Conditioning. Text encoders stand in ``pretrained/``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from ..tensors import Conditioning

QUOTED = 300
"""As many characters of what was not read are told at most."""


class UnreadWarning(UserWarning):
    """A prompt was not read whole."""


@dataclass(frozen=True)
class Unread:
    """What a model's text encoders left of a prompt that they did not read whole."""

    prompt: str
    """All of it."""
    tokens: int
    """Tokens that it has for the encoder that reads least of it, without the marks at both ends."""
    limit: int
    """Tokens that this encoder reads."""
    read: str
    """Its beginning, as far as any of the encoders reads."""
    by_all: str
    """Its beginning, as far as each of them reads."""
    unknown: tuple[str, ...] = ()
    """Words and signs within that no encoder has a token for: they are all the same to the model."""

    @property
    def dropped(self) -> str:
        """The end that no encoder read; "" where one reads it all."""
        return self.prompt[len(self.read) :].strip()

    @property
    def told(self) -> str:
        """`dropped` as it is passed on, in `QUOTED` characters at most."""
        return shortened(self.dropped)

    @property
    def sentence(self) -> str:
        """For people."""
        parts = []
        if left := shortened(self.prompt[len(self.by_all) :].strip()):
            who, what = "the text encoder", "was not read"
            if not self.dropped:
                who, what = "one of the text encoders", "was read by the others alone"
            parts.append(
                f"{who} reads {self.limit} tokens of a prompt, and this one has {self.tokens}: {left!r} {what}; "
                "begin with what matters, or make it shorter"
            )
        if self.unknown:
            parts.append(
                f"the text encoder has no token for {shortened(', '.join(self.unknown))!r}; say it in other words"
            )
        return "; ".join(parts)


def shortened(text: str, most: int = QUOTED) -> str:
    """The text in ``most`` characters, with dots where some are left out."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def summary(unread: Sequence[Unread | None], what: str = "prompts") -> str:
    """How many of so many were not read whole, in a sentence with an example; "" where all were."""
    left = [one for one in unread if one is not None]
    if not left:
        return ""
    longest = max(left, key=lambda one: one.tokens - one.limit)
    return (
        f"{len(left):,} of {len(unread):,} {what} were not read whole, such as {shortened(longest.prompt, 60)!r}: "
        f"{longest.sentence}"
    )


class Conditioner(nn.Module):
    """Turns what a person asks for into Conditioning. ``null(n)`` is what it says when nothing is asked for."""

    def forward(self, prompts: Sequence[str]) -> Conditioning:
        """Encode n prompts."""
        raise NotImplementedError("a Conditioner subclass gives forward()")

    def unread(self, prompts: Sequence[str]) -> list[Unread | None]:
        """For each prompt what is not read of it, None where all is; a prompt can be longer than an encoder reads."""
        return [None] * len(prompts)

    def counter(self) -> Callable[[str], int]:
        """What counts the tokens that are read of a prompt; another thread than that which encodes may use it, one at a time."""
        return lambda prompt: int(prompt != "")

    def null(self, n: int) -> Conditioning:
        """The unconditional Conditioning, n rows."""
        return self([""] * n)

    def key(self, prompts: Sequence[str]) -> str:
        """Stands for everything that decides how these prompts are encoded: where it is equal, so are the encodings.

        Empty where that is not known: they are then encoded every time.
        """
        return ""


class ClassConditioner(Conditioner):
    """Class names -> labels; ``pooled`` is the one-hot label, which the discriminator's projection uses."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        self.names = tuple(names)

    def forward(self, prompts: Sequence[str]) -> Conditioning:
        """Look names up; the empty string is the null class. Raises ValueError for an unknown name."""
        unknown = [p for p in prompts if p and p not in self.names]
        if unknown:
            raise ValueError(f"unknown class {unknown[0]!r}: this model draws {', '.join(self.names)}")
        labels = torch.tensor([self.names.index(p) if p else len(self.names) for p in prompts])
        return self.of_labels(labels)

    def of_labels(self, labels: torch.Tensor) -> Conditioning:
        """Conditioning of whole-number labels ``[B]``; the null class is ``len(names)``."""
        n = len(self.names)
        return Conditioning(labels=labels, pooled=F.one_hot(labels, n + 1)[:, :n].float())
