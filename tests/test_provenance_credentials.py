"""Content credentials on real files: signed, read back, tampered with, stripped; and whose key it is."""

from __future__ import annotations

import datetime
import io
import os
import stat
import struct
import subprocess
import sys
import time
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fewstep.provenance import GenerationFacts, ProvenanceWarning, StampOptions, stamp, write
from fewstep.provenance.content_credentials import Credentials, read, sign, sign_beside
from fewstep.provenance.identity import Identity, load_identity, own_identity, own_root
from fewstep.provenance.watermark import SpreadSpectrum

x509 = pytest.importorskip("cryptography.x509")
pytest.importorskip("c2pa")

FACTS = GenerationFacts(model="emoji-64", bundle_hash="ab" * 32, steps=4, seed=2**62 + 1, prompt="a secret wish")
MIME = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp"}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test is a first run."""
    folder = tmp_path / "home"
    monkeypatch.setenv("FEWSTEP_HOME", str(folder))
    return folder


@pytest.fixture
def picture() -> np.ndarray:
    y, x = np.mgrid[:96, :128]
    return np.stack([x * 2, y * 2, (x + y) % 256], axis=-1).astype(np.uint8)


def checked(data: bytes, mime: str = "image/png") -> Credentials:
    return read(data, mime, own_root() or b"")


def issue(
    folder: Path, days: tuple[int, int] = (-1, 10), name: str = "Alice", usage: str = "email"
) -> tuple[Path, Path]:
    """A chain and key as a user would bring them: an EC key in its traditional form, not PKCS#8."""
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    now = datetime.datetime.now(datetime.UTC)
    keys = [ec.generate_private_key(ec.SECP384R1()) for _ in range(2)]
    names = [
        x509.Name(
            [x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Office"), x509.NameAttribute(NameOID.COMMON_NAME, one)]
        )
        for one in (f"{name} root", name)
    ]
    off = dict.fromkeys(
        (
            "content_commitment",
            "key_encipherment",
            "data_encipherment",
            "key_agreement",
            "encipher_only",
            "decipher_only",
        ),
        False,
    )
    pems = []
    for level in (0, 1):
        root = level == 0
        known = x509.SubjectKeyIdentifier.from_public_key(keys[level].public_key())
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(keys[0].public_key())
        one = x509.CertificateBuilder().subject_name(names[level]).issuer_name(names[0])
        one = one.public_key(keys[level].public_key()).serial_number(x509.random_serial_number())
        one = one.not_valid_before(now + datetime.timedelta(days=days[0] if not root else -30))
        one = one.not_valid_after(now + datetime.timedelta(days=days[1] if not root else 30))
        one = one.add_extension(x509.BasicConstraints(ca=root, path_length=0 if root else None), critical=True)
        bits = x509.KeyUsage(digital_signature=not root, key_cert_sign=root, crl_sign=root, **off)
        one = one.add_extension(bits, critical=True).add_extension(known, critical=False)
        one = one.add_extension(issuer, critical=False)
        if not root:
            kind = ExtendedKeyUsageOID.EMAIL_PROTECTION if usage == "email" else ExtendedKeyUsageOID.CLIENT_AUTH
            one = one.add_extension(x509.ExtendedKeyUsage([kind]), critical=False)
        pems.append(one.sign(keys[0], hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    folder.mkdir(parents=True, exist_ok=True)
    chain, key = folder / "chain.pem", folder / "key.pem"
    chain.write_bytes(pems[1] + pems[0])
    (folder / "root.pem").write_bytes(pems[0])
    traditional = serialization.PrivateFormat.TraditionalOpenSSL
    key.write_bytes(keys[1].private_bytes(serialization.Encoding.PEM, traditional, serialization.NoEncryption()))
    return chain, key


def flip_last_pixel(png: bytes) -> bytes:
    """Change one channel of the last pixel and leave every other byte's meaning alone: still a perfect PNG."""
    chunks, place = [], 8
    while place < len(png):
        (size,) = struct.unpack(">I", png[place : place + 4])
        chunks.append((png[place + 4 : place + 8], png[place + 8 : place + 8 + size]))
        place += 12 + size
    pixels = bytearray(zlib.decompress(b"".join(body for kind, body in chunks if kind == b"IDAT")))
    pixels[-1] ^= 1
    output, written = png[:8], False
    for kind, body in chunks:
        if kind == b"IDAT":
            if written:
                continue
            body, written = zlib.compress(bytes(pixels)), True
        output += struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    return output


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_a_stamped_file_carries_its_facts_and_its_mark(picture: np.ndarray, kind: str) -> None:
    data = stamp(picture, FACTS, StampOptions(format=kind))  # type: ignore[arg-type]
    plain = stamp(picture, FACTS, StampOptions(format=kind, credentials=False))  # type: ignore[arg-type]
    assert 0 < len(data) - len(plain) < 8_000, "thumbnails must be off"
    said = checked(data, MIME[kind])
    assert said.state == "trusted"
    assert dict(said.facts) == {"model": "emoji-64", "bundle_hash": "ab" * 32, "steps": 4, "seed": 2**62 + 1}
    assert said.ai_generated
    assert said.software is not None
    assert said.software.startswith("fewstep ")
    assert not said.sidecar
    pixels = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    assert SpreadSpectrum().detect(pixels).found
    assert read(data, MIME[kind]).state == "valid", "without a trust anchor the signer is nobody we know"
    assert checked(plain, MIME[kind]).state == "absent"


def test_the_prompt_stays_private_unless_it_is_asked_for(picture: np.ndarray) -> None:
    assert b"a secret wish" not in stamp(picture, FACTS)
    told = stamp(picture, FACTS, StampOptions(include_prompt=True))
    assert checked(told).facts["prompt"] == "a secret wish"


def test_one_flipped_pixel_is_tampering(picture: np.ndarray) -> None:
    data = stamp(picture, FACTS)
    flipped = flip_last_pixel(data)
    before, after = (np.asarray(Image.open(io.BytesIO(one))) for one in (data, flipped))
    assert (before != after).sum() == 1
    assert checked(data).state == "trusted"
    said = checked(flipped)
    assert said.state == "tampered"
    assert "assertion.dataHash.mismatch" in said.reasons
    jpeg = bytearray(stamp(picture, FACTS, StampOptions(format="JPEG")))
    jpeg[-60] ^= 4
    assert checked(bytes(jpeg), "image/jpeg").state == "tampered"


def test_another_program_drops_the_credentials_and_keeps_the_mark(picture: np.ndarray) -> None:
    again = io.BytesIO()
    Image.open(io.BytesIO(stamp(picture, FACTS))).save(again, "JPEG", quality=80)
    assert checked(again.getvalue(), "image/jpeg").state == "absent"
    assert SpreadSpectrum().detect(np.asarray(Image.open(again).convert("RGB"))).found


def test_media_and_transparent_pictures_can_be_stamped(picture: np.ndarray) -> None:
    media = torch.from_numpy(picture).permute(2, 0, 1).float() / 127.5 - 1
    assert np.array_equal(
        np.asarray(Image.open(io.BytesIO(stamp(media, FACTS)))),
        np.asarray(Image.open(io.BytesIO(stamp(picture, FACTS)))),
    )
    alpha = np.full((*picture.shape[:2], 1), 77, np.uint8)
    sheer = np.concatenate([picture, alpha], axis=2)
    saved = np.asarray(Image.open(io.BytesIO(stamp(sheer, FACTS))))
    assert np.array_equal(saved[..., 3:], alpha)
    assert SpreadSpectrum().detect(np.ascontiguousarray(saved[..., :3])).found
    with pytest.raises(ValueError, match="transparency"):
        stamp(sheer, FACTS, StampOptions(format="JPEG"))


def test_formats_without_room_get_a_sidecar(picture: np.ndarray, tmp_path: Path) -> None:
    for name, options in (("a.bmp", StampOptions()), ("b.png", StampOptions(sidecar=True))):
        path, beside = write(tmp_path / name, picture, FACTS, options)
        assert beside == path.with_suffix(".c2pa")
        mime = "image/bmp" if name == "a.bmp" else "image/png"
        assert checked(path.read_bytes(), mime).state == "absent"
        said = read(path.read_bytes(), mime, own_root() or b"", sidecar=beside.read_bytes())
        assert said.state == "trusted"
        assert said.sidecar
        changed = bytearray(path.read_bytes())
        changed[-9] ^= 1
        assert read(bytes(changed), mime, sidecar=beside.read_bytes()).state in ("tampered", "unreadable")
    assert write(tmp_path / "c.png", picture, FACTS) == (tmp_path / "c.png",)
    assert not list(tmp_path.glob(".*")), "drafts were left behind"
    with pytest.raises(ValueError, match="no picture format"):
        write(tmp_path / "d.exe", picture, FACTS)
    with pytest.raises(ValueError, match="sidecar"):
        sign(b"BM", "image/bmp", FACTS, own_identity())


def test_a_foreign_chain_is_valid_and_trusted_only_by_those_who_know_it(picture: np.ndarray, tmp_path: Path) -> None:
    chain, key = issue(tmp_path / "office")
    data = stamp(picture, FACTS, StampOptions(certificate_chain=chain, private_key=key))
    assert not (tmp_path / "home").exists(), "no identity of our own is made where the user brings one"
    said = checked(data)
    assert said.state == "valid"
    assert said.reasons == ("signingCredential.untrusted",)
    assert said.signer == "Alice"
    assert read(data, "image/png", (tmp_path / "office" / "root.pem").read_bytes()).state == "trusted"


def test_chains_that_could_only_make_worthless_credentials_are_refused(picture: np.ndarray, tmp_path: Path) -> None:
    chain, key = issue(tmp_path / "old", days=(-20, -5))
    with pytest.raises(ValueError, match="not valid today"):
        load_identity(chain, key)
    good_chain, good_key = issue(tmp_path / "good")
    with pytest.raises(ValueError, match="does not belong"):
        load_identity(good_chain, key)
    with pytest.raises(ValueError, match="both"):
        stamp(picture, FACTS, StampOptions(certificate_chain=good_chain))
    with pytest.raises(ValueError, match="is not PEM"):
        load_identity(good_key, good_chain)
    with pytest.raises(ValueError, match="can't read the signing identity"):
        load_identity(tmp_path / "nowhere.pem", good_key)
    wrong_use = issue(tmp_path / "web", usage="web")
    with pytest.raises(ValueError, match="certificate"):
        stamp(picture, FACTS, StampOptions(certificate_chain=wrong_use[0], private_key=wrong_use[1]))


@pytest.mark.skipif(os.name != "posix", reason="permissions are POSIX")
def test_the_key_is_readable_by_its_owner_alone(home: Path) -> None:
    before = os.umask(0)
    try:
        own_identity()
    finally:
        os.umask(before)
    assert stat.S_IMODE((home / "identity" / "key.pem").stat().st_mode) == 0o600
    assert stat.S_IMODE((home / "identity").stat().st_mode) == 0o700
    (home / "identity" / "key.pem").chmod(0o644)
    with pytest.raises(ValueError, match="chmod 600"):
        own_identity()


def test_the_identity_is_made_once_and_says_nothing_about_its_owner(home: Path) -> None:
    first = own_identity()
    assert own_identity() == first
    assert b"PRIVATE" not in (home / "identity" / "chain.pem").read_bytes()
    assert "key_pem" not in repr(first)
    leaf, root = x509.load_pem_x509_certificates(first.chain_pem)
    names = {part.value for one in (leaf, root) for part in (*one.subject, *one.issuer)}
    assert names == {"fewstep", "fewstep local signer", "fewstep local root"}
    leaf.verify_directly_issued_by(root)


def test_two_processes_on_their_first_run_share_one_chain(home: Path) -> None:
    program = (
        "import sys, time\n"
        "from fewstep.provenance.identity import own_identity\n"
        "import cryptography.x509\n"
        "time.sleep(max(0.0, float(sys.argv[1]) - time.time()))\n"
        "sys.stdout.buffer.write(own_identity().chain_pem)\n"
    )
    start = str(time.time() + 3.0)
    runs = [subprocess.Popen([sys.executable, "-c", program, start], stdout=subprocess.PIPE) for _ in range(2)]
    chains = [run.communicate(timeout=60)[0] for run in runs]
    assert all(run.returncode == 0 for run in runs)
    assert len(set(chains)) == 1
    assert chains[0] == own_identity().chain_pem
    assert [one.name for one in home.iterdir()] == ["identity"], "drafts were left behind"


def test_many_threads_on_their_first_run_share_one_chain(home: Path) -> None:
    with ThreadPoolExecutor(12) as threads:
        made = list(threads.map(lambda _: own_identity(), range(12)))
    assert len({one.chain_pem for one in made}) == 1
    assert [one.name for one in home.iterdir()] == ["identity"]


def test_a_home_that_can_not_be_written_says_what_to_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("FEWSTEP_HOME", str(tmp_path / "file"))
    with pytest.raises(ValueError, match="FEWSTEP_HOME"):
        own_identity()


def test_without_the_packages_pictures_are_still_marked_and_one_sentence_says_so(
    picture: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    signed = stamp(picture, FACTS)
    monkeypatch.setitem(sys.modules, "c2pa", None)
    with pytest.warns(ProvenanceWarning, match="c2pa: pip install c2pa-python") as heard:
        data = stamp(picture, FACTS)
    assert len(heard) == 1
    assert SpreadSpectrum().detect(np.asarray(Image.open(io.BytesIO(data)))).found
    assert checked(signed).state == "unchecked"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        stamp(picture, FACTS, StampOptions(credentials=False))


def test_pictures_too_small_for_a_mark_are_signed_all_the_same() -> None:
    with pytest.warns(ProvenanceWarning, match="under 32 pixels"):
        data = stamp(np.zeros((16, 16, 3), np.uint8), FACTS)
    assert checked(data).state == "trusted"


def test_what_was_asked_to_be_left_out_is_left_out(picture: np.ndarray, home: Path) -> None:
    data = stamp(picture, FACTS, StampOptions(watermark=False, credentials=False))
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(data))), picture)
    assert checked(data).state == "absent"
    assert not home.exists()


def test_an_algorithm_is_chosen_for_every_kind_of_key(tmp_path: Path, picture: np.ndarray) -> None:
    chain, key = issue(tmp_path / "office")
    identity = load_identity(chain, key)
    assert identity.algorithm == "ES384"
    assert identity.key_pem.startswith(b"-----BEGIN PRIVATE KEY-----"), "C2PA wants PKCS#8"
    assert own_identity().algorithm == "ES256"
    assert isinstance(identity, Identity)
    data = stamp(picture, FACTS, StampOptions(credentials=False))
    assert read(data, "image/png", sidecar=sign_beside(data, "image/png", FACTS, identity)).state == "valid"
