"""Running statistics of norms compared with what the norms actually see."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import MeasurementError
from ..plan.norms import has_statistics
from .values import NormAnalysis


class NormObserver:
    """Accumulates mean and variance, per channel, of everything that a BatchNorm sees.

    Arguments:
        norm: with running statistics; sums are centred on them.
    """

    def __init__(self, norm: Any) -> None:
        self.eps: float = getattr(norm, "eps", 0.0)
        self.mean, self.variance = _exact(norm.running_mean), _exact(norm.running_var)
        counted = getattr(norm, "num_batches_tracked", None)
        fresh = counted is not None and int(counted) == 0  # old files have statistics but no count
        self.initial = bool(fresh and not self.mean.any() and (self.variance == 1).all())
        self.count, self.offset, self.square = 0, torch.zeros_like(self.mean), torch.zeros_like(self.mean)

    def __call__(self, forward: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        x: Tensor = args[0] if args else next(iter(kwargs.values()))
        channels = x.detach().transpose(0, 1).reshape(x.shape[1], -1)
        variance, mean = torch.var_mean(channels.to(torch.promote_types(x.dtype, torch.float32)), 1, correction=0)
        # Centred, because the difference of two large squares would have no digits left.
        offset = _exact(mean) - self.mean
        self.count += channels.shape[1]
        self.offset += channels.shape[1] * offset
        self.square += channels.shape[1] * (_exact(variance) + offset**2)
        return forward(*args, **kwargs)

    @property
    def shift(self) -> float:
        """Mean over channels of |mean seen - running mean|, in the standard deviations that the norm uses."""
        return float(((self.offset / self.count).abs() / (self.variance + self.eps).sqrt()).mean())

    @property
    def scale(self) -> float:
        """Mean over channels of |ln(variance seen / running variance)|, each with the norm's ε."""
        seen = self.square / self.count - (self.offset / self.count) ** 2
        least = self.eps or torch.finfo(seen.dtype).tiny  # without ε, a constant channel would be infinite
        return float(((seen.clamp(min=0) + least) / (self.variance + least)).log().abs().mean())

    @property
    def dead(self) -> int:
        """Channels with a running variance below ε."""
        return int((self.variance < self.eps).sum())


def norm_observers(subnet: nn.Module, skip: str) -> dict[str, NormObserver]:
    """An observer for each norm of a sub-network that has running statistics, by path.

    Raises:
        MeasurementError: statistics that are not finite.
    """
    gathering = {path: part for path, part in subnet.named_modules() if has_statistics(part)}
    pairs = {path: part for path, part in gathering.items() if {"running_mean", "running_var"} <= part._buffers.keys()}
    found = {path: NormObserver(part) for path, part in pairs.items()}
    for path, norm in found.items():
        if not (norm.mean.isfinite() & norm.variance.isfinite()).all():
            raise MeasurementError(
                f"norm {path!r} of sub-network {skip} has non-finite running statistics: calibrate the network on "
                "training batches, and look for non-finite inputs or a training that diverged"
            )
    return found


def summarise(observers: Mapping[str, Mapping[str, NormObserver]], homes: Mapping[str, int]) -> Iterator[NormAnalysis]:
    """One row for each sub-network and each stage where it differs: the worst norm, and counts of all.

    Arguments:
        observers: by skip and path.
        homes: the stage whose flag a norm follows, by path; norms without one are counted as stage 0.
    """
    first = True
    for skip, norms in observers.items():
        # Up to its first skipped stage, a sub-network repeats the super-net, which comes first.
        start = 0 if first else skip.index("T") + 1
        for stage in range(start, len(skip) + 1):
            rows = {path: norm for path, norm in norms.items() if homes.get(path, 0) == stage and norm.count}
            if rows:
                worst = max(rows, key=lambda path: max(rows[path].shift, rows[path].scale))
                yield NormAnalysis(
                    skip,
                    stage,
                    worst,
                    rows[worst].shift,
                    rows[worst].scale,
                    norms=len(rows),
                    channels=sum(len(norm.mean) for norm in rows.values()),
                    initial=sum(norm.initial for norm in rows.values()),
                    dead=sum(norm.dead for norm in rows.values()),
                )
        first = False


def _exact(tensor: Tensor) -> Tensor:
    """On the CPU, in float64: so sums over batches do not depend on the batch size."""
    return tensor.detach().cpu().double()
