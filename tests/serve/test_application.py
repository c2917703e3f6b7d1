"""The application over real HTTP, on loopback: answers, wishes, problems, limits, and clients that misbehave."""

import io
import json
import socket
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlparse

import httpx
import numpy as np
import pytest
from PIL import Image

from .conftest import Net, input_of, serving


def photo(level: int = 255) -> bytes:
    stream = io.BytesIO()
    Image.new("L", (2, 2), level).save(stream, "PNG")
    return stream.getvalue()


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def predict(server: str, body: bytes = b"", query: str = "", **options) -> httpx.Response:
    return httpx.post(f"{server}/models/cats/predict{query}", content=body or photo(), timeout=30, **options)


def check_problem(response: httpx.Response, status: int, kind: str, said: str) -> None:
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    told = response.json()
    assert (told["status"], told["type"]) == (status, f"urn:adaptive-depth:{kind}")
    assert said in told["detail"]
    assert told["title"]


# -- answers ------------------------------------------------------------------------------------------------------


def test_an_image_gives_labels_and_scores(server: str) -> None:
    response = predict(server, headers={"X-Request-ID": "number 7"})
    assert response.status_code == 200
    told = response.json()
    assert told["predictions"] == [{"output": "", "text": "cat 25.0 %", "values": {"class": "cat", "score": 0.25}}]
    assert (told["model"], told["id"], told["skip"], told["late"], told["batch"]) == ("cats", "number 7", "F", False, 1)
    assert told["waited_ms"] >= 0
    assert response.headers["X-Request-ID"] == "number 7"
    assert response.headers["Adaptive-Depth-Skip"] == "F"


def test_every_response_says_which_request_it_answers(server: str) -> None:
    for response in (
        predict(server, headers={"X-Request-ID": "number 7"}),
        predict(server, b"no image", headers={"X-Request-ID": "number 7"}),
        httpx.get(f"{server}/nowhere", headers={"X-Request-ID": "number 7"}),
    ):
        assert response.headers.get_list("X-Request-ID") == ["number 7"]
    response = predict(server)
    assert len(response.headers["X-Request-ID"]) == 32
    assert response.json()["id"] == response.headers["X-Request-ID"]


def test_a_form_with_a_file(server: str) -> None:
    response = httpx.post(f"{server}/models/cats/predict", files={"image": ("cat.png", photo(), "image/png")})
    assert response.json()["predictions"][0]["text"] == "cat 25.0 %"


@pytest.mark.parametrize("kind", ["application/octet-stream", "application/json"])
def test_a_tensor_gives_tensors(server: str, kind: str) -> None:
    x = input_of(0.5)
    body = npy(x) if kind == "application/octet-stream" else json.dumps({"inputs": x.tolist()}).encode()
    response = predict(server, body, "?skip=T", headers={"content-type": kind})
    assert response.json()["tensors"] == {"": [2.5] * 4}


def test_tensors_as_npy_and_npz(server: str) -> None:
    response = predict(server, npy(input_of(0.5)), "?skip=F", headers={"accept": "application/x-npy"})
    assert np.load(io.BytesIO(response.content)).tolist() == [1.5] * 4
    assert response.headers["Adaptive-Depth-Skip"] == "F"
    response = predict(server, npy(input_of(0.5)), "?skip=F", headers={"accept": "application/x-npz"})
    assert np.load(io.BytesIO(response.content))["output"].tolist() == [1.5] * 4


def test_labels_of_a_tensor_and_tensors_of_an_image(server: str) -> None:
    assert predict(server, npy(input_of(0)), "?output=labels").json()["predictions"][0]["values"]["class"] == "cat"
    assert predict(server, photo(0), "?output=tensors&skip=F").json()["tensors"] == {"": [1.0] * 4}


def test_wishes_in_the_address_and_in_headers(server: str) -> None:
    assert predict(server, query="?skip=T").json()["skip"] == "T"
    assert predict(server, headers={"Adaptive-Depth-Skip": "T"}).json()["skip"] == "T"
    assert predict(server, query="?accuracy=70&deadline_ms=30000").json()["skip"] == "F"


def test_the_models_with_their_depths(server: str) -> None:
    told = httpx.get(f"{server}/v1/models").json()
    assert told["object"] == "list"
    [model] = told["data"]
    assert (model["id"], model["object"], model["takes"]) == ("cats", "model", ["image", "tensor"])
    assert [(depth["skip"], depth["quality"]) for depth in model["depths"]] == [("F", 80.0), ("T", 60.0)]
    assert httpx.get(f"{server}/v1/models/cats").json() == model


def test_health_and_metrics(server: str, net: Net) -> None:
    assert httpx.get(f"{server}/healthz").json() == {"status": "ok"}
    assert httpx.get(f"{server}/readyz").json() == {"status": "ready"}
    predict(server, query="?skip=T")
    predict(server, b"no image")
    lines = httpx.get(f"{server}/metrics").text.splitlines()
    assert 'adaptive_depth_served_total{model="cats",skip="T"} 1.0' in lines
    assert 'adaptive_depth_requests_total{model="cats",outcome="in_time"} 1.0' in lines
    assert 'adaptive_depth_requests_total{model="cats",outcome="refused"} 1.0' in lines
    assert 'adaptive_depth_requests_total{model="cats",outcome="shed"} 0.0' in lines
    assert 'adaptive_depth_waiting{model="cats"} 0.0' in lines
    assert 'adaptive_depth_latency_seconds_count{model="cats"} 1.0' in lines


# -- problems -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "status", "kind", "said"),
    [
        ("?skip=T&accuracy=70", 422, "wish", "both determine the depth"),
        ("?skip=T&skip=F", 422, "wish", "twice"),
        ("?deptth=3", 422, "wish", "is not an option"),
        ("?output=boxes", 422, "wish", "output=boxes: expected one of labels, tensors"),
        ("?deadline_ms=1", 422, "wish", "takes 10 ms"),
        ("?accuracy=99", 422, "wish", "the best depth, F, has accuracy 80.00 %"),
    ],
)
def test_wishes_that_cannot_be_had(server: str, net: Net, query: str, status: int, kind: str, said: str) -> None:
    check_problem(predict(server, query=query), status, kind, said)
    assert not net.passes


def test_bodies_that_are_too_large_no_image_or_damaged(server: str) -> None:
    check_problem(predict(server, bytes(20_001)), 413, "too-large", "more than 20,000 bytes")
    check_problem(predict(server, b"hello"), 415, "no-image", "expected an image")
    check_problem(predict(server, photo()[:44]), 422, "damaged", "the image cannot be read")
    form = {"content-type": "multipart/form-data"}
    check_problem(predict(server, b"hello", headers=form), 422, "damaged", "the form cannot be read")
    form = {"content-type": "multipart/form-data; boundary=x"}
    check_problem(predict(server, b"--x--\r\n", headers=form), 422, "damaged", "the form has no file")


def test_a_body_without_a_length_is_counted_as_it_comes(server: str) -> None:
    def chunks():
        for _ in range(30):
            yield bytes(1000)

    response = httpx.post(f"{server}/models/cats/predict", content=chunks())
    check_problem(response, 413, "too-large", "more than 20,000 bytes")


def test_what_is_not_there(server: str) -> None:
    response = httpx.post(f"{server}/models/dogs/predict", content=photo())
    check_problem(response, 404, "unknown-model", "'dogs' is not served: expected one of cats")
    check_problem(httpx.get(f"{server}/v1/models/dogs"), 404, "unknown-model", "expected one of cats")
    check_problem(
        httpx.get(f"{server}/predict"),
        404,
        "unknown-path",
        "expected /v1/models, /models/NAME/predict, /healthz, /readyz, /metrics",
    )
    check_problem(
        httpx.get(f"{server}/models/cats/predict"), 405, "method", "cats/predict: expected POST; paths are /v1"
    )


def test_a_network_that_fails(server: str, net: Net) -> None:
    net.broken = lambda x: True
    check_problem(predict(server), 500, "failed", "the device is on fire")
    net.broken = lambda x: False
    assert predict(server).status_code == 200


def test_numbers_that_json_cannot_say(server: str, net: Net) -> None:
    with serving(lambda x, skip: np.full((len(x), 4), np.nan, np.float32)) as address:
        check_problem(predict(address, npy(input_of(0))), 500, "failed", "non-finite")
        response = predict(address, npy(input_of(0)), headers={"accept": "application/x-npy"})
        assert np.isnan(np.load(io.BytesIO(response.content))).all()


def test_a_full_queue(net: Net) -> None:
    net.gate.clear()
    with serving(net, most_waiting=1) as address, ThreadPoolExecutor(2) as pool:
        inside = [pool.submit(predict, address)]
        assert net.began.wait(20)
        inside.append(pool.submit(predict, address))
        while 'waiting{model="cats"} 1.0' not in httpx.get(f"{address}/metrics").text:
            time.sleep(0.01)
        response = predict(address)
        check_problem(response, 503, "full", "1 requests wait, the limit")
        assert int(response.headers["Retry-After"]) >= 1
        net.gate.set()
        assert [each.result().status_code for each in inside] == [200, 200]


def test_a_deadline_that_passes(server: str, net: Net) -> None:
    net.gate.clear()
    check_problem(predict(server, query="?deadline_ms=100"), 504, "late", "no answer within 100 ms")
    net.gate.set()


# -- clients that misbehave ---------------------------------------------------------------------------------------


def connected(server: str, length: int, sent: bytes) -> socket.socket:
    where = urlparse(server)
    made = socket.create_connection((where.hostname, where.port), 20)
    head = f"POST /models/cats/predict HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n"
    made.sendall(head.encode() + sent)
    return made


def counted(server: str, outcome: str) -> int:
    line = f'requests_total{{model="cats",outcome="{outcome}"}} '
    return int(float(httpx.get(f"{server}/metrics").text.partition(line)[2].partition("\n")[0]))


def wait_until(fits) -> None:
    end = time.monotonic() + 20
    while not fits():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_body_that_does_not_come(server: str) -> None:
    with connected(server, 100, photo()[:50]) as client:
        answer = client.makefile("rb").read()
    assert answer.startswith(b"HTTP/1.1 408")
    assert b"after 1 s only 50 bytes of the body had arrived" in answer


def test_a_client_that_is_cut_off_in_its_body(server: str, net: Net) -> None:
    connected(server, 100, photo()[:50]).close()
    wait_until(lambda: counted(server, "refused") == 1)
    assert predict(server).status_code == 200
    assert len(net.passes) == 1


def test_a_client_that_leaves_while_it_waits_is_not_run(server: str, net: Net) -> None:
    net.gate.clear()
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(predict, server)
        assert net.began.wait(20)
        leaving = connected(server, len(photo()), photo())
        wait_until(lambda: 'waiting{model="cats"} 1.0' in httpx.get(f"{server}/metrics").text)
        leaving.close()
        wait_until(lambda: counted(server, "cancelled") == 1)
        net.gate.set()
        assert first.result().status_code == 200
    assert len(net.passes) == 1


# -- load ---------------------------------------------------------------------------------------------------------


def test_bursts_of_clients_each_have_their_own_answer_once(net: Net) -> None:
    net.seconds = 0.002
    noise = np.random.default_rng(0)
    outcomes: Counter[int] = Counter()
    lock = threading.Lock()

    def client(numbers: list[int]) -> None:
        with httpx.Client(timeout=30) as http:
            for number in numbers:
                time.sleep(noise.exponential(0.002) if number % 20 else 0.02)
                response = http.post(
                    f"{address}/models/cats/predict",
                    content=npy(input_of(number)),
                    headers={"x-request-id": str(number)},
                )
                with lock:
                    outcomes[response.status_code] += 1
                if response.status_code == 200:
                    told = response.json()
                    assert told["id"] == str(number)
                    assert told["tensors"][""][0] == number + {"F": 1, "T": 2}[told["skip"]]

    with serving(net, most_waiting=8, deadline_ms=200.0) as address, ThreadPoolExecutor(12) as pool:
        for ended in [pool.submit(client, [*range(start, 240, 12)]) for start in range(12)]:
            ended.result()
        assert counted(address, "in_time") + counted(address, "answered_late") == outcomes[200]
    assert sum(outcomes.values()) == 240
    assert {*outcomes} <= {200, 503}
    answered = [number for _, numbers in net.passes for number in numbers]
    assert len(answered) == len({*answered}) == outcomes[200]


def test_shutting_down_answers_what_was_begun(net: Net) -> None:
    net.gate.clear()
    with ThreadPoolExecutor(3) as pool:
        with serving(net) as address:
            inside = [pool.submit(predict, address, npy(input_of(0)))]
            assert net.began.wait(20)  # else the first pass may take two of them
            inside += [pool.submit(predict, address, npy(input_of(n))) for n in (1, 2)]
            wait_until(lambda: 'waiting{model="cats"} 2.0' in httpx.get(f"{address}/metrics").text)
            threading.Timer(0.2, net.gate.set).start()
        assert [each.result().status_code for each in inside] == [200] * 3
