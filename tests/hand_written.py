"""Residual networks of no library, as people write them, each with an input: for tests of discovery."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class CifarBlock(nn.Module):
    """conv-bn-relu-conv-bn, and a shortcut without parameters (option A: every second pixel, channels of zeros)."""

    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.stride, self.more = stride, width - width_in

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        shortcut = F.pad(
            x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.more // 2, self.more - self.more // 2)
        )
        return F.relu(out + shortcut)


class CifarResNet(nn.Module):
    """ResNet-20 of the first paper: three stages of three blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.layer1 = nn.Sequential(*(CifarBlock(16, 16, 1) for _ in range(3)))
        self.layer2 = nn.Sequential(CifarBlock(16, 32, 2), CifarBlock(32, 32, 1), CifarBlock(32, 32, 1))
        self.layer3 = nn.Sequential(CifarBlock(32, 64, 2), CifarBlock(64, 64, 1), CifarBlock(64, 64, 1))
        self.fc = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.layer3(self.layer2(self.layer1(self.stem(x)))).mean((2, 3)))


class PreActivation(nn.Module):
    def __init__(self, width_in: int, width: int, stride: int = 1) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(width_in), nn.Conv2d(width_in, width, 3, stride, 1, bias=False)
        self.norm2, self.conv2 = nn.BatchNorm2d(width), nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.down = nn.Conv2d(width_in, width, 1, stride, bias=False) if stride > 1 or width_in != width else None

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm1(x))
        shortcut = x if self.down is None else self.down(y)
        return shortcut + self.conv2(F.relu(self.norm2(self.conv1(y))))


class PreActivationResNet(nn.Module):
    """All blocks in one ModuleList, which changes its shape twice on the way."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 1, 1)
        widths = [(8, 8, 1), (8, 8, 1), (8, 16, 2), (16, 16, 1), (16, 16, 1), (16, 24, 2), (24, 24, 1)]
        self.blocks = nn.ModuleList(PreActivation(*each) for each in widths)
        self.norm, self.head = nn.BatchNorm2d(24), nn.Linear(24, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(F.relu(self.norm(x)).mean((2, 3)))


class DecoderBlock(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.ln_1, self.ln_2, self.heads = nn.LayerNorm(width), nn.LayerNorm(width), heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.ln_1(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        x = x + self.proj(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))
        return x + self.mlp(self.ln_2(x))


class Decoder(nn.Module):
    """A small language model: a ModuleDict of tables and blocks; tied weights; integer inputs."""

    def __init__(self, blocks: int = 6, width: int = 32) -> None:
        super().__init__()
        self.transformer = nn.ModuleDict(
            {
                "wte": nn.Embedding(50, width),
                "wpe": nn.Embedding(16, width),
                "h": nn.ModuleList(DecoderBlock(width, 2) for _ in range(blocks)),
                "ln_f": nn.LayerNorm(width),
            }
        )
        self.lm_head = nn.Linear(width, 50, bias=False)
        self.lm_head.weight = self.transformer["wte"].weight

    def forward(self, tokens: Tensor, targets: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        parts = self.transformer
        x = parts["wte"](tokens) + parts["wpe"](torch.arange(tokens.shape[1]))
        for block in parts["h"]:
            x = block(x)
        logits = self.lm_head(parts["ln_f"](x))
        return logits, None if targets is None else F.cross_entropy(logits.flatten(0, 1), targets.flatten())


class MixerBlock(nn.Module):
    def __init__(self, tokens: int, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.across = nn.Sequential(nn.Linear(tokens, 2 * tokens), nn.GELU(), nn.Linear(2 * tokens, tokens))
        self.within = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.across(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        return x + self.within(self.norm2(x))


class Mixer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 24, 4, 4)
        self.blocks = nn.Sequential(*(MixerBlock(16, 24) for _ in range(8)))
        self.norm, self.head = nn.LayerNorm(24), nn.Linear(24, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.blocks(self.patches(x).flatten(2).transpose(1, 2))).mean(1))


class SignalBlock(nn.Module):
    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(2, width)
        self.conv = nn.Conv1d(width, width, 3, padding=dilation, dilation=dilation)
        self.mix = nn.Conv1d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.mix(F.gelu(self.conv(self.norm(x))))


class SignalNet(nn.Module):
    """A 1-D network whose blocks are attributes of a stage, addressed by name."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv1d(2, 8, 7, 2, 3)
        self.first, self.down, self.second = SignalStage(8), nn.Conv1d(8, 12, 4, 4), SignalStage(12)
        self.head = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"logits": self.head(self.second(self.down(self.first(self.stem(x)))).mean(-1))}


class SignalStage(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.a, self.b, self.c = (SignalBlock(width, dilation) for dilation in (1, 2, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.b(self.a(x)))


class UNetEncoder(nn.Module):
    """Returns the features of every level, deepest first; blocks of a level stand in a ModuleList in a ModuleList."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, 1, 1)
        widths = (8, 12, 16)
        self.levels = nn.ModuleList(nn.ModuleList(PreActivation(w, w) for _ in range(2)) for w in widths)
        self.downs = nn.ModuleList(nn.Conv2d(a, b, 2, 2) for a, b in ((8, 12), (12, 16)))

    def forward(self, x: Tensor) -> list[Tensor]:
        features, x = [], self.stem(x)
        for number, level in enumerate(self.levels):
            if number:
                x = self.downs[number - 1](x)
            for block in level:
                x = block(x)
            features.append(x)
        return features[::-1]


def _image(channels: int = 3, size: int = 16) -> Tensor:
    return torch.randn(2, channels, size, size)


# name: how to build it, an input, its cut
NETWORKS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor], list[tuple[int, int]]]] = {
    "cifar resnet": (CifarResNet, _image, [(2, 1), (2, 1), (2, 1)]),
    "pre-activation resnet": (PreActivationResNet, _image, [(1, 1), (2, 1), (1, 1)]),
    "decoder": (Decoder, lambda: torch.randint(50, (2, 9)), [(1, 1), (1, 1), (1, 1)]),
    "mixer": (Mixer, _image, [(1, 1)] * 4),
    "signal": (SignalNet, lambda: torch.randn(2, 2, 128), [(2, 1), (2, 1)]),
    "u-net encoder": (UNetEncoder, lambda: _image(1), [(1, 1)] * 3),
}
