"""The provenance options of every command: which mark, who signs, whom to trust."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

from fewstep import plugin
from fewstep.files import content
from fewstep.provenance import PUBLIC_KEY, SpreadSpectrum, StampOptions, Watermark, signer
from fewstep.provenance.content_credentials import prove
from fewstep.provenance.identity import load_anchors
from fewstep.provenance.verify import VerifyOptions
from fewstep.text import plain

SPREAD_SPECTRUM = "spread_spectrum"


@dataclass(frozen=True)
class Marking:
    """Which mark is in the pixels."""

    watermark: str = SPREAD_SPECTRUM
    """What marks the pixels: spread_spectrum (this house's own), or a dotted path to yours, with embed and detect."""
    watermark_key: Path | None = None
    """File with a key of your own for spread_spectrum; default: the public key, with which anybody can check a mark."""

    def mark(self) -> Watermark:
        """The watermark, ready for use. Raises ValueError for a path without a watermark and an unreadable key."""
        if self.watermark == SPREAD_SPECTRUM:
            return SpreadSpectrum(self._key())
        if self.watermark_key:
            raise ValueError(
                f"{self.watermark} takes no --watermark-key: leave it out, or use --watermark {SPREAD_SPECTRUM}"
            )
        return plugin.load(self.watermark, Watermark, "a watermark needs the methods embed and detect")

    def _key(self) -> bytes:
        if self.watermark_key is None:
            return PUBLIC_KEY
        try:
            key = content(self.watermark_key, 2**20).strip()
        except OSError as error:
            raise ValueError(f"can't read the watermark key ({error}): give a file with secret bytes in it") from None
        if not key:
            raise ValueError(f"{self.watermark_key} is empty: a watermark key is any bytes that only you know")
        return key


@dataclass(frozen=True)
class Signing(Marking):
    """What is put into pictures."""

    provenance: bool = True
    """Mark every picture and sign every saved one; --no-provenance leaves both out, and says so."""
    certificate_chain: Path | None = None
    """PEM chain to sign saved pictures with, the signer's certificate first; default: one made at the first run."""
    private_key: Path | None = None
    """PEM private key of the first certificate in the chain."""
    time_authority: str | None = None
    """Address of a time-stamping authority (RFC 3161) that says when each saved picture was signed; it hears of a hash alone."""
    store: Path | None = None
    """Folder that keeps the credentials of every saved picture, for `fewstep verify --store` to find where they were dropped."""
    visible_mark: bool = False
    """Put a small visible label, AI, into a corner of every picture."""

    def stamping(self) -> StampOptions:
        """The same for :func:`fewstep.provenance.stamp`. Raises ValueError, before anything is drawn, where this can't be."""
        said = {"--time-authority": self.time_authority, "--store": self.store, "--visible-mark": self.visible_mark}
        if not self.provenance and any(said.values()):
            given = next(name for name, value in said.items() if value)
            raise ValueError(f"{given} is about what --no-provenance leaves out: drop one of the two")
        if self.time_authority and not re.fullmatch(r"https?://[^\s/]+\S*", self.time_authority):
            raise ValueError(
                f"--time-authority {plain(self.time_authority, 100)} is no address: give one with http:// or https://"
            )
        if self.store:
            self.store.mkdir(parents=True, exist_ok=True)
        made = StampOptions(
            visible_mark=self.visible_mark,
            time_authority=self.time_authority,
            store=self.store,
            watermark=self.provenance,
            credentials=self.provenance,
            mark=self.mark(),
            certificate_chain=self.certificate_chain,
            private_key=self.private_key,
        )
        brought = self.certificate_chain or self.private_key or self.time_authority
        if self.provenance and brought and (identity := signer(made)):
            prove(identity, self.time_authority)
        return made


@dataclass(frozen=True)
class FileSigning(Signing):
    """What is put into a picture that is saved, and where the statement goes."""

    include_prompt: bool = False
    """Write the prompt into the content credentials. A prompt can be private, and a shared picture isn't."""
    sidecar: bool = False
    """Put the content credentials into a .c2pa file beside the picture, not into it."""

    def stamping(self) -> StampOptions:
        """As of `Signing`, with the two choices. Raises ValueError for credentials that are left out."""
        if not self.provenance and (self.include_prompt or self.sidecar):
            given = "--include-prompt" if self.include_prompt else "--sidecar"
            raise ValueError(
                f"{given} is about content credentials, and --no-provenance leaves them out: drop one of the two"
            )
        return replace(super().stamping(), include_prompt=self.include_prompt, sidecar=self.sidecar)


@dataclass(frozen=True)
class Trusting(Marking):
    """Which mark is searched in pictures, and whose signature is trusted."""

    anchors: tuple[Path, ...] = ()
    """PEM files of root certificates to trust, beside the one that this machine made for itself."""

    store: Path | None = None
    """Folder in which `draw --store` or `serve --store` kept credentials; a picture that lost its own is searched there."""

    def verifying(self) -> VerifyOptions:
        """The same for :func:`fewstep.provenance.verify.verify`. Raises ValueError for a file without certificates."""
        for path in self.anchors:
            load_anchors(path)
        if self.store is not None and not self.store.is_dir():
            raise ValueError(
                f"there is no store {plain(self.store, 200)}: give the folder that draw or serve kept credentials in"
            )
        return VerifyOptions(mark=self.mark(), trust_anchors=self.anchors, store=self.store)
