"""OpenAI's own client, unchanged, against a real server process: pictures of every kind, and errors as its exceptions."""

from __future__ import annotations

import asyncio
import base64
import io
from typing import Any

import httpx
import openai
import pytest
from PIL import Image

from fewstep.provenance.content_credentials import read as read_credentials
from serving_helpers import SIZE, TOKEN


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


def test_what_a_student_has_no_use_for_is_accepted(client: openai.OpenAI):
    answer = client.images.generate(
        prompt="a dog", quality="hd", style="vivid", user="somebody", background="auto", moderation="low",
        response_format="b64_json",
    )  # fmt: skip
    assert opened(answer.data[0]).size == (SIZE, SIZE)


@pytest.mark.parametrize(
    ("asked", "code", "said"),
    [
        ({"size": "300x200"}, "size", "square"),
        ({"size": "99999x99999"}, "size", "within the limit"),
        ({"n": 9}, "n", "1 to 8"),
        ({"n": 0}, "n", "1 to 8"),
        ({"prompt": "x" * 501}, "prompt", "at most 500"),
        ({"prompt": "nsfw"}, "refused", "word list"),
        ({"extra_body": {"steps": 3}}, "steps", "1, 2, 4"),
        ({"extra_body": {"seed": -1}}, "seed", "whole number"),
        ({"stream": True}, "stream", "leave stream out"),
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
