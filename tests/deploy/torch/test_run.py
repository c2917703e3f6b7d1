"""`deploy/torch/run.py`: sessions over a network in this process."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import adaptive_depth as ad
from adaptive_depth.deploy.session import open_session
from adaptive_depth.errors import ArtifactError


def logits(network: ad.AdaptiveNetwork, x: torch.Tensor, skip: str) -> np.ndarray:
    with torch.no_grad():
        return network.eval()(x, skip=skip).numpy()


def test_every_depth_is_the_networks(nets) -> None:
    network = nets.chain().train()
    session = open_session(network)
    x = torch.randn(2, 3, 8, 8)
    assert (session.backend, session.skips) == ("eager", network.skips)
    for skip in session.skips:
        found = session(x, skip)
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, logits(network, x, skip))
    assert str(session.artifact) == "network of 4 depths, float32, norms shared, input any x 3 x any x any"
    assert session.artifact.network == network.fingerprint


def test_weights_that_change_are_seen_by_the_next_call(nets) -> None:
    network = nets.chain()
    session, x = open_session(network), torch.randn(2, 3, 8, 8)
    before = session(x, "TF")
    with torch.no_grad():
        network.model.head.bias += 1
    np.testing.assert_allclose(session(x, "TF"), before + 1, rtol=1e-5)


def test_an_array_that_may_not_be_written_raises_no_warning(nets) -> None:
    x = np.ones((1, 3, 8, 8), np.float32)
    x.flags.writeable = False
    assert open_session(nets.chain())(x).shape == (1, 5)


def test_a_network_that_takes_other_numbers_says_so(nets) -> None:
    session = open_session(nets.chain().double())
    with pytest.raises(ArtifactError, match="eager failed at depth FF with input"):
        session(torch.zeros(1, 3, 8, 8))  # which a session gives as float32


def test_threads_at_different_depths(nets) -> None:
    network = nets.chain()
    session = open_session(network)
    inputs = [torch.randn(2, 3, 8, 8) for _ in range(40)]
    work = [(x, network.skips[number % 4]) for number, x in enumerate(inputs)]
    wanted = [logits(network, *each) for each in work]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda each: session(*each), work))
    np.testing.assert_allclose(np.stack(found), np.stack(wanted), rtol=1e-5, atol=1e-6)


def test_threads_of_one_call(nets) -> None:
    before = torch.get_num_threads()
    try:
        open_session(nets.chain(), threads=before + 1)
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)


def test_what_is_no_network(nets, tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(b"")
    message = r"{} received a {}: expected an adapted network, such as load\('runs/mine'\)"
    for backend in ("eager", "compiled"):
        with pytest.raises(ArtifactError, match=message.format(backend, "str")):
            open_session(str(file), backend=backend)
    with pytest.raises(ArtifactError, match=message.format("eager", "Linear")):
        open_session(nn.Linear(2, 2))
    unproven = ad.adapt(nets.Chain(*(nets.Residual() for _ in range(4))), nets.chain_stages())
    with pytest.raises(ArtifactError, match="eager: no input has verified the stages written by hand"):
        open_session(unproven)


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.filterwarnings("ignore")  # of the compiler
def test_compiled(nets) -> None:
    network = nets.chain()
    session = open_session(network, backend="compiled")
    x = torch.randn(2, 3, 8, 8)
    for skip in session.skips:
        np.testing.assert_allclose(session(x, skip), logits(network, x, skip), rtol=1e-4, atol=1e-5)
