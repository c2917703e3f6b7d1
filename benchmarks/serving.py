"""The scheduler on Ray Serve beside fixed depths with Ray's own batches and shedding; and what Ray itself costs.

    python serving.py

A ResNet-50 with images of 96 x 96 on one thread, one replica each, all behind the same application. Rivals run the
super-net or the base-net alone, in batches of `serve.batch`, and Ray turns away who finds the queue full
(`max_queued_requests`, as long as can still be in time). A request is right with the probability of its depth's
accuracy (80 % of the super-net, 60 % of the base-net), if its client has the answer within the deadline: the figure is
the expected share of right answers in time, in percent of all requests. Contenders take turns, in rotating order.
"""

import asyncio
import io
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
import psutil
from measure import report, said
from scheduling import phases

import adaptive_depth as ad
from adaptive_depth.serve import on_ray
from adaptive_depth.serve.inputs import Limits, read_input
from adaptive_depth.serve.local import address_of, bound, serve_here
from adaptive_depth.serve.metrics import Metrics
from adaptive_depth.serve.opening import Settings, measure_by_batch, open_predictor
from adaptive_depth.serve.predicting import About, Asked, Predictor, Reply

SHAPE, MAX_BATCH = (3, 96, 96), 8
ACCURACY = {"FFFF": 80.0, "TFFF": 75.0, "TTFF": 70.0, "TTTF": 65.0, "TTTT": 60.0}
SECONDS, ROUNDS = 6.0, 3
PASSES = 10.0  # a deadline is so many passes of the super-net with one image
ON_THE_WAY = 0.2  # of the deadline, which the server leaves for the way to the client
LOADS = {"Poisson, 30 %": (0.3, 0.3), "Poisson, 80 %": (0.8, 0.8), "bursts": (0.25, 1.4), "overload, 130 %": (1.3, 1.3)}
SLOWER = 1.3  # than alone: a pass beside clients and Ray, for which the rivals' queues leave room
LENGTHS = (1.5, 0.5)  # seconds, of quiet and of bursts
RIVALS = {"super-net": "FFFF", "base-net": "TTTT"}


def session_of() -> ad.Session:
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(0)
    return ad.open_session(ad.adapt(ad.create_model("resnet50")).eval(), threads=1)


def table() -> ad.TradeOffs:
    return ad.TradeOffs(tuple(ad.Row(skip, percent, 0, 0) for skip, percent in ACCURACY.items()))


def open_scheduled(target_ms: float) -> Callable[[Metrics], Predictor]:
    def opened(metrics: Metrics) -> Predictor:
        session = session_of()
        known = ad.Artifact("network", session.artifact.stages, session.skips, (None, *SHAPE), trade_offs=table())
        return open_predictor("scheduler", session, known, Settings(target_ms, MAX_BATCH), metrics=metrics)

    return opened


class Echo:
    """A session that computes nothing: what remains is the way of a request."""

    backend = "echo"
    skips = tuple(ACCURACY)

    def __call__(self, x: Any, _: str) -> Any:
        return np.zeros((len(x), 10), np.float32)


def open_echo(metrics: Metrics) -> Predictor:
    session: Any = Echo()
    known = ad.Artifact("network", ({},) * 4, session.skips, (None, *SHAPE), trade_offs=table())
    return open_predictor("echo", session, known, Settings(1000.0, MAX_BATCH), metrics=metrics)


class FixedDepth:
    """One depth, with Ray's own batches."""

    def __init__(self, skip: str) -> None:
        self._session, self._skip = session_of(), skip
        for size in (1, MAX_BATCH):
            self._session(np.zeros((size, *SHAPE), np.float32), skip)

    async def about(self) -> About:
        return About(self._skip, {self._skip: ACCURACY[self._skip]})

    async def status(self) -> tuple[bool, bool]:
        return True, True

    async def predict(self, asked: Asked) -> Reply:
        x = read_input(asked.body, asked.kind, None, SHAPE).x
        output = await self.batched(x)  # type: ignore[attr-defined]
        return Reply(self._skip, 1, False, 0.0, 0.0, tensors={"": output})


def fixed(skip: str, name: str, queue: int) -> Any:
    from ray import serve

    async def batched(self: Any, inputs: list[Any]) -> list[Any]:
        return list(await asyncio.to_thread(self._session, np.stack(inputs), self._skip))

    options = {"max_batch_size": MAX_BATCH, "batch_wait_timeout_s": 0.0, "max_concurrent_batches": 1}
    kind = type("Fixed", (FixedDepth,), {"batched": serve.batch(**options)(batched)})
    deployed = serve.deployment(
        name=name, max_ongoing_requests=MAX_BATCH, max_queued_requests=queue, ray_actor_options={"num_cpus": 0}
    )(kind)
    return deployed.bind(skip)


def everything(target_ms: float, queues: dict[str, int]) -> Any:
    """All contenders, and the echo, behind one ingress."""
    from ray import serve

    free = {"ray_actor_options": {"num_cpus": 0}}
    ours = {"scheduler": open_scheduled(target_ms), "echo": open_echo}
    models = {
        name: serve.deployment(
            name=name, max_ongoing_requests=1000, max_queued_requests=1000, **free
        )(on_ray.Replica).bind(opener)
        for name, opener in ours.items()
    }  # fmt: skip
    models |= {name: fixed(skip, name, queues[name]) for name, skip in RIVALS.items()}
    made: Any = serve.ingress()(on_ray.Ingress)
    ingress = serve.deployment(name="http", max_ongoing_requests=1000, **free)(made)
    return ingress.bind(Limits(), models, {})


# -- clients ------------------------------------------------------------------------------------------------------


def image() -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.random.default_rng(0).integers(0, 255, SHAPE, np.uint8))
    return stream.getvalue()


def arrivals(shares: tuple[float, float], capacity: float, rng: random.Random) -> list[float]:
    """Seconds; `capacity` is what the base-net does in a second, in full batches."""
    state = phases([1000 * each for each in LENGTHS], rng)
    at, found = 0.0, []
    while (at := at + rng.expovariate(max(shares) * capacity)) < SECONDS:
        if rng.random() * max(shares) < shares[state(1000 * at)]:
            found.append(at)
    return found


async def load(address: str, model: str, times: list[float], deadline_s: float) -> dict[str, float]:
    """What clients see: shares of all requests in percent."""
    body, right, counts = image(), 0.0, {"in time": 0, "late": 0, "turned away": 0}

    async def client(http: httpx.AsyncClient, at: float) -> None:
        nonlocal right
        await asyncio.sleep(at)
        began = time.perf_counter()
        response = await http.post(f"{address}/models/{model}/predict", content=body)
        took = time.perf_counter() - began
        if response.status_code == 503:
            counts["turned away"] += 1
            return
        response.raise_for_status()
        counts["in time" if took <= deadline_s else "late"] += 1
        right += ACCURACY[response.headers["Adaptive-Depth-Skip"]] / 100 if took <= deadline_s else 0.0

    async with httpx.AsyncClient(timeout=60, limits=httpx.Limits(max_connections=500)) as http:
        await asyncio.gather(*(client(http, at) for at in times))
    every = len(times)
    return {"right": 100 * right / every, **{name: 100 * count / every for name, count in counts.items()}}


def one_by_one(address: str, count: int) -> list[float]:
    """Milliseconds of requests that compute nothing, one after the other."""
    body, found = image(), []
    with httpx.Client() as http:
        for _ in range(count):
            began = time.perf_counter()
            http.post(f"{address}/models/echo/predict", content=body).raise_for_status()
            found.append(1000 * (time.perf_counter() - began))
    return found


# -- what Ray costs -----------------------------------------------------------------------------------------------


def memory_mb(process: psutil.Process) -> float:
    """Of a process and all that it started: proportional set size, which counts shared pages once."""
    every = [process, *process.children(recursive=True)]
    return sum(each.memory_full_info().pss for each in every if each.is_running()) / 2**20


def local_server() -> tuple[subprocess.Popen[str], str, float]:
    """The echo in a process of its own, its address, and the seconds of its start."""
    began = time.perf_counter()
    process = subprocess.Popen([sys.executable, __file__, "--local"], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    address = process.stdout.readline().strip()
    return process, address, time.perf_counter() - began


def serve_locally() -> None:
    listening = bound("127.0.0.1", 0)
    serve_here(
        lambda metrics: ({"echo": open_echo(metrics)}, {}), listening,
        on_ready=lambda: print(address_of(listening), flush=True),
    )  # fmt: skip


def compared() -> dict[str, Any]:
    session = session_of()
    x = np.zeros((1, *SHAPE), np.float32)
    ms = measure_by_batch(session, x, [*ACCURACY], [1, MAX_BATCH], seconds=4.0)
    deadline_ms = PASSES * ms["FFFF"][1]
    capacity = 1000 * MAX_BATCH / ms["TTTT"][MAX_BATCH]
    # Beside the batch that runs and the one that comes next, as many as end before the deadline.
    target_ms = (1 - ON_THE_WAY) * deadline_ms
    queues = {}
    for name, skip in RIVALS.items():
        batches = target_ms / (SLOWER * ms[skip][MAX_BATCH])
        queues[name] = max(1, int((batches - 1) * MAX_BATCH))
    process, local, local_start = local_server()
    began = time.perf_counter()
    with bound("127.0.0.1", 0) as free:
        address, (host, port) = address_of(free), free.getsockname()
    with on_ray.cluster(num_cpus=2, object_store_memory=200 << 20):
        ray_start = time.perf_counter() - began
        before = psutil.Process().memory_full_info().pss / 2**20
        on_ray.deploy(everything(target_ms, queues), host, port)
        deployed = time.perf_counter() - began
        ways: dict[str, list[float]] = {"Ray": [], "one process": []}
        for _ in range(ROUNDS):
            for name, where in (("Ray", address), ("one process", local)):
                ways[name].append(statistics.median(one_by_one(where, 60)))
        memory = {
            "Ray with 4 models MB": memory_mb(psutil.Process()) - before - memory_mb(psutil.Process(process.pid)),
            "one process MB": memory_mb(psutil.Process(process.pid)),
        }
        process.terminate()
        process.wait()
        found: dict[str, dict[str, list[dict[str, float]]]] = {}
        contenders = [*RIVALS, "scheduler"]
        for number in range(ROUNDS):
            for load_name, shares in LOADS.items():
                times = arrivals(shares, capacity, random.Random(number))
                for model in contenders[number % 3 :] + contenders[: number % 3]:
                    seen = asyncio.run(load(address, model, times, deadline_ms / 1000))
                    found.setdefault(load_name, {}).setdefault(model, []).append(seen)
                    print(load_name, model, {name: round(value, 1) for name, value in seen.items()}, file=sys.stderr)
                    time.sleep(0.3)
    results: dict[str, Any] = {}
    for load_name, by_model in found.items():
        means = {model: statistics.mean(each["right"] for each in runs) for model, runs in by_model.items()}
        results[load_name] = {
            model: {name: said([each[name] for each in runs]) for name in runs[0]} for model, runs in by_model.items()
        } | {"scheduler above the better of both": round(means["scheduler"] - max(means[name] for name in RIVALS), 1)}
    return {
        "deadline ms": round(deadline_ms, 1),
        "ms of a pass": {skip: {size: round(value, 1) for size, value in each.items()} for skip, each in ms.items()},
        "requests a second of the base-net": round(capacity, 1),
        "queues of the rivals": queues,
        "loads": results,
        "what Ray costs": {
            "start of Ray s": round(ray_start, 1),
            "with all models s": round(deployed, 1),
            "start of one process s": round(local_start, 1),
            **{name: round(value) for name, value in memory.items()},
            "ms of an empty request, Ray": said(ways["Ray"]),
            "ms of an empty request, one process": said(ways["one process"]),
        },
    }


if __name__ == "__main__":
    if "--local" in sys.argv:
        serve_locally()
    else:
        found = compared()
        above = [each["scheduler above the better of both"] for each in found["loads"].values()]
        target = "the scheduler at most 1 point below the better of super-net and base-net, on each load"
        report("serving", {"target": target, **found}, passed=min(above) >= -1)
