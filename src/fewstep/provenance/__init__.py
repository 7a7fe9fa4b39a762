"""Provenance, on by default: an invisible mark in the pixels and signed content credentials in the file.

:func:`stamp` is what saving a picture calls: watermark, then encode, then sign. :func:`fewstep.provenance.verify.verify`
reads both back. Streamed frames take only the mark (:class:`SpreadSpectrum`): credentials would outweigh a small frame.
"""

from __future__ import annotations

import io
import secrets
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from PIL import Image

from fewstep.files import whole
from fewstep.pixels import Pixels
from fewstep.provenance import store
from fewstep.provenance.chips import SMALLEST_SIDE
from fewstep.provenance.content_credentials import (
    EMBEDDABLE,
    FINGERPRINT,
    IDENTIFIER,
    Extras,
    GenerationFacts,
    Ingredient,
    ingredient_of,
    missing,
    signed_and_manifest,
)
from fewstep.provenance.detection import Detection, pool
from fewstep.provenance.identity import Identity, load_identity, own_identity
from fewstep.provenance.label import labelled
from fewstep.provenance.payload import mark_payload
from fewstep.provenance.watermark import PUBLIC_KEY, SpreadSpectrum, StreamDetector, Watermark

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "PUBLIC_KEY",
    "Detection",
    "GenerationFacts",
    "Ingredient",
    "ProvenanceWarning",
    "SpreadSpectrum",
    "StampOptions",
    "StreamDetector",
    "Watermark",
    "ingredient_of",
    "labelled",
    "mark_payload",
    "missing",
    "pool",
    "signer",
    "stamp",
    "stamp_beside",
    "write",
]

Format = Literal["PNG", "JPEG", "WEBP"]
SIDECAR = ".c2pa"


class ProvenanceWarning(UserWarning):
    """A picture was saved with less provenance than was asked for; the message says what to do."""


@dataclass(frozen=True)
class StampOptions:
    """What is put into a saved picture."""

    watermark: bool = True
    """Mark the pixels."""
    credentials: bool = True
    """Sign the file."""
    include_prompt: bool = False
    """Write the prompt into the credentials. Off by default: a prompt can be private, and a shared picture isn't."""
    mark: Watermark = field(default_factory=SpreadSpectrum)
    """What marks them. With the public key anybody can check it; with ``SpreadSpectrum(your_key)`` only you can. No key
    keeps a mark from being copied out of one picture into another."""
    format: Format = "PNG"
    """File format of :func:`stamp`; :func:`write` goes by the file's name."""
    quality: int = 92
    """Quality of JPEG and WebP."""
    sidecar: bool = False
    """Let :func:`write` put the credentials beside the picture even where they would fit inside."""
    visible_mark: bool = False
    """Put the letters "AI" into a corner of the picture, and say so in the credentials."""
    time_authority: str | None = None
    """Address of a time-stamping authority (RFC 3161, http or https) that says when the file was signed; default: nobody says."""
    store: Path | None = None
    """Folder that keeps the credentials of every signed file, so that they are found again where another program drops them."""
    certificate_chain: Path | None = None
    """PEM chain to sign with, the signer's certificate first; default: one generated at first run."""
    private_key: Path | None = None
    """PEM private key of the first certificate in ``certificate_chain``."""
    home: Path | None = None
    """Where the generated identity lives; default ``$FEWSTEP_HOME``, else ``~/.config/fewstep``."""


DEFAULTS = StampOptions()


def stamp(
    picture: Pixels | Tensor, facts: GenerationFacts, options: StampOptions = DEFAULTS, given: Ingredient | None = None
) -> bytes:
    """Watermark, encode and sign one picture: uint8 ``[H, W, 3 or 4]``, or media ``[3, H, W]`` in [-1, 1].

    ``given`` is the picture that drawing began from, where that has credentials of its own (:func:`ingredient_of`).
    Where the packages for credentials are missing, the picture is still marked and a :class:`ProvenanceWarning` says so.
    """
    marked, identifier = _marked(picture, facts, options)
    data = encode(marked, options.format, options.quality)
    if options.credentials and (identity := signer(options)):
        return _signed(data, Image.MIME[options.format], marked, identifier, facts, identity, options, given)[0]
    return data


def stamp_beside(data: bytes, mime: str, facts: GenerationFacts, options: StampOptions = DEFAULTS) -> bytes | None:
    """The ``.c2pa`` sidecar of a finished file of any kind; None, and a :class:`ProvenanceWarning`, where nobody can sign."""
    identity = signer(options)
    extra = Extras(options.include_prompt, visible_mark=options.visible_mark, time_authority=options.time_authority)
    return signed_and_manifest(data, mime, facts, identity, extra, embed=False)[1] if identity else None


def write(
    path: Path | str,
    picture: Pixels | Tensor,
    facts: GenerationFacts,
    options: StampOptions = DEFAULTS,
    given: Ingredient | None = None,
) -> tuple[Path, ...]:
    """Save a stamped picture, and its ``.c2pa`` sidecar where its format needs one; returns the files written."""
    path = Path(path)
    Image.init()
    kind = Image.EXTENSION.get(path.suffix.lower())
    if kind not in Image.SAVE:
        raise ValueError(f"{path.name} has no picture format that can be written: end it in .png, .jpg or .webp")
    marked, identifier = _marked(picture, facts, options)
    data = encode(marked, kind, options.quality)
    mime = Image.MIME.get(kind, "application/octet-stream")
    manifest: bytes | None = None
    if options.credentials and (identity := signer(options)):
        embed = not options.sidecar and mime in EMBEDDABLE
        signed, made = _signed(data, mime, marked, identifier, facts, identity, options, given, embed)
        data, manifest = (signed, None) if embed else (data, made)
    with whole(path) as draft:
        draft.write_bytes(data)
    if manifest is None:
        return (path,)
    beside = path.with_suffix(SIDECAR)
    with whole(beside) as draft:
        draft.write_bytes(manifest)
    return path, beside


def _signed(
    data: bytes,
    mime: str,
    marked: Pixels,
    identifier: int | None,
    facts: GenerationFacts,
    identity: Identity,
    options: StampOptions,
    given: Ingredient | None,
    embed: bool = True,
) -> tuple[bytes, bytes]:
    """The signed file and its manifest, which the store keeps where there is one."""
    bindings: tuple[tuple[str, str], ...] = ()
    if options.store:
        bindings = ((FINGERPRINT, f"{store.fingerprint(marked):064x}"),)
    if identifier is not None:
        bindings = ((IDENTIFIER, f"{identifier:012x}"), *bindings)
    extra = Extras(options.include_prompt, given, options.visible_mark, bindings, options.time_authority)
    signed, manifest = signed_and_manifest(data, mime, facts, identity, extra, embed)
    if options.store:
        store.keep(options.store, marked, identifier, manifest)
    return signed, manifest


def encode(picture: Pixels, kind: str, quality: int) -> bytes:
    """Picture to file bytes with Pillow; a JPEG keeps every pixel's colour, since halved colours smear a small drawing."""
    if kind == "JPEG" and picture.shape[2] == 4:
        raise ValueError("a JPEG holds no transparency: save as PNG or WebP, or drop the fourth channel")
    output = io.BytesIO()
    lossy = {"JPEG": {"quality": quality, "subsampling": 0}, "WEBP": {"quality": quality}}.get(kind, {})
    Image.fromarray(picture).save(output, kind, **lossy)
    return output.getvalue()


def to_picture(picture: Pixels | Tensor) -> Pixels:
    """Media ``[1 or 3, H, W]`` in [-1, 1] to uint8 ``[H, W, 3]``, grey ones with three alike channels, which a mark needs; uint8
    pictures pass through."""
    if isinstance(picture, np.ndarray):
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] not in (3, 4):
            raise ValueError(f"a picture is uint8 [H, W, 3 or 4], this is {picture.dtype} {list(picture.shape)}")
        return picture
    media = picture.detach().float().cpu().numpy()
    if media.ndim != 3 or media.shape[0] not in (1, 3):
        raise ValueError(f"media to save is one picture [1 or 3, H, W] in [-1, 1], this is {list(media.shape)}")
    if np.isnan(media).any():
        raise ValueError("the picture holds NaN: the model diverged, draw with less guidance or from another seed")
    pixels = np.clip(np.rint(media * 127.5 + 127.5), 0, 255).astype(np.uint8).transpose(1, 2, 0)
    return np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels


def _marked(picture: Pixels | Tensor, facts: GenerationFacts, options: StampOptions) -> tuple[Pixels, int | None]:
    """The picture with its marks, and the random identifier in the invisible one, where it carries one."""
    pixels = np.ascontiguousarray(to_picture(picture))
    if options.visible_mark:
        pixels = labelled(pixels)
    if not options.watermark:
        return pixels, None
    if min(pixels.shape[:2]) < SMALLEST_SIDE:
        _warn(f"no watermark: a side under {SMALLEST_SIDE} pixels carries none")
        return pixels, None
    marked, identifier = embed(options.mark, pixels[..., :3], mark_payload(facts.bundle_hash), options.credentials)
    return marked if pixels.shape[2] == 3 else np.concatenate([marked, pixels[..., 3:]], axis=2), identifier


def embed(mark: Watermark, picture: Pixels, payload: int, own: bool) -> tuple[Pixels, int | None]:
    """A marked copy, and its random identifier where it is to have its ``own`` and the mark has room for one."""
    room = getattr(mark, "identifier_bits", None)
    if own and room is not None and room(*picture.shape[:2]):
        identifier = secrets.randbits(48)
        return mark.embed(picture, payload, identifier), identifier  # type: ignore[call-arg]
    return mark.embed(picture, payload), None


def signer(options: StampOptions) -> Identity | None:
    """Who signs, or None (and a warning) where the packages are missing."""
    if (options.certificate_chain is None) != (options.private_key is None):
        raise ValueError("give both certificate_chain and private_key, or neither")
    if sentence := missing():
        _warn(f"saved without content credentials: {sentence}")
        return None
    if options.certificate_chain and options.private_key:
        return load_identity(options.certificate_chain, options.private_key)
    return own_identity(options.home)


def _warn(sentence: str) -> None:
    warnings.warn(sentence, ProvenanceWarning, stacklevel=4)
