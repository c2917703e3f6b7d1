"""Ways to train faster or in less memory: each alone and all together give the training that there is without."""

import shutil
from functools import partial
from itertools import product
from typing import Any

import pytest
import timm
import torch

import adaptive_depth as ad
from adaptive_depth.training.interrupting import seeded

# In exact arithmetic none of these changes a training of float64 numbers: clipping lies above every gradient, and the
# averaged weights are a second network. Parts of a batch do, where a BatchNorm looks at them.
SAME: dict[str, dict[str, Any]] = {
    "accumulate": {"accumulate": 2},
    "clip_grad": {"clip_grad": 1e6},
    "channels_last": {"channels_last": True},
    "ema": {"ema": 0.5},
    "compile": {"compile": True},
    "grad_checkpointing": {"grad_checkpointing": True},
    "low_memory": {"low_memory": True, "passes": "algorithm 1"},
    "delay": {"delay": 1},
}
ROUNDED: dict[str, dict[str, Any]] = {"bf16": {"precision": "bf16"}, "fp16": {"precision": "fp16"}}
PASSES = {name: value for which in SAME if which != "low_memory" for name, value in SAME[which].items()}
TOGETHER = {name: value for which in SAME if which != "delay" for name, value in SAME[which].items()}
EVERYTHING = {"everything": PASSES, "everything, algorithm 1": TOGETHER}


def build(kind: str, adaptive: bool) -> torch.nn.Module:
    with seeded(0):
        if kind == "resnet":
            model = timm.create_model("resnet18", channels=(8, 8, 16, 16), num_classes=3)
        else:
            small = {"img_size": 32, "embed_dim": 24, "num_heads": 2, "depth": 4, "num_classes": 3}
            model = timm.create_model("vit_tiny_patch16_224", **small)
        group = {} if kind == "resnet" else {"group_size": 2}
        return ad.adapt(model, **group) if adaptive else model


def trained(kind: str, fields: dict[str, Any], *, adaptive: bool, dtype: torch.dtype) -> tuple[Any, torch.nn.Module]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(4, 8, 3, 32, 32, generator=generator, dtype=dtype)
    y = torch.arange(8).repeat(4, 1) % 3
    size = 8 // fields.get("accumulate", 1)
    batches = [
        (images[start : start + size], labels[start : start + size])
        for images, labels in zip(x, y, strict=True)
        for start in range(0, 8, size)
    ]
    network = build(kind, adaptive).to(dtype)
    history = ad.train(network, batches, epochs=2, batch_size=8, lr=0.01, warmup_epochs=0, **fields)
    return history, network


@pytest.fixture(autouse=True)
def _traced_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compile without a C++ compiler, which takes minutes; tests/invariants/test_compile.py has the default."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    torch._dynamo.reset()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "adaptive"),
    [
        *((name, True) for name in (*SAME, *ROUNDED)),
        ("everything, algorithm 1", True),
        *product(("everything", "everything in bf16"), (True, False)),
    ],
)
@pytest.mark.parametrize("kind", ["resnet", "vit"])
def test_each_alone_and_all_together(name: str, kind: str, adaptive: bool) -> None:
    fields = {**SAME, **ROUNDED, **EVERYTHING, "everything in bf16": {**PASSES, **ROUNDED["bf16"]}}[name]
    fields = {key: value for key, value in fields.items() if not (kind == "resnet" and key == "accumulate")}
    # What a training is compared with has the same passes on the same batches.
    usual = {key: fields[key] for key in ("passes", "delay") if key in fields}
    exact = "precision" not in fields
    dtype = torch.float64 if exact else torch.float32
    expected, plain = trained(kind, usual, adaptive=adaptive, dtype=dtype)
    history, network = trained(kind, fields, adaptive=adaptive, dtype=dtype)
    for ours, theirs in zip(history.epochs, expected.epochs, strict=True):
        for field in ("loss", "base_loss") if adaptive else ("loss",):
            tolerance = {"rel": 1e-9} if exact else {"rel": 0.05, "abs": 0.15}  # a scaler skips its first steps
            assert getattr(ours, field) == pytest.approx(getattr(theirs, field), **tolerance), field
    if exact and "ema" not in fields:
        own = dict(network.named_parameters())
        for path, value in plain.named_parameters():
            torch.testing.assert_close(own[path], value, rtol=1e-8, atol=1e-10, msg=path)
    assert {type(module) for module in network.modules()} == {type(module) for module in plain.modules()}
    assert not any("forward" in module.__dict__ for module in network.modules())  # nothing of it stays behind


def test_a_model_that_cannot_be_recomputed() -> None:
    network = torch.nn.Linear(3, 3)
    with pytest.raises(ad.TrainingError, match=r"grad_checkpointing: a Linear has no set_grad_checkpointing\(\)"):
        ad.train(network, [(torch.zeros(2, 3), torch.tensor([0, 1]))], epochs=1, grad_checkpointing=True)


def test_what_is_kept_with_averaged_weights_is_their_average() -> None:
    """With a decay of nearly one, what is kept has hardly left the start; without it, it has."""
    start = torch.cat([value.flatten() for value in build("vit", True).double().parameters()])
    moved = []
    for fields in ({}, {"ema": 0.999}):
        _, network = trained("vit", fields, adaptive=True, dtype=torch.float64)
        moved.append(float((torch.cat([value.flatten() for value in network.parameters()]) - start).detach().norm()))
    assert moved[1] < 0.05 * moved[0]


@pytest.mark.alone
@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="the default compiler backend needs a C++ compiler")
def test_compiled_as_users_have_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    expected, _ = trained("vit", {}, adaptive=True, dtype=torch.float32)
    history, _ = trained("vit", {"compile": True}, adaptive=True, dtype=torch.float32)
    for ours, theirs in zip(history.epochs, expected.epochs, strict=True):
        assert ours.loss == pytest.approx(theirs.loss, rel=1e-3)
        assert ours.base_loss == pytest.approx(theirs.base_loss, rel=1e-2, abs=1e-5)
