"""Multiply-adds, by torch's registry of formulas."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch._ops import HigherOrderOperator
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from ...modes import without_fast_paths

# Operators without multiply-adds by the field's convention, besides pointwise ones and views (`_is_free`).
_FREE_KINDS = {
    "copies, joins, index": """_to_copy _unsafe_view as_strided cat clone constant_pad_nd contiguous copy embedding
        fill flip gather im2col index index_add index_copy index_fill index_put index_select lift_fresh masked_fill
        masked_scatter masked_select pixel_shuffle pixel_unshuffle channel_shuffle reflection_pad1d reflection_pad2d
        repeat repeat_interleave replication_pad2d roll scatter scatter_add select_scatter set slice_scatter stack tril
        triu upsample_nearest1d upsample_nearest2d upsample_nearest3d _upsample_nearest_exact2d zero""",
    "new tensors, scalars": """_local_scalar_dense arange bernoulli empty empty_like empty_permuted empty_strided eye
        full full_like linspace native_dropout new_empty new_empty_strided new_full new_ones new_zeros normal ones
        ones_like rand rand_like randint randn randn_like randperm resize scalar_tensor uniform zeros zeros_like""",
    "reductions, order": """_is_all_true _unique2 all amax amin aminmax any argmax argmin argsort count_nonzero cummax
        cumsum linalg_vector_norm logsumexp max mean median min nonzero norm prod sort std std_mean sum topk var
        var_mean""",
    "pooling, softmax": """_adaptive_avg_pool2d _adaptive_avg_pool3d _log_softmax _safe_softmax _softmax
        adaptive_max_pool2d adaptive_max_pool3d avg_pool1d avg_pool2d avg_pool3d max_pool2d max_pool2d_with_indices
        max_pool3d_with_indices""",
    "normalisation": """_batch_norm_no_update _fused_rms_norm _native_batch_norm_legit
        _native_batch_norm_legit_no_training cudnn_batch_norm miopen_batch_norm native_batch_norm native_group_norm
        native_layer_norm""",
    "resampling": """_upsample_bicubic2d_aa _upsample_bilinear2d_aa grid_sampler_2d grid_sampler_3d upsample_bicubic2d
        upsample_bilinear2d upsample_linear1d upsample_trilinear3d""",
    "pointwise without the tag": "glu hardswish log_sigmoid_forward prelu rrelu_with_noise",
}
_FREE = frozenset(" ".join(_FREE_KINDS.values()).split())
_POOLING = frozenset({"roi_align", "roi_pool", "ps_roi_align", "ps_roi_pool"})  # of torchvision, on boxes
_SUPPRESSION = "torchvision.nms"
# Products missing from torch's registry: one multiply-add per entry of their first argument.
_PRODUCTS = frozenset({"aten.mv", "aten.dot"})


@dataclass(frozen=True)
class Counts:
    """What was counted.

    Attributes:
        macs: multiply-adds of the whole example by skip.
        uncounted: operators that may do multiply-adds but have no formula, and how often each was called.
        suppressions: the most times that a pass suppressed overlapping boxes.
        on_boxes: the multiply-adds after the first suppression; empty if there was none.
    """

    macs: dict[str, int]
    uncounted: dict[str, int]
    suppressions: int
    on_boxes: dict[str, int]


class _MacCounter(TorchDispatchMode):
    """Counts multiply-adds by torch's registry of formulas (floating-point operations: two each)."""

    supports_higher_order_operators = True

    def __init__(self) -> None:
        super().__init__()
        self.flops = self.suppressions = self.before_boxes = 0
        self.uncounted: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        higher = isinstance(func, HigherOrderOperator)
        known = func if higher else func._overloadpacket
        formula = flop_registry.get(known)
        unknown = formula is None and str(known) not in _PRODUCTS and (higher or not _is_free(func))
        # It may be composed of operators that have formulas.
        if unknown and not higher:
            # A mode is off inside its own dispatch, but these parts must be counted.
            with self:
                output = func.decompose(*args, **kwargs)
            if output is not NotImplemented:
                return output
        output = func(*args, **kwargs)
        if formula is not None:
            self.flops += formula(*args, **kwargs, out_val=output)
        elif str(known) in _PRODUCTS:
            self.flops += 2 * args[0].numel()
        elif str(known) == _SUPPRESSION:
            self.before_boxes = self.before_boxes if self.suppressions else self.flops
            self.suppressions += 1
        elif unknown:
            self.uncounted[str(known)] += 1
        return output


def _is_free(operator: torch._ops.OpOverload) -> bool:
    """Whether it is known to do no multiply-adds."""
    if operator.is_view or torch.Tag.pointwise in operator.tags:
        return True
    namespace, _, name = operator._schema.name.partition("::")
    free = {"aten": _FREE, "torchvision": _POOLING}.get(namespace, ())
    return namespace == "prim" or name.removesuffix("_") in free


def count_macs(runs: Mapping[str, Callable[[], Any]]) -> Counts:
    """Count the multiply-adds of passes over an example.

    A compiled network runs uncompiled here: torch.compile steps aside for a dispatch mode.

    Arguments:
        runs: a pass over the whole example by skip.
    """
    macs: dict[str, int] = {}
    on_boxes: dict[str, int] = {}
    suppressions, uncounted = 0, Counter[str]()
    with without_fast_paths():  # attention reaches the counter as its products, not as one fused operator
        for skip, run in runs.items():
            with _MacCounter() as counter:
                run()
            macs[skip] = counter.flops // 2
            if counter.suppressions:
                on_boxes[skip] = (counter.flops - counter.before_boxes) // 2
            suppressions = max(suppressions, counter.suppressions)
            uncounted |= counter.uncounted  # the most calls in any sub-network
    return Counts(macs, dict(uncounted), suppressions, on_boxes)
