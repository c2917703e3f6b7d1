"""Features of a sub-network against those of the super-net on the same batch."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from ..errors import TrainingError


def feature_distance(student: Mapping[str, Any], teacher: Mapping[str, Any]) -> Tensor:
    """The mean over levels of the squared difference, each level in units of the variance of the teacher's features.

    So all levels count equally, whatever their scale; 0 if both agree, about 2 if they are independent.

    Arguments:
        student, teacher: outputs of modules, by path: a tensor per level in any nesting, such as
            `[batch, channels, height, width]`; no gradient flows to the teacher.

    Returns:
        A scalar, computed in float32 or better.

    Raises:
        TrainingError: no features, or features of other shapes.

    Example:
        >>> teacher = {"backbone": {"0": torch.tensor([[[-1.0, 1.0]]]), "1": torch.tensor([[[-10.0, 10.0]]])}}
        >>> student = {"backbone": {"0": torch.tensor([[[0.0, 1.0]]]), "1": torch.tensor([[[-10.0, 10.0]]])}}
        >>> feature_distance(student, teacher)  # (1 / 2) / 1 of the first level, 0 of the second
        tensor(0.2500)
    """
    learnt, taught = _levels(student), _levels(teacher)
    shapes = [[list(level.shape) for level in levels] for levels in (learnt, taught)]
    if not taught or shapes[0] != shapes[1]:
        raise TrainingError(
            f"{', '.join(teacher)} returned {shapes[0]} in the sub-network and {shapes[1]} in the super-net: expected "
            "the same levels of features, tensors [batch, ..., height, width] or [batch, tokens, channels]; if the "
            "model draws a size for each batch from its own generator, use one size, or learn='labels'"
        )
    return torch.stack([_distance(*each) for each in zip(learnt, taught, strict=True)]).mean()


def _distance(student: Tensor, teacher: Tensor) -> Tensor:
    exact = torch.promote_types(student.dtype, torch.float32)
    student, teacher = student.to(exact), teacher.detach().to(exact)
    spread = teacher.var(correction=0).clamp_min(torch.finfo(exact).eps)  # constant features have no variance
    return (student - teacher).square().mean() / spread


def _levels(seen: Mapping[str, Any]) -> Sequence[Tensor]:
    """The features in outputs of modules, without masks and scalars."""
    leaves = [leaf for output in seen.values() for leaf in tree_leaves(output)]
    return [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.is_floating_point() and leaf.ndim >= 3]
