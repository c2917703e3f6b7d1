"""A real Ray on loopback: load, a replica that is killed under it, and a shutdown that drains."""

import asyncio
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest

from adaptive_depth.serve.metrics import Metrics
from adaptive_depth.serve.predicting import Predictor

from .test_application import check_problem, npy

# What Ray does when it is imported, and when its processes end, is theirs.
pytestmark = [pytest.mark.slow, pytest.mark.alone, pytest.mark.filterwarnings("ignore")]
SHAPE = (1, 2, 2)


def open_slow(metrics: Metrics) -> Predictor:
    """In a process of Ray: 10 ms a pass, whatever the batch. One of its outputs says which process it was."""
    import adaptive_depth as ad
    from adaptive_depth.deploy.predictions import Reader
    from adaptive_depth.governor.scheduler import DepthScheduler
    from adaptive_depth.serve.batching import Batcher
    from adaptive_depth.serve.predicting import About

    rows = [
        ad.Row(skip, quality, 400, 9, ms, throughput={1: 1000 / ms, 8: 4000 / ms})
        for skip, quality, ms in (("F", 80.0, 10.0), ("T", 60.0, 5.0))
    ]
    table = ad.TradeOffs(tuple(rows))

    def run(x: Any, skip: str) -> Any:
        time.sleep({"F": 0.01, "T": 0.005}[skip])
        if (x < 0).any():
            os.kill(os.getpid(), signal.SIGKILL)  # a replica that dies in a batch
        added = x.reshape(len(x), -1)[:, :3] + {"F": 1, "T": 2}[skip]
        return np.concatenate([added, np.full((len(x), 1), os.getpid())], axis=1)

    watch = metrics.of("cats")
    scheduler = DepthScheduler(table, 2000.0)
    batcher = Batcher(run, scheduler, table=table, skips=("F", "T"), most_waiting=64, watch=watch)
    about = About("cats", {"F": 80.0, "T": 60.0}, "top-1 (%)", 2000.0, SHAPE)
    return Predictor(about, batcher, None, Reader(), watch=watch)


def open_text(metrics: Metrics) -> Any:
    """A language model without a network: it says its prompt, and dies at the word die."""
    from adaptive_depth.serve.predicting import About
    from adaptive_depth.serve.problems import Problem
    from adaptive_depth.serve.text.pieces import Piece, Usage

    class Parrot:
        async def about(self) -> About:
            return About("parrot", {"F": None}, language=True)

        async def status(self) -> tuple[bool, bool]:
            return True, True

        async def stop(self) -> None: ...

        async def write(self, asked: Any) -> Any:
            if asked.prompt == "sing":
                raise Problem("wish", "it cannot sing")
            for word in asked.prompt.split():
                if word == "die":
                    os.kill(os.getpid(), signal.SIGKILL)
                await asyncio.sleep(0.02)
                yield Piece(f"{word} ", "F")
            yield Piece("", "F", "stop", Usage(1, 2))

    return Parrot()


def open_broken(metrics: Metrics) -> Predictor:
    raise ValueError("model.onnx is truncated")


@pytest.fixture(scope="module")
def ray_here() -> Iterator[None]:
    from adaptive_depth.serve.on_ray import cluster

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    with cluster(num_cpus=2, object_store_memory=100 << 20):
        yield


@pytest.fixture(scope="module")
def server(ray_here: None) -> str:
    import cloudpickle

    from adaptive_depth.serve.inputs import Limits
    from adaptive_depth.serve.local import address_of, bound
    from adaptive_depth.serve.on_ray import Deployed, deploy, ray_application

    cloudpickle.register_pickle_by_value(__import__("sys").modules[__name__])
    with bound("127.0.0.1", 0) as free:
        address, (host, port) = address_of(free), free.getsockname()
    options = {"num_replicas": 2, "health_check_period_s": 1, "ray_actor_options": {"num_cpus": 0}}
    models = {
        "cats": Deployed(open_slow, 64, options=options),
        "parrot": Deployed(open_text, 64, True, {"ray_actor_options": {"num_cpus": 0}}),
    }
    deploy(ray_application(models, Limits(bytes=10_000)), host, port)
    return address


def predict(server: str, number: float, query: str = "", http: Any = httpx, **options: Any) -> httpx.Response:
    body = npy(np.full(SHAPE, number, np.float32))
    return http.post(f"{server}/models/cats/predict{query}", content=body, timeout=60, **options)


async def load(server: str, waits: list[float], seen: dict[int, httpx.Response], sent: list[int] | None = None) -> None:
    """A client for each request, which comes after its wait; `sent` gets the number of each whose body has gone."""

    async def one(http: httpx.AsyncClient, number: int, wait: float) -> None:
        await asyncio.sleep(wait)
        named = {"x-request-id": str(number)}

        async def trace(event: str, about: Any) -> None:
            if event == "http11.send_request_body.complete" and sent is not None:
                sent.append(number)

        response = await predict(server, number, http=http, headers=named, extensions={"trace": trace})
        assert number not in seen
        seen[number] = response

    async with httpx.AsyncClient(limits=httpx.Limits(max_connections=100)) as http:
        await asyncio.gather(*(one(http, number, wait) for number, wait in enumerate(waits)))


def check_all(seen: dict[int, httpx.Response], count: int) -> Counter[int]:
    """Everyone has been answered: with the answer to its own question, or the word that there was no time."""
    assert {*seen} == {*range(count)}
    for number, response in seen.items():
        if response.status_code == 200:
            told = response.json()
            assert told["id"] == str(number)
            assert told["tensors"][""][:3] == [number + {"F": 1, "T": 2}[told["skip"]]] * 3
        else:
            assert response.status_code == 503, response.text
    return Counter(response.status_code for response in seen.values())


def poisson(count: int, mean: float, seed: int) -> list[float]:
    noise, at = random.Random(seed), 0.0
    return [at := at + noise.expovariate(1 / mean) for _ in range(count)]


def test_it_is_the_same_application(server: str) -> None:
    assert httpx.get(f"{server}/healthz").status_code == 200
    assert httpx.get(f"{server}/readyz").json() == {"status": "ready"}
    model, other = httpx.get(f"{server}/v1/models").json()["data"]
    assert other["id"] == "parrot"
    assert [depth["skip"] for depth in model["depths"]] == ["F", "T"]
    response = predict(server, 3, "?skip=T", headers={"x-request-id": "a"})
    assert response.headers.get_list("x-request-id") == ["a"]  # Ray's proxy says it
    told = response.json()
    assert (told["id"], told["skip"], told["tensors"][""][0]) == ("a", "T", 5)
    check_problem(predict(server, 3, "?skip=TT"), 422, "wish", "skip=TT is not served: expected one of F, T")
    big = httpx.post(f"{server}/models/cats/predict", content=bytes(10_001))
    check_problem(big, 413, "too-large", "more than 10,000 bytes")
    check_problem(httpx.get(f"{server}/models/dogs"), 404, "unknown-path", "is not a path here: expected")


def test_poisson_and_bursts_lose_nobody(server: str) -> None:
    seen: dict[int, httpx.Response] = {}
    waits = poisson(150, 0.01, seed=1) + [0.3 * (number // 40) for number in range(120)]
    asyncio.run(load(server, waits, seen))
    assert check_all(seen, 270)[200] >= 200
    assert len({response.json()["tensors"][""][3] for response in seen.values() if response.status_code == 200}) == 2


def test_a_replica_that_is_killed_under_load_loses_nobody(server: str) -> None:
    victim = int(predict(server, 1).json()["tensors"][""][3])
    seen: dict[int, httpx.Response] = {}
    timer = threading.Timer(0.5, os.kill, (victim, signal.SIGKILL))
    timer.start()
    asyncio.run(load(server, poisson(150, 0.01, seed=2), seen))
    timer.join()
    assert check_all(seen, 150)[200] >= 100
    processes = {response.json()["tensors"][""][3] for response in seen.values() if response.status_code == 200}
    assert processes - {victim}
    wait_for_two(server, victim)


def wait_for_two(server: str, gone: int) -> None:
    """Until Ray has started another replica in the place of one."""
    end, found = time.monotonic() + 60, set()
    while len(found) < 2:
        assert time.monotonic() < end
        response = predict(server, 1)
        if response.status_code == 200 and (process := int(response.json()["tensors"][""][3])) != gone:
            found.add(process)


def test_a_request_that_kills_whoever_runs_it_is_given_up(server: str) -> None:
    response = predict(server, -1)
    check_problem(response, 500, "failed", "replicas died with this request")
    wait_for_two(server, 0)


def test_texts_are_streamed_through_ray(server: str) -> None:
    def asked(prompt: str, **more: Any) -> httpx.Response:
        return httpx.post(f"{server}/v1/completions", json={"model": "parrot", "prompt": prompt, **more}, timeout=60)

    assert asked("hello you").json()["choices"][0]["text"] == "hello you "
    streamed = asked("hello you", stream=True).text
    assert [line.count('"text": "hello "') for line in streamed.splitlines() if line][:2] == [1, 0]
    assert streamed.endswith("data: [DONE]\n\n")
    response = asked("sing", stream=True)
    assert (response.status_code, response.json()["error"]["message"]) == (400, "it cannot sing")
    response = asked("hello die")
    assert (response.status_code, response.json()["error"]["message"]) == (
        500,
        "the replica died with this text: retry",
    )


def test_counts_go_through_ray(server: str) -> None:
    from adaptive_depth.serve.on_ray import metrics_address

    address = metrics_address()
    assert address is not None
    end = time.monotonic() + 60
    while "adaptive_depth_served" not in (text := httpx.get(address).text):
        assert time.monotonic() < end
        time.sleep(0.5)
    assert 'model="cats"' in text


def test_a_model_that_cannot_be_opened_says_why(server: str) -> None:
    import adaptive_depth as ad
    from adaptive_depth.serve import on_ray

    app = on_ray.ray_application(
        {"broken": on_ray.Deployed(open_broken, 4, options={"ray_actor_options": {"num_cpus": 0}})}
    )
    with pytest.raises(ad.errors.ArtifactError, match=r"could not start the models: .*model\.onnx is truncated"):
        on_ray.run(app, "other", "/other")


def test_shutting_down_answers_what_was_begun(server: str) -> None:
    from ray import serve

    seen: dict[int, httpx.Response] = {}
    sent: list[int] = []

    def end() -> None:
        # With the first answer the proxy has read all that was sent. A time would be too early on a busy machine.
        while len(sent) < 40 or not seen:
            time.sleep(0.001)
        open_then.append(40 - len(seen))
        serve.delete("adaptive-depth")

    open_then: list[int] = []
    ended = threading.Thread(target=end, daemon=True)
    ended.start()
    asyncio.run(load(server, [0] * 40, seen, sent))
    ended.join(60)
    assert open_then[0] > 0
    assert check_all(seen, 40)[200] == 40
