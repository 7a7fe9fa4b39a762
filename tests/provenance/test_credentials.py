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
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fewstep.provenance import GenerationFacts, ProvenanceWarning, StampOptions, stamp, write
from fewstep.provenance.content_credentials import Credentials, prove, read, sign, sign_beside
from fewstep.provenance.identity import Identity, load_anchors, load_identity, own_identity, own_root
from fewstep.provenance.options import Signing
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
    folder: Path,
    days: tuple[int, int] = (-1, 10),
    name: str = "Alice",
    usage: str = "1.3.6.1.5.5.7.3.4",
    kind: Callable[[], Any] | None = None,
    signs: bool = True,
) -> tuple[Path, Path]:
    """A chain and key as a user would bring them, the key in its traditional form, not PKCS#8; ``usage`` is the extended one."""
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID, ObjectIdentifier

    now = datetime.datetime.now(datetime.UTC)
    keys = [ec.generate_private_key(ec.SECP384R1()), (kind or (lambda: ec.generate_private_key(ec.SECP384R1())))()]
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
        bits = x509.KeyUsage(digital_signature=not root and signs, key_cert_sign=root, crl_sign=root, **off)
        one = one.add_extension(bits, critical=True).add_extension(known, critical=False)
        one = one.add_extension(issuer, critical=False)
        if not root and usage:
            one = one.add_extension(x509.ExtendedKeyUsage([ObjectIdentifier(usage)]), critical=False)
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
    wrong_use = issue(tmp_path / "web", usage="1.3.6.1.5.5.7.3.2")
    with pytest.raises(ValueError, match="extended key usage is clientAuth, and needs to be c2pa-kp-claimSigning"):
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


@pytest.mark.parametrize(
    "usage", ["1.3.6.1.4.1.62558.2.1", "1.3.6.1.5.5.7.3.36", "1.3.6.1.5.5.7.3.4"], ids=["C2PA's", "documents", "e-mail"]
)
def test_certificates_for_signing_content_are_believed(picture: np.ndarray, tmp_path: Path, usage: str) -> None:
    """c2pa-python's own list knows e-mail alone: what the two others sign was called not valid."""
    chain, key = issue(tmp_path / "office", usage=usage)
    Signing(certificate_chain=chain, private_key=key).stamping()
    data = stamp(picture, FACTS, StampOptions(certificate_chain=chain, private_key=key))
    assert checked(data).state == "valid"
    assert read(data, "image/png", load_anchors(tmp_path / "office" / "root.pem")).state == "trusted"


def rsa_key(bits: int) -> Callable[[], Any]:
    from cryptography.hazmat.primitives.asymmetric import rsa

    return lambda: rsa.generate_private_key(65537, bits)


def other_curve() -> Any:
    from cryptography.hazmat.primitives.asymmetric import ec

    return ec.generate_private_key(ec.SECP256K1())


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"usage": "1.3.6.1.5.5.7.3.1"}, r"extended key usage is serverAuth, .* documentSigning .* emailProtection"),
        ({"usage": "1.3.6.1.4.1.99999.1"}, r"extended key usage is 1\.3\.6\.1\.4\.1\.99999\.1, and needs to be c2pa-kp"),
        ({"usage": ""}, "extended key usage is missing, and needs to be c2pa-kp-claimSigning"),
        ({"signs": False}, "lacks the key usage digitalSignature"),
        ({"days": (1, 9)}, "is not valid today .*: use a current one"),
        ({"days": (-9, -1)}, "is not valid today .*: use a current one"),
        ({"kind": rsa_key(1024)}, "RSA of 2,048 bits or more"),
        ({"kind": other_curve}, "use EC P-256, P-384 or P-521"),
    ],
)
def test_a_chain_is_tried_before_any_work(tmp_path: Path, wrong: dict[str, Any], sentence: str) -> None:
    chain, key = issue(tmp_path / "office", **wrong)
    with pytest.raises(ValueError, match=sentence) as raised:
        Signing(certificate_chain=chain, private_key=key).stamping()
    assert "\n" not in str(raised.value)
    Signing(provenance=False, certificate_chain=chain, private_key=key).stamping()


def test_a_chain_in_another_order_says_which_is_right(tmp_path: Path) -> None:
    chain, key = issue(tmp_path / "office")
    other, _ = issue(tmp_path / "elsewhere")
    root = (tmp_path / "office" / "root.pem").read_bytes()
    leaf = chain.read_bytes().removesuffix(root)
    strange = (tmp_path / "elsewhere" / "root.pem").read_bytes()
    for pem, sentence in (
        (root + leaf, "first certificate of .*: put the signer's own first"),
        (leaf + strange + root, "the signing certificate in .* was not issued by the one after it"),
        (leaf + root + strange, "certificate 2 of 3 in .* was not issued by the one after it"),
        (other.read_bytes(), "does not belong to any certificate"),
    ):
        chain.write_bytes(pem)
        with pytest.raises(ValueError, match=sentence):
            load_identity(chain, key)
    chain.write_bytes(leaf)
    prove(load_identity(chain, key))


def test_what_only_the_trial_finds_is_told_in_its_words(tmp_path: Path) -> None:
    """A key that signs for another certificate, as a hardware token's might, passes no trial."""
    good, other = (load_identity(*issue(tmp_path / name)) for name in ("a", "b"))
    with pytest.raises(ValueError, match=r"would be called .*digitalSignature"):
        prove(Identity(good.chain_pem, other.key_pem, good.algorithm))


@pytest.mark.skipif(os.name != "posix", reason="pipes are POSIX")
def test_no_file_of_an_identity_is_waited_for(tmp_path: Path) -> None:
    chain, key = issue(tmp_path / "office")
    pipe, huge = tmp_path / "pipe", tmp_path / "huge"
    os.mkfifo(pipe)
    with huge.open("wb") as file:
        file.truncate(2**40)
    for bad, said in ((pipe, "a device or a pipe"), (Path("/dev/zero"), "a device or a pipe"), (huge, "larger than 1 MiB")):
        for call in (lambda: load_identity(bad, key), lambda: load_identity(chain, bad), lambda: load_anchors(bad)):  # noqa: B023
            with pytest.raises(ValueError, match=said):
                call()
