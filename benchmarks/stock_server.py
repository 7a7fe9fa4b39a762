"""The baseline of load.py: a straightforward server around the stock diffusers pipeline, as a tutorial would write it.

    python benchmarks/stock_server.py FOLDER PORT

A WebSocket takes JSON settings and the frame as a JPEG, calls the pipeline, and sends a JPEG back. Nothing of fewstep is
imported; FOLDER is the same diffusers folder that fewstep serves.
"""

from __future__ import annotations

import io
import json
import sys

import torch
import uvicorn
from diffusers import AutoPipelineForImage2Image, AutoPipelineForText2Image
from fastapi import FastAPI, WebSocket, WebSocketDisconnect
from PIL import Image


def build(folder: str) -> FastAPI:
    from_text = AutoPipelineForText2Image.from_pretrained(folder, local_files_only=True)
    from_picture = AutoPipelineForImage2Image.from_pipe(from_text)
    for pipe in (from_text, from_picture):
        pipe.set_progress_bar_config(disable=True)
    app = FastAPI()

    def draw(ask: dict, frame: bytes) -> bytes:
        options = {
            "prompt": ask["prompt"],
            "num_inference_steps": ask["steps"],
            "guidance_scale": 0.0,
            "generator": torch.Generator().manual_seed(ask["seed"]),
        }
        if frame:
            picture = Image.open(io.BytesIO(frame)).convert("RGB")
            drawn = from_picture(image=picture, strength=ask["strength"], **options).images[0]
        else:
            drawn = from_text(**options).images[0]
        buffer = io.BytesIO()
        drawn.save(buffer, "JPEG", quality=92)
        return buffer.getvalue()

    @app.websocket("/")
    async def stream(ws: WebSocket) -> None:
        await ws.accept()
        try:
            while True:
                ask = json.loads(await ws.receive_text())
                await ws.send_bytes(draw(ask, await ws.receive_bytes()))
        except WebSocketDisconnect:
            pass

    return app


if __name__ == "__main__":
    uvicorn.run(build(sys.argv[1]), host="127.0.0.1", port=int(sys.argv[2]), log_level="warning")
