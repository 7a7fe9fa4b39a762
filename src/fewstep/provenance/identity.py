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
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fewstep.provenance.content_credentials import missing

if TYPE_CHECKING:
    from cryptography import x509

FOLDER = "identity"
CHAIN, KEY, ROOT = "chain.pem", "key.pem", "root.pem"
LEAF_YEARS, ROOT_YEARS = 10, 20
SIGNER_NAME = "fewstep local signer"


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
        pem = path.read_bytes()
    except OSError as error:
        raise ValueError(f"can't read a trust anchor ({error}): give PEM files of root certificates") from error
    if missing():
        return pem  # and nothing is checked
    from cryptography import x509

    try:
        x509.load_pem_x509_certificates(pem)
    except ValueError as error:
        raise ValueError(f"{path} holds no certificate in PEM: give PEM files of root certificates to trust") from error
    return pem


def load_identity(chain: Path, key: Path) -> Identity:
    """Read a chain (PEM, signer first) and its private key (PEM); says what is wrong with them before they are used."""
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization

    try:
        chain_pem, key_bytes = chain.read_bytes(), key.read_bytes()
    except OSError as error:
        raise ValueError(f"can't read the signing identity ({error}): restore it, or delete its folder") from error
    try:
        certificates = x509.load_pem_x509_certificates(chain_pem)
        private = serialization.load_pem_private_key(key_bytes, password=None)
    except TypeError as error:
        raise ValueError(f"{key} is encrypted: give an unencrypted key that only you can read") from error
    except ValueError as error:
        raise ValueError(f"{chain} or {key} is not PEM: give the chain (signer first) and its private key") from error
    _check(certificates[0], private, chain)
    pkcs8 = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return Identity(chain_pem, pkcs8, _algorithm(private))


def _check(leaf: x509.Certificate, private: Any, chain: Path) -> None:
    if leaf.public_key() != private.public_key():
        raise ValueError(f"the key does not belong to the first certificate of {chain}: put the signer's own first")
    now = datetime.datetime.now(datetime.UTC)
    if not leaf.not_valid_before_utc <= now <= leaf.not_valid_after_utc:
        until = leaf.not_valid_after_utc.date()
        raise ValueError(f"the signing certificate in {chain} is not valid today (until {until}): use a current one")


def _algorithm(private: Any) -> str:
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    if isinstance(private, ec.EllipticCurvePrivateKey):
        by_size = {256: "ES256", 384: "ES384", 521: "ES512"}
        if private.curve.key_size in by_size:
            return by_size[private.curve.key_size]
    elif isinstance(private, ed25519.Ed25519PrivateKey):
        return "ED25519"
    elif isinstance(private, rsa.RSAPrivateKey):
        return "PS256"
    raise ValueError("C2PA can't sign with this kind of key: use EC P-256, P-384 or P-521, Ed25519, or RSA")


def _create(place: Path) -> None:
    """Write a new identity beside ``place`` and rename it there: the first process wins, the others take its files."""
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{FOLDER}-", dir=place.parent))
    except OSError as error:
        raise ValueError(f"can't keep a signing identity in {place.parent} ({error}): set FEWSTEP_HOME") from error
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
