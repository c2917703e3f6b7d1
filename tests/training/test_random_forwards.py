"""Forwards that differ from run to run: both forms of the step have the gradients of the passes made one by one."""

import copy
import random
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import adaptive_depth as ad
from adaptive_depth.core.sharing import SharedForward

Y = torch.tensor([0, 2, 1, 1])


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.linear = nn.LayerNorm(8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.linear(torch.relu(self.norm(x)))


class Parts(nn.Module):
    """A stem of parts that the root calls by itself, four blocks of two stages, a head; the kinds differ in the root.

    Where `training` does not matter, a forward in eval mode is that of an ordinary network.
    """

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.script = kind, list[list[int]]()  # of "script": the parts of each call
        self.parts = nn.ModuleList(
            nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8, track_running_stats=kind != "experts")) for _ in range(3)
        )
        self.drop, self.router = nn.Dropout(0.2), nn.Linear(8, 3)
        self.layers = nn.ModuleList(Block() for _ in range(4))
        self.head, self.exit = nn.Linear(8, 3), nn.Linear(8, 3)
        self.own, self.numpy = torch.Generator(), np.random.default_rng(0)

    def draw(self) -> float:
        draws = {
            "python": random.random,
            "numpy": np.random.rand,
            "own generator": lambda: float(torch.rand((), generator=self.own)),
            "own numpy": self.numpy.random,
        }
        return draws.get(self.kind, lambda: float(torch.rand(())))()

    def before(self, x: Tensor) -> Tensor:
        if self.kind == "noise":
            return self.parts[1](self.parts[0](x) + torch.randn_like(x))
        if self.kind == "experts":
            chosen = (self.router(x) + torch.randn(len(x), 3)).argmax(1)
            out = torch.zeros_like(x)
            for number, part in enumerate(self.parts):
                if (chosen == number).sum() > 1:
                    out = out.index_put((chosen == number,), part(x[chosen == number]))
            return x + out + self.router(x).mean()
        if self.kind in ("order", "script"):
            order = torch.randperm(3).tolist() if self.kind == "order" else self.script.pop(0)
            return x + sum(self.parts[number](x) for number in order)
        if self.kind == "checkpoint":
            return checkpoint(lambda x: self.parts[0](x) * x, x, use_reentrant=False)
        for part in self.parts:
            if self.draw() < 0.5:
                x = x + part(self.drop(x))
        return x

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            x = x + self.parts[0](x)
        elif self.kind != "layers":
            x = self.before(x)
        if self.kind == "exit" and self.training and self.draw() < 0.5:
            return self.exit(x)
        for layer in self.layers:
            if not (self.training and self.kind in ("layers", "torch") and torch.rand(()) < 0.3):
                x = layer(x)
        return self.head(x)


KINDS = [
    *("torch", "python", "numpy", "own generator", "own numpy"),
    *("layers", "noise", "experts", "order", "exit", "checkpoint"),
]


def made(kind: str) -> ad.AdaptiveNetwork:
    stages = [ad.Stage((f"layers.{n}",), (f"layers.{n + 1}",), channel_dim=-1) for n in (0, 2)]
    network = ad.adapt(Parts(kind), stages, example=torch.randn(4, 8))
    with torch.no_grad():
        for parameter in network.skip_norms.parameters():
            parameter.add_(torch.rand_like(parameter))
    return network.train()


def seed(number: int, network: ad.AdaptiveNetwork) -> None:
    torch.manual_seed(number)
    random.seed(number)
    np.random.seed(number)  # noqa: NPY002
    for part in network.modules():
        if isinstance(part, Parts):
            part.own.manual_seed(number)
            part.numpy.bit_generator.state = np.random.default_rng(number).bit_generator.state


def one_by_one(network: ad.AdaptiveNetwork, x: Any) -> None:
    """The two passes of Algorithm 1 as the paper writes them; only numbers go from one to the other."""
    teacher = network.subnet("FF")(x)
    F.cross_entropy(teacher, Y).backward()
    student = network.subnet("TT")(x)
    logs = F.log_softmax(teacher.detach(), -1), F.log_softmax(student, -1)
    F.kl_div(logs[1], logs[0], reduction="batchmean", log_target=True).backward()


def compare(ours: ad.AdaptiveNetwork, plain: ad.AdaptiveNetwork) -> None:
    for (name, parameter), other in zip(ours.named_parameters(), plain.parameters(), strict=True):
        assert (parameter.grad is None) == (other.grad is None), name
        if other.grad is not None:
            torch.testing.assert_close(parameter.grad, other.grad, rtol=1e-4, atol=1e-6, msg=name)
    for (name, buffer), other in zip(ours.named_buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(buffer, other, msg=name)


@pytest.mark.parametrize("form", ["call", "backward"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_step_is_the_two_passes_one_by_one(kind: str, form: str) -> None:
    """With the same seed, from the first step on: gradients, statistics, and the numbers that are drawn next."""
    network = made(kind)
    plain = copy.deepcopy(network)
    objective = ad.SelfDistillation(network)
    for step in range(12):
        x = torch.randn(4, 8, generator=torch.Generator().manual_seed(step))
        seed(step, network)
        if form == "call":
            objective(x, Y).total.backward()
        else:
            objective.backward(x, Y)
        drawn = torch.rand(3), random.random(), np.random.rand()  # noqa: NPY002
        seed(step, plain)
        one_by_one(plain, x)
        compare(network, plain)
        assert torch.equal(drawn[0], torch.rand(3))
        assert drawn[1:] == (random.random(), np.random.rand())  # noqa: NPY002


@pytest.mark.parametrize("form", ["call", "backward"])
@pytest.mark.parametrize(
    ("script", "counts"),
    [
        ([[0, 1], [1, 2], [2, 0], [0, 1]], [[2, 0], [0, 1]]),  # branch, super-net from it: no, super-net, base-net
        ([[0, 1], [0, 1], [1, 2], [1, 2]], [[0, 1], [1, 2]]),  # branch, super-net, base-net from it: no, base-net
        ([[0, 1], [0, 1], [0], [0]], [[0, 1], [0]]),
        ([[0], [0], [0, 1]], [[0], [0, 1]]),  # more than what was recorded
    ],
)
def test_a_forward_of_its_own_mind_is_found_out_in_the_middle_of_a_step(form: str, script: Any, counts: Any) -> None:
    """Where no generator tells that runs differ, the second one does: nothing is lost, and nothing counts twice."""
    network = made("script")
    plain = copy.deepcopy(network)
    objective, x = ad.SelfDistillation(network), torch.randn(4, 8)
    network.model.script, plain.model.script = [*script], [*counts]
    if form == "call":
        objective(x, Y).total.backward()
    else:
        objective.backward(x, Y)
    one_by_one(plain, x)
    assert network.model.script == []
    for buffers in (dict(each.named_buffers()) for each in (network, plain)):
        for number in (0, 1):  # what both passes have in common is counted once where it is shared
            buffers[f"model.parts.{number}.1.num_batches_tracked"].zero_()
            buffers[f"model.parts.{number}.1.running_mean"].zero_()
            buffers[f"model.parts.{number}.1.running_var"].zero_()
    compare(network, plain)


class Appending(nn.Module):
    """Each block hands on what it made of its input in something that it is given, and the head reads all of it."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.stem = kind, nn.ModuleList(nn.Linear(8, 8) for _ in range(2))
        self.layers = nn.ModuleList(Noting() for _ in range(4))
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        notes: Any = {"list": [], "dict": {}, "object": Notes(), "tensor": torch.zeros_like(x)}[self.kind]
        for part in self.stem:
            x = x + write(notes, part(x))
        for layer in self.layers:
            x = layer(x, notes)
        found = {"dict": lambda: [*notes.values()], "object": lambda: notes.written, "tensor": lambda: [notes]}
        return self.head(x + torch.tanh(sum(found.get(self.kind, lambda: notes)())))


class Notes:
    def __init__(self) -> None:
        self.written: list[Tensor] = []


class Noting(Block):
    def forward(self, x: Tensor, notes: Any) -> Tensor:
        return x + write(notes, self.linear(torch.relu(self.norm(x))))


def write(notes: Any, x: Tensor) -> Tensor:
    if isinstance(notes, list):
        notes.append(x)
    elif isinstance(notes, dict):
        notes[len(notes)] = x
    elif isinstance(notes, Notes):
        notes.written.append(x)
    else:
        notes += x
    return x


def noting(kind: str) -> ad.AdaptiveNetwork:
    stages = [ad.Stage((f"layers.{n}",), (f"layers.{n + 1}",), channel_dim=-1) for n in (0, 2)]
    return ad.adapt(Appending(kind), stages, example=torch.randn(4, 8))


@pytest.mark.parametrize("form", ["call", "backward"])
@pytest.mark.parametrize("kind", ["list", "dict", "object", "tensor"])
def test_what_a_module_does_to_something_it_is_given_is_learned_from(kind: str, form: str) -> None:
    network = noting(kind).train()
    plain, x = copy.deepcopy(network), torch.randn(4, 8)
    objective = ad.SelfDistillation(network)
    for _ in range(2):
        if form == "call":
            objective(x, Y).total.backward()
        else:
            objective.backward(x, Y)
        one_by_one(plain, x)
    compare(network, plain)


@pytest.mark.parametrize("kind", ["list", "dict", "object", "tensor"])
def test_what_a_module_does_to_something_it_is_given_is_not_lost_behind_a_branch(kind: str) -> None:
    """Of the second stage's branch, the first stage's blocks are recorded: they would note nothing a second time."""
    network, x = noting(kind).eval(), torch.randn(4, 8)
    with torch.no_grad():
        for skip, output, _ in SharedForward(network).outputs(network.skips, x):
            torch.testing.assert_close(output, network(x, skip=skip), rtol=0, atol=0, msg=skip)
