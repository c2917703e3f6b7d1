"""Self-distillation of skippable sub-paths (paper, Algorithm 1): the super-net teaches the base-net.

Two passes per step train all 2^N sub-networks. Their common part, everything before the first skip-aware norm, is
computed and differentiated once.
"""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from ..batches import arguments, device_of, entries_in, first_samples, samples_in, shapes_in
from ..core.network import AdaptiveNetwork, check_runs
from ..core.recompute import is_recomputed
from ..core.sharing import Branch, SharedForward, hand_on
from ..errors import TrainingError
from ..modes import Generators, buffers_restored_on_error
from ..tasks import Classification, Detection, LanguageModel, OwnCriterion, Task, Watched, as_task, distillation_loss
from .compiling import Compiled
from .objective import checked


@dataclass(frozen=True)
class Losses:
    """What one step yields.

    Attributes:
        total: `super_net + (1 - alpha) / alpha * (base_net + feature_weight * features)`, the one to differentiate;
            times alpha without `keep_scale`.
        super_net: the criterion of the super-net's output and the labels.
        base_net: KL(super-net ‖ base-net) of the softmax outputs, per sample.
        features: the sum over stages of KL(h_super ‖ h_base), per position; None without the feature term.
        super_output, base_output: what the two passes returned, without gradients: `[batch, classes]`; the base-net's
            only for the samples that it saw (`distil_share`).
    """

    total: Tensor
    super_net: Tensor
    base_net: Tensor
    features: Tensor | None
    super_output: Tensor
    base_output: Tensor

    def __repr__(self) -> str:
        terms = {"total": self.total, "super_net": self.super_net, "base_net": self.base_net, "features": self.features}
        said = ", ".join(f"{name}={float(term.detach()):.4g}" for name, term in terms.items() if term is not None)
        return f"Losses({said})"


class SelfDistillation(nn.Module):
    """The objective of Algorithm 1, for the user's own loop.

    If a loop wraps its model (for several devices or another precision, as `DistributedDataParallel`, accelerate and
    the Trainer of transformers do), have it wrap the objective: called on the network inside a wrapper, the objective
    would bypass it.

    Arguments:
        network: the network to train.
        criterion: what the network is for: a task of `adaptive_depth.tasks`, or the loss of the super-net's output and
            the labels; if None, what the model's class implies (`as_task`), else cross-entropy. What the base-net
            learns from the super-net follows from it, or for class indices from the first batch.
        alpha: weight of the super-net's loss; the base-net's has 1 - alpha (0.5, as in the reference: the gradients of
            both are added as they are).
        temperature: softens both outputs of the distillation, whose loss is multiplied by its square (1, as in
            the paper).
        feature_weight: weight of the optional feature term (0: off). It aligns the contexts in which the
            intermediate sub-networks run, at some cost in time.
        learn_from: what the student learns from; `"labels"` omits the distillation (the paper's ablation, Table 3).
        teacher, student: `"random"` draws one of the 2^N sub-networks in every step (Table 4, where all of these are
            worse).
        keep_scale: divide both losses by alpha, so that the labels' gradient is as large as when the super-net is
            trained alone, and the same learning rate fits. Without it, alpha = 0.5 halves that gradient.
        distil_share: the fraction of each batch, its first samples, that the base-net runs on and learns from. Less
            than 1 trains cheaper (not in the paper); the two passes then share no computation.

    Raises:
        TrainingError: alpha outside [0, 1], a temperature that is not positive, a negative feature weight, a share
            outside (0, 1] or of a detector's batch, or a variant that does not exist.

    Example:
        >>> import timm, torch, adaptive_depth as ad
        >>> net = ad.adapt(timm.create_model("resnet18", num_classes=10))
        >>> objective = SelfDistillation(net, criterion=torch.nn.CrossEntropyLoss())
        >>> optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        >>> losses = objective(torch.zeros(2, 3, 64, 64), torch.tensor([3, 7]))
        >>> losses.total.backward()
        >>> optimizer.step()
    """

    def __init__(
        self,
        network: AdaptiveNetwork,
        criterion: Task | Callable[[Any, Any], Tensor] | None = None,
        *,
        alpha: float = 0.5,
        temperature: float = 1.0,
        feature_weight: float = 0.0,
        learn_from: Literal["teacher", "labels"] = "teacher",
        teacher: Literal["super-net", "random"] = "super-net",
        student: Literal["base-net", "random"] = "base-net",
        distil_share: float = 1.0,
        keep_scale: bool = True,
    ) -> None:
        super().__init__()
        check_runs(network, "SelfDistillation", TrainingError)
        task = as_task(criterion, network.model)
        if learn_from == "teacher" and not task.can_distil:
            raise TrainingError(
                f"what the base-net learns from the super-net is unknown for the task {type(task).__name__}: define "
                "its distil(), or let the base-net learn from the labels (learn_from='labels')"
            )
        if not 0 <= alpha <= 1:
            raise TrainingError(f"alpha={alpha!r}: expected a weight from 0 (base-net only) to 1 (super-net only)")
        if not temperature > 0:
            raise TrainingError(f"temperature={temperature!r}: expected a number above 0, such as 1.0")
        if not feature_weight >= 0:
            raise TrainingError(f"feature_weight={feature_weight!r}: expected 0 (off) or more, such as 0.1")
        if not 0 < distil_share <= 1:
            raise TrainingError(f"distil_share={distil_share!r}: expected a fraction of each batch, such as 0.5, or 1")
        for name, value, known in (
            ("learn_from", learn_from, ("teacher", "labels")),
            ("teacher", teacher, ("super-net", "random")),
            ("student", student, ("base-net", "random")),
        ):
            if value not in known:
                raise TrainingError(f"{name}={value!r}: expected {' or '.join(map(repr, known))}")
        if feature_weight and (teacher, student) != ("super-net", "base-net"):
            raise TrainingError(
                "the feature term compares super-net and base-net: leave teacher and student as they are"
            )
        if distil_share < 1 and isinstance(task, Detection):
            raise TrainingError(
                f"distil_share={distil_share:g} selects samples of a batch, but a detector's losses cover all its "
                "images: expected distil_share=1"
            )
        self.network = network
        self.learn_from, self.teacher, self.student = learn_from, teacher, student
        self.distil_share = distil_share
        # With alpha = 0 labels do not count, so there is no scale to keep.
        scale = alpha if keep_scale and alpha else 1.0
        self._weights = alpha / scale, (1 - alpha) / scale
        if isinstance(task, Classification | LanguageModel):
            task = copy.copy(task)
            task.temperature = temperature if temperature != 1 else task.temperature
        elif isinstance(task, OwnCriterion) and task.distils is None:
            task = task.distilling(temperature) if learn_from == "teacher" else task
        elif temperature != 1:
            raise TrainingError(f"temperature={temperature:g} needs a softmax, but the task is {type(task).__name__}")
        self.task = task
        self.alpha, self.temperature, self.feature_weight = alpha, temperature, feature_weight
        self._shared: SharedForward | None = None
        self._compiled = Compiled()
        self._left_by_teacher: dict[Any, Any] = {}  # attributes on modules; the student's are discarded

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compile both passes, in one graph where they run on the same samples; takes `torch.compile`'s arguments.

        Raises:
            TrainingError: with the feature term, which looks inside the passes.
        """
        if self.feature_weight or self.task.watch:
            raise TrainingError("the feature term looks inside the passes: leave it out, or do not compile them")
        self._compiled.ask(*args, **kwargs)

    def forward(self, x: Any, y: Tensor) -> Losses:
        """Both passes on one mini-batch: call `.total.backward()` on the result, then step the optimiser.

        Arguments:
            x: the input; `[batch, channels, height, width]` for images, a dict of keyword arguments, or a tuple of
                positional ones.
            y: what the criterion takes besides the output; `[batch]` of class indices for cross-entropy.

        Raises:
            TrainingError: labels out of range, or a loss that is not finite. Weights, gradients and running statistics
                are then unchanged.
        """
        if torch.is_inference_mode_enabled():  # tensors of that mode have no version counter to detect changes with
            with torch.inference_mode(False), torch.no_grad():
                return self.forward(x, y)
        deep, shallow = self._pair()
        left = self.network.left
        with self._unchanged_on_error():
            x = _plain(x)
            shared = self._prepare(x)
            if self._compiled.asked or self.distil_share < 1:
                (teacher, taught), (student, learnt) = self._apart(shared, deep, shallow, x)
                after = left.values()
                left.put(self._left_by_teacher)
                super_net = self._super_loss(teacher, y)
                left.put(after)
            else:
                passes, super_net = {}, torch.zeros(())
                (args, kwargs), watch = arguments(x), self._watch(deep, shallow)
                draws = self._draws()
                for skip, output, seen in shared.outputs([deep, shallow], *args, watch=watch, **kwargs):
                    passes[skip] = self.task.output(output), seen
                    if skip == deep:
                        super_net = self._super_loss(passes[skip][0], y)  # before the student overwrites `left`
                        self._left_by_teacher = left.values()
                        draws()
                (teacher, taught), (student, learnt) = passes[deep], passes[shallow]
            base_net, feature = self._base_losses(teacher, student, taught, learnt, y)
            left.put(self._left_by_teacher)
            return self._losses(super_net, base_net, feature, teacher, student)

    def backward(self, x: Any, y: Tensor, backward: Callable[[Tensor], Any] = torch.Tensor.backward) -> Losses:
        """Both passes and their gradients, within the memory of the super-net's pass.

        The super-net's graph is freed before the base-net runs; gradients are added to `.grad` as usual.

        Arguments:
            x, y: as for the call.
            backward: how to differentiate a loss; for mixed precision
                `lambda loss: scaler.scale(loss).backward()`.

        Returns:
            The losses, without graphs.

        Raises:
            TrainingError: as for the call. If the base-net's loss is not finite, the super-net's gradients are
                already in `.grad`: zero them.
        """
        deep, shallow = self._pair()
        with self._unchanged_on_error():
            given = _plain(x)
            x = tree_map_only(Tensor, _leaf, given)  # its earlier graph is differentiated once, at the end
            shared, watch = self._prepare(x), self._watch(deep, shallow)
            together = self.distil_share == 1 and not self._compiled.asked
            common = shared.branch([deep, shallow], *arguments(x)) if together else None
            leaves = common.detached() if common else None
            draws = self._draws()
            output, seen = self._run(shared, deep, leaves, x, watch)
            draws()
            teacher = self.task.output(output)
            super_net = self._super_loss(teacher, y)
            left = self.network.left.values()
            taught = _detached(seen)
            backward(self._weights[0] * super_net)
            teacher = _detached(teacher)
            del output, seen  # the graph of the super-net is freed before the base-net builds its own
            output, seen = self._run(shared, shallow, leaves, self._distilled(x), watch)
            student = self.task.output(output)
            base_net, feature = self._base_losses(teacher, student, taught, seen, y)
            losses = self._losses(super_net.detach(), base_net, feature, teacher, student)
            backward(self._weights[1] * self._base_total(base_net, feature))
            if common is not None and leaves is not None:
                common.differentiate(leaves)
            hand_on(given, x)
            self.network.left.put(left)
            feature = None if feature is None else feature.detach()
            return replace(losses, total=losses.total.detach(), base_net=base_net.detach(), features=feature)

    # -- the terms ----------------------------------------------------------------------------------------------

    def _super_loss(self, output: Any, y: Any) -> Tensor:
        return checked("the super-net's loss", self.task.loss(output, y), output)

    def _base_losses(
        self, teacher: Any, student: Any, taught: Mapping[str, Any], learnt: Mapping[str, Any], y: Any
    ) -> tuple[Tensor, Tensor | None]:
        if self.distil_share < 1:  # the base-net saw the first samples only
            number = entries_in(student)
            teacher, y = first_samples(teacher, number), first_samples(y, number)
            taught = {path: tree_map_only(Tensor, lambda t: t[:number], feature) for path, feature in taught.items()}
        if self.learn_from == "labels":
            learn = self.task.loss(student, y)
        elif self.task.watch:
            learn = self.task.distil(Watched(student, learnt), Watched(teacher, taught), y)
        else:
            learn = self.task.distil(student, teacher, y)
        base_net = checked("the base-net's loss", learn, student)
        if not self.feature_weight:
            return base_net, None
        terms = [
            feature_loss(taught[stage.skippable[-1]], learnt[stage.mandatory[-1]], stage.channel_dim)
            for stage in self.network.stages
        ]
        feature = torch.stack(terms).sum()
        checked("the feature term", feature)
        return base_net, feature

    def _base_total(self, base_net: Tensor, feature: Tensor | None) -> Tensor:
        return base_net if feature is None else base_net + self.feature_weight * feature

    def _losses(
        self, super_net: Tensor, base_net: Tensor, feature: Tensor | None, teacher: Any, student: Any
    ) -> Losses:
        deep, shallow = self._weights
        total = deep * super_net + shallow * self._base_total(base_net, feature)
        return Losses(total, super_net, base_net, feature, _detached(teacher), _detached(student))

    # -- the passes ---------------------------------------------------------------------------------------------

    def _prepare(self, x: Any) -> SharedForward:
        network = self.network
        self.task.check_input(x, network.model)
        args, kwargs = arguments(x)
        self._distilled(x)  # raises early if the samples are uncertain
        if not network.proven:
            network.prove(*args, **kwargs)
        if network.calibrated and network.training:
            network.reset_statistics(per_context=False)  # they belong to weights that are about to change
        if self._shared is None or self._shared.network is not network:
            shared = SharedForward(network)
            ends = network.skips[0], network.skips[-1]
            shared.probe(ends, *args, watch=self._watch(*ends), **kwargs)
            self._shared = shared
        if self._shared.shareable and is_recomputed(network):  # recomputation must not depend on a branch
            self._shared.shareable = False
        return self._shared

    def _distilled(self, x: Any) -> Any:
        """What the base-net runs on: the input or its first samples, at least two for BatchNorm."""
        if self.distil_share == 1:
            return x
        size = samples_in(x)
        if size is None:
            raise TrainingError(
                f"distil_share={self.distil_share:g} selects samples of a batch, but it is uncertain which entries of "
                f"tensors {shapes_in(x)} belong to a sample: expected tensors with the same first dimension, or "
                "distil_share=1"
            )
        return first_samples(x, max(min(2, size), round(self.distil_share * size)))

    def _run(self, shared: SharedForward, skip: str, branch: Branch | None, x: Any, watch: Any) -> Any:
        """One pass, and the watched outputs in it."""
        args, kwargs = arguments(x)
        if self._compiled.asked:
            return self._compiled_passes((skip,))(args, kwargs)[0], {}
        return shared.run(skip, branch, args, kwargs, watch.get(skip, ()))

    def _apart(self, shared: SharedForward, deep: str, shallow: str, x: Any) -> list[tuple[Tensor, Any]]:
        """Both passes, sharing nothing except what a compiler finds."""
        if self._compiled.asked and self.distil_share == 1:
            teacher, student = self._compiled_passes((deep, shallow))(*arguments(x))
            passes = [(teacher, {}), (student, {})]
        else:
            watch = self._watch(deep, shallow)
            passes = [self._run(shared, deep, None, x, watch)]
            self._left_by_teacher = self.network.left.values()
            passes.append(self._run(shared, shallow, None, self._distilled(x), watch))
        return [(self.task.output(output), seen) for output, seen in passes]

    def _compiled_passes(self, skips: tuple[str, ...]) -> Callable[..., Any]:
        """The sub-networks as one compiled function of the input; rebuilt with the network's views."""
        modules = [self.network.view(skip).module for skip in skips]  # also sets their training modes

        def passes(args: Any, kwargs: Any) -> list[Any]:
            return [module(*args, **kwargs) for module in modules]

        return self._compiled.of(self.network, skips, passes)

    @contextmanager
    def _unchanged_on_error(self) -> Iterator[None]:
        network, statistics = self.network, self.network.statistics
        with buffers_restored_on_error(network.modules()) if network.training else nullcontext():
            try:
                yield
            except BaseException:
                if network.statistics is not statistics:
                    network.statistics = statistics
                    network.forget_views()
                raise

    def _pair(self) -> tuple[str, str]:
        """Teacher and student of a step: super-net and base-net, except in the variants."""
        skips = self.network.skips
        teacher = _drawn(skips[:-1]) if self.teacher == "random" else skips[0]
        others = [skip for skip in skips if skip != teacher]
        return teacher, _drawn(others) if self.student == "random" else skips[-1]

    def _watch(self, deep: str, shallow: str) -> dict[str, list[str]]:
        """The modules whose outputs are h_super and h_base of each stage, and those that the task compares."""
        stages = self.network.stages if self.feature_weight else ()
        compared = self.task.watch if self.learn_from == "teacher" else ()
        watch = {
            deep: [*(stage.skippable[-1] for stage in stages), *compared],
            shallow: [*(stage.mandatory[-1] for stage in stages), *compared],
        }
        return watch if watch[deep] else {}

    def _draws(self) -> Callable[[], None]:
        """A function to call between two passes whose features are compared, so that both draw the same random numbers.

        A detector draws the size of its images.
        """
        if not self.task.watch:
            return lambda: None
        generators = Generators(self.network, device_of(self.network))
        return partial(generators.put, generators.state())

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_shared": None, "_left_by_teacher": {}}


def _plain(x: Any) -> Any:
    """A dict in place of any other mapping, such as the BatchEncoding of tokenizers."""
    return dict(x) if isinstance(x, Mapping) else x


def _leaf(tensor: Tensor) -> Tensor:
    """A leaf that collects gradients in place of a computed tensor."""
    return tensor if tensor.is_leaf else tensor.detach().requires_grad_()


def _detached(output: Any) -> Any:
    return tree_map_only(Tensor, torch.Tensor.detach, output)


def _drawn(skips: Sequence[str]) -> str:
    """One of them, by torch's random numbers, whose state is in a training's checkpoints."""
    return skips[int(torch.randint(len(skips), ()))]


def feature_loss(teacher: Tensor, student: Tensor, channel_dim: int = 1) -> Tensor:
    """KL(h_super ‖ h_base) of one stage's features, softmax over channels (paper, section 3.2, the optional term).

    Arguments:
        teacher, student: features of one shape, such as `[batch, channels, height, width]`.
        channel_dim: the dimension that holds the channels.

    Returns:
        A scalar: the mean over the batch and all positions, in nats, computed in float32 or better.
    """
    return distillation_loss(teacher.movedim(channel_dim, -1), student.movedim(channel_dim, -1))
