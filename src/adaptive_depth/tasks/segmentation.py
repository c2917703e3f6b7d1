"""The class of every pixel."""

from collections.abc import Callable, Mapping, Sequence
from inspect import signature
from typing import TYPE_CHECKING, Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..batches import described, split_batch
from ..errors import DataError, TrainingError
from ..hugging_face import is_of_transformers
from ..quality import Quality
from .checks import single_number
from .classification import Classification

if TYPE_CHECKING:
    from torchmetrics import Metric


class Segmentation(Classification):
    """The class of every pixel: logits `[batch, classes, height, width]`, labels `[batch, height, width]`.

    Models of torchvision return a dict with the logits as `"out"`, and those of a second head for training as `"aux"`;
    models of transformers return an object with `logits`. Logits on a coarser grid are first resized bilinearly to the
    labels. Mask2Former, which answers by queries, computes its own loss: its batches have `mask_labels` and
    `class_labels`, as from its image processor, or labels as above.

    Arguments:
        criterion, temperature: as for `Classification`.
        ignore_index: the label of pixels that belong to no class; left out of the loss, distillation and mIoU.
        aux_weight: of the loss of torchvision's second head, if a model has one.

    Raises:
        TrainingError: a negative weight, or a criterion that ignores another label.

    Example:
        >>> task = Segmentation(ignore_index=255)
        >>> task.loss(torch.zeros(1, 2, 1, 2), torch.tensor([[[0, 255]]]))
        tensor(0.6931)
        >>> task.loss({"out": torch.zeros(1, 2, 1, 2), "aux": torch.zeros(1, 2, 1, 2)}, torch.tensor([[[0, 255]]]))
        tensor(1.0397)
    """

    quality = Quality("mIoU", "%")
    learns_from = ("the class of every pixel", "masks")

    def __init__(
        self,
        criterion: Callable[[Any, Any], Tensor] | None = None,
        *,
        ignore_index: int = 255,
        temperature: float = 1.0,
        aux_weight: float = 0.5,
    ) -> None:
        self.own_criterion = criterion is not None
        criterion = nn.CrossEntropyLoss(ignore_index=ignore_index) if criterion is None else criterion
        super().__init__(criterion, temperature=temperature)
        if getattr(criterion, "ignore_index", ignore_index) != ignore_index:
            raise TrainingError(
                f"the criterion ignores {getattr(criterion, 'ignore_index', None)} and the task {ignore_index}: use "
                "the same ignore_index for both"
            )
        if not aux_weight >= 0:
            raise TrainingError(f"aux_weight={aux_weight!r}: expected a number of 0 or more")
        self.ignore_index, self.aux_weight = ignore_index, aux_weight

    def of(self, model: nn.Module) -> Self:
        return MaskQueries.like(self, model) if answers_by_queries(model) else self  # type: ignore[return-value]

    def inputs(self, batch: Any) -> tuple[Any, Any]:
        if isinstance(batch, tuple | list) and len(batch) == 2:
            batch = _stacked("images", batch[0], 3), _stacked("labels", batch[1], 2)
        x, y = split_batch(batch, None)
        if y is None:
            return super().inputs(batch)  # raises the error
        if isinstance(y, Tensor) and y.ndim == 4 and y.shape[1] == 1:  # masks as images of one channel
            y = y.squeeze(1)
        images = x.get("pixel_values") if isinstance(x, Mapping) else x
        if isinstance(images, Tensor) and isinstance(y, Tensor) and images.ndim == 4 and y.ndim == 3:
            height, width = images.shape[2:]
            if height != width and y.shape[1:] == (width, height):
                raise DataError(
                    f"the loader yielded labels of {list(y.shape[1:])} pixels for images of {[height, width]}: "
                    "expected the same height and width; exchange the axes, y.transpose(1, 2)"
                )
            if abs(y.shape[1] * width - y.shape[2] * height) > max(height, width, *y.shape[1:]):  # beyond rounding
                raise DataError(
                    f"the loader yielded labels of {list(y.shape[1:])} pixels for images of {[height, width]}: "
                    "expected the same height and width, or both larger or smaller by one factor"
                )
        return x, y

    # -- losses and mIoU ----------------------------------------------------------------------------------------

    def output(self, output: Any) -> Any:
        """The logits; a dict with those of both heads if torchvision's second one has run."""
        if isinstance(output, Mapping) and "out" in output:
            aux = output.get("aux")
            return {"out": output["out"], "aux": aux} if isinstance(aux, Tensor) else output["out"]
        return super().output(output)

    def loss(self, output: Any, target: Any) -> Tensor:
        loss = super().loss(self._sized(output, target), target)
        found = self.output(output)
        if isinstance(found, Mapping) and self.aux_weight:
            loss = loss + self.aux_weight * super().loss(self._sized(found["aux"], target), target)
        return loss

    def distil(self, student: Any, teacher: Any, target: Any = None) -> Tensor:
        return super().distil(self._sized(student, target), self._sized(teacher, target), target)

    def metric(self, output: Any) -> "Metric":
        from torchmetrics.classification import MulticlassJaccardIndex

        classes = self.classes_of(output)
        return MulticlassJaccardIndex(classes, average="macro", ignore_index=self.ignore_index, validate_args=False)

    def measure(self, metric: "Metric", output: Any, target: Any) -> None:
        super().measure(metric, self._sized(output, target), target)

    def compared(self, output: Any, target: Any) -> tuple[Tensor, Tensor]:
        return super().compared(self._sized(output, target), target)

    def hits(self, output: Any, target: Any) -> tuple[Tensor, Tensor] | None:
        return super().hits(self._sized(output, target), target)

    def check(self, output: Any, target: Any, /) -> None:
        logits = self._logits(output)
        size = self._size(logits, target)
        super().check(logits[..., :1, :1].expand(*logits.shape[:2], *size), target)  # only the shape matters

    def _logits(self, output: Any) -> Tensor:
        found = self.output(output)
        return super()._logits(found["out"] if isinstance(found, Mapping) and "out" in found else found)

    def _sized(self, output: Any, target: Any) -> Tensor:
        logits = self._logits(output)
        size = self._size(logits, target)
        if size == logits.shape[2:]:
            return logits
        return F.interpolate(logits, size, mode="bilinear", align_corners=False)

    def _size(self, logits: Tensor, target: Any) -> torch.Size:
        """The size of the labels, or of the logits if there are no maps of labels."""
        if logits.ndim != 4:
            raise TrainingError(
                f"the network returned {list(logits.shape)}: segmentation expects logits [batch, classes, height, "
                "width]"
            )
        size = target.shape[1:] if isinstance(target, Tensor) and target.ndim == 3 else logits.shape[2:]
        if size[0] < logits.shape[2] or size[1] < logits.shape[3]:
            raise TrainingError(
                f"labels of {list(size)} pixels for logits of {list(logits.shape[2:])}: expected as many, or more "
                "(then the logits are enlarged); resize the labels by nearest neighbour"
            )
        return size


def _stacked(what: str, value: Any, ndim: int) -> Any:
    """A list with a tensor for each image as one tensor; anything else unchanged."""
    if not (isinstance(value, tuple | list) and value and all(isinstance(each, Tensor) for each in value)):
        return value
    if any(each.ndim != ndim for each in value):
        return value
    if len({each.shape for each in value}) > 1:
        sizes = ", ".join(str(list(each.shape)) for each in value)
        raise DataError(
            f"the loader yielded {what} of mixed sizes, {sizes}: expected one size per batch; resize or crop images "
            "and labels alike, or use batches of one"
        )
    return torch.stack([*value])


# -- by queries -------------------------------------------------------------------------------------------------

_TARGETS = ("mask_labels", "class_labels")
_QUERIES = ("class_queries_logits", "masks_queries_logits")


def answers_by_queries(model: nn.Module) -> bool:
    """Is it a model of transformers whose queries predict masks and their classes?"""
    return is_of_transformers(model) and {*_TARGETS} <= {*signature(model.forward).parameters}


class MaskQueries(Segmentation):
    """Segmentation by a model that computes its own loss of masks; `Segmentation` turns into it for such a model.

    Its mIoU is that of the semantic map: at each pixel the class with the largest sum over queries of class probability
    times mask probability. In Algorithm 1 a sub-network learns that map from the super-net, each pixel's sums
    normalised.
    """

    @classmethod
    def like(cls, task: Segmentation, model: nn.Module) -> Self:
        """The same for a model that answers by queries.

        Raises:
            TrainingError: a custom criterion, which would not be used.
        """
        if task.own_criterion:
            raise TrainingError(
                f"Segmentation received a criterion, but a {type(model).__name__} computes its own loss: leave it out; "
                "its weights are in the model's config"
            )
        return cls(ignore_index=task.ignore_index, temperature=task.temperature)._judged_as(task)

    def of(self, model: nn.Module) -> Self:  # noqa: ARG002 - it is for such models already
        return self

    # -- batches ------------------------------------------------------------------------------------------------

    def inputs(self, batch: Any) -> tuple[Any, Any]:
        """The input including masks and their classes, and the label of every pixel."""
        if isinstance(batch, Mapping) and "mask_labels" in batch:
            x = {str(name): value for name, value in batch.items()}
            masks, classes = (x.get(name) for name in _TARGETS)
            if not (isinstance(masks, Sequence) and isinstance(classes, Sequence) and len(masks) == len(classes)):
                raise DataError(
                    f"the loader yielded {described(batch)}: expected 'mask_labels' and 'class_labels', lists with "
                    "tensors [n, height, width] and [n] for each image, as the model's image processor makes them "
                    "from segmentation_maps"
                )
            return x, self._maps(masks, classes)
        x, y = super().inputs(batch)
        given = dict(x) if isinstance(x, Mapping) else {"pixel_values": x}
        if not (isinstance(y, Tensor) and y.ndim == 3):
            raise DataError(f"the loader yielded labels as {described(y)}: expected [batch, height, width]")
        classes = [labels.unique() for labels in y.long()]
        classes = [each[each != self.ignore_index] for each in classes]
        masks = [(labels == each[:, None, None]).float() for labels, each in zip(y, classes, strict=True)]
        return given | {"mask_labels": masks, "class_labels": classes}, y.long()

    def _maps(self, masks: Sequence[Tensor], classes: Sequence[Tensor]) -> Tensor:
        """The label of every pixel; in overlapping masks, the last one's."""
        if len({each.shape[1:] for each in masks}) > 1:
            sizes = ", ".join(str(list(each.shape)) for each in masks)
            raise DataError(f"the loader yielded masks of mixed sizes, {sizes}: expected one size per batch, padded")
        maps = []
        for number, (inside, labels) in enumerate(zip(masks, classes, strict=True)):
            if len(inside) != len(labels):
                raise DataError(
                    f"image {number} of the batch has {len(inside)} masks and {len(labels)} class labels: expected one "
                    "for each mask"
                )
            found = torch.full(inside.shape[1:], self.ignore_index, dtype=torch.long, device=inside.device)
            for mask, label in zip(inside, labels, strict=True):
                found[mask > 0.5] = label.long()
            maps.append(found)
        return torch.stack(maps)

    def unlabelled(self, x: Any) -> Any:
        return {name: value for name, value in x.items() if name not in _TARGETS} if isinstance(x, Mapping) else x

    # -- losses and mIoU ----------------------------------------------------------------------------------------

    def output(self, output: Any) -> Any:
        """The queries, and the loss if the model computed it."""
        get = output.get if isinstance(output, Mapping) else lambda name: getattr(output, name, None)
        found = {name: get(name) for name in (*_QUERIES, "loss")}
        if not all(isinstance(found[name], Tensor) for name in _QUERIES):
            raise TrainingError(f"the network returned {described(output)}: expected {' and '.join(_QUERIES)}")
        return {name: value for name, value in found.items() if value is not None}

    def loss(self, output: Any, target: Any) -> Tensor:  # noqa: ARG002 - the model has seen it
        found = self.output(output)
        if "loss" not in found:
            raise TrainingError("the model returned no loss: expected a batch with labels, see Segmentation")
        return single_number("the model's loss", found["loss"])

    def distil(self, student: Any, teacher: Any, target: Any = None) -> Tensor:  # noqa: ARG002 - of all pixels
        return Classification.distil(self, self._scores(student), self._scores(teacher).detach())

    def hits(self, output: Any, target: Any) -> None:  # noqa: ARG002 - computing the map in every step takes too long
        return None

    # One of the logits is for "no object".
    def classes_of(self, output: Any) -> int:
        return self.output(output)["class_queries_logits"].shape[-1] - 1

    def check(self, output: Any, target: Any, /) -> None:
        masks, size = self.output(output)["masks_queries_logits"], self._size_of(output, target)
        same = masks.new_zeros(()).expand(len(masks), self.classes_of(output), *size)  # only the shape matters
        Classification.check(self, same, target)

    def _logits(self, output: Any) -> Tensor:
        # Inherited methods also call this with logits that are computed already.
        return output if isinstance(output, Tensor) else self._scores(output)

    def _sized(self, output: Any, target: Any) -> Tensor:
        return output if isinstance(output, Tensor) else self._scores(output, self._size_of(output, target))

    def _size_of(self, output: Any, target: Any) -> torch.Size:
        own = self.output(output)["masks_queries_logits"].shape[2:]
        return target.shape[1:] if isinstance(target, Tensor) and target.ndim == 3 else own

    def _scores(self, output: Any, size: torch.Size | None = None) -> Tensor:
        """Logarithms of each pixel's sum for each class, `[batch, classes, height, width]`."""
        found = self.output(output)
        kinds, masks = found["class_queries_logits"].float(), found["masks_queries_logits"].float()
        if size is not None and size != masks.shape[2:]:
            masks = F.interpolate(masks, size, mode="bilinear", align_corners=False)
        return semantic_map(kinds, masks)


def semantic_map(kinds: Tensor, masks: Tensor) -> Tensor:
    """Logarithms of each position's sums over queries of class probability times mask probability.

    Arguments:
        kinds: logits `[batch, queries, classes + 1]`, the last one for "no object".
        masks: logits `[batch, queries, height, width]`.

    Returns:
        `[batch, classes, height, width]`.
    """
    sums = torch.einsum("bqc,bqhw->bchw", kinds.softmax(-1)[..., :-1], masks.sigmoid())
    return sums.clamp_min(torch.finfo(sums.dtype).tiny).log()


# -- what a model is for ----------------------------------------------------------------------------------------


def segments(model: nn.Module) -> bool:
    """Is it certainly a semantic segmentation model of torchvision, transformers or segmentation_models_pytorch?

    Example:
        >>> import torchvision
        >>> segments(torchvision.models.segmentation.lraspp_mobilenet_v3_large(weights=None, weights_backbone=None))
        True
        >>> segments(torchvision.models.resnet18())
        False
    """
    origins = [(kind.__module__, kind.__name__) for kind in type(model).__mro__]
    if any(module.startswith("torchvision.models.segmentation.") for module, _ in origins):
        return True
    if ("segmentation_models_pytorch.base.model", "SegmentationModel") in origins:
        return getattr(model, "classification_head", None) is None
    if not is_of_transformers(model):
        return False
    from transformers.models.auto import modeling_auto as auto

    known = {
        *auto.MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES.values(),
        "Mask2FormerForUniversalSegmentation",
    }
    return any(name in known and module.startswith("transformers.") for module, name in origins)
