"""Who signs: a certificate chain made at first run, or the user's own.

The generated chain is a root and a leaf (ECDSA P-256), kept under ``$FEWSTEP_HOME`` or ``~/.config/fewstep`` with the
leaf's key readable by its owner alone. The root's key is thrown away after the one signature it makes. Nobody else
trusts that root by itself: hand ``root.pem`` to those who should, or sign with a chain that they trust already.
"""

from __future__ import annotations

import datetime
import os
import shutil
import stat
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fewstep import extras
from fewstep.files import NAMED, content
from fewstep.text import plain

if TYPE_CHECKING:
    from cryptography import x509

FOLDER = "identity"
CHAIN, KEY, ROOT = "chain.pem", "key.pem", "root.pem"
MOST_PEM = 2**20
"""Bytes of a file with certificates or a key."""
MODULES = ("c2pa", "cryptography")
"""The packages that write and read credentials. The core installs them; a client without torch may lack them."""
SIGNING_USES = {
    "1.3.6.1.4.1.62558.2.1": "c2pa-kp-claimSigning",
    "1.3.6.1.5.5.7.3.36": "documentSigning",
    "1.3.6.1.5.5.7.3.4": "emailProtection",
    "1.3.6.1.4.1.311.76.59.1.9": "Microsoft's C2PA signing",
}
"""Extended key usages of which a certificate that signs credentials holds one: C2PA's own, two that any authority can give, and
one that c2pa's tools allow beside them. c2pa-python believes emailProtection alone unless it is told."""
OTHER_USES = {
    "1.3.6.1.5.5.7.3.1": "serverAuth",
    "1.3.6.1.5.5.7.3.2": "clientAuth",
    "1.3.6.1.5.5.7.3.3": "codeSigning",
    "1.3.6.1.5.5.7.3.8": "timeStamping",
    "1.3.6.1.5.5.7.3.9": "OCSPSigning",
    "2.5.29.37.0": "anyExtendedKeyUsage",
}
"""Extended key usages that people bring, and that sign no content."""
LEAF_YEARS, ROOT_YEARS = 10, 20
SIGNER_NAME = "fewstep local signer"


def missing() -> str | None:
    """One sentence about what has to be installed, or None where credentials can be written and read."""
    return extras.missing("content credentials", MODULES)


@dataclass(frozen=True)
class Identity:
    """A signing certificate chain with its private key."""

    chain_pem: bytes
    """Certificates, the signer's own first."""
    key_pem: bytes = field(repr=False)
    """Private key of the first certificate, PKCS#8, not encrypted."""
    algorithm: str
    """C2PA's name of the signature algorithm, e.g. ``ES256``."""


def home(folder: Path | None = None) -> Path:
    """Where fewstep keeps what belongs to this user: ``folder``, else ``$FEWSTEP_HOME``, else ``~/.config/fewstep``."""
    if folder is not None:
        return folder
    chosen = os.environ.get("FEWSTEP_HOME")
    return Path(chosen) if chosen else Path.home() / ".config" / "fewstep"


def own_identity(folder: Path | None = None) -> Identity:
    """This user's generated identity; made on the first call, by one of however many processes ask at once."""
    place = home(folder) / FOLDER
    if not place.exists():
        _create(place)
    key = place / KEY
    if os.name == "posix" and key.exists() and stat.S_IMODE(key.stat().st_mode) & 0o077:
        raise ValueError(f"other users can read the signing key: run chmod 600 {key}")
    return load_identity(place / CHAIN, key)


def own_root(folder: Path | None = None) -> bytes | None:
    """The root certificate of the generated identity, if there is one already."""
    path = home(folder) / FOLDER / ROOT
    return path.read_bytes() if path.is_file() else None


def load_anchors(path: Path) -> bytes:
    """A PEM file of certificates to trust. Raises ValueError for any other: an anchor that is no anchor must not go unnoticed."""
    try:
        pem = content(path, MOST_PEM)
    except OSError as error:
        raise ValueError(f"can't read a trust anchor ({error}): give PEM files of root certificates") from error
    if missing():
        return pem  # and nothing is checked
    from cryptography import x509

    try:
        x509.load_pem_x509_certificates(pem)
    except ValueError as error:
        raise ValueError(
            f"{plain(path, NAMED)} holds no certificate in PEM: give PEM files of root certificates to trust"
        ) from error
    return pem


def load_identity(chain: Path, key: Path) -> Identity:
    """Read a chain (PEM, signer first) and its private key (PEM); says what is wrong with them before they are used."""
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization

    try:
        chain_pem, key_bytes = content(chain, MOST_PEM), content(key, MOST_PEM)
    except OSError as error:
        raise ValueError(f"can't read the signing identity ({error}): restore it, or delete its folder") from error
    try:
        certificates = x509.load_pem_x509_certificates(chain_pem)
        private = serialization.load_pem_private_key(key_bytes, password=None)
    except TypeError as error:
        raise ValueError(
            f"{plain(key, NAMED)} is encrypted: give an unencrypted key that only you can read (openssl pkey -in KEY -out PLAIN)"
        ) from error
    except ValueError as error:
        raise ValueError(
            f"{plain(chain, NAMED)} or {plain(key, NAMED)} is not PEM: give the chain (signer first) and its private key"
        ) from error
    algorithm = _algorithm(private)
    _check(certificates, private, plain(chain, NAMED))
    pkcs8 = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return Identity(chain_pem, pkcs8, algorithm)


def _check(certificates: Sequence[x509.Certificate], private: Any, chain: str) -> None:
    """Refuse what would be called invalid later: each with its own sentence, since C2PA's library has one for all."""
    leaf, now = certificates[0], datetime.datetime.now(datetime.UTC)
    owner = [i for i, one in enumerate(certificates) if one.public_key() == private.public_key()]
    if not owner:
        raise ValueError(f"the key does not belong to any certificate of {chain}: give the two that were made together")
    if owner[0]:
        raise ValueError(f"the key does not belong to the first certificate of {chain}: put the signer's own first")
    for i, one in enumerate(certificates):
        which = "the signing certificate" if i == 0 else f"certificate {i + 1} of {len(certificates)}"
        begin, end = one.not_valid_before_utc, one.not_valid_after_utc
        if not begin <= now <= end:
            raise ValueError(
                f"{which} in {chain} is not valid today (from {begin.date()} until {end.date()}): use a current one"
            )
        if i + 1 < len(certificates) and not _issued_by(one, certificates[i + 1]):
            raise ValueError(
                f"{which} in {chain} was not issued by the one after it: put the signer's own first, then its issuer, then "
                "the issuer's issuer"
            )
    _check_use(leaf, chain)


def _issued_by(one: x509.Certificate, other: x509.Certificate) -> bool:
    from cryptography.exceptions import InvalidSignature

    try:
        one.verify_directly_issued_by(other)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _check_use(leaf: x509.Certificate, chain: str) -> None:
    """What the certificate is for: to sign, and to sign content."""
    from cryptography import x509

    def extension(kind: Any) -> Any:
        try:
            return leaf.extensions.get_extension_for_class(kind).value
        except (x509.ExtensionNotFound, ValueError):
            return None

    authority = extension(x509.BasicConstraints)
    if authority is not None and authority.ca:
        raise ValueError(
            f"the first certificate of {chain} is an authority's: C2PA wants one that was issued for signing, with CA:FALSE"
        )
    usage = extension(x509.KeyUsage)
    if usage is None or not usage.digital_signature:
        raise ValueError(
            f"the signing certificate in {chain} lacks the key usage digitalSignature: have one issued that has it"
        )
    uses = [one.dotted_string for one in extension(x509.ExtendedKeyUsage) or ()]
    if not set(uses) & set(SIGNING_USES):
        has = ", ".join(OTHER_USES.get(one, one) for one in uses) or "missing"
        needed = " or ".join(f"{name} ({oid})" for oid, name in list(SIGNING_USES.items())[:3])
        raise ValueError(
            f"the signing certificate in {chain} may not sign content: its extended key usage is {has}, and needs to be "
            f"{needed}; have one issued that has it (a certificate for a web server never does)"
        )


def _algorithm(private: Any) -> str:
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    if isinstance(private, ec.EllipticCurvePrivateKey):
        by_curve = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}
        if private.curve.name in by_curve:
            return by_curve[private.curve.name]
    elif isinstance(private, ed25519.Ed25519PrivateKey):
        return "ED25519"
    elif isinstance(private, rsa.RSAPrivateKey) and private.key_size >= 2048:
        return "PS256"
    raise ValueError(
        "C2PA can't sign with this kind of key: use EC P-256, P-384 or P-521, Ed25519, or RSA of 2,048 bits or more"
    )


def _create(place: Path) -> None:
    """Write a new identity beside ``place`` and rename it there: the first process wins, the others take its files."""
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{FOLDER}-", dir=place.parent))
    except OSError as error:
        raise ValueError(
            f"can't keep a signing identity in {place.parent} ({error.strerror or error}): set FEWSTEP_HOME to a folder that "
            "you may write to, or give --certificate-chain and --private-key"
        ) from error
    try:
        for name, content in _generate().items():
            with open(os.open(draft / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(content)
        draft.rename(place)
    except OSError:
        if not place.exists():
            raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _generate() -> dict[str, bytes]:
    """A fresh root and leaf, as the files of an identity."""
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID

    root_key, leaf_key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    root_name = _name("fewstep local root")
    root_id = x509.SubjectKeyIdentifier.from_public_key(root_key.public_key())
    root = _certificate(root_name, root_name, root_key.public_key(), ROOT_YEARS)
    root = root.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    root = root.add_extension(_usage(sign_certificates=True), critical=True).add_extension(root_id, critical=False)
    leaf = _certificate(_name(SIGNER_NAME), root_name, leaf_key.public_key(), LEAF_YEARS)
    leaf = leaf.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    leaf = leaf.add_extension(_usage(sign_certificates=False), critical=True)
    leaf = leaf.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), critical=False)
    leaf = leaf.add_extension(x509.SubjectKeyIdentifier.from_public_key(leaf_key.public_key()), critical=False)
    issuer = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(root_id)
    leaf = leaf.add_extension(issuer, critical=False)
    root_pem, leaf_pem = (_sign(one, root_key) for one in (root, leaf))
    key_pem = leaf_key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return {CHAIN: leaf_pem + root_pem, KEY: key_pem, ROOT: root_pem}


def _name(common_name: str) -> x509.Name:
    """Holds nothing about the machine or the person."""
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    pairs = ((NameOID.ORGANIZATION_NAME, "fewstep"), (NameOID.COMMON_NAME, common_name))
    return x509.Name([x509.NameAttribute(kind, value) for kind, value in pairs])


def _certificate(subject: x509.Name, issuer: x509.Name, public_key: Any, years: int) -> x509.CertificateBuilder:
    from cryptography import x509

    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(public_key)
    builder = builder.serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(now - datetime.timedelta(days=1))
    return builder.not_valid_after(now + datetime.timedelta(days=365 * years))


def _usage(sign_certificates: bool) -> x509.KeyUsage:
    from cryptography import x509

    return x509.KeyUsage(
        digital_signature=not sign_certificates,
        key_cert_sign=sign_certificates,
        crl_sign=sign_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _sign(certificate: x509.CertificateBuilder, key: Any) -> bytes:
    from cryptography.hazmat.primitives import hashes, serialization

    return certificate.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
