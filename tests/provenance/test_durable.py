"""What outlives a file's own credentials: a store, time stamps, the credentials of a given picture, a label that people see."""

from __future__ import annotations

import http.server
import io
import json
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fewstep import cli
from fewstep.bundle import Card
from fewstep.provenance import (
    GenerationFacts,
    Ingredient,
    SpreadSpectrum,
    StampOptions,
    ingredient_of,
    labelled,
    stamp,
    store,
)
from fewstep.provenance.content_credentials import IDENTIFIER, VISIBLE, read
from fewstep.provenance.identity import own_identity, own_root
from fewstep.provenance.options import FileSigning, Signing, Trusting
from fewstep.provenance.verify import VerifyOptions, verify
from fewstep.server.drawing.provenance import SILENT_S, PictureFacts, Stamper

c2pa = pytest.importorskip("c2pa")
pytest.importorskip("cryptography")

FACTS = GenerationFacts(model="emoji-64", bundle_hash="ef" * 32, steps=2, seed=7, task="text")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FEWSTEP_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def drawing(seed: int, side: int = 64) -> np.ndarray:
    """A few round shapes on white, of ``side`` pixels."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side] / side
    picture = np.full((side, side, 3), 255.0)
    for _ in range(6):
        cx, cy, r = [*rng.uniform(0.2, 0.8, 2).tolist(), rng.uniform(0.1, 0.35)]
        picture[(x - cx) ** 2 + (y - cy) ** 2 < r * r] = rng.uniform(0, 255, 3)
    return picture.astype(np.uint8)


def saved_again(data: bytes, kind: str = "JPEG", **how: int) -> bytes:
    output = io.BytesIO()
    Image.open(io.BytesIO(data)).convert("RGB").save(output, kind, **how)
    return output.getvalue()


def manifests(data: bytes, mime: str = "image/png") -> dict:
    settings = {"trust": {"trust_anchors": (own_root() or b"").decode()}, "verify": {"remote_manifest_fetch": False}}
    with c2pa.Reader(mime, io.BytesIO(data), context=c2pa.Context.from_dict(settings)) as reader:
        return json.loads(reader.json())


# a store


def test_a_stripped_picture_is_found_again_in_the_store(tmp_path: Path) -> None:
    kept = StampOptions(store=tmp_path / "store")
    made = {seed: stamp(drawing(seed), replace(FACTS, seed=seed), kept) for seed in range(12)}
    assert len(list((tmp_path / "store").iterdir())) == 12
    stripped = tmp_path / "a.jpg"
    for seed, data in made.items():
        stripped.write_bytes(saved_again(data, quality=60))
        assert verify(stripped, VerifyOptions(effort="aligned")).recovered is None
        verdict = verify(stripped, VerifyOptions(effort="aligned", store=tmp_path / "store"))
        assert verdict.credentials.state == "absent"
        assert verdict.recovered is not None
        assert verdict.recovered.credentials.state == "trusted"
        assert verdict.recovered.credentials.facts["seed"] == seed
        assert "Store: it holds intact credentials of a picture (looks like this one" in str(verdict)
        assert "that is a likeness, and no proof" in str(verdict)
    Image.fromarray(drawing(99)).save(tmp_path / "other.png")
    other = verify(tmp_path / "other.png", VerifyOptions(effort="aligned", store=tmp_path / "store"))
    assert other.recovered is None
    assert not other.ai_generated


@pytest.mark.skipif(not hasattr(SpreadSpectrum, "identifier_bits"), reason="this version's mark carries no identifier")
def test_a_large_picture_is_named_by_the_number_in_its_mark(tmp_path: Path) -> None:
    kept = StampOptions(store=tmp_path / "store", format="JPEG")
    rng = np.random.default_rng(1)
    busy = np.asarray(Image.fromarray(rng.integers(0, 255, (40, 40, 3)).astype(np.uint8)).resize((640, 640), 3))
    data = [stamp(busy, replace(FACTS, seed=seed), kept) for seed in (1, 2)]
    numbers = [read(one, "image/jpeg").identifier for one in data]
    assert len(set(numbers)) == 2, "two pictures that look alike have a number each"
    for seed, one, number in zip((1, 2), data, numbers):
        (tmp_path / "a.jpg").write_bytes(saved_again(one, quality=75))
        verdict = verify(tmp_path / "a.jpg", VerifyOptions(effort="aligned", store=tmp_path / "store"))
        assert verdict.recovered is not None
        assert verdict.recovered.by_identifier
        assert verdict.recovered.credentials.facts["seed"] == seed
        assert verdict.recovered.credentials.identifier == number
        assert "named by the identifier in the watermark" in str(verdict)
    bound = manifests(data[0], "image/jpeg")
    (active,) = bound["manifests"].values()
    algorithms = [one["data"]["alg"] for one in active["assertions"] if one["label"].startswith("c2pa.soft-binding")]
    assert IDENTIFIER in algorithms


def test_credentials_in_a_store_count_only_if_they_are_intact(tmp_path: Path) -> None:
    data = stamp(drawing(1), FACTS, StampOptions(store=tmp_path / "store"))
    (tmp_path / "a.jpg").write_bytes(saved_again(data))
    (held,) = (tmp_path / "store").iterdir()
    options = VerifyOptions(effort="aligned", store=tmp_path / "store")
    whole = held.read_bytes()
    held.write_bytes(whole.replace(b"emoji-64", b"emoji-65"))
    verdict = verify(tmp_path / "a.jpg", options)
    assert verdict.recovered is not None
    assert verdict.recovered.credentials.state not in ("trusted", "valid")
    assert "they count for nothing" in str(verdict)
    held.write_bytes(b"junk")
    assert "they count for nothing" in str(verify(tmp_path / "a.jpg", options))
    held.unlink()
    os.mkfifo(held)
    assert verify(tmp_path / "a.jpg", options).recovered is None, "what is no file hinders nothing"


@pytest.mark.parametrize("side", [64, 512])
def test_credentials_in_a_store_are_those_of_the_picture_that_they_name(side: int, tmp_path: Path) -> None:
    """A file's name is anybody's to choose: what counts is the binding that was signed."""
    drawn = [np.asarray(Image.fromarray(drawing(seed)).resize((side, side))) for seed in (1, 2)]
    for name, one in zip("ab", drawn):
        Image.open(io.BytesIO(stamp(one, FACTS, StampOptions(store=tmp_path / name)))).save(tmp_path / f"{name}.png")
    (mine,), (other,) = (list((tmp_path / name).iterdir()) for name in "ab")
    options = VerifyOptions(effort="aligned", store=tmp_path / "a")
    recovered = verify(tmp_path / "a.png", options).recovered
    assert recovered is not None
    assert recovered.credentials.state == "trusted"
    mine.write_bytes(other.read_bytes())
    verdict = verify(tmp_path / "a.png", options)
    assert verdict.recovered is not None
    assert verdict.recovered.credentials.state == "invalid"
    assert "another picture's, under this one's name: they count for nothing" in verdict.sentences[-1]


def test_a_store_is_bounded_and_never_touches_what_others_put_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "MOST_KEPT", 3)
    for name in ("notes.txt", "holiday.c2pa", "fewstep-mine.c2pa"):
        (tmp_path / name).write_text("mine")
    paths = []
    for age in range(6):
        paths.append(store.keep(tmp_path, drawing(age), age, b"manifest %d" % age))
        os.utime(paths[-1], (age, age))
    assert [path.exists() for path in paths] == [False] * 3 + [True] * 3
    assert all((tmp_path / name).read_text() == "mine" for name in ("notes.txt", "holiday.c2pa", "fewstep-mine.c2pa"))
    assert not [one for one in tmp_path.iterdir() if one.name.startswith(".")], "drafts were left behind"


def test_the_fingerprint_forgives_saving_and_tells_drawings_apart() -> None:
    drawn = [drawing(seed) for seed in range(40)]
    marks = [store.fingerprint(one) for one in drawn]

    def off(a: int, b: int) -> int:
        return (a ^ b).bit_count()

    for one, mark in zip(drawn, marks):
        whole = io.BytesIO()
        Image.fromarray(one).save(whole, "PNG")
        for again in (saved_again(whole.getvalue(), quality=40), saved_again(whole.getvalue(), "WEBP", quality=50)):
            assert off(store.fingerprint(np.asarray(Image.open(io.BytesIO(again)))), mark) <= store.ALIKE
        large = np.asarray(Image.fromarray(one).resize((200, 200), Image.Resampling.BICUBIC))
        assert off(store.fingerprint(large), mark) <= store.ALIKE
    assert min(off(a, b) for i, a in enumerate(marks) for b in marks[:i]) > store.ALIKE


# time stamps


@pytest.fixture(scope="module")
def clock(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A time-stamping authority of OpenSSL's behind HTTP on loopback: its address, and its root."""
    if shutil.which("openssl") is None:
        pytest.skip("needs the program openssl")
    folder = tmp_path_factory.mktemp("clock")

    def openssl(*words: str) -> None:
        subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)

    new = ("-newkey", "rsa:2048", "-nodes")
    openssl("req", "-x509", *new, "-keyout", "ca.key", "-out", "ca.pem", "-days", "9", "-subj", "/O=Clock/CN=Clock root")
    openssl("req", *new, "-keyout", "tsa.key", "-out", "tsa.csr", "-subj", "/O=Clock/CN=Clock")
    (folder / "use").write_text("keyUsage=critical,digitalSignature\nextendedKeyUsage=critical,timeStamping\n")
    openssl("x509", "-req", "-in", "tsa.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "9",
            "-extfile", "use", "-out", "tsa.pem")  # fmt: skip
    (folder / "tsa.cnf").write_text(
        "[tsa]\ndefault_tsa=one\n[one]\nserial=serial\ncrypto_device=builtin\nsigner_cert=tsa.pem\nsigner_key=tsa.key\n"
        "certs=ca.pem\nsigner_digest=sha256\ndefault_policy=1.2.3.4.1\ndigests=sha256,sha384,sha512\naccuracy=secs:1\n"
        "ess_cert_id_alg=sha256\n"
    )

    class Clock(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            (folder / "query").write_bytes(self.rfile.read(int(self.headers["content-length"])))
            openssl("ts", "-reply", "-config", "tsa.cnf", "-queryfile", "query", "-out", "reply")
            reply = (folder / "reply").read_bytes()
            self.send_response(503 if (folder / "broken").exists() else 200)
            self.send_header("content-type", "application/timestamp-reply")
            self.send_header("content-length", str(len(reply)))
            self.end_headers()
            self.wfile.write(reply)

        def log_message(self, *_: object) -> None: ...

    with http.server.HTTPServer(("127.0.0.1", 0), Clock) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/", folder / "ca.pem"
        server.shutdown()
        thread.join()


def test_a_time_stamp_says_when(clock: tuple[str, Path], tmp_path: Path) -> None:
    address, root = clock
    stamping = Signing(time_authority=address).stamping()
    (tmp_path / "a.png").write_bytes(stamp(drawing(1), FACTS, stamping))
    verdict = verify(tmp_path / "a.png", VerifyOptions(effort="aligned"))
    assert verdict.credentials.state == "trusted"
    assert verdict.credentials.when is not None
    assert verdict.credentials.when.startswith("20")
    assert not verdict.credentials.when_trusted
    assert f"They were signed at {verdict.credentials.when}, by a time stamp whose authority is not on" in str(verdict)
    known = verify(tmp_path / "a.png", VerifyOptions(effort="aligned", trust_anchors=(root,)))
    assert known.credentials.when_trusted
    assert known.table()["credentials"]["signed_at"] == verdict.credentials.when
    (tmp_path / "b.png").write_bytes(stamp(drawing(1), FACTS))
    assert verify(tmp_path / "b.png", VerifyOptions(effort="aligned")).credentials.when is None


def test_a_clock_that_does_not_answer_is_told_before_any_work(clock: tuple[str, Path]) -> None:
    for address, sentence in (
        ("http://127.0.0.1:1/", "gave no time stamp .*: check --time-authority"),
        ("nonsense", "is no address: give one with http"),
        ("file:///etc/passwd", "is no address: give one with http"),
    ):
        with pytest.raises(ValueError, match=sentence):
            Signing(time_authority=address).stamping()


def test_a_clock_that_fails_while_serving_costs_its_stamp_alone(
    clock: tuple[str, Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Said once, told by the server's own word on its marks, and mended as soon as the authority answers again."""
    address, root = clock
    marks = Stamper(Card("tiny", "student", "add", (1,), (1.0,)), stamping=Signing(time_authority=address).stamping())

    def signed() -> bool:
        said = read(marks.file(drawing(1), PictureFacts(steps=4, seed=1, prompt="")), "image/png", own_root() or b"")
        assert said.state == "trusted"
        return said.when is not None

    assert signed()
    assert marks.state == {"watermark": True, "credentials": True, "time_stamps": True}
    (root.parent / "broken").touch()
    try:
        assert [signed() for _ in range(3)] == [False] * 3
        assert marks.state["time_stamps"] is False
        assert [one.message.startswith("saved pictures are signed without a time stamp") for one in caplog.records] == [True]
    finally:
        (root.parent / "broken").unlink()
    assert not signed(), "it is left alone for a while"
    now = time.monotonic
    monkeypatch.setattr(time, "monotonic", lambda: now() + SILENT_S)
    assert signed()
    assert marks.state["time_stamps"] is True


# the credentials of a given picture


@pytest.mark.parametrize(("task", "relation"), [("image", "inputTo"), ("inpaint", "parentOf")])
def test_a_given_pictures_credentials_are_kept_and_its_pixels_are_not(tmp_path: Path, task: str, relation: str) -> None:
    identity = own_identity()
    settings = {"builder": {"thumbnail": {"enabled": True}}, "verify": {"verify_after_sign": False}}
    action = {"action": "c2pa.created", "digitalSourceType": "http://cv.iptc.org/newscodes/digitalsourcetype/digitalCapture"}
    camera = {
        "claim_generator_info": [{"name": "Camera"}],
        "assertions": [{"label": "c2pa.actions.v2", "data": {"actions": [action]}}],
    }
    whole, photo = io.BytesIO(), io.BytesIO()
    Image.fromarray(drawing(3, 300)).save(whole, "PNG")
    info = c2pa.C2paSignerInfo(c2pa.C2paSigningAlg.ES256, identity.chain_pem, identity.key_pem, None)
    builder = c2pa.Builder(json.dumps(camera), c2pa.Context.from_dict(settings))
    builder.sign(c2pa.Signer.from_info(info), "image/png", io.BytesIO(whole.getvalue()), photo)
    assert b"JFIF" in photo.getvalue(), "its own credentials hold a thumbnail"
    given = ingredient_of(photo.getvalue(), "image/png")
    assert given is not None
    facts = replace(FACTS, task=task, strength=0.5)  # type: ignore[arg-type]
    data = stamp(drawing(4), facts, StampOptions(watermark=False), given)
    assert b"JFIF" not in data
    assert len(data) < 30_000
    told = manifests(data)
    assert told["validation_state"] == "Trusted"
    assert len(told["manifests"]) == 2
    (ingredient,) = told["manifests"][told["active_manifest"]]["ingredients"]
    assert ingredient["relationship"] == relation
    failed = [one["code"] for one in ingredient["validation_results"]["activeManifest"]["failure"]]
    assert failed == ["signingCredential.untrusted"], "who signs a picture trusts nobody for it"
    verdict = read(data, "image/png", own_root() or b"")
    assert verdict.state == "trusted"
    assert verdict.ai_generated
    assert verdict.edited_by is None
    assert str(verdict.software).startswith("fewstep")


def test_a_given_picture_without_credentials_leaves_its_name_alone(tmp_path: Path) -> None:
    plain = io.BytesIO()
    Image.fromarray(drawing(3)).save(plain, "PNG")
    assert ingredient_of(plain.getvalue(), "image/png") is None
    assert ingredient_of(b"junk", "image/png") is None
    facts = replace(FACTS, task="image", strength=0.5)
    (ingredient,) = next(iter(manifests(stamp(drawing(4), facts))["manifests"].values()))["ingredients"]
    assert set(ingredient) <= {"title", "instance_id", "relationship", "label"}
    assert Ingredient(b"1234", "image/png") == Ingredient(b"1234", "image/png")


# a label that people see


@pytest.mark.parametrize("side", [32, 64, 128, 512])
@pytest.mark.parametrize("ground", [0, 128, 255])
def test_the_label_is_legible_small_and_in_its_corner(side: int, ground: int) -> None:
    before = np.full((side, side, 4), ground, np.uint8)
    after = labelled(before)
    changed = np.argwhere((after != before).any(axis=2))
    (top, left), (bottom, right) = changed.min(axis=0), changed.max(axis=0)
    assert bottom - top + 1 >= 9
    assert min(top, left) > side * (0.5 if side < 64 else 0.7)
    assert (bottom - top + 1) * (right - left + 1) < side * side * (0.16 if side < 64 else 0.05)
    box = after[top : bottom + 1, left : right + 1, :3].astype(float).mean(axis=2)
    light, dark = np.percentile(box, 98) / 255, np.percentile(box, 30) / 255
    linear = [((v + 0.055) / 1.055) ** 2.4 if v > 0.04 else v / 12.92 for v in (light, dark)]
    assert (linear[0] + 0.05) / (linear[1] + 0.05) > 4.5, "white letters on a dark ground, on whatever lies below"
    assert np.array_equal(labelled(np.zeros((8, 8, 3), np.uint8)), np.zeros((8, 8, 3)))


def test_the_label_is_off_by_default_and_said_in_the_credentials(tmp_path: Path) -> None:
    picture = drawing(5, 128)
    assert not StampOptions().visible_mark
    data = stamp(picture, FACTS, FileSigning(visible_mark=True).stamping())
    actions = next(iter(manifests(data)["manifests"].values()))["assertions"][0]["data"]["actions"]
    assert [one["action"] for one in actions] == ["c2pa.created", "c2pa.edited"]
    assert actions[1]["description"] == VISIBLE
    pixels = np.asarray(Image.open(io.BytesIO(data))).astype(int)
    shown = np.abs(pixels - labelled(picture)).max()
    assert shown < 40, "nothing but the invisible mark is added to it"
    (tmp_path / "a.png").write_bytes(data)
    assert verify(tmp_path / "a.png", VerifyOptions(effort="aligned")).watermark.found  # type: ignore[union-attr]
    assert VISIBLE not in str(manifests(stamp(picture, FACTS)))


def test_options_that_need_provenance_say_so(tmp_path: Path) -> None:
    for options in ({"time_authority": "http://x/"}, {"store": tmp_path / "s"}, {"visible_mark": True}):
        with pytest.raises(ValueError, match="is about what --no-provenance leaves out"):
            Signing(provenance=False, **options).stamping()  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="there is no store"):
        Trusting(store=tmp_path / "none").verifying()


def test_draw_keeps_verify_finds_and_the_given_pictures_credentials_go_along(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    first = ["--store", "kept", "--visible-mark", "-o", "a.png"]
    cli.main(["draw", "a red heart", "--scale", "4", *first])
    cli.main(["draw", "a red heart", "--image", "a.png", "--store", "kept", "--scale", "4", "-o", "b.png"])
    assert len(manifests(Path("b.png").read_bytes())["manifests"]) == 2
    Path("c.jpg").write_bytes(saved_again(Path("a.png").read_bytes(), quality=80))
    capsys.readouterr()
    cli.main(["verify", "c.jpg", "--store", "kept"])
    assert "Store: it holds intact credentials of a picture" in capsys.readouterr().out
