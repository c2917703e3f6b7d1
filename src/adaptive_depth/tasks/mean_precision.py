"""Mean average precision of boxes and masks, as COCO's own code computes it."""

from typing import Any

import torch.distributed as dist
from torchmetrics import Metric
from torchmetrics.detection import MeanAveragePrecision

from ..errors import MeasurementError
from ..packages import hint


class _MeanAveragePrecision(MeanAveragePrecision):
    """Allows processes with different numbers of images, where torchmetrics would wait for ever."""

    def _sync_dist(self, dist_sync_fn: Any = None, process_group: Any = None) -> None:  # noqa: ARG002 - torchmetrics'
        for name in self._reductions:
            parts: list[Any] = [None] * dist.get_world_size(process_group)
            dist.all_gather_object(parts, getattr(self, name), group=process_group)
            setattr(self, name, [each for part in parts for each in part])


def mean_average_precision(iou: float | None = None, *, masks: bool = False) -> Metric:
    """A metric with `update(predictions, targets)`, lists of dicts; it keeps boxes, scores and labels of all images.

    Arguments:
        iou: count a box as found at this overlap; if None, the mean over 0.5, 0.55, ..., 0.95.
        masks: compare masks, not boxes.

    Raises:
        MeasurementError: pycocotools is not installed.
    """
    thresholds = None if iou is None else [float(iou)]
    try:
        metric = _MeanAveragePrecision(iou_type="segm" if masks else "bbox", iou_thresholds=thresholds)
    except ImportError as error:
        raise MeasurementError(f"judging a detector needs {hint(error, 'detection')}") from error
    metric.warn_on_many_detections = False  # only the best 100 of each image count, by COCO's rules
    return metric
