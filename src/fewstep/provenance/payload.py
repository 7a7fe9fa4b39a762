"""The number a watermark carries: the first 48 bits of a digest of the bundle's hash."""

from __future__ import annotations

import hashlib


def mark_payload(bundle_hash: str) -> int:
    """48 bits that name a bundle; small pictures carry the low 16 of them."""
    return int.from_bytes(hashlib.sha256(bundle_hash.encode()).digest()[:6], "big")
