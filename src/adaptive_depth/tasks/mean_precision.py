"""Mean average precision of boxes and masks, as COCO's own code counts it."""

from typing import Any

import torch.distributed as dist
from torchmetrics import Metric
from torchmetrics.detection import MeanAveragePrecision

from ..errors import MeasurementError
from ..packages import hint


class _MeanAveragePrecision(MeanAveragePrecision):
    """Processes may have seen different numbers of images, where torchmetrics waits for ever."""

    def _sync_dist(self, dist_sync_fn: Any = None, process_group: Any = None) -> None:  # noqa: ARG002 - torchmetrics'
        for name in self._reductions:
            parts: list[Any] = [None] * dist.get_world_size(process_group)
            dist.all_gather_object(parts, getattr(self, name), group=process_group)
            setattr(self, name, [each for part in parts for each in part])


def mean_average_precision(iou: float | None = None, *, masks: bool = False) -> Metric:
    """A metric of `update(predictions, targets)`, lists of dicts; it keeps boxes, scores and labels of all images.

    Arguments:
        iou: count a box as found at this overlap; at 0.5, 0.55, ..., 0.95 where None, and the mean over these.
        masks: compare masks, not boxes.

    Raises:
        MeasurementError: pycocotools is not installed.
    """
    thresholds = None if iou is None else [float(iou)]
    try:
        metric = _MeanAveragePrecision(iou_type="segm" if masks else "bbox", iou_thresholds=thresholds)
    except ImportError as error:
        raise MeasurementError(f"to judge a detector needs {hint(error, 'detection')}") from error
    metric.warn_on_many_detections = False  # the best 100 of each image count, as COCO's rules say
    return metric
