"""A tensor that is computed beside the blocks and handed to all of them: gradients of both forms are the plain ones."""

import copy
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import adaptive_depth as ad

Y = torch.tensor([0, 3, 1, 4])


class Conditioned(nn.Module):
    """h + mlp(norm(h) * (1 + scale) + shift), with scale and shift of a context `[batch, 8]`."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.project = nn.LayerNorm(8), nn.Linear(8, 16)
        self.mlp = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8))

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        scale, shift = self.project(context).chunk(2, -1)
        return x + self.mlp(self.norm(x) * (1 + scale) + shift)


class Network(nn.Module):
    """Four blocks that take a context; the kinds differ in where it comes from."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.stem = kind, nn.Linear(3, 8)
        self.encoder = nn.Sequential(nn.Linear(8, 8), nn.Tanh())
        self.table, self.between = nn.Parameter(torch.randn(5, 8)), nn.Linear(8, 8)
        self.blocks = nn.ModuleList(Conditioned() for _ in range(4))
        self.head = nn.Linear(8, 5)
        self.last = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8))  # runs first, whatever its place here

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        context = {
            "module": lambda: self.encoder(z),
            "module of a parameter": lambda: self.encoder(self.table)[:4],
            "parameter": lambda: self.table[:4] * 2,
            "parameter and module": lambda: self.encoder(z * self.table[0]) + self.table[1],
            "norm": lambda: self.last(z),
        }.get(self.kind, lambda: z * 2)()
        x = self.stem(x) + context
        for number, block in enumerate(self.blocks):
            x = block(x, context)
            if self.kind == "changed" and number == 1:
                context = context + self.between(x)
            elif self.kind == "chained":
                context = torch.tanh(self.between(context))
        return self.head(x + context)


KINDS = [
    "module",
    "module of a parameter",
    "parameter",
    "parameter and module",
    "input",
    "computed input",
    "changed",
    "chained",
    "norm",
]


def made(kind: str) -> tuple[ad.AdaptiveNetwork, Callable[[], tuple[Any, list[Tensor]]]]:
    """A network in training, and what gives an input and the leaves that it was computed from."""
    stages = [ad.Stage((f"blocks.{n}",), (f"blocks.{n + 1}",), channel_dim=-1) for n in (0, 2)]
    network = ad.adapt(Network(kind), stages, example=(torch.randn(4, 3), torch.randn(4, 8)))
    with torch.no_grad():
        for parameter in network.skip_norms.parameters():
            parameter.add_(torch.rand_like(parameter))
    x, z = torch.randn(4, 3), torch.randn(4, 8)

    def inputs() -> tuple[Any, list[Tensor]]:
        leaf = z.clone().requires_grad_(kind != "module")
        return {"x": x, "z": leaf.sin() if kind == "computed input" else leaf}, [leaf]

    return network.train(), inputs


def plainly(network: ad.AdaptiveNetwork, x: Any, parts: int) -> Tensor:
    """The sum of the two losses of Algorithm 1, each sub-network run by itself."""
    teacher, student = network.subnet("FF")(**x), network.subnet("TT")(**x)
    logs = F.log_softmax(teacher.detach().float(), -1), F.log_softmax(student.float(), -1)
    return (F.cross_entropy(teacher, Y) + F.kl_div(logs[1], logs[0], reduction="batchmean", log_target=True)) / parts


def gradients(network: ad.AdaptiveNetwork, leaves: list[Tensor]) -> dict[str, Tensor | None]:
    found = {name: parameter.grad for name, parameter in network.named_parameters()}
    return found | {f"input {number}": leaf.grad for number, leaf in enumerate(leaves)}


@pytest.mark.parametrize("option", ["plain", "accumulated", "recomputed", "bf16", "scaled"])
@pytest.mark.parametrize("form", ["call", "backward"])
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_those_of_the_sub_networks(kind: str, form: str, option: str) -> None:
    network, inputs = made(kind)
    plain = copy.deepcopy(network)
    if option == "recomputed":
        network.set_grad_checkpointing()
    parts, scale = (2 if option == "accumulated" else 1), (1024 if option == "scaled" else 1)

    def precision():
        return torch.autocast("cpu", torch.bfloat16) if option == "bf16" else nullcontext()

    (x, leaves), (again, ours) = inputs(), inputs()
    objective = ad.SelfDistillation(network)
    for part in range(parts):
        if part:  # a new graph of the same input
            x, again = ({"x": each["x"], "z": leaf.sin() if kind == "computed input" else leaf}
                        for each, leaf in ((x, leaves[0]), (again, ours[0])))  # fmt: skip
        with precision():
            loss = plainly(plain, x, parts)
        (scale * loss).backward()
        if form == "call":
            with precision():
                loss = objective(again, Y).total / parts
            (scale * loss).backward()
        else:
            with precision():
                objective.backward(again, Y, lambda loss: (scale * loss / parts).backward())
    expected, found = gradients(plain, leaves), gradients(network, ours)
    for name, gradient in expected.items():
        assert (gradient is None) == (found[name] is None), name
        if gradient is not None:
            exact = {"rtol": 0.02, "atol": 0.02} if option == "bf16" else {"rtol": 1e-4, "atol": 1e-6 * scale}
            torch.testing.assert_close(found[name], gradient, **exact, msg=lambda said, name=name: f"{name}: {said}")
    used = [name for name, gradient in found.items() if gradient is not None and gradient.any()]
    assert ("input 0" in used) == ("input" in kind or kind in ("parameter and module", "changed", "chained", "norm"))
    assert ("model.table" in used) == ("parameter" in kind)


def test_statistics_of_a_norm_that_runs_first_and_is_named_last_are_gathered_for_both() -> None:
    """It follows the last stage, so the two sub-networks have it twice, and what it returns cannot be shared."""
    network, inputs = made("norm")
    plain = copy.deepcopy(network)
    ad.SelfDistillation(network).backward(inputs()[0], Y)
    plainly(plain, inputs()[0], 1)
    for name, buffer in plain.named_buffers():
        torch.testing.assert_close(dict(network.named_buffers())[name], buffer, msg=name)
    network.eval()
    found = ad.evaluate(network, [(inputs()[0], Y)])
    for skip in network.skips:
        right = network(**inputs()[0], skip=skip).argmax(1) == Y
        assert found[skip] == 100 * right.float().mean().item()
