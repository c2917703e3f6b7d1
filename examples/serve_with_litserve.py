"""The scheduler inside LitServe: its server and its requests, our queue, batches and depths.

    python serve_with_litserve.py model.onnx --target-ms 50

LitServe's own batches wait for a time and know no depths, so they are off (`max_batch_size=1`): an asynchronous
`predict` hands each request to the queue, which plans for all that wait.
"""

import argparse
from typing import Any

import litserve

from adaptive_depth.deploy.session import open_session
from adaptive_depth.serve.opening import Settings, open_predictor
from adaptive_depth.serve.predicting import Asked
from adaptive_depth.serve.problems import Problem
from adaptive_depth.serve.wishes import Wishes


class AdaptiveDepth(litserve.LitAPI):
    """An image in base64 in, labels and scores out: `{"image": "...", "skip": "TTFF"}`."""

    def __init__(self, path: str, target_ms: float) -> None:
        super().__init__(enable_async=True)
        self.path, self.target_ms = path, target_ms

    def setup(self, device: str) -> None:  # noqa: ARG002 - the session runs where it says
        session = open_session(self.path)
        self.model = open_predictor("model", session, session.artifact, Settings(self.target_ms))
        self.running = False

    async def decode_request(self, request: dict[str, Any], **_: Any) -> Asked:
        import base64

        wishes = Wishes.of([(name, str(value)) for name, value in request.items() if name != "image"])
        return Asked(base64.b64decode(request["image"]), wishes=wishes)

    async def predict(self, asked: Asked, **_: Any) -> dict[str, Any]:
        if not self.running:  # the queue lives in the loop that requests are in
            self.running = True
            await self.model.__aenter__()
        try:
            reply = await self.model.predict(asked)
        except Problem as problem:
            from fastapi import HTTPException

            raise HTTPException(problem.status, problem.detail, problem.headers) from problem
        return {"skip": reply.skip, "predictions": reply.predictions}

    async def encode_response(self, output: dict[str, Any], **_: Any) -> dict[str, Any]:
        return output


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("path")
    parser.add_argument("--target-ms", type=float, required=True)
    parser.add_argument("--port", type=int, default=8000)
    given = parser.parse_args()
    server = litserve.LitServer(AdaptiveDepth(given.path, given.target_ms), accelerator="cpu", timeout=30)
    server.run(host="127.0.0.1", port=given.port, generate_client_file=False)
