"""The forwards of torchvision's detectors up to their suppression, as graphs of fixed sizes: tensors in, tensors out.

Each takes a batch `[batch, 3, height, width]` of pixels from 0 to 1, as the detector does, and returns `boxes` in
those pixels and `scores` from 0 to 1, for equally many candidates in every image. The detector's resizing and
normalising are included; what it does afterwards is in `detections`.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection import FCOS, RetinaNet
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork, concat_box_prediction_layers
from torchvision.models.detection.ssd import SSD
from torchvision.ops import clip_boxes_to_image, nms, roi_align

from ..errors import ExportError
from ..meaning import Detections

Size = tuple[int, int]  # height and width in pixels
_SMALLEST = 1e-2  # side of a box that Faster R-CNN keeps, in pixels


class Anchors:
    """The anchors for images of one size: `boxes` `[anchors, 4]`, and their number on each level, `levels`."""

    def __init__(self, boxes: Tensor, levels: tuple[int, ...]) -> None:
        self.boxes, self.levels = boxes, levels


class BeforeSuppression:
    """The forward of a kind of detector; anchors of a size are constants of the graph, made by the first input.

    Class attributes:
        first: the number of the first class.
    """

    first = 0

    def __init__(self) -> None:
        self._kept: dict[tuple[Any, ...], Anchors] = {}
        self._last: Anchors | None = None

    def __call__(self, model: Any, x: Tensor) -> dict[str, Tensor]:
        if x.ndim != 4 or x.shape[1] != 3:
            raise ExportError(f"{type(model).__name__} received {list(x.shape)}: expected [batch, 3, height, width]")
        size = (x.shape[2], x.shape[3])
        image, padded = sizes_of(model.transform, *size)
        # First normalised, then resized and padded, as in torchvision: the padding must stay 0.
        images = model.transform.normalize(x)
        if image != size:
            images = nn.functional.interpolate(images, size=image, mode="bilinear", align_corners=False)
        if padded != image:
            images = nn.functional.pad(images, (0, padded[1] - image[1], 0, padded[0] - image[0]))
        features = model.backbone(images)
        features = {"0": features} if isinstance(features, Tensor) else features
        boxes, scores = self.candidates(model, images, image, features)
        if image != size:
            height, width = (before / after for before, after in zip(size, image, strict=True))
            boxes = boxes * torch.tensor([width, height, width, height], dtype=boxes.dtype, device=boxes.device)
        return {"boxes": boxes, "scores": scores}

    def candidates(
        self, model: Any, images: Tensor, image: Size, features: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Boxes in pixels of the resized image, and scores.

        Arguments:
            model: the detector.
            images: normalised, resized and padded.
            image: their size without padding.
            features: from the backbone, by name.
        """
        raise NotImplementedError

    def detections(self, model: Any) -> Detections:
        """What the detector does with its candidates, for the size that ran last."""
        raise NotImplementedError

    def check(self, model: Any) -> None:
        """
        Raises:
            ExportError: a detector with overridden, and so unknown, behaviour.
        """
        raise NotImplementedError

    def anchors(self, generator: Any, images: Tensor, image: Size, features: Mapping[str, Tensor]) -> Anchors:
        """The anchors of a size; made once, so that they are constants in a graph."""
        levels = list(features.values())
        key = (image, *(tuple(each.shape[2:]) for each in (images, *levels)), images.device, images.dtype)
        if key not in self._kept:
            # One image is enough: all images of a batch have the same size, and so the same anchors.
            (boxes,) = generator(ImageList(images[:1], [image]), levels)
            cells = [each.shape[2] * each.shape[3] for each in levels]
            kept = Anchors(boxes.detach().clone(), tuple(cell * len(boxes) // sum(cells) for cell in cells))
            self._kept[key] = kept
        self._last = self._kept[key]
        return self._last


def sizes_of(transform: Any, height: int, width: int) -> tuple[Size, Size]:
    """The sizes to which a detector resizes and then pads an image."""
    # On the meta device, because only the sizes matter.
    resized, _ = transform.resize(torch.empty(3, height, width, device="meta"), None)
    padded = transform.batch_images([resized], size_divisible=transform.size_divisible)
    return (resized.shape[1], resized.shape[2]), (padded.shape[2], padded.shape[3])


def _check_methods(part: Any, kind: type, *names: str) -> None:
    """Raise if methods of a part of a detector are not torchvision's own."""
    # Methods may also be overridden on the instance.
    own = [name for name in names if getattr(type(part), name) is not getattr(kind, name) or name in vars(part)]
    if own:
        raise ExportError(
            f"{type(part).__name__} overrides {own[0]}, so what it does before its suppression is unknown: expected "
            f"that of {kind.__name__}, or a model whose forward returns tensors"
        )


# -- of one step ------------------------------------------------------------------------------------------------------


class OneStep(BeforeSuppression):
    """Heads predict a box and classes for each anchor: `[batch, anchors, 4]`, `[batch, anchors, classes]`.

    Class attributes:
        kind: of the detector.
        by_level: whether it considers the best candidates of each level of the pyramid, rather than of each class.
    """

    kind: type
    by_level = True

    def check(self, model: Any) -> None:
        _check_methods(model, self.kind, "forward", "postprocess_detections")

    def candidates(
        self, model: Any, images: Tensor, image: Size, features: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        heads = model.head(list(features.values()))
        anchors = self.anchors(model.anchor_generator, images, image, features).boxes
        return clip_boxes_to_image(self.boxes(model, heads, anchors), image), self.scores(heads)

    def boxes(self, model: Any, heads: Mapping[str, Tensor], anchors: Tensor) -> Tensor:
        return _decoded(model.box_coder, heads["bbox_regression"], anchors)

    def scores(self, heads: Mapping[str, Tensor]) -> Tensor:
        return heads["cls_logits"].sigmoid()

    def detections(self, model: Any) -> Detections:
        return Detections(
            threshold=model.score_thresh,
            overlap=model.nms_thresh,
            most=model.detections_per_img,
            candidates=model.topk_candidates,
            levels=self._last.levels if self.by_level and self._last is not None else (),
            first=self.first,
        )


def _decoded(coder: Any, codes: Tensor, anchors: Tensor) -> Tensor:
    """Boxes `[batch, anchors, 4]` decoded from a head's output for each anchor."""
    every = anchors.expand(codes.shape[0], -1, -1).reshape(-1, 4)
    return coder.decode_single(codes.reshape(-1, 4), every).reshape(codes.shape)


class OfRetinaNet(OneStep):
    kind = RetinaNet


class OfFCOS(OneStep):
    kind = FCOS

    def boxes(self, model: Any, heads: Mapping[str, Tensor], anchors: Tensor) -> Tensor:
        return model.box_coder.decode(heads["bbox_regression"], anchors)

    def scores(self, heads: Mapping[str, Tensor]) -> Tensor:
        return torch.sqrt(heads["cls_logits"].sigmoid() * heads["bbox_ctrness"].sigmoid())


class OfSSD(OneStep):
    kind, by_level, first = SSD, False, 1

    def scores(self, heads: Mapping[str, Tensor]) -> Tensor:
        return heads["cls_logits"].softmax(-1)[..., 1:]  # without the background


# -- of two steps -----------------------------------------------------------------------------------------------------


class TwoSteps(BeforeSuppression):
    """Faster R-CNN: suppressed proposals and the heads' predictions for each: `[batch, proposals, classes, 4]` and
    `[batch, proposals, classes]`. If fewer proposals are left than there is room for, the rest score 0.
    """

    first = 1

    def check(self, model: Any) -> None:
        _check_methods(model, GeneralizedRCNN, "forward")
        _check_methods(model.rpn, RegionProposalNetwork, "forward", "filter_proposals")
        _check_methods(model.roi_heads, RoIHeads, "forward", "postprocess_detections")
        for has, pool in (("has_mask", "mask_roi_pool"), ("has_keypoint", "keypoint_roi_pool")):
            if getattr(model.roi_heads, has)():
                raise ExportError(
                    f"a {type(model).__name__} has a head that runs on the boxes left by its suppression, after what a "
                    "file computes: run it in torch, network(images, skip=...); or export only its boxes, "
                    f"network.model.roi_heads.{pool} = None, then network.forget_views()"
                )

    def candidates(
        self, model: Any, images: Tensor, image: Size, features: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        proposals, there = self._proposals(model.rpn, images, image, features)
        batch, number = there.shape
        heads, flat = model.roi_heads, proposals.reshape(-1, 4)
        logits, codes = heads.box_predictor(heads.box_head(_pooled(heads.box_roi_pool, features, proposals, image)))
        boxes = heads.box_coder.decode_single(codes, flat).reshape(batch, number, -1, 4)
        boxes = clip_boxes_to_image(boxes[:, :, 1:], image)  # without the background
        scores = logits.softmax(-1).reshape(batch, number, -1)[..., 1:]
        whole = _at_least(boxes, _SMALLEST) & there[..., None]
        return torch.where(there[..., None, None], boxes, 0.0), torch.where(whole, scores, 0.0)

    def detections(self, model: Any) -> Detections:
        heads = model.roi_heads
        return Detections(
            threshold=heads.score_thresh,
            overlap=heads.nms_thresh,
            most=heads.detections_per_img,
            first=self.first,
            chosen=True,
        )

    def _proposals(
        self, rpn: Any, images: Tensor, image: Size, features: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """The best proposals `[batch, proposals, 4]` left by suppression, and which of them are real."""
        scores, codes = concat_box_prediction_layers(*rpn.head(list(features.values())))
        anchors = self.anchors(rpn.anchor_generator, images, image, features)
        boxes = _decoded(rpn.box_coder, codes.reshape(images.shape[0], -1, 4), anchors.boxes)
        scores = scores.reshape(boxes.shape[:2])
        best = rpn._get_top_n_idx(scores, list(anchors.levels))
        # Only now: a sigmoid does not change which scores are highest.
        scores = scores.gather(1, best).sigmoid()
        boxes = clip_boxes_to_image(boxes.gather(1, best[..., None].expand(-1, -1, 4)), image)
        wanted = _at_least(boxes, rpn.min_size) & (scores >= rpn.score_thresh)
        scores = torch.where(wanted, scores, -1.0)  # sorted last, they suppress nothing

        # Each image's boxes are shifted apart, so that only those of the same image overlap; levels are separate.
        tops = [min(level, rpn.pre_nms_top_n()) for level in anchors.levels]
        elsewhere = torch.arange(boxes.shape[0], device=boxes.device).to(boxes) * (max(image) + 1)
        apart = boxes + elsewhere[:, None, None]
        pairs = zip(apart.split(tops, 1), scores.split(tops, 1), strict=True)
        left = torch.cat([_left(*pair, rpn.nms_thresh) for pair in pairs], dim=1)
        scores, places = torch.where(left, scores, -1.0).topk(min(rpn.post_nms_top_n(), sum(tops)), dim=1)
        return boxes.gather(1, places[..., None].expand(-1, -1, 4)), scores >= 0


def _left(boxes: Tensor, scores: Tensor, overlap: float) -> Tensor:
    """Which of `[batch, boxes, 4]` survive suppression."""
    kept = nms(boxes.reshape(-1, 4), scores.reshape(-1), overlap)
    return torch.zeros_like(scores).reshape(-1).index_fill(0, kept, 1.0).reshape(scores.shape) > 0


def _at_least(boxes: Tensor, side: float) -> Tensor:
    width, height = boxes[..., 2] - boxes[..., 0], boxes[..., 3] - boxes[..., 1]
    return (width >= side) & (height >= side)


def _pooled(pool: Any, features: Mapping[str, Tensor], boxes: Tensor, image: Size) -> Tensor:
    """What `MultiScaleRoIAlign` returns for boxes `[batch, boxes, 4]`, without lists of data-dependent length."""
    levels = [part for name, part in features.items() if name in pool.featmap_names]  # it may name others, too
    if not (pool.scales and pool.map_levels):  # its first call computes them
        pool(features, list(boxes[:1]), [image])
    flat, number = boxes.reshape(-1, 4), torch.arange(boxes.shape[0], device=boxes.device)
    of_image = number.to(boxes.dtype)[:, None].expand(-1, boxes.shape[1])
    regions = torch.cat([of_image.reshape(-1, 1), flat], dim=1)
    level = pool.map_levels([flat])
    pooled = levels[0].new_zeros(regions.shape[0], levels[0].shape[1], *pool.output_size)
    for each, (features_of, scale) in enumerate(zip(levels, pool.scales, strict=True)):
        (own,) = torch.where(level == each)
        found = roi_align(features_of, regions[own], pool.output_size, scale, pool.sampling_ratio)
        pooled = pooled.index_put((own,), found)
    return pooled


KINDS: dict[type, type[BeforeSuppression]] = {
    RetinaNet: OfRetinaNet,
    FCOS: OfFCOS,
    SSD: OfSSD,
    GeneralizedRCNN: TwoSteps,
}
