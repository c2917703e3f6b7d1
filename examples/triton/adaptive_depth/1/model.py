"""The scheduler behind Triton's Python backend. Written after its documentation, not run: no Triton was at hand.

Triton hands requests to `execute` as they come. Each becomes a task of the queue's own event loop, and is answered
through its response sender (decoupled) once its batch is done, so `execute` never waits.
"""

import asyncio
import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as triton  # part of Triton

from adaptive_depth.deploy.session import open_session
from adaptive_depth.serve.opening import Settings, open_predictor
from adaptive_depth.serve.problems import Problem
from adaptive_depth.serve.wishes import Wishes


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        parameters = json.loads(args["model_config"])["parameters"]
        session = open_session(Path(args["model_repository"]) / parameters["artifact"]["string_value"])
        settings = Settings(float(parameters["target_ms"]["string_value"]))
        self.queue = open_predictor("model", session, session.artifact, settings).batcher
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, daemon=True).start()
        asyncio.run_coroutine_threadsafe(self.queue.__aenter__(), self.loop).result()

    def execute(self, requests: list[Any]) -> None:
        for request in requests:
            asyncio.run_coroutine_threadsafe(self.answer(request), self.loop)

    async def answer(self, request: Any) -> None:
        sender = request.get_response_sender()
        x = triton.get_input_tensor_by_name(request, "image").as_numpy()
        asked = triton.get_input_tensor_by_name(request, "skip")
        skip = None if asked is None else asked.as_numpy()[0].decode()
        try:
            answer = await self.queue.answer(x, Wishes(skip))
            output = triton.Tensor("output", np.asarray(answer.output)[0])
            response = triton.InferenceResponse([output, triton.Tensor("skip", np.array([answer.skip], object))])
        except Problem as problem:
            response = triton.InferenceResponse(error=triton.TritonError(problem.detail))
        sender.send(response, flags=triton.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def finalize(self) -> None:
        asyncio.run_coroutine_threadsafe(self.queue.stop(), self.loop).result()
