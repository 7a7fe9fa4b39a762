"""OpenAI's own client, unchanged, against a real server process: pictures of every kind, and errors as its exceptions."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from collections.abc import Iterator
from typing import Any

import c2pa
import httpx
import numpy as np
import openai
import pytest
from PIL import Image

from fewstep.provenance.content_credentials import read as read_credentials
from fewstep.provenance.options import Signing
from fewstep.server.http.forms import boundary_of, read_form
from serving_helpers import SIZE, TOKEN, running


def options(served: Any, key: str = TOKEN) -> dict[str, Any]:
    base = served.url.partition("#")[0].rstrip("/")
    return {"base_url": f"{base}/v1", "api_key": key, "max_retries": 0, "timeout": 120}


@pytest.fixture(scope="module")
def client(served: Any) -> openai.OpenAI:
    return openai.OpenAI(**options(served))


def opened(entry: Any) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(entry.b64_json)))


@pytest.mark.parametrize(("size", "side"), [(None, SIZE), ("auto", SIZE), ("256x256", 256), ("48x48", 48)])
def test_sizes(client: openai.OpenAI, size: str | None, side: int):
    answer = client.images.generate(prompt="a red heart", **({"size": size} if size else {}))
    assert [opened(entry).size for entry in answer.data] == [(side, side)]
    assert answer.created > 1_700_000_000
    assert (answer.size, answer.background, answer.output_format) == (f"{side}x{side}", "opaque", "png")
    assert (answer.model, answer.model_extra.get("fit")) == ("tiny", None if side == SIZE else "none")


@pytest.mark.parametrize("size", [(96, 64), (40, 120)])
def test_oblong_sizes_are_cropped_or_padded_and_the_answer_says_which(client: openai.OpenAI, size: tuple[int, int]):
    asked = {"prompt": "a cat", "size": f"{size[0]}x{size[1]}"}
    for fit, side in (("crop", max(size)), ("pad", min(size))):
        answer = client.images.generate(**asked, extra_body={"fit": fit, "seed": 3})
        assert opened(answer.data[0]).size == size
        assert (answer.size, answer.fit, answer.drawn) == (asked["size"], fit, f"{SIZE}x{SIZE}")
        assert f"drawn at {SIZE}x{SIZE} and resized to {asked['size']}" in answer.note
        # the middle is the same picture at that scale, but for the mark
        square = client.images.generate(prompt="a cat", size=f"{side}x{side}", extra_body={"seed": 3}).data[0]
        middle, picture = (np.asarray(opened(entry), np.float32) for entry in (square, answer.data[0]))
        high, wide = (min(a, b) for a, b in zip(middle.shape, picture.shape[:2]))
        cut = [
            one[(one.shape[0] - high) // 2 :, (one.shape[1] - wide) // 2 :][:high, :wide] for one in (middle, picture)
        ]
        assert np.abs(cut[0] - cut[1]).mean() < 4
    assert client.images.generate(**asked, extra_body={"seed": 3}).fit in ("crop", "pad")


@pytest.mark.parametrize(
    ("asked", "steps", "said"),
    [
        ({"quality": "low"}, 1, "low"),
        ({"quality": "medium"}, 2, "medium"),
        ({"quality": "hd"}, 4, "high"),
        ({}, 4, "high"),
        ({"extra_body": {"num_inference_steps": 2}}, 2, "medium"),
        ({"quality": "high", "extra_body": {"steps": 1, "guidance_scale": 0.0, "negative_prompt": ""}}, 1, "low"),
    ],
)
def test_quality_is_a_number_of_steps_and_the_answer_says_it(client: openai.OpenAI, asked: dict, steps: int, said: str):
    answer = client.images.generate(prompt="a red heart", **asked)
    assert (answer.quality, answer.data[0].steps) == (said, steps)
    facts = read_credentials(base64.b64decode(answer.data[0].b64_json), "image/png").facts
    assert facts["steps"] == steps


def test_a_seed_that_was_told_draws_the_same_picture_again_bit_for_bit(client: openai.OpenAI):
    first = client.images.generate(prompt="a green dog", n=2, size="64x48", quality="low").data
    assert first[1].seed == first[0].seed + 1
    for entry in first:
        asked = {"seed": entry.seed, "steps": entry.steps}
        again = client.images.generate(prompt="a green dog", size="64x48", extra_body=asked).data[0]
        assert opened(again).tobytes() == opened(entry).tobytes()


def photo(width: int, height: int, alpha: np.ndarray | None = None) -> bytes:
    """A PNG of many colours; ``alpha`` is its transparency."""
    pixels = np.random.default_rng(5).integers(0, 256, (height, width, 3), np.uint8)
    picture = Image.fromarray(pixels if alpha is None else np.dstack([pixels, alpha]))
    picture.save(file := io.BytesIO(), "PNG")
    return file.getvalue()


def with_hole(width: int, height: int) -> np.ndarray:
    """Opaque but for a hole, beside which lie pixels that are nearly transparent, and so are kept."""
    alpha = np.full((height, width), 255, np.uint8)
    alpha[height // 4 : height // 2, width // 4 : width // 2] = 0
    alpha[0] = 1
    alpha[1] = 128
    return alpha


@pytest.fixture(scope="module")
def unmarked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[openai.OpenAI]:
    """A server that does not mark its pictures: what is kept can be compared bit for bit."""
    with running(signing=Signing(provenance=False)) as server:
        yield openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)


@pytest.mark.parametrize("size", [(96, 96), (70, 44), (20, 90)])
@pytest.mark.parametrize("masked", [True, False], ids=["mask", "alpha of the image"])
def test_an_edit_draws_in_the_hole_and_keeps_every_other_pixel(unmarked: openai.OpenAI, size: tuple[int, int], masked: bool):
    alpha = with_hole(*size)
    files = {"image": ("image.png", photo(*size, None if masked else alpha))}
    if masked:
        files["mask"] = ("mask.png", photo(*size, alpha))
    answer = unmarked.images.edit(prompt="a red heart", n=2, extra_body={"seed": 1}, **files)
    before = np.asarray(Image.open(io.BytesIO(photo(*size))), int)
    hole, pictures = alpha == 0, [np.asarray(opened(entry), int) for entry in answer.data]
    kept = (alpha == 255) if not masked else ~hole  # of a picture's own, half transparent pixels show white through
    for picture in pictures:
        assert picture.shape == before.shape
        assert np.array_equal(picture[kept], before[kept])
        assert np.abs(picture[hole] - before[hole]).mean() > 20
    assert np.abs(pictures[0][hole] - pictures[1][hole]).mean() > 0.5
    other = unmarked.images.edit(prompt="the blue moon", extra_body={"seed": 1}, **files).data[0]
    assert np.abs(np.asarray(opened(other), int)[hole] - pictures[0][hole]).mean() > 0.5, "the prompt counts in the hole"
    assert (answer.size, answer.data[0].strength) == (f"{size[0]}x{size[1]}", 1)


def test_an_edit_without_a_hole_changes_the_whole_picture_as_far_as_asked(unmarked: openai.OpenAI):
    def change(**asked: Any) -> tuple[float, float]:
        entry = unmarked.images.edit(image=photo(SIZE, SIZE), prompt="a cat", extra_body={"seed": 1} | asked).data[0]
        return np.abs(np.asarray(opened(entry), int) - before).mean(), entry.strength

    before = np.asarray(Image.open(io.BytesIO(photo(SIZE, SIZE))), int)
    changes = [change(strength=strength) for strength in (0.25, 0.5, 1.0)]
    assert [strength for _, strength in changes] == [0.25, 0.5, 1.0]
    assert change() == changes[1]
    assert change(input_fidelity="high") == changes[0]
    assert changes[0][0] > 1


def test_an_edit_at_another_size_says_what_became_of_the_picture(unmarked: openai.OpenAI):
    for fit in ("crop", "pad"):
        answer = unmarked.images.edit(image=photo(80, 40), prompt="a cat", size="64x64", extra_body={"fit": fit})
        assert (opened(answer.data[0]).size, answer.size, answer.fit) == ((64, 64), "64x64", fit)


def test_variations_differ_and_resemble_their_picture(unmarked: openai.OpenAI):
    answer = unmarked.images.create_variation(image=photo(SIZE, SIZE), n=3, size="256x256")
    pictures = [opened(entry) for entry in answer.data]
    assert {picture.size for picture in pictures} == {(256, 256)}
    assert len({picture.tobytes() for picture in pictures}) == 3


def test_an_edit_carries_the_credentials_of_an_edit(client: openai.OpenAI):
    alpha = with_hole(64, 64)
    answer = client.images.edit(image=photo(64, 64), mask=photo(64, 64, alpha), prompt="a cat", response_format="url")
    data = httpx.get(answer.data[0].url).content
    facts = read_credentials(data, "image/png").facts
    assert (facts["task"], facts["seed"]) == ("inpaint", answer.data[0].seed)


def test_the_credentials_of_a_given_picture_go_along(client: openai.OpenAI):
    """Through an edit, a variation and the plain address: each answer holds the manifest of the picture it was made from."""
    first = base64.b64decode(client.images.generate(prompt="a red heart").data[0].b64_json)
    answers = [
        base64.b64decode(client.images.edit(image=("a.png", first), prompt="a cat").data[0].b64_json),
        base64.b64decode(client.images.create_variation(image=("a.png", first)).data[0].b64_json),
    ]
    asked = {"prompt": "a cat", "image": base64.b64encode(first).decode(), "strength": 0.5}
    http = httpx.post(f"{client.base_url}pictures", json=asked, headers={"authorization": f"Bearer {TOKEN}"}, timeout=60)
    assert http.status_code == 200, http.text
    answers.append(http.content)
    own = labels(first)
    assert len(own) == 1
    for answer in answers:
        assert len(labels(answer)) == 2
        assert own <= labels(answer)
    bare = io.BytesIO()
    Image.open(io.BytesIO(first)).save(bare, "PNG")
    alone = client.images.edit(image=("a.png", bare.getvalue()), prompt="a cat").data[0].b64_json
    assert len(labels(base64.b64decode(alone))) == 1


def labels(picture: bytes) -> set[str]:
    """Names of the manifests in a picture."""
    with c2pa.Reader("image/png", io.BytesIO(picture)) as reader:
        return set(json.loads(reader.json())["manifests"])


@pytest.mark.parametrize(
    ("asked", "code", "said"),
    [
        ({"mask": photo(32, 32)}, "mask", "no hole"),
        ({"mask": photo(32, 16, with_hole(32, 16))}, "mask", "32x16 pixels and the image 32x32"),
        ({"image": [photo(32, 32), photo(32, 32)]}, "image", "one image is taken at a time, and 2 came"),
        ({"image": b"nonsense"}, "picture", "image: not a picture"),
        ({"image": photo(1025, 1024)}, "picture", "are allowed"),
        ({"extra_body": {"strength": 0}}, "strength", "more than 0"),
        ({"extra_body": {"markup": "x"}}, "unknown_parameter", "send a mask"),
        ({"n": 11}, "n", "1 to 10"),
    ],
)
def test_what_cannot_be_edited_is_a_bad_request(client: openai.OpenAI, asked: dict, code: str, said: str):
    with pytest.raises(openai.BadRequestError, match=said) as raised:
        client.images.edit(**({"image": photo(32, 32), "prompt": "a cat"} | asked))
    assert raised.value.code == code


def test_an_edit_comes_in_json_too_with_base64_of_every_spelling(served: Any):
    data = photo(33, 33)
    lines, usual = base64.encodebytes(data).decode(), base64.b64encode(data).decode()
    addresses = base64.urlsafe_b64encode(data).decode().rstrip("=")
    assert "\n" in lines
    assert "-" in addresses
    assert "_" in addresses
    url, key = options(served)["base_url"], {"authorization": f"Bearer {TOKEN}"}
    spelled = [usual, lines, lines.replace("\n", "\r\n"), addresses, f"data:image/png;base64,{addresses}"]
    asked = {"prompt": "a cat", "seed": 4}
    edits = [asked | {"image": text} for text in spelled] + [asked | {"images": [{"image_url": spelled[-1]}]}]
    answers = [httpx.post(f"{url}/images/edits", json=body, headers=key, timeout=60) for body in edits]
    assert {answer.status_code for answer in answers} == {200}
    pictures = [Image.open(io.BytesIO(base64.b64decode(a.json()["data"][0]["b64_json"]))).tobytes() for a in answers]
    assert len(set(pictures)) == 1
    ours = [httpx.post(f"{url}/pictures", json={"image": text}, headers=key, timeout=60) for text in spelled]
    assert {answer.status_code for answer in ours} == {200}


@pytest.mark.parametrize(
    ("kind", "body", "said"),
    [
        ("application/json", b"{", "not valid JSON"),
        ("application/json", b'{"n": ' + b"9" * 5000 + b"}", "too many digits"),
        ("application/json", b"[" * 100_000, "nested too deeply"),
        ("application/json", b'{"prompt": "\xff"}', "not UTF-8"),
        ("application/json", b"[]", "no form"),
        ("application/json", b'{"image": "http://127.0.0.1/x.png", "prompt": ""}', "the picture itself"),
        ("text/plain", b"x", "no form"),
        ("multipart/form-data", b"x", "no boundary"),
        ("multipart/form-data; boundary=b", b"--b\r\n", "cut short"),
        ("multipart/form-data; boundary=b", b"--b\r\n\r\nx\r\n--b--", "without a name"),
        ("multipart/form-data; boundary=b", b"--b\r\nx--b--", "cut short"),
        ("multipart/form-data; boundary=b", b"--b\r\nx\r\n--b--", "without a head"),
        ("multipart/form-data; boundary=b", b"--b\r\n\r\n" * 999 + b"--b--", "more than 64 fields"),
        ("multipart/form-data; boundary=b", b'--b\r\nContent-Disposition: form-data; name="prompt"\r\n\r\n\xff\r\n--b--',
         "not in UTF-8"),
        ("multipart/form-data; boundary=b", b'--b\r\nContent-Disposition: form-data; name="prompt"\r\n\r\na cat\r\n--b--',
         "the image is missing"),
        ("multipart/form-data; boundary=b", b'--b\r\nContent-Disposition: form-data; name="prompt"\r\n\r\nx\r\n' * 2 + b"--b--",
         "'prompt' came more than once"),
    ],
)  # fmt: skip
def test_broken_forms_are_told_what_is_wrong(served: Any, kind: str, body: bytes, said: str):
    headers = {"authorization": f"Bearer {TOKEN}", "content-type": kind}
    answer = httpx.post(f"{options(served)['base_url']}/images/edits", content=body, headers=headers)
    assert answer.status_code == 400
    assert said in answer.json()["error"]["message"]


def test_a_variation_takes_no_mask_and_says_so(served: Any):
    url, key = options(served)["base_url"], {"authorization": f"Bearer {TOKEN}"}
    files = {"image": photo(32, 32), "mask": photo(32, 32, with_hole(32, 32))}
    answer = httpx.post(f"{url}/images/variations", files=files, headers=key, timeout=60)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "mask")
    assert "use /v1/images/edits" in answer.json()["error"]["message"]


def test_files_pass_through_a_form_as_they_are():
    """Whatever bytes a file has: line ends, dashes, an end that looks like the boundary's beginning."""
    for data in (b"", b"\r\n", b"\r", b"a\r\n--", b"--b", bytes(range(256)) * 9, b"\r\n--bound"):
        request = httpx.Request("POST", "http://x/", files={"image[]": ("a.png", data)}, data={"prompt": "é\r\n"})
        boundary = boundary_of(request.headers["content-type"])
        assert dict(read_form(request.read(), boundary)) == {"prompt": "é\r\n", "image[]": data}


def test_events_hold_the_pictures(client: openai.OpenAI):
    whole = client.images.generate(prompt="a cat", n=2, extra_body={"seed": 5})
    events = list(client.images.generate(prompt="a cat", n=2, stream=True, partial_images=2, extra_body={"seed": 5}))
    assert [event.type for event in events] == ["image_generation.completed"] * 2
    assert [opened(event).tobytes() for event in events] == [opened(entry).tobytes() for entry in whole.data]
    assert (events[0].size, events[0].quality, events[0].output_format) == (f"{SIZE}x{SIZE}", "high", "png")
    assert "before the picture" in events[0].ignored["partial_images"]
    edit = list(client.images.edit(image=photo(32, 32), prompt="a cat", stream=True))
    assert [event.type for event in edit] == ["image_edit.completed"]


def test_n_pictures_differ_and_a_seed_draws_them_again(client: openai.OpenAI):
    three = client.images.generate(model="dall-e-3", prompt="a cat", n=3, extra_body={"seed": 5}).data
    again = client.images.generate(model="dall-e-3", prompt="a cat", n=1, extra_body={"seed": 6}).data
    pixels = [opened(entry).tobytes() for entry in three]
    assert len(set(pixels)) == 3
    assert opened(again[0]).tobytes() == pixels[1]
    assert read_credentials(base64.b64decode(three[0].b64_json), "image/png").facts["seed"] == 5


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
def test_an_address_is_fetched_without_the_key_and_shows_the_picture(client: openai.OpenAI, kind: str):
    asked = {"prompt": "the sun", "response_format": "url", "output_format": kind, "size": "64x64"}
    answer = client.images.generate(**asked)
    assert answer.data[0].b64_json is None
    file = httpx.get(answer.data[0].url)
    assert (file.status_code, file.headers["content-type"]) == (200, f"image/{kind}")
    picture = Image.open(io.BytesIO(file.content))
    assert (picture.format, picture.size) == (kind.upper(), (64, 64))
    assert httpx.get(answer.data[0].url + "x").status_code == 404


def test_what_changes_nothing_is_taken_and_said(client: openai.OpenAI):
    answer = client.images.generate(
        model="dall-e-3", prompt="a dog", quality="hd", style="vivid", user="somebody", background="auto",
        moderation="low", output_compression=50, response_format="b64_json",
    )  # fmt: skip
    assert opened(answer.data[0]).size == (SIZE, SIZE)
    assert set(answer.ignored) == {"model", "style", "user", "moderation", "output_compression"}
    assert "tiny drew this" in answer.ignored["model"]
    assert answer.safety_identifier == "somebody"
    plain = client.images.generate(model="tiny", prompt="a dog", quality="auto", moderation="auto", background="opaque")
    assert "ignored" not in plain.model_extra


def test_compression_is_a_files_quality(client: openai.OpenAI):
    sizes = [
        len(client.images.generate(
            prompt="a cat", size="256x256", output_format="jpeg", output_compression=quality, extra_body={"seed": 1}
        ).data[0].b64_json)
        for quality in (10, 95)
    ]  # fmt: skip
    assert sizes[1] > 1.5 * sizes[0]


@pytest.mark.parametrize(
    ("asked", "code", "said"),
    [
        ({"size": "300by200"}, "size", "WIDTHxHEIGHT"),
        ({"size": "0x0"}, "size", "WIDTHxHEIGHT"),
        ({"size": "9" * 5000 + "x1"}, "size", "WIDTHxHEIGHT"),
        ({"size": "٣٢x٣٢"}, "size", "WIDTHxHEIGHT"),
        ({"size": "99999x99999"}, "size", "over the limit"),
        ({"n": 11}, "n", "1 to 10"),
        ({"n": 0}, "n", "1 to 10"),
        ({"prompt": "x" * 501}, "prompt", "at most 500"),
        ({"prompt": "nsfw"}, "refused", "word list"),
        ({"background": "transparent"}, "background", "opaque here"),
        ({"extra_body": {"steps": 3}}, "steps", "1, 2, 4"),
        ({"extra_body": {"num_inference_steps": 25}}, "steps", "1, 2, 4"),
        ({"extra_body": {"num_inference_steps": 2, "steps": 4}}, "steps", "differ"),
        ({"extra_body": {"seed": -1}}, "seed", "whole number"),
        ({"n": 2, "extra_body": {"seed": 2**53 - 1}}, "seed", "whole number"),
        ({"extra_body": {"guidance_scale": 7.5}}, "guidance_scale", "0 or 1 here, not 7.5"),
        ({"extra_body": {"negative_prompt": "ugly"}}, "negative_prompt", "say in the prompt what to show"),
        ({"extra_body": {"strength": 0.5}}, "strength", "/v1/images/edits"),
        ({"extra_body": {"num_inference_step": 4}}, "unknown_parameter", "did you mean 'num_inference_steps'"),
        ({"extra_body": {"cfg": 4}}, "unknown_parameter", "leave it out"),
        ({"extra_body": {"frame_count": 4}}, "unknown_parameter", "animations are not drawn"),
        ({"stream": True, "response_format": "url"}, "stream", "hold their pictures"),
    ],
)
def test_what_cannot_be_drawn_is_a_bad_request(client: openai.OpenAI, asked: dict, code: str, said: str):
    with pytest.raises(openai.BadRequestError, match=said) as raised:
        client.images.generate(**({"prompt": "a cat"} | asked))
    assert (raised.value.code, raised.value.type) == (code, "invalid_request_error")


def test_values_of_the_wrong_kind_are_named(client: openai.OpenAI):
    with pytest.raises(openai.UnprocessableEntityError, match="field 'n' should be") as raised:
        client.images.generate(prompt="a cat", n="many")  # type: ignore[call-overload]
    assert raised.value.code == "invalid"


def test_a_wrong_key_is_an_authentication_error(served: Any):
    with pytest.raises(openai.AuthenticationError, match="access token") as raised:
        openai.OpenAI(**options(served, "wrong")).images.generate(prompt="a cat")
    assert raised.value.code == "invalid_api_key"


def test_models(client: openai.OpenAI):
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").owned_by == "fewstep"
    with pytest.raises(openai.NotFoundError, match="/v1/models") as raised:
        client.models.retrieve("gpt-image-1")
    assert raised.value.code == "not_found"


def test_a_busy_server_is_a_server_error_and_the_clients_own_retries_get_through(served: Any):
    """The server takes two single pictures at a time; six ask at once."""

    async def ask(retries: int) -> list[Any]:
        async with openai.AsyncOpenAI(**options(served) | {"max_retries": retries}) as client:
            asking = (client.images.generate(prompt="a cat", size="512x512") for _ in range(6))
            return await asyncio.gather(*asking, return_exceptions=True)

    answers = asyncio.run(ask(retries=0))
    refused = [answer for answer in answers if isinstance(answer, Exception)]
    assert 1 <= len(refused) <= 5
    assert {(type(error), error.code, error.type) for error in refused} == {
        (openai.InternalServerError, "busy", "server_error")
    }
    assert all(len(answer.data) == 1 for answer in asyncio.run(ask(retries=20)))


def test_usage_counts_tokens_read_and_places_of_latents(client: openai.OpenAI):
    places = (SIZE // 2) ** 2
    for prompt, tokens in (("a red heart", 3), ("a red heart, a blue house", 6), ("", 0)):  # of the second 11, 6 are read
        usage = client.images.generate(prompt=prompt, n=2).usage
        details = usage.input_tokens_details
        assert (details.text_tokens, details.image_tokens, usage.output_tokens) == (tokens, 0, 2 * places)
        assert usage.total_tokens == tokens + 2 * places
    edit = client.images.edit(image=photo(32, 32), prompt="a cat", extra_body={"blend_prompt": "a dog", "blend": 0.5})
    assert (edit.usage.input_tokens, edit.usage.output_tokens) == (4 + places, places)
    event = next(iter(client.images.generate(prompt="a cat", n=2, stream=True)))
    assert (event.usage.input_tokens, event.usage.output_tokens) == (2, places)


def test_litellms_client(served: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # no network: its prices are of no use here
    litellm = pytest.importorskip("litellm", reason="LiteLLM's client is not installed: pip install litellm")
    known = options(served)
    to = {"api_base": known["base_url"], "api_key": TOKEN}
    answer = litellm.image_generation(model="openai/tiny", prompt="a cat", n=2, size="256x256", **to)
    assert [opened(entry).size for entry in answer.data] == [(256, 256)] * 2
    assert answer.size == "256x256"
    alpha = with_hole(64, 64)
    edited = litellm.image_edit(
        model="openai/tiny", image=io.BytesIO(photo(64, 64)), mask=io.BytesIO(photo(64, 64, alpha)), prompt="a cat", **to
    )
    assert opened(edited.data[0]).size == (64, 64)
    with pytest.raises(litellm.BadRequestError, match="word list"):
        litellm.image_generation(model="openai/tiny", prompt="nsfw", **to)
