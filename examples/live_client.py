"""Draw live on a running studio from Python: a ball moves over a canvas, and every frame comes back as a picture.

    fewstep serve                                                     # in another terminal
    python examples/live_client.py http://127.0.0.1:7860 "a red heart"    # the address it printed, #token=... included

The client needs neither torch nor the model. Only the newest frame is drawn: the server never makes anybody wait for old ones.
"""

from __future__ import annotations

import asyncio
import math
import statistics
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

import fewstep
from fewstep.client import ServerError

SECONDS, A_SECOND = 4.0, 15


async def frames(prompt: str) -> AsyncIterator[dict[str, Any]]:
    """What `draw` takes, fifteen times a second: a ball on its way around the canvas."""
    for n in range(int(SECONDS * A_SECOND)):
        angle = 2 * math.pi * n / 45
        x, y = 256 + 110 * math.cos(angle), 256 + 110 * math.sin(angle)
        canvas = Image.new("RGB", (512, 512), "white")
        ImageDraw.Draw(canvas).ellipse((x - 120, y - 120, x + 120, y + 120), "crimson")
        yield {"prompt": prompt, "image": canvas, "strength": 0.75, "seed": 7}
        await asyncio.sleep(1 / A_SECOND)


async def main(url: str, prompt: str) -> None:
    """Stream, then save the last picture with its credentials."""
    took_ms: list[float] = []
    async with fewstep.connect(url) as studio:
        async for picture in studio.stream(frames(prompt)):
            took_ms.append(picture.round_trip_ms)
        path = Path("out/live.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        await studio.download(picture, path)
    print(f"{len(took_ms)} pictures, {statistics.median(took_ms):.0f} ms from canvas to picture (median); the last is {path}")


if __name__ == "__main__":
    address = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:7860"
    try:
        asyncio.run(main(address, " ".join(sys.argv[2:]) or "a red heart"))
    except ServerError as error:
        sys.exit(f"live_client: {error}")
