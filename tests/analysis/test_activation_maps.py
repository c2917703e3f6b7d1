"""Class-activation maps: where they are known by hand, of every kind of features, and what is refused."""

import re
import sys

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn

import adaptive_depth as ad
from adaptive_depth.analysis.activation_maps import class_activation_maps
from adaptive_depth.errors import DataError, MeasurementError


class Add(nn.Module):
    """h + v, of one number for each entry."""

    def __init__(self, v: Tensor) -> None:
        super().__init__()
        self.v = nn.Parameter(v)

    def forward(self, h: Tensor) -> Tensor:
        return h + self.v


class Gather(nn.Module):
    """Adds the mean of all tokens to the first, so that the last block gives the others no gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.ones(1))

    def forward(self, h: Tensor) -> Tensor:
        return h + self.a * torch.cat((h.mean(1, keepdim=True), torch.zeros_like(h[:, 1:])), 1)


class Pool(nn.Module):
    """Blocks on `[batch, 2, 4, 4]` (or with the channels last); logits are the means of the channels."""

    def __init__(self, blocks: list[nn.Module], channels_last: bool = False) -> None:
        super().__init__()
        self.blocks, self.channels_last = nn.Sequential(*blocks), channels_last

    def forward(self, x: Tensor) -> Tensor:
        if self.channels_last:
            return self.blocks(x.permute(0, 2, 3, 1)).mean((1, 2))
        return self.blocks(x).mean((2, 3))


class Tokens(nn.Module):
    """Each pixel a token, a class token before them; logits are the class token's channels."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(Gather(), Gather(), Gather())

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2).transpose(1, 2)
        return self.blocks(torch.cat((torch.zeros_like(tokens[:, :1]), tokens), 1))[:, 0]


def scaled(maps: Tensor) -> np.ndarray:
    """From 0 to 1 in each image, negative numbers cut off, as Grad-CAM has it."""
    maps = maps.clamp(min=0)
    low = maps.amin((1, 2), keepdim=True)
    return ((maps - low) / (maps.amax((1, 2), keepdim=True) - low)).numpy()


@pytest.mark.parametrize("channels_last", [False, True])
def test_by_hand(channels_last) -> None:
    x, v = torch.randn(3, 2, 4, 4), torch.randn(1, 2, 4, 4)
    place = v.permute(0, 2, 3, 1) if channels_last else v
    model = Pool([Add(torch.zeros_like(place)), Add(place.clone())], channels_last)
    stage = ad.Stage(("blocks.0",), ("blocks.1",), channel_dim=-1 if channels_last else 1)
    network = ad.adapt(model, [stage], example=x)
    # A logit is the mean of its channel, so that channel is the map: of x + v in the super-net, of x in the base-net.
    maps = class_activation_maps(network, x, targets=[0, 1, 0])
    chosen = (torch.arange(3), torch.tensor([0, 1, 0]))
    assert list(maps) == ["F", "T"]
    np.testing.assert_allclose(maps["F"], scaled((x + v)[chosen]), atol=1e-5)
    np.testing.assert_allclose(maps["T"], scaled(x[chosen]), atol=1e-5)
    # By default, the super-net's answer is asked for in both.
    answer = (x + v).mean((2, 3)).argmax(1)
    assert (answer != x.mean((2, 3)).argmax(1)).any()
    np.testing.assert_allclose(class_activation_maps(network, x)["T"], scaled(x[torch.arange(3), answer]), atol=1e-5)
    assert list(class_activation_maps(network, x, skips=["T", [False]])) == ["T", "F"]


def test_what_changes_features_in_place_behind_the_block_does_not_change_the_map() -> None:
    class Negated(Pool):
        def forward(self, x: Tensor) -> Tensor:
            return self.blocks(x).neg_().mean((2, 3))

    x = torch.randn(2, 2, 4, 4)
    model = Negated([Add(torch.zeros(1)), Add(torch.zeros(1))])
    network = ad.adapt(model, [ad.Stage(("blocks.0",), ("blocks.1",))], example=x)
    maps = class_activation_maps(network, x, targets=[0, 1])
    np.testing.assert_allclose(maps["F"], scaled(-x[[0, 1], [0, 1]]), atol=1e-5)


def test_tokens_are_looked_at_before_the_last_block_and_without_the_class_token() -> None:
    x = torch.randn(2, 3, 6, 4)
    network = ad.adapt(Tokens(), [ad.Stage(("blocks.0", "blocks.1"), ("blocks.2",), channel_dim=-1)], example=x)
    maps = class_activation_maps(network, x, targets=torch.tensor([2, 0]))
    for skip in "FT":
        np.testing.assert_allclose(maps[skip], scaled(x[[0, 1], [2, 0]]), atol=1e-5)


def test_of_small_images_a_stage_is_taken_that_still_shows_a_place() -> None:
    class Shrinking(nn.Module):
        """Stage one on 4 × 4 positions, stage two on 2 × 2."""

        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = (nn.Sequential(Add(torch.zeros(1)), Add(torch.ones(1))) for _ in range(2))

        def forward(self, x: Tensor) -> Tensor:
            return self.two(nn.functional.avg_pool2d(self.one(x), 2)).mean((2, 3))

    x = torch.randn(1, 2, 4, 4)
    stages = [ad.Stage((f"{name}.0",), (f"{name}.1",)) for name in ("one", "two")]
    network = ad.adapt(Shrinking(), stages, example=x)
    np.testing.assert_allclose(class_activation_maps(network, x, targets=[1])["TT"], scaled(x[:, 1]), atol=1e-5)
    large = torch.randn(1, 2, 8, 8)  # now stage two has 4 × 4 positions, and maps are enlarged
    found = class_activation_maps(network, large, targets=[1])["TT"]
    coarse = scaled(nn.functional.avg_pool2d(large, 2)[:, 1])
    assert found.shape == (1, 8, 8)
    assert np.unravel_index(found[0].argmax(), (8, 8))[0] // 2 == np.unravel_index(coarse[0].argmax(), (4, 4))[0]


@pytest.mark.parametrize("kind", ["chain", "resnet", "transformer", "vit", "swin"])
def test_the_network_is_left_as_it_was(nets, unchanged, kind) -> None:
    build = {
        "chain": nets.chain,
        "resnet": nets.resnet,
        "transformer": nets.transformer,
        "vit": lambda: ad.adapt(
            timm.create_model("vit_tiny_patch16_224", img_size=32, depth=4, embed_dim=12, num_classes=5)
        ),
        "swin": lambda: ad.adapt(
            timm.create_model(
                "swin_tiny_patch4_window7_224",
                img_size=32,
                window_size=4,
                embed_dim=8,
                depths=(2, 2),
                num_heads=(2, 2),
                num_classes=5,
            )
        ),
    }[kind]
    network = build().train()
    size = 8 if kind in ("chain", "transformer") else 32
    x = torch.randn(2, 3, size, size)
    network(x).sum().backward()
    with unchanged(network), torch.inference_mode():
        maps = class_activation_maps(network, x.clone(), skips=network.skips)
    for found in maps.values():
        assert (found.shape, found.dtype) == ((2, size, size), np.float32)
        assert 0 <= found.min() <= found.max() <= 1
    assert any(found.max() > 0.9 for found in maps.values())
    with unchanged(network), pytest.raises(DataError, match=r"sub-network FF.* returned non-finite numbers"):
        class_activation_maps(network, torch.full_like(x, torch.nan))
    network(x).sum().backward()


X = torch.randn(2, 3, 8, 8)


@pytest.mark.parametrize(
    ("images", "more", "said"),
    [
        (
            X[0],
            {},
            "class_activation_maps received torch.float32 [3, 8, 8]: expected images, floating-point numbers [im",
        ),
        (X[:0], {}, "received torch.float32 [0, 3, 8, 8]"),
        (X.byte(), {}, "received torch.uint8 [2, 3, 8, 8]"),
        ("cat.png", {}, "class_activation_maps received str: expected images"),
        (X, {"targets": [1]}, "targets=[1] for 2 images and 5 classes: expected one class per image, from 0 to 4"),
        (X, {"targets": [1, 5]}, "targets=[1, 5] for 2 images and 5 classes"),
        (X, {"targets": [-1, 1]}, "targets=[-1, 1] for 2 images"),
    ],
)
def test_what_cannot_be_mapped(nets, unchanged, images, more, said) -> None:
    network = nets.chain().train()
    with unchanged(network), pytest.raises(DataError, match=re.escape(said)):
        class_activation_maps(network, images, **more)


def test_networks_without_maps_are_refused(known, nets) -> None:
    with pytest.raises(MeasurementError, match=r"received a Line: expected an adapted network"):
        class_activation_maps(known.Line(), X)
    with pytest.raises(ad.SkipError, match="'F' is for 1 stage, but the network has 2"):
        class_activation_maps(nets.chain(), X, skips=["F"])

    class Flat(known.Line):
        def forward(self, x: Tensor) -> Tensor:
            return self.blocks(x.flatten(1))

    network = ad.adapt(Flat(known.Scale(0.1), known.Scale(0.1)), [ad.Stage(("blocks.0",), ("blocks.1",))], example=X)
    with pytest.raises(
        MeasurementError, match=r"a stage returns \[2, 192\]: class-activation maps need features \[batch"
    ):
        class_activation_maps(network, X)
    dense = known.network([[known.Scale(0.1)]], [[known.Scale(0.1)]], X)
    with pytest.raises(DataError, match=r"the network returned \[2, 3, 8, 8\]: expected logits \[batch, classes\]"):
        class_activation_maps(dense, X)

    class Turned(Pool):
        def forward(self, x: Tensor) -> Tensor:
            return self.blocks(x.transpose(0, 1)).transpose(0, 1).mean((2, 3))

    model = Turned([Add(torch.zeros(1)), Add(torch.zeros(1))])
    turned = ad.adapt(model, [ad.Stage(("blocks.0",), ("blocks.1",))], example=X)
    with pytest.raises(
        MeasurementError, match=r"block 'blocks.0' returns 3 rows for 2 samples: expected the batch as the"
    ):
        class_activation_maps(turned, X)
    wide = torch.randn(1, 3, 5, 7)
    tokens = ad.adapt(Tokens(), [ad.Stage(("blocks.0", "blocks.1"), ("blocks.2",), channel_dim=-1)], example=wide)
    tokens.model.register_forward_pre_hook(lambda _, args: (args[0][:, :, :3, :3],))
    tokens.forget_views()
    with pytest.raises(MeasurementError, match="10 tokens do not fill a map of a 5 × 7 pixel image"):
        class_activation_maps(tokens, wide)


def test_a_missing_package_is_named_with_its_remedy(nets, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "pytorch_grad_cam", None)
    with pytest.raises(MeasurementError, match=r'not installed .*: pip install "adaptive-depth\[analysis\]"'):
        class_activation_maps(nets.chain(), X)
