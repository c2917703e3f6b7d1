"""Boxes: a detector of torchvision or transformers with its own losses, judged by mAP."""

import re
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from copy import copy
from typing import TYPE_CHECKING, Any, Literal, Self

import torch
from torch import Tensor, nn

from ..batches import described
from ..errors import MeasurementError, TrainingError
from ..quality import Quality
from .boxes import as_padded, images_in, padded, pairs
from .checks import single_number
from .detectors import Detector, detector_of, losses_in_eval, predictions_of
from .features import feature_distance
from .task import Task, Watched

if TYPE_CHECKING:
    from torchmetrics import Metric


class Detection(Task):
    """Boxes, or boxes and masks, by a detector's own losses.

    A batch is (images, targets) as torchvision's detectors take them: a list of tensors `[3, height, width]`, or one
    with all images, and a list of dicts with `boxes` `[n, 4]`, corners x1, y1, x2, y2 in pixels, `labels` `[n]`, and
    `masks` `[n, height, width]` if the model learns them. Or it is a dict as from image processors of transformers:
    `pixel_values`, `labels`, a list of dicts with `boxes` (centre, width and height, from 0 to 1) and `class_labels`,
    and `pixel_mask`. A detector of transformers accepts both. An image without objects has no boxes, `[0, 4]`.

    The loss is the sum of torchvision's losses, or the `loss` of a model of transformers. `learn` determines what
    sub-networks learn: the same, or to reproduce the features of the super-net on the same batch, or both.

    Arguments:
        learn: what sub-networks learn: `"labels"`, `"features"`, or `"both"`, the loss plus the weighted features.
            With features alone the heads never learn to use those of sub-networks (`docs/detection.md`).
        feature_weight: of `"features"` and `"both"`, see `feature_distance`.
        features: the path of the module, or of several, whose output is compared; by default the detector's
            `backbone`, including torchvision's neck (FPN).
        weights: of torchvision's losses, by name; 1 if not named.
        iou: judge by the mean average precision at this overlap, such as 0.5; by default at 0.5, 0.55, ..., 0.95, as
            COCO does.
        masks: judge the masks of a Mask R-CNN instead of boxes.

    Raises:
        TrainingError: other values, or negative weights.

    Example:
        >>> task = Detection(iou=0.5, weights={"loss_rpn_box_reg": 2.0})
        >>> task.loss({"loss_rpn_box_reg": torch.tensor(0.5), "loss_classifier": torch.tensor(0.25)}, None)
        tensor(1.2500)
        >>> str(task.quality), str(Detection().quality)
        ('mAP@50 (%)', 'mAP@[.5:.95] (%)')
    """

    learns_from = ("boxes", "boxes")

    def __init__(
        self,
        *,
        learn: Literal["labels", "features", "both"] = "labels",
        feature_weight: float = 1.0,
        features: str | Sequence[str] | None = None,
        weights: Mapping[str, float] | None = None,
        iou: float | None = None,
        masks: bool = False,
    ) -> None:
        if learn not in ("labels", "features", "both"):
            raise TrainingError(f"learn={learn!r}: expected 'labels', 'features' or 'both'")
        if not feature_weight > 0:
            raise TrainingError(f"feature_weight={feature_weight!r}: expected a number above 0, or learn='labels'")
        if iou is not None and not 0 < iou < 1:
            raise TrainingError(f"iou={iou!r}: expected an overlap between 0 and 1, such as 0.5, or None for COCO's")
        self.weights = dict(weights or {})
        for name, weight in self.weights.items():
            if not weight >= 0:
                raise TrainingError(f"weight {weight!r} of {name!r}: expected a number of 0 or more")
        named = (features,) if isinstance(features, str) else tuple(features or ())
        if named and learn == "labels":
            raise TrainingError("features= are compared with learn='features' or 'both', but learn is 'labels'")
        self.learn, self.feature_weight, self.iou, self.masks = learn, feature_weight, iou, masks
        self.detector: Detector | None = None
        self.watch = named
        overlap = "[.5:.95]" if iou is None else f"{100 * iou:g}"
        self.quality = Quality(f"{'mask ' * masks}mAP@{overlap}", "%")

    def of(self, model: nn.Module) -> Self:
        """The task with facts from the model's class: how classes are numbered, its interface, where its features are.

        Raises:
            TrainingError: features are to be learned, but the model's backbone is unknown.
        """
        task = copy(self)._judged_as(self)
        task.detector = found = detector_of(model)
        if self.learn == "labels":
            return task
        if not self.watch:
            if found is None or found.backbone is None:
                raise TrainingError(
                    f"learn={self.learn!r} compares the features of a detector's backbone, but that of a "
                    f"{type(model).__name__} is unknown: name the module, Detection(learn={self.learn!r}, "
                    "features='neck')"
                )
            task.watch = (found.backbone,)
        parts = {path for path, _ in model.named_modules()}
        for path in task.watch:
            if path not in parts:
                raise TrainingError(f"features={path!r} is not a module of the {type(model).__name__}: expected a path")
        return task

    # -- batches ------------------------------------------------------------------------------------------------

    def inputs(self, batch: Any) -> tuple[Any, Any]:
        """Images and targets, checked: as positional arguments for torchvision, as a dict with labels for transformers.

        Raises:
            DataError: no targets, or targets from which nothing could be learned: boxes outside the image or without
                area, classes that the model does not have, masks of another size.
        """
        theirs = None if self.detector is None else self.detector.library
        if isinstance(batch, Mapping) and theirs != "torchvision":
            return padded(batch, self.detector)
        images, targets = pairs(batch, self.detector)
        if self.detector is not None and theirs == "transformers" and images:
            x = as_padded(images, targets, self.detector)
            return x, x["labels"]
        return (images, targets), targets

    def unlabelled(self, x: Any) -> Any:
        if isinstance(x, Mapping):
            return {name: value for name, value in x.items() if name != "labels"}
        return x[:1] if isinstance(x, tuple) else x

    def images(self, batch: Any) -> Any:
        """The input of a batch with or without targets, for a network in eval mode."""
        if isinstance(batch, Mapping):
            return self.unlabelled(dict(batch))
        images = images_in(batch)
        if self.detector is not None and self.detector.library == "transformers":
            nothing = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.long)}
            return self.unlabelled(as_padded(images, [nothing] * len(images), self.detector))
        return (images,)

    # -- losses -------------------------------------------------------------------------------------------------

    def output(self, output: Any) -> Any:
        """For transformers, what losses and predictions need; for torchvision, losses by name or predictions."""
        logits, boxes = (_part(output, name) for name in ("logits", "pred_boxes"))
        if isinstance(logits, Tensor) and isinstance(boxes, Tensor):
            found = {"logits": logits, "pred_boxes": boxes}
            told = {name: _part(output, name) for name in ("loss", "loss_dict")}
            return found | {name: value for name, value in told.items() if value is not None}
        if isinstance(output, list) and not self.masks:
            return [{name: value for name, value in each.items() if name in _JUDGED} for each in output]
        return output

    def loss(self, output: Any, target: Any) -> Tensor:
        if isinstance(output, Mapping) and "pred_boxes" in output:
            if self.weights:
                raise TrainingError(
                    f"weights={self.weights} apply to torchvision's losses: a model of transformers has its own in its "
                    "config, such as config.bbox_loss_coefficient"
                )
            if "loss" not in output:
                raise TrainingError("the detector returned no loss: expected a batch with 'labels', see Detection")
            return single_number("the detector's loss", output["loss"])
        parts = self.parts(output, target)
        if not parts:
            fix = "expected a detector of torchvision or transformers, or a dict of losses in training mode"
            if isinstance(output, list):
                fix = "a detector of torchvision returns losses in training mode only; call network.train()"
            raise TrainingError(f"the network returned {described(output)}, which holds no losses: {fix}")
        unknown = [name for name in self.weights if name not in parts]
        if unknown:
            raise TrainingError(f"weights has {unknown[0]!r}: expected some of {', '.join(parts)}")
        return torch.stack([self.weights.get(name, 1.0) * part for name, part in parts.items()]).sum()

    def parts(self, output: Any, target: Any) -> dict[str, Tensor]:  # noqa: ARG002 - the output contains them
        if not isinstance(output, Mapping):
            return {}
        told = output.get("loss_dict", {}) if "pred_boxes" in output else output
        losses = {str(name): part for name, part in told.items() if isinstance(part, Tensor) and not part.ndim}
        return {name: part for name, part in losses.items() if not _OF_A_LAYER.search(name)}

    def distil(self, student: Any, teacher: Any, target: Any = None) -> Tensor:
        """A sub-network's whole loss, as `learn` says; with labels, nothing comes from the super-net."""
        if self.learn == "labels":
            return self.loss(student.output if isinstance(student, Watched) else student, target)
        if not (isinstance(student, Watched) and isinstance(teacher, Watched)):
            raise TrainingError(
                f"learn={self.learn!r} compares features, but received only outputs: train with Passes or "
                "SelfDistillation, which record them"
            )
        features = self.feature_weight * feature_distance(student.seen, teacher.seen)
        if torch.is_grad_enabled() and not features.requires_grad:
            raise TrainingError(
                f"learn={self.learn!r} compares what {', '.join(self.watch)} returns, but all of its parameters "
                "are frozen: call parameter.requires_grad_(), or use learn='labels'"
            )
        return features if self.learn == "features" else features + self.loss(student.output, target)

    def with_losses(self, *modules: nn.Module) -> AbstractContextManager[None]:
        theirs = None if self.detector is None else self.detector.library
        return losses_in_eval(*modules) if theirs == "torchvision" else nullcontext()

    # -- quality ------------------------------------------------------------------------------------------------

    def check(self, output: Any, target: Any, /) -> None:
        if isinstance(output, Mapping) and "pred_boxes" not in output:  # losses: the model has compared them itself
            return
        number = len(output["logits"]) if isinstance(output, Mapping) else len(output)
        if not isinstance(target, Sequence) or number != len(target):
            received = f"{len(target)} targets" if isinstance(target, Sequence) else f"a {type(target).__name__}"
            raise TrainingError(
                f"the detector returned predictions for {number} images and {received}: expected one for each"
            )

    def metric(self, output: Any) -> "Metric":  # noqa: ARG002 - of any number of classes
        from .mean_precision import mean_average_precision

        return mean_average_precision(self.iou, masks=self.masks)

    def compared(self, output: Any, target: Any) -> tuple[list[dict[str, Tensor]], list[dict[str, Tensor]]]:
        """The predictions and the target of each image: `boxes`, corners in pixels, `labels`, `scores`, `masks`."""
        if isinstance(output, list):
            names = (*_JUDGED, "masks") if self.masks else _JUDGED
            predictions = [{name: value for name, value in each.items() if name in names} for each in output]
            if self.masks:
                predictions = [each | {"masks": _certain(each)} for each in predictions]
            return predictions, [_compared(each, self.masks) for each in target]
        if not (isinstance(output, Mapping) and "pred_boxes" in output) or self.detector is None:
            raise TrainingError(
                f"the network returned {described(output)}: expected a list with a dict of 'boxes', 'scores' and "
                "'labels' for each image, or what a detector of transformers returns"
            )
        boxes, sizes = output["pred_boxes"].float(), _sizes(target, output["pred_boxes"])
        found = predictions_of(self.detector.config, output["logits"].float(), boxes, sizes)
        # (height, width) as (x, y, x, y).
        frames = sizes[:, [1, 0, 1, 0]]
        targets = [
            _compared({**each, "boxes": _corners(each["boxes"]) * frame, "labels": each["class_labels"]}, False)
            for each, frame in zip(target, frames, strict=True)
        ]
        return found, targets

    def value(self, metric: "Metric") -> float:
        share = float(metric.compute()["map"])
        if share < 0:  # torchmetrics' sign of that
            raise MeasurementError(
                f"no image of this evaluation has a box, so there is no {self.quality.name}: expected targets with some"
            )
        return 100 * share


_JUDGED = ("boxes", "scores", "labels")
_OF_A_LAYER = re.compile(r"_(aux|dn|enc)(_|$)|_\d+$")  # in transformers: repeated for each decoder layer


def _part(output: Any, name: str) -> Any:
    return output.get(name) if isinstance(output, Mapping) else getattr(output, name, None)


def _corners(boxes: Tensor) -> Tensor:
    centre, size = boxes[:, :2], boxes[:, 2:]
    return torch.cat([centre - size / 2, centre + size / 2], dim=1)


def _certain(prediction: Mapping[str, Tensor]) -> Tensor:
    """Mask R-CNN's masks of probabilities `[n, 1, height, width]` as booleans `[n, height, width]`."""
    masks = prediction["masks"]
    return (masks.squeeze(1) if masks.ndim == 4 else masks) > 0.5


def _compared(target: Mapping[str, Any], masks: bool) -> dict[str, Tensor]:
    found = {name: target[name] for name in ("boxes", "labels")}
    if masks:
        if "masks" not in target:
            raise TrainingError("Detection(masks=True) judges masks, but a target has none: expected 'masks' [n, h, w]")
        found["masks"] = target["masks"].bool()
    # By COCO's rules, no prediction inside a crowd counts as wrong.
    if isinstance(target.get("iscrowd"), Tensor):
        found["iscrowd"] = target["iscrowd"].long()
    return found


def _sizes(targets: Sequence[Mapping[str, Any]], like: Tensor) -> Tensor:
    """Height and width of each image: original, else as the model saw it; 1 if unknown.

    The choice does not change how boxes overlap, because predictions and targets have the same unit.
    """
    known = [
        next((t[name] for name in ("orig_size", "size") if isinstance(t.get(name), Tensor)), None) for t in targets
    ]
    sizes = [torch.ones(2) if size is None else size.reshape(2) for size in known]
    return torch.stack([size.to(like.device, like.dtype) for size in sizes])
