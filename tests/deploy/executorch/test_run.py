"""Sessions over a .pte: every depth, several threads, shared weights, and files that are not whole."""

import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import nn

import adaptive_depth as ad
from adaptive_depth.deploy.artifact import Artifact
from adaptive_depth.deploy.executorch import run as backend
from adaptive_depth.deploy.executorch.write import write
from adaptive_depth.deploy.inputs import image_of
from adaptive_depth.deploy.session import open_session
from adaptive_depth.errors import ArtifactError, DataError, SkipError

pytest.importorskip("executorch")

SKIPS = ("FF", "TF", "TT")
X = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


class Block(nn.Module):
    """A residual block with two norms: few operators, for exports are slow."""

    def __init__(self, width_in, width):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(width_in, width, 3, width // width_in, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)
        self.down = nn.Conv2d(width_in, width, 1, 2, bias=False) if width > width_in else nn.Identity()
        self.end = nn.ReLU()

    def forward(self, x):
        return self.end(self.down(x) + self.bn2(self.conv2(self.bn1(self.conv1(x)).relu())))


class TwoStages(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.layer1 = nn.Sequential(Block(16, 32), Block(32, 32))
        self.layer2 = nn.Sequential(Block(32, 64), Block(64, 64))
        self.head = nn.Linear(64, 10)

    def forward(self, x):
        return self.head(self.layer2(self.layer1(self.stem(x))).mean((2, 3)))


@pytest.fixture(scope="module")
def made(made_once):
    """A file in the shared form, and the right outputs by depth."""
    torch.manual_seed(0)
    net = ad.adapt(TwoStages(), example=X).eval()
    for part in net.modules():
        for buffer in (b for n, b in part.named_buffers(recurse=False) if n in ("running_mean", "running_var")):
            buffer.add_(torch.rand_like(buffer))
    for parameter in net.skip_norms.parameters():
        parameter.data.add_(torch.rand_like(parameter))
    artifact = Artifact("executorch", net.stages.to_json(), SKIPS, X.shape)
    path = (
        made_once("pte", lambda folder: write(net, folder / "model.pte", image_of(X), artifact, form="shared"))
        / "model.pte"
    )
    with torch.no_grad():
        return path, {skip: net(X, skip=skip).numpy() for skip in SKIPS}


def close(got, expected):
    return np.abs(got - expected).max() <= 1e-4 * expected.std()


def test_every_depth(made):
    path, expected = made
    session = open_session(path)
    assert session.skips == SKIPS
    assert all(close(session(X, skip), expected[skip]) for skip in SKIPS)
    read_only = X.numpy().copy()
    read_only.flags.writeable = False
    assert close(session(read_only, "TF"), expected["TF"])


def test_outputs_belong_to_the_caller(made):
    path, expected = made
    session = open_session(path)
    first = session(X)
    session(torch.zeros_like(X))
    assert close(first, expected["FF"])


def test_several_threads_at_several_depths(made):
    path, expected = made
    session = open_session(path)
    asked = SKIPS * 20
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda skip: session(X, skip), asked))
    assert all(close(answer, expected[skip]) for answer, skip in zip(answers, asked, strict=True))


def test_the_two_depths_last_used_stay_loaded(made):
    path, expected = made
    opened = backend.open_backend(path, threads=None, backend="executorch")
    for skip in ("FF", "TF", "FF", "TT"):
        assert close(opened.run(X.numpy(), skip), expected[skip])
    assert list(opened._methods) == ["FF", "TT"]
    assert close(opened.run(X.numpy(), "TF"), expected["TF"])  # loaded again


def test_threads_of_the_process(made):
    path, expected = made
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from executorch.extension.pybindings import portable_lib
    before, session = portable_lib._threadpool_get_thread_count(), open_session(path)
    session(X)
    try:
        other = open_session(path, threads=before + 1)
        assert portable_lib._threadpool_get_thread_count() == before + 1
        assert close(session(X), expected["FF"])
        assert close(other(X), expected["FF"])
    finally:
        open_session(path, threads=before)


@pytest.mark.parametrize("kept", [0.0, 0.001, 0.1, 0.5, 0.9, 0.999, 1.0])
def test_a_truncated_file(made, tmp_path, kept):
    content = made[0].read_bytes()
    short = tmp_path / "short.pte"
    short.write_bytes(content[: min(int(kept * len(content)), len(content) - 1)])
    with pytest.raises(ArtifactError, match=r"short\.pte does not end like a file of adaptive-depth: it is trunc"):
        open_session(short)


@pytest.mark.parametrize("place", [4, 1000, 0.5, 0.95])
def test_a_damaged_file(made, tmp_path, place):
    content = bytearray(made[0].read_bytes())
    content[int(place * len(content)) if place < 1 else int(place)] ^= 0xFF
    damaged = tmp_path / "damaged.pte"
    damaged.write_bytes(content)
    with pytest.raises(ArtifactError, match=r"damaged\.pte does not match the checksum .*: it is damaged"):
        open_session(damaged)


def test_foreign_files(tmp_path):
    foreign = tmp_path / "foreign.pte"
    foreign.write_bytes(b"something else" * 100)
    with pytest.raises(ArtifactError, match=r"foreign\.pte does not end like .*: it is truncated, or written by"):
        open_session(foreign)
    pretending = tmp_path / "pretending.pte"
    pretending.write_bytes(b"abc" + backend.ending("352441c2"))  # the CRC-32 of "abc", as published
    with pytest.raises(ArtifactError, match=r"pretending\.pte cannot be loaded: "):
        open_session(pretending)
    folder = tmp_path / "folder.pte"
    folder.mkdir()
    with pytest.raises(ArtifactError, match=r"folder\.pte cannot be read: "):
        open_session(folder, backend="executorch")
    with pytest.raises(ArtifactError, match=r"executorch received a Linear: expected the path of a \.pte file"):
        open_session(torch.nn.Linear(1, 1), backend="executorch")


def test_bad_calls(made):
    session = open_session(made[0])
    with pytest.raises(SkipError, match="skip 'FT' is not in this file: expected one of FF, TF, TT"):
        session(X, "FT")
    with pytest.raises(DataError, match=r"shape \[1, 3, 32, 32\]: expected \[2, 3, 32, 32\]"):
        session(X[:1])
