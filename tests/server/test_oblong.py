"""A server of a model whose pictures are no squares: lying (48x32) and standing (32x48), so that no two sides are mixed up."""

from __future__ import annotations

import io
from base64 import b64decode, b64encode
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

import fewstep
from bundles import tiny_bundle
from fewstep.inference.pipeline import Pipeline
from fewstep.modality.image import to_uint8
from fewstep.provenance.options import Signing
from fewstep.server.drawing.engine import Engine, EngineOptions
from fewstep.server.drawing.forecast import ForecastOptions, forecast
from fewstep.server.drawing.provenance import Stamper
from fewstep.server.http.canvas import Canvas
from fewstep.server.wire.images import decode
from serving_helpers import running


@pytest.fixture(scope="module", params=[(32, 48), (48, 32)], ids=["lying", "standing"])
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The server, its model's folder, and height and width; nothing marks a pixel."""
    model = tiny_bundle(tmp_path_factory.mktemp("oblong"), native_size=request.param)
    width = request.param[1]
    with running(model=str(model), sizes=(width, width // 2), signing=Signing(provenance=False)) as server:
        yield server, model, request.param


def png(pixels: np.ndarray) -> bytes:
    Image.fromarray(pixels).save(file := io.BytesIO(), "PNG")
    return file.getvalue()


def opened(data: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(b64decode(data))))


def test_a_session_draws_the_models_shape_and_is_told_it(served) -> None:
    server, model, (height, width) = served
    given = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    mask = np.zeros((height, width), np.uint8)
    mask[: height // 4, width // 2 :] = 255
    with fewstep.connect(server.url) as studio:
        assert studio.hello["model"]["size"] == studio.hello["sizes"][0] == width
        assert studio.hello["shapes"] == [[width, height], [width // 2, height // 2]]
        drawn = studio.draw("a cat", seed=7, steps=2, encoder="png", size=width)
        wanted = Pipeline.open(model).draw("a cat", 2, 7)[0]
        assert np.abs(drawn.pixels.astype(int) - to_uint8(wanted).permute(1, 2, 0).numpy()).max() <= 1
        assert studio.draw("a cat", size=width // 2, encoder="png").pixels.shape == (height // 2, width // 2, 3)
        part = studio.draw("a cat", image=given, mask=mask, strength=1.0, encoder="png", size=width).pixels
        changed = (part != given).any(-1)
        assert not changed[mask == 0].any(), "outside of the mask not a bit"
        assert changed[mask > 0].mean() > 0.9
        wide = np.zeros((30, 90, 3), np.uint8)
        wide[:, 45:] = 255  # its middle has an edge from top to bottom, whatever is cut off
        kept = studio.draw("a cat", image=wide, mask=np.zeros((30, 90), np.uint8), encoder="png", size=width).pixels
        assert kept.shape == (height, width, 3)
        assert kept[:, : width // 2 - 2].max() < 60
        assert kept[:, width // 2 + 2 :].min() > 195


def test_openais_sizes_edits_and_files(served) -> None:
    server, _, (height, width) = served
    post = lambda what, **body: httpx.post(f"{server.url}/v1/images/{what}", json={"prompt": "a cat", **body}, timeout=60).json()  # noqa: E731
    own = post("generations", seed=3)
    assert (own["size"], own.get("fit")) == (f"{width}x{height}", None)
    assert opened(own["data"][0]["b64_json"]).shape == (height, width, 3)
    assert own["usage"]["output_tokens"] == height * width // 4, "places of latents"
    other = post("generations", seed=3, size="40x40", fit="pad")
    assert (other["drawn"], other["fit"]) == (f"{width}x{height}", "pad")
    inner = [round(side * 40 / max(height, width)) for side in (height, width)]
    top, left = ((40 - side) // 2 for side in inner)
    middle = opened(other["data"][0]["b64_json"])[top : top + inner[0], left : left + inner[1]].astype(int)
    whole = Image.fromarray(opened(own["data"][0]["b64_json"])).resize(inner[::-1], Image.Resampling.LANCZOS)
    assert np.abs(middle - np.asarray(whole)).max() <= 1
    assert f"drawn at {width}x{height} and resized to 40x40" in other["note"]
    for shape in ((50, 90), (90, 50), (40, 40)):
        given = np.random.default_rng(1).integers(0, 256, (*shape, 3), np.uint8)
        alpha = np.full(shape, 255, np.uint8)
        alpha[5:15, 20:40] = 0
        image = b64encode(png(np.dstack([given, alpha]))).decode()
        edited = post("edits", image=image, strength=1.0)
        assert edited["size"] == f"{shape[1]}x{shape[0]}"
        made = opened(edited["data"][0]["b64_json"])
        assert np.array_equal(made[alpha > 0], given[alpha > 0]), "outside of the hole not a bit"
        assert (made[alpha == 0] != given[alpha == 0]).any(-1).mean() > 0.8
    file = httpx.post(f"{server.url}/v1/pictures", json={"prompt": "a cat", "seed": 3}, timeout=60)
    assert Image.open(io.BytesIO(file.content)).size == (width, height)


@pytest.mark.parametrize("shape", [(32, 48), (48, 32), (40, 40)], ids=str)
@pytest.mark.parametrize("given", [(60, 90), (90, 60), (50, 50), (24, 120), (61, 37)], ids=str)
def test_a_given_picture_lies_in_the_models_shape_and_comes_back_to_its_own_place(given, shape) -> None:
    """A model that changed nothing would give the picture back; nothing of it is cut off, nothing is stretched."""
    down, right = (np.linspace(0, 255, n) for n in given)
    pixels = np.stack([np.broadcast_to(down[:, None], given), np.broadcast_to(right, given), np.full(given, 90)], -1)
    canvas = Canvas(pixels.astype(np.uint8), np.ones(given, bool))
    parts = canvas.parts(shape)
    drawn, mask = (decode(parts[name], 10**6).astype(float) for name in ("image", "mask"))
    assert drawn.shape == mask.shape == (*shape, 3)
    rows, columns = np.nonzero(mask[..., 0] > 127)
    scale = min(shape[0] / given[0], shape[1] / given[1])
    assert np.ptp(rows) + 1 == pytest.approx(given[0] * scale, abs=1.5)
    assert np.ptp(columns) + 1 == pytest.approx(given[1] * scale, abs=1.5)
    back = canvas.filled(drawn.astype(np.uint8)).astype(float)
    assert back.shape == pixels.shape
    assert np.abs(back - pixels)[3:-3, 3:-3].mean() < 255 * 1.5 / min(given)


def test_widths_that_the_codec_cannot_make_are_refused_and_others_get_the_nearest_height(served) -> None:
    _, model, (height, width) = served
    pipeline = Pipeline.open(model)
    engine = Engine(pipeline, Stamper(pipeline.card, False), EngineOptions(backends=("eager",), sizes=(width, 22)))
    assert engine.shapes[width] == (height, width)
    assert engine.shapes[22] == (2 * round(11 * height / width), 22)
    with pytest.raises(ValueError, match="every side must be a multiple of 2, the nearest is 24x"):
        Engine(pipeline, Stamper(pipeline.card, False), EngineOptions(backends=("eager",), sizes=(23,)))


def test_a_forecast_names_the_whole_size(served) -> None:
    _, model, (height, width) = served
    found = forecast(ForecastOptions(model=str(model), backends=("eager",), provenance=False), lambda what: None)
    assert found.pixels(found.chosen.quality.size) == f"{width}x{height} px"
    assert found.pixels(7) == "7 px"
