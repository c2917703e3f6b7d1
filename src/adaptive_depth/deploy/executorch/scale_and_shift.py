"""Sub-networks whose differing BatchNorms stay separate from convolutions, so that exports store those once."""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from ...core.network import AdaptiveNetwork
from ...core.views import build_view
from ...plan.norms import has_statistics

BatchNorm = nn.modules.batchnorm._BatchNorm


class ScaleAndShift(nn.Module):
    """What a BatchNorm does in eval mode, `x * scale + shift` by channel, in a form that no exporter folds.

    For images it is a depthwise 1x1 convolution: one pass over memory in runtimes with such a kernel (XNNPACK), where a
    multiplication and an addition take two.

    Arguments:
        norm: a BatchNorm with running statistics. If it has a `drop` and an `act`, like timm's, they follow.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, norm: BatchNorm) -> None:
        super().__init__()
        scale, shift = scale_and_shift(norm)
        self.channels = len(scale)
        self.register_buffer("scale", scale[:, None, None, None])
        self.register_buffer("shift", shift)
        self.then = nn.Sequential(*(getattr(norm, name) for name in ("drop", "act") if hasattr(norm, name)))

    def forward(self, x: Tensor) -> Tensor:
        """The normalised input, of the same shape: `[batch, channels, height, width]` or with other positions."""
        if x.ndim == 4:
            return self.then(nn.functional.conv2d(x, self.scale, self.shift, groups=self.channels))
        shape = (-1,) + (1,) * (x.ndim - 2)
        return self.then(x * self.scale.reshape(shape) + self.shift.reshape(shape))


def scale_and_shift(norm: BatchNorm) -> tuple[Tensor, Tensor]:
    """The factor and the offset of a BatchNorm in eval mode, per channel; computed in float64."""
    mean, variance = norm.running_mean, norm.running_var
    assert mean is not None
    assert variance is not None
    scale = (variance.detach().double() + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight.detach().double()
    shift = -mean.detach().double() * scale
    if norm.bias is not None:
        shift = shift + norm.bias.detach().double()
    return scale.to(mean.dtype), shift.to(mean.dtype)


def unfolded(network: AdaptiveNetwork, skips: Iterable[str]) -> dict[str, nn.Module]:
    """Sub-networks in which every BatchNorm that differs between these depths is a `ScaleAndShift`.

    Exporters fold a BatchNorm into its convolution, so two norms turn one weight into two. Those that are equal at all
    depths (a stem's, say) may be folded. A norm of a custom class that computes more than a `ScaleAndShift` stays as it
    is: folded, larger and correct.

    Arguments:
        network: in eval mode; it is not changed.
        skips: the depths.

    Returns:
        By skip, a module that shares all weights with the network.

    Example:
        >>> import adaptive_depth as ad
        >>> network = ad.adapt(ad.create_model("resnet18")).eval()
        >>> network.skip_norms.get_submodule("layer1.0.bn1").weight.data.mul_(2)[:2]
        tensor([2., 2.])
        >>> unfolded(network, ["FFFF", "TTTT"])["TTTT"].layer1[0].bn1
        ScaleAndShift(
          (then): Sequential()
        )
    """
    depths = {skip: dict(_norms(network.view(skip).module)) for skip in skips}
    differing = {path for norms in depths.values() for path in norms if _differs(path, list(depths.values()))}
    made: dict[tuple[int, ...], nn.Module] = {}  # one for each norm, however many depths use it
    modules = {}
    for skip, norms in depths.items():
        changes = {}
        for path in norms.keys() & differing:
            norm = norms[path]
            key = tuple(id(tensor) for tensor in (*norm.parameters(), *norm.buffers()))
            if key not in made:
                made[key] = _replacement(norm)
            changes[path] = made[key]
        modules[skip] = build_view(network.view(skip).module, changes).module
    return modules


def _norms(module: nn.Module) -> Iterator[tuple[str, BatchNorm]]:
    for path, part in module.named_modules(remove_duplicate=False):  # a shared norm is replaced everywhere
        if isinstance(part, BatchNorm) and has_statistics(part):
            yield path, part


def _differs(path: str, depths: list[dict[str, BatchNorm]]) -> bool:
    first, *others = [scale_and_shift(norms[path]) for norms in depths if path in norms]
    return any(not torch.equal(a, b) for other in others for a, b in zip(first, other, strict=True))


def _replacement(norm: BatchNorm) -> nn.Module:
    replaced = ScaleAndShift(norm).eval()
    if type(norm) in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d):
        return replaced
    probe = torch.randn(2, norm.num_features, 2, 2, generator=torch.Generator().manual_seed(0)).to(replaced.scale)
    try:
        with torch.no_grad():
            same = torch.allclose(norm(probe), replaced(probe), rtol=1e-4, atol=1e-5)
    except (RuntimeError, ValueError, TypeError):  # it needs more than an image
        return norm
    return replaced if same else norm
