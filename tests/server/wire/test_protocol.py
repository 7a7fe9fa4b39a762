"""The wire: what is packed comes back, and nothing that is broken gets through."""

from __future__ import annotations

import contextlib
import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fewstep.server.wire.protocol import (
    HEAD,
    MAX_HEADER_BYTES,
    RAW,
    SUBPROTOCOL,
    VERSION,
    Message,
    Part,
    ProtocolError,
    greeting,
    id_in,
    of_another_version,
    pack,
    read_draw_request,
    token_in,
    unpack,
    version_in,
)

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.text(st.characters(), max_size=3000))
@settings(max_examples=200, deadline=None)
def test_a_sentence_can_always_be_sent(text: str):
    error = ProtocolError("type", f"unknown {text}: use draw")
    sent = unpack(pack({"type": "error", "code": error.code, "message": str(error)})).header["message"]
    assert (sent, sent[:8], sent[-4:]) == (str(error), "unknown ", "draw")


@pytest.mark.parametrize("odd", ["\ud800", float("inf"), -1, 2**53, 1.0, True, None, [1], {"a": 1}])
def test_only_an_id_is_repeated(odd: object):
    assert id_in({"id": odd}) is None
    assert id_in({}) is None
    assert id_in({"id": 7}) == 7


def code_of(frame: bytes) -> str:
    with pytest.raises(ProtocolError) as caught:
        unpack(frame)
    assert len(str(caught.value)) > 20
    return caught.value.code


def draw(parts: tuple[Part, ...] = (), **header: object) -> Message:
    return unpack(pack({"type": "draw", **header}, parts))


def refused(*parts: Part, **header: object) -> str:
    with pytest.raises(ProtocolError) as caught:
        read_draw_request(draw(parts, **header), steps=(1, 2, 4), sizes=(64, 32))
    return caught.value.code


IMAGE = Part("image", "image/png", b"not decoded here")
MASK = Part("mask", RAW, bytes(16), 2, 2)


@settings(max_examples=25, deadline=None)
@given(st.dictionaries(st.text(), json_values, max_size=4), st.lists(st.binary(max_size=50), max_size=3))
def test_what_is_packed_comes_back(header: dict, payloads: list[bytes]):
    header = {k: v for k, v in header.items() if k != "parts"} | {"type": "x"}
    parts = [Part(f"p{i}", "image/png", data) for i, data in enumerate(payloads)]
    message = unpack(pack(header, parts))
    assert {k: v for k, v in message.header.items() if k != "parts"} == header
    assert [bytes(p.data) for p in message.parts.values()] == payloads


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=80), st.integers(0, 90), st.integers(0, 255))
def test_no_bytes_do_anything_but_raise_a_protocol_error(noise: bytes, place: int, value: int):
    """Random bytes, and a good frame with one byte changed or cut short."""
    good = bytearray(pack({"type": "draw", "prompt": "ü"}, [IMAGE]))
    good[place % len(good)] = value
    for frame in (noise, bytes(good), bytes(good[:place])):
        with contextlib.suppress(ProtocolError):
            read_draw_request(unpack(frame))


def test_broken_frames_are_named():
    good = pack({"type": "time"}, [IMAGE])
    assert code_of(b"") == "truncated"
    assert code_of(b"XX" + good[2:]) == "magic"
    assert code_of(good[:2] + b"\x02" + good[3:]) == "version"
    assert code_of(good[:-1]) == "truncated"
    assert code_of(good + b"!") == "truncated"
    assert code_of(HEAD.pack(b"FS", 1, 0, 2**31) + b"{}") == "header_size"
    for text in (b"{", b"[]", b"{}", b'{"type": 3}', b'{"type": "x", "n": NaN}', b"\xff", b"[" * 9000):
        assert code_of(HEAD.pack(b"FS", 1, 0, len(text)) + text) == "header"


@pytest.mark.parametrize(
    "parts",
    [7, {"name": "x"}, [3], [{"name": "x"}], [{"name": "x", "mime": "y", "bytes": -1}],
     [{"name": "x", "mime": "y", "bytes": True}], [{"name": "x", "mime": "y", "bytes": 1.0}], [{}] * 5],
)  # fmt: skip
def test_broken_lists_of_parts_are_named(parts: object):
    text = json.dumps({"type": "draw", "parts": parts}).encode()
    assert code_of(HEAD.pack(b"FS", 1, 0, len(text)) + text) == "parts"


def test_a_header_too_long_is_not_even_sent():
    with pytest.raises(ProtocolError, match=str(MAX_HEADER_BYTES)):
        pack({"type": "draw", "prompt": "x" * MAX_HEADER_BYTES})
    with pytest.raises(ValueError, match="JSON"):
        pack({"type": "draw", "sent_ms": math.nan})


def test_a_request_is_read_whole():
    message = draw((IMAGE, MASK), id=7, task="inpaint", prompt="a ❤️", seed=3, strength=0.25, steps=2, sent_ms=1.5)
    ask = read_draw_request(message, steps=(1, 2, 4))
    assert (ask.id, ask.task, ask.prompt, ask.seed, ask.strength, ask.steps) == (7, "inpaint", "a ❤️", 3, 0.25, 2)
    assert ask.mask is not None
    assert (ask.mask.width, ask.with_picture, ask.encoder, ask.target_ms) == (2, True, "", 0.0)
    assert read_draw_request(draw()).task == "text"


def test_values_out_of_range_are_refused_by_name():
    assert refused(task="video") == "task"
    assert refused(prompt=3) == "prompt"
    assert refused(prompt="x" * 501) == "prompt"
    assert refused(prompt="a\x00b") == "prompt"
    assert refused(seed=-1) == "seed"
    assert refused(seed=1.5) == "seed"
    assert refused(seed=True) == "seed"
    assert refused(steps=3) == "steps"
    assert refused(size=48) == "size"
    assert read_draw_request(draw(size=32), sizes=(64, 32)).size == read_draw_request(draw(size=32)).size == 32
    assert refused(blend=1.5) == "blend"
    assert refused(smoothing=1) == "smoothing"
    assert refused(encoder="gif") == "encoder"
    assert refused(target_ms="soon") == "target_ms"
    assert refused(IMAGE, task="image", strength=0) == "strength"


def test_parts_must_be_those_of_the_task():
    assert refused(IMAGE, task="text") == "parts"
    assert refused(task="image") == "parts"
    assert refused(IMAGE, task="inpaint") == "parts"
    assert refused(IMAGE, MASK, task="image") == "parts"


def test_versions_are_negotiated():
    both = ["fewstep.v9", SUBPROTOCOL, "token.abc"]
    assert (version_in(both), of_another_version(both), greeting(both)) == (VERSION, None, SUBPROTOCOL)
    assert token_in([SUBPROTOCOL, "token.abc"]) == "abc"
    assert token_in([SUBPROTOCOL]) == ""
    newer, older, none = ["token.secret", "fewstep.v9"], ["fewstep.v0"], ["token.secret", "chat"]
    assert [version_in(offered) for offered in (newer, older, none, [])] == [9, 0, None, None]
    assert [greeting(offered) for offered in (newer, older, none, [])] == ["fewstep.v9", "fewstep.v0", "chat", None]
    assert "version 9 of the protocol, the server version 1: update the server" in (of_another_version(newer) or "")
    assert "version 0 of the protocol, the server version 1: reload the page" in (of_another_version(older) or "")
    for offered in (none, [], ["fewstep.v999999", "fewstep.v1x"]):
        assert "offer the subprotocol fewstep.v1" in (of_another_version(offered) or "")
