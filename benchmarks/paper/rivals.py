"""What the method is compared with, written from the papers' descriptions: other ways to one network of many costs."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

import adaptive_depth as ad

Backward = Callable[[Tensor], None]
Step = Callable[[Any, Tensor, Backward], ad.StepResult]
WIDTHS = (1.0, 0.75, 0.5)  # torch 2.15 on a CPU aborts in convolutions of four channels, channels last


class Slimmable(nn.Module):
    """A network of several widths (Yu et al., *Slimmable Neural Networks*, ICLR 2019).

    A narrower network uses the first channels of each convolution of the widest one; each width has BatchNorms of its
    own.

    Arguments:
        build: the plain network of a width.
    """

    def __init__(self, build: Callable[[float], nn.Module], widths: tuple[float, ...] = WIDTHS) -> None:
        super().__init__()
        self.widths = widths
        self.nets = nn.ModuleList([build(width) for width in widths])
        self.shared = [name for name, _ in self.nets[0].named_parameters() if _is_shared(self.nets[0], name)]
        for narrow in list(self.nets)[1:]:
            for name in self.shared:
                narrow.get_parameter(name).requires_grad_(False)  # the shape alone is used

    def forward(self, x: Tensor, number: int = 0) -> Tensor:
        """The logits of one width, by its place in `widths`."""
        widest, net = self.nets[0], self.nets[number]
        if number == 0:
            return widest(x)
        cut = {
            name: widest.get_parameter(name)[tuple(slice(length) for length in net.get_parameter(name).shape)]
            for name in self.shared
        }
        return functional_call(net, cut, (x,))


def _is_shared(net: nn.Module, name: str) -> bool:
    owner = net.get_submodule(name.rpartition(".")[0])
    return isinstance(owner, nn.Conv2d | nn.Linear)


class Replayed:
    """Each batch of a loader twice, the second time `delay` batches later: the images of a schedule of passes, for a
    network alone.

    The last ones of an epoch come again in the next.
    """

    def __init__(self, batches: Any, delay: int = 16) -> None:
        self.batches, self.delay = batches, delay
        self.waiting: list[Any] = []

    @property
    def batch_size(self) -> int:
        return self.batches.batch_size

    def __len__(self) -> int:
        return 2 * len(self.batches)

    def __iter__(self) -> Iterator[Any]:
        for batch in self.batches:
            self.waiting.append(batch)
            yield batch
            yield self.waiting.pop(0) if len(self.waiting) > self.delay else batch


def slimmable_step(network: Slimmable) -> Step:
    """The widest learns from the labels, the narrower ones from it: the sandwich without its random slices."""

    def step(x: Any, y: Tensor, backward: Backward) -> ad.StepResult:
        return _distilled(
            [lambda number=number: network(x, number) for number in range(len(network.widths))], y, backward
        )

    return step


def sandwich_step(network: ad.AdaptiveNetwork, drawn: int = 2) -> Step:
    """The deepest teaches the shallowest and some random sub-networks in each step (Yu and Huang, ICCV 2019)."""
    skips = network.skips

    def step(x: Any, y: Tensor, backward: Backward) -> ad.StepResult:
        between = [skips[1 + int(i)] for i in torch.randint(len(skips) - 2, (drawn,))]
        chosen = [skips[0], skips[-1], *between]
        return _distilled([lambda skip=skip: network(x, skip=skip) for skip in chosen], y, backward)

    return step


def every_second_step(network: ad.AdaptiveNetwork) -> Step:
    """Self-distillation in every second step; the super-net alone in the others."""
    both, alone, steps = (
        ad.distil(ad.SelfDistillation(network, keep_scale=False)),
        ad.supervise(network),
        iter(range(1 << 62)),
    )

    def step(x: Any, y: Tensor, backward: Backward) -> ad.StepResult:
        if next(steps) % 2 == 0:
            return both(x, y, backward)
        # The weight that the super-net's loss has in the other steps.
        return alone(x, y, lambda loss: backward(0.5 * loss))

    return step


def _distilled(passes: list[Callable[[], Tensor]], y: Tensor, backward: Backward) -> ad.StepResult:
    """The first pass learns from the labels, the others from its output; one after the other, to save memory."""
    output = passes[0]()
    loss = F.cross_entropy(output, y)
    backward(loss / len(passes))
    for other in passes[1:]:
        backward(ad.distillation_loss(output.detach(), other()) / len(passes))
    return ad.StepResult(loss.detach(), output.detach())
