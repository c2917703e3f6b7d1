"""`deploy/switching.py`: one module with the skip as an input computes what each sub-network does."""

import importlib.util
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torchvision.models import MobileNetV2, SwinTransformer, VisionTransformer

import adaptive_depth as ad
from adaptive_depth.batches import logits_in
from adaptive_depth.deploy.switching import Switching

TESTS = Path(__file__).parent.parent
_spec = importlib.util.spec_from_file_location("hand_written", TESTS / "hand_written.py")
assert _spec is not None
assert _spec.loader is not None
hand_written = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(hand_written)

SHORT = [[1, 16, 1, 1], [6, 24, 2, 2], [6, 32, 3, 2], [6, 64, 1, 1]]  # of MobileNetV2: two stages, a norm behind them
VIT = {"img_size": 32, "embed_dim": 24, "depth": 6, "num_heads": 2, "num_classes": 10}
SWIN = {"img_size": 64, "window_size": 2, "embed_dim": 8, "depths": (2, 2, 2, 2), "num_heads": (1, 1, 2, 2)}

# Each with the side of its images and its number of stages.
WITH_STATISTICS: dict[str, tuple[Callable[[], nn.Module], int, int]] = {
    "basic": (lambda: timm.create_model("resnet18", num_classes=10, channels=(8, 8, 16, 16)), 32, 4),
    "bottleneck": (lambda: timm.create_model("resnet26", num_classes=10, channels=(4, 4, 8, 8)), 32, 4),
    "mobilenet": (lambda: MobileNetV2(10, width_mult=0.25, inverted_residual_setting=SHORT), 32, 2),
    "cifar resnet": (hand_written.CifarResNet, 16, 3),
    "pre-activation resnet": (hand_written.PreActivationResNet, 16, 3),
}
WITHOUT: dict[str, tuple[Callable[[], nn.Module], int, int]] = {
    "timm vit": (lambda: timm.create_model("vit_tiny_patch16_224", **VIT), 32, 3),
    "torchvision vit": (lambda: VisionTransformer(32, 16, 6, 2, 24, 48, num_classes=10), 32, 3),
    "timm swin": (lambda: timm.create_model("swin_tiny_patch4_window7_224", num_classes=10, **SWIN), 64, 4),
    "torchvision swin": (lambda: SwinTransformer([4, 4], 8, [2, 2, 2, 2], [1, 1, 2, 2], [4, 4], num_classes=10), 64, 4),
    "mixer": (hand_written.Mixer, 16, 4),
}
CASES = [(name, calibrated) for name in WITH_STATISTICS for calibrated in (False, True)]
CASES += [(name, False) for name in WITHOUT]


def flags(skip: str) -> Tensor:
    return torch.tensor([letter == "T" for letter in skip])


@torch.no_grad()
def check(network: ad.AdaptiveNetwork, module: Switching, x: Tensor, skips: tuple[str, ...]) -> None:
    """The module computes what the network does at `skips`, which are all different."""
    wanted = [logits_in(network(x, skip=skip)) for skip in skips]
    spread = wanted[0].std()
    assert min((a - b).abs().max() for i, a in enumerate(wanted) for b in wanted[:i]) > 1e-3 * spread
    for skip, logits in zip(skips, wanted, strict=True):
        torch.testing.assert_close(module(x, flags(skip)), logits, rtol=0, atol=1e-6 * float(spread), msg=skip)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize(("name", "calibrated"), CASES, ids=lambda value: str(value))
def test_every_depth_is_the_networks(name: str, calibrated: bool, differing, unchanged) -> None:
    build, side, stages = (WITH_STATISTICS | WITHOUT)[name]
    x = torch.randn(2, 3, side, side)
    model = build()
    network = differing(ad.adapt(model, example=None if timm_or_torchvision(model) else x), calibrated=calibrated)
    assert (len(network.skips), network.calibrated) == (2**stages, calibrated)
    with unchanged(network):
        for folded in (False, True):
            check(network, Switching(network, folded=folded), x, network.skips)


def timm_or_torchvision(model: nn.Module) -> bool:
    return type(model).__module__.startswith(("timm", "torchvision"))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("folded", [False, True])
def test_logits_of_a_model_of_transformers(folded: bool, differing) -> None:
    pytest.importorskip("transformers")
    model, inputs = runpy.run_path(str(TESTS.parent / "docs" / "models.py"))["hugging_face"]("ResNet")
    network = differing(ad.adapt(model, example=inputs), calibrated=True)
    skips = ("FFFF", "FTFT", "TTFF", "TTTT")
    check(network, Switching(network, folded=folded, skips=skips), inputs["pixel_values"], skips)


def test_logits_in_a_dictionary(differing) -> None:
    x = torch.randn(2, 2, 128)
    network = differing(ad.adapt(hand_written.SignalNet(), example=x))
    check(network, Switching(network), x, network.skips)


def test_folded_keeps_only_what_the_depths_need(differing) -> None:
    network = differing(ad.adapt(WITH_STATISTICS["basic"][0]()), calibrated=True)
    skips = ("FFFF", "TTFF", "TTTF")
    module = Switching(network, folded=True, skips=skips)
    check(network, module, torch.randn(2, 3, 32, 32), skips)
    copies = {
        f"layer{stage}.{block}": len(by_context(module, stage, block)) for stage in range(1, 5) for block in (0, 1)
    }
    # Contexts of mandatory blocks: F, T; FF, TT; FFF, TTF, TTT; one for each depth. Of skippable ones, where they run.
    assert copies == {
        "layer1.0": 2, "layer1.1": 1, "layer2.0": 2, "layer2.1": 1,
        "layer3.0": 3, "layer3.1": 2, "layer4.0": 3, "layer4.1": 3,
    }  # fmt: skip


def by_context(module: Switching, stage: int, block: int) -> Any:
    place = module.view.get_submodule(f"layer{stage}.{block}")
    place = getattr(place, "skippable_block", place)
    return getattr(place, "by_context", [place])


def test_a_norm_that_all_contexts_agree_on_is_not_looked_up() -> None:
    network = ad.adapt(WITH_STATISTICS["basic"][0]()).eval()  # both sets are still equal
    module = Switching(network)
    size, plain = (sum(tensor.numel() for tensor in part.state_dict().values()) for part in (module, network.model))
    assert size <= plain
    assert module(torch.zeros(1, 3, 32, 32), flags("TFTF")).shape == (1, 10)


def test_weights_are_the_networks_own(nets) -> None:
    network = nets.chain().eval()
    for folded in (False, True):
        module = Switching(network, folded=folded)
        own = {tensor.data_ptr() for tensor in network.state_dict().values()}
        convolutions = [tensor for name, tensor in module.state_dict().items() if "conv" in name]
        assert convolutions
        assert {tensor.data_ptr() for tensor in convolutions} <= own


def test_modes_of_a_network_in_training_stay(nets, unchanged) -> None:
    network = nets.chain().train()
    network.model.blocks[0].norm.eval()  # a frozen norm stays frozen, the others stay in training
    network.subnet("TT")  # from here on, its second copy is frozen as well
    with unchanged(network):
        Switching(network)
        Switching(network, folded=True)


def test_a_block_that_returns_a_tuple_and_takes_more_than_its_input() -> None:
    class Tuple(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mix = nn.Linear(4, 4)

        def forward(self, x: Tensor, scale: Tensor) -> tuple[Tensor, Tensor | None]:
            return x + scale * self.mix(x), None

    class Tuples(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList(Tuple() for _ in range(4))

        def forward(self, x: Tensor) -> Tensor:
            for block in self.blocks:
                x, _ = block(x, torch.tensor(0.5))
            return x

    x = torch.randn(2, 4)
    stages = [ad.Stage((f"blocks.{i}",), (f"blocks.{i + 1}",), returns=(0, None)) for i in (0, 2)]
    network = ad.adapt(Tuples(), stages, example=x).eval()
    check(network, Switching(network), x, network.skips)
