"""`web/write.py`: a folder for browsers, in a real one."""

import json
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import adaptive_depth as ad
from adaptive_depth.deploy.exporting import export_network
from adaptive_depth.deploy.preparing import prepare
from adaptive_depth.deploy.session import open_session
from adaptive_depth.deploy.sidecar import read_sidecar
from adaptive_depth.deploy.web.write import find_runtime
from adaptive_depth.errors import ExportError
from adaptive_depth.preprocessing import Preprocessing

X = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
DATA = Preprocessing(32, 3, (0.5,) * 3, (0.25,) * 3, "bilinear", 0.9, ("ant", "bee", "cat", "<b>dog"))


@pytest.fixture(scope="module")
def network(small_resnet) -> ad.AdaptiveNetwork:
    return small_resnet(4, 8, 16, 32, 64)


@pytest.fixture(scope="module")
def page(network: ad.AdaptiveNetwork, javascript: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = tuple(ad.Row(skip, 80 - 5 * skip.count("T"), 100 - 9 * skip.count("T"), 9) for skip in network.skips)
    place = tmp_path_factory.mktemp("web") / "page"
    runtime = javascript / "node_modules" / "onnxruntime-web"
    export_network(network, place, X, to="web", data=DATA, trade_offs=ad.TradeOffs(rows), runtime=runtime)
    return place


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture(scope="module")
def address(page: Path) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(page)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def opened(browser: Any, address: str) -> Iterator[Any]:
    """The page, once it is ready; it may ask nobody else for anything, and no error may reach its console."""
    window = browser.new_context(viewport={"width": 900, "height": 1000}, permissions=["camera"])
    said: list[str] = []
    asked: list[str] = []
    tab = window.new_page()
    tab.set_default_timeout(60_000)
    tab.on("console", lambda message: said.append(message.text))
    tab.on("pageerror", lambda error: said.append(str(error)))
    tab.on("request", lambda request: asked.append(request.url))
    tab.goto(address)
    tab.wait_for_function("globalThis.adaptiveDepth?.ready || document.querySelector('.wrong')")
    yield tab
    window.close()
    assert said == []
    assert [url for url in asked if not url.startswith((address, "data:", "blob:"))] == []


def test_what_is_in_the_folder(page: Path) -> None:
    names = sorted(file.name for file in page.iterdir())
    assert names == [
        "adaptive-depth", "artifact.json", "index.html", "model.onnx", "model.onnx.json", "onnxruntime-web", "page.css",
        "page.js",
    ]  # fmt: skip
    artifact = open_session(page / "model.onnx").artifact
    assert read_sidecar(page) == read_sidecar(page / "model.onnx") == artifact
    assert artifact.kind == "onnx"
    assert "index.html" in json.loads((page / "artifact.json").read_text())["files"]


@pytest.mark.slow
def test_every_depth_in_chromium_gives_what_the_network_gives(opened: Any, network: ad.AdaptiveNetwork) -> None:
    run = "async ([x, skip]) => Array.from((await adaptiveDepth.session.run(Float32Array.from(x), { skip })).data)"
    for skip in network.skips:
        with torch.no_grad():
            expected = network(X, skip=skip).flatten().tolist()
        assert opened.evaluate(run, [X.flatten().tolist(), skip]) == pytest.approx(expected, abs=1e-4), skip


@pytest.mark.slow
def test_an_image_a_deadline_and_a_load(opened: Any, network: ad.AdaptiveNetwork, tmp_path: Path) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8))
    image.save(tmp_path / "photo.png")
    opened.set_input_files("#file", tmp_path / "photo.png")
    opened.wait_for_function("adaptiveDepth.history.length > 3")
    assert opened.inner_text("#depth") in network.skips
    assert opened.inner_text("#quality-name") == "top-1"

    # The same class and score as in Python, at the depth that ran: labels are shown as text, never as HTML.
    opened.evaluate("adaptiveDepth.governor.choose = () => 'TTTT'")
    opened.wait_for_function("document.querySelector('#depth').textContent === 'TTTT'")
    with torch.no_grad():
        shares = network(torch.from_numpy(prepare(image, DATA)[None]), skip="TTTT").softmax(1)[0]
    first = opened.inner_text("#classes li:first-child")
    assert first.split("\n")[0] == DATA.classes[int(shares.argmax())]
    assert float(first.split("\n")[1].removesuffix(" %")) == pytest.approx(100 * float(shares.max()), abs=0.06)
    assert opened.locator("#classes b").count() == 0

    # A deadline that only shallower depths hold, then one that all hold: by the table that was measured here.
    opened.evaluate("document.querySelector('#deadline').value = document.querySelector('#deadline').max")
    opened.dispatch_event("#deadline", "input")
    deepest = opened.evaluate("adaptiveDepth.governor.skips.at(-1)")
    opened.wait_for_function(f"document.querySelector('#depth').textContent === '{deepest}'")
    opened.evaluate("document.querySelector('#deadline').value = document.querySelector('#deadline').min")
    opened.dispatch_event("#deadline", "input")
    shallowest = opened.evaluate("adaptiveDepth.governor.skips[0]")
    opened.wait_for_function(f"document.querySelector('#depth').textContent === '{shallowest}'")
    opened.wait_for_function("document.querySelector('#met').textContent.startsWith('0 %')")

    # Other work on the device: workers that are busy until the button is pressed again.
    opened.click("#load")
    assert opened.get_attribute("#load", "aria-pressed") == "true"
    opened.wait_for_function("adaptiveDepth.load.length >= 2")
    opened.click("#load")
    assert opened.evaluate("adaptiveDepth.load") is None

    (tmp_path / "notes.png").write_text("no image")
    opened.set_input_files("#file", tmp_path / "notes.png")
    opened.wait_for_function(
        "document.querySelector('#status').textContent === 'notes.png cannot be read as an image: choose another file.'"
    )


@pytest.mark.slow
def test_the_camera(opened: Any) -> None:
    opened.click("#camera")
    opened.wait_for_function("adaptiveDepth.history.length > 2")
    assert opened.inner_text("#camera") == "Stop the camera"
    opened.click("#camera")
    opened.wait_for_function("adaptiveDepth.video === null")


def test_a_page_whose_file_is_of_another_export_says_so(browser: Any, address: str) -> None:
    tab = browser.new_page()
    tab.route("**/model.onnx", lambda route: route.fulfill(body=b"another"))
    tab.goto(address)
    tab.wait_for_selector("#status.wrong")
    assert "model.onnx does not match its description (7 bytes" in tab.inner_text("#status")
    tab.close()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "a page must know how images become inputs: pass data="),
        ({"data": DATA, "runtime": "nowhere"}, r"runtime nowhere has no ort\.wasm\.bundle\.min\.mjs and ort-wasm"),
        ({"data": DATA, "compiled": True}, "web does not take compiled: expected runtime"),
    ],
)
def test_what_is_refused(given: dict[str, Any], message: str, network: ad.AdaptiveNetwork, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=message):
        export_network(network, tmp_path / "page", X, to="web", **given)
    assert not list(tmp_path.iterdir())


def test_the_runtime_is_looked_for_here_and_above(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    monkeypatch.chdir(below)
    with pytest.raises(
        ExportError, match=r"there is no node_modules/onnxruntime-web here or in a parent folder: npm in"
    ):
        find_runtime()
    dist = tmp_path / "node_modules" / "onnxruntime-web" / "dist"
    dist.mkdir(parents=True)
    for name in ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"):
        (dist / name).touch()
    assert find_runtime() == dist == find_runtime(dist) == find_runtime(dist.parent)
