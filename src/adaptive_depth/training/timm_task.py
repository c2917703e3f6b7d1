"""A schedule of passes, or Algorithm 1, as a training task of timm: for timm's own script and loops written like it."""

import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from timm.loss.cross_entropy import LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from timm.models import group_parameters
from timm.task import TrainingTask
from timm.utils.model import unwrap_model
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils._pytree import tree_map_only

from ..batches import device_of
from ..core.network import AdaptiveNetwork
from ..errors import CheckpointError, TrainingError
from ..quality import TOP_1
from ..tasks import Classification, MultiLabel, OwnCriterion, Task, as_task
from .passes import OnePass, Passes
from .self_distillation import SelfDistillation

_logger = logging.getLogger(__name__)
_LOSSES = {"S": "super_net_loss", "B": "base_net_loss", "R": "intermediate_loss"}


def as_task_of_timm(criterion: Any) -> Task:
    """A criterion as a task, including timm's softmax losses, which always mean classes.

    Raises:
        TrainingError: as `tasks.as_task`.

    Example:
        >>> type(as_task_of_timm(LabelSmoothingCrossEntropy(0.1))).__name__
        'Classification'
    """
    if isinstance(criterion, LabelSmoothingCrossEntropy | SoftTargetCrossEntropy):
        return Classification(criterion)
    return as_task(criterion)


class Trainable(nn.Module):
    """What timm wraps, averages and optimises: an objective with the network's own hints for optimisers."""

    def __init__(self, objective: OnePass | SelfDistillation) -> None:
        super().__init__()
        self.objective = objective

    @property
    def network(self) -> AdaptiveNetwork:
        return self.objective.network

    def forward(self, *args: Any) -> Any:
        return self.objective(*args)

    def no_weight_decay(self) -> set[str]:
        """The parameters that the model exempts from weight decay, by their names here."""
        return {
            f"objective.network.{path}.{name}"
            for path, module in self.network.named_modules()
            for name in _asked(module, "no_weight_decay", set())
        }

    def group_matcher(self, coarse: bool = False) -> Callable[[str], int]:
        """The layer of each parameter, for layer-wise learning rates; a skip-aware norm belongs to its twin's layer.

        Raises:
            TrainingError: a model that does not define its layers.
        """
        model: Any = self.network.model
        if not hasattr(model, "group_matcher"):
            raise TrainingError(
                f"layer-wise learning rates (layer_decay) received a {type(model).__name__}: expected a model with "
                "group_matcher(), as those of timm have; leave layer_decay out"
            )
        layers: Any = group_parameters(model, model.group_matcher(coarse=coarse), reverse=True)

        def layer_of(name: str) -> int:
            own = name.removeprefix("objective.network.")
            return layers[own.removeprefix("model.").removeprefix("skip_norms.")]

        return layer_of


class TimmTask(TrainingTask):
    """Trains all depths in timm's loop, one optimiser step for each item of its loader.

    A schedule makes several steps per batch, so give the loop `task.over(loader)`. Where that is impossible, a schedule
    with `fresh=True` works on the plain loader: each batch then serves one pass. Algorithm 1 takes the plain loader,
    too. Leave gradient accumulation at 1 step for a schedule: it would add up the gradients of different sub-networks.

    timm evaluates and saves the network: its checkpoints hold the state of an `AdaptiveNetwork`, averaged weights
    likewise, and the batches that wait for a later pass. With several processes timm saves only those of the first, and
    after a resume all processes make the waiting passes on them.

    The result of a call is a dict of `loss`, `output` (of the sub-network that ran; of the super-net for Algorithm 1)
    and, without gradients, the step's `super_net_loss`, `base_net_loss`, `intermediate_loss` or `feature_loss`.

    Arguments:
        objective: a `Passes` or a `SelfDistillation` of the network.
        device: of the task's evaluators; if None, the network's.
        dtype, verbose: as for `timm.task.TrainingTask`.

    Raises:
        TrainingError: another objective.

    Example:
        >>> import timm, torch, adaptive_depth as ad
        >>> net = ad.adapt(timm.create_model("resnet18", num_classes=10)).train()
        >>> task = TimmTask(ad.Passes(net, schedule=ad.Schedule("SB", delay=1)), verbose=False)
        >>> optimizer = torch.optim.SGD(task.get_trainable_module().parameters(), lr=0.1)
        >>> for x, y in task.over([(torch.randn(2, 3, 64, 64), torch.tensor([3, 7]))] * 2):
        ...     optimizer.zero_grad()
        ...     result = task(x, y)
        ...     result["loss"].backward()
        ...     optimizer.step()
        >>> sorted(result)
        ['base_net_loss', 'loss', 'output']
    """

    def __init__(
        self,
        objective: Passes | SelfDistillation,
        *,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
        verbose: bool = True,
    ) -> None:
        if not isinstance(objective, Passes | SelfDistillation):
            raise TrainingError(
                f"TimmTask received a {type(objective).__name__}: expected an objective of an adapted network, "
                "Passes(network, criterion) or SelfDistillation(network, criterion), with network = adapt(model)"
            )
        super().__init__(device=device or device_of(objective.network), dtype=dtype, verbose=verbose)
        self.passes = objective if isinstance(objective, Passes) else None
        self.task = objective.task
        self.trainable_module: nn.Module = Trainable(objective.module if isinstance(objective, Passes) else objective)
        self.due: Mapping[str, Any] | None = None  # the pass that was yielded and not made yet
        if verbose:
            said = self.passes.schedule if self.passes else "Algorithm 1"
            _logger.info("TimmTask: %s, %s", said, type(self.task).__name__)

    def over(self, loader: Any) -> "StepLoader":
        """A timm loader with one pair of input and target for each optimiser step."""
        return StepLoader(loader, self)

    # -- a step -------------------------------------------------------------------------------------------------

    def forward(self, input: Any, target: Any) -> dict[str, Any]:
        """The loss of one step.

        Arguments:
            input, target: what `over` yielded, which the loop may have moved, laid out differently or mixed; a batch
                of the plain loader for Algorithm 1 and `fresh` schedules.

        Raises:
            TrainingError: a batch without a due pass, what the task refuses, or gradients of the previous step.
        """
        if self.passes is None:
            losses = self.trainable_module(input, target)
            terms = {"super_net_loss": losses.super_net, "base_net_loss": losses.base_net}
            if losses.features is not None:
                terms["feature_loss"] = losses.features
            return self._result(losses.total, losses.super_output, terms)
        if any(parameter.grad is not None for parameter in self.passes.network.parameters()):
            raise TrainingError(
                "gradients of the previous step are still there: expected an optimiser step for each pass; call "
                "optimizer.zero_grad() after each (set_to_none=True), and do not accumulate (--grad-accum-steps 1)"
            )
        item = self._taken(input, target)
        result = self.passes.learn(item, self.trainable_module)
        return self._result(result.loss, result.output, {_LOSSES[item["letter"]]: result.loss})

    def _taken(self, input: Any, target: Any) -> dict[str, Any]:
        """The pass that is due, on the batch as the loop passes it."""
        assert self.passes is not None
        item, self.due = self.due, None
        if item is None:
            if not self.passes.schedule.fresh:
                raise TrainingError(
                    "the task received a batch that no pass is due for: expected those of task.over(loader), each "
                    "once; or let every pass take a new batch of the plain loader, Schedule(..., fresh=True)"
                )
            [due] = [next(self.passes.load([(input, target)]))]
            item = self.passes.items(due)[0]
            self.passes.done()
        if item["teacher"] is not None and _shape(target) != _shape(item["y"]):
            raise TrainingError(
                f"the loop turned targets {_shape(item['y'])} into {_shape(target)}, so its images are mixed, but the "
                "super-net's output is for others: mix in the loader (timm's prefetcher with FastCollateMixup), "
                "or leave teacher_share out"
            )
        return {**item, "x": input, "y": target}

    def _result(self, loss: Tensor, output: Any, terms: Mapping[str, Tensor]) -> dict[str, Any]:
        # Copies: timm's loop divides the loss in place when it accumulates.
        return {"loss": loss, "output": output} | {name: term.detach().clone() for name, term in terms.items()}

    # -- the methods that timm's loop calls ---------------------------------------------------------------------

    def prepare_distributed(self, device_ids: list[Any] | None = None, **ddp_kwargs: Any) -> "TimmTask":
        """Wrap the objective in `DistributedDataParallel`, which must search for parameters that a pass skips."""
        on_cpu = device_of(self.trainable_module).type == "cpu"  # DDP refuses device_ids there
        settings: dict[str, Any] = {"find_unused_parameters": True} | ddp_kwargs
        self.trainable_module = DistributedDataParallel(
            self.trainable_module, device_ids=None if on_cpu else device_ids, **settings
        )
        return self

    def compile(self, backend: Any = "inductor", mode: str | None = None, **compile_kwargs: Any) -> AdaptiveNetwork:
        """Compile each sub-network when it first trains; timm's evaluation stays uncompiled.

        Raises:
            TrainingError: what the objective cannot compile.
        """
        trainable: Any = unwrap_model(self.trainable_module)
        trainable.objective.compile(backend=backend, mode=mode, **compile_kwargs)
        return trainable.network

    def setup_ema(self, *args: Any, **kwargs: Any) -> nn.Module:
        """Average the weights, as timm does."""
        network = self.get_eval_model()
        if network.calibrated:  # the first step drops these statistics, so their averages would have no counterpart
            network.reset_statistics(per_context=False)
        return super().setup_ema(*args, **kwargs)

    def compile_ema(self, backend: Any = "inductor", mode: str | None = None, **compile_kwargs: Any) -> Any:
        """Compile the averaged network, in place."""
        network = self.get_eval_model(ema=True)
        if network is not None:
            network.compile(backend=backend, mode=mode, **compile_kwargs)
        return network

    def get_eval_model(self, module: nn.Module | None = None, ema: bool = False) -> Any:
        """The network, or the averaged one (None if there is none); called without `skip` it is the super-net."""
        trainable: Any = self.get_trainable_module(ema=ema) if module is None else module
        return None if trainable is None else unwrap_model(trainable).network

    def get_clip_parameters(self, exclude_head: bool = False) -> Any:
        """All parameters; without the classifier's last two for adaptive clipping, as in timm."""
        network = self.get_eval_model()
        own = list(network.model.parameters())
        return [*(own[:-2] if exclude_head else own), *network.skip_norms.parameters()]

    def create_evaluator(self, **kwargs: Any) -> Any:
        """timm's evaluator for the task.

        Raises:
            TrainingError: a task that timm has no evaluator for.
        """
        if isinstance(self.task, MultiLabel):
            from timm.task import MultiLabelClassificationEvaluator

            return MultiLabelClassificationEvaluator(device=self.device, **kwargs)
        if self.task.quality == TOP_1 or isinstance(self.task, OwnCriterion):
            return super().create_evaluator(**kwargs)
        raise TrainingError(
            f"timm has no evaluator for the task {type(self.task).__name__} ({self.task.quality}): expected "
            "Classification or MultiLabel; use adaptive_depth.evaluate(network, loader, task=task)"
        )

    # -- checkpoints --------------------------------------------------------------------------------------------

    def get_task_state(self, module: nn.Module | None = None, ema: bool = False) -> dict[str, Any]:  # noqa: ARG002
        """The position in the schedule and the waiting batches; not repeated for the averaged weights."""
        if self.passes is None or ema:
            return {}
        tensors, facts = self.passes.state()
        return {"passes": {"tensors": tensors, "facts": facts}}

    def load_task_state(
        self,
        state: dict[str, Any] | None,
        strict: bool = True,
        module: nn.Module | None = None,  # noqa: ARG002 - the state is the schedule's
        ema: bool = False,
    ) -> None:
        """The inverse of `get_task_state`.

        Raises:
            CheckpointError: a checkpoint of another objective, or a damaged one.
        """
        kept: Any = state.get("passes") if state else None
        if ema or (kept is None and not strict):
            return
        if (kept is None) != (self.passes is None):
            made, now = ("without", "a schedule of passes") if self.passes else ("with", "Algorithm 1")
            raise CheckpointError(
                f"the checkpoint was made {made} a schedule of passes, but the task trains by {now}: resume it with "
                "its original objective, or load its weights only, "
                "network.load_state_dict(checkpoint['state_dict'])"
            )
        if kept is not None and self.passes is not None:
            try:
                tensors, facts = kept["tensors"], kept["facts"]
            except (KeyError, TypeError) as error:
                raise CheckpointError(f"the state of the passes is damaged ({error!r}): start again") from error
            self.passes.put_state(tensors, facts)


class StepLoader:
    """A timm loader with one pair of input and target for each optimiser step; made by `TimmTask.over`.

    Its epochs are those of the wrapped loader, and differ in length: see `Passes.over`. Each pair belongs to a pass, so
    the task must be called with it before the next one is fetched. All other attributes (`dataset`, `sampler`,
    `mixup_enabled`) are read from and set on the wrapped loader.

    Arguments:
        batches: the loader.
        task: whose passes it follows; may be set later, before anything is loaded.

    Raises:
        DataError: a loader without a length, or batches without targets.
        TrainingError: no task yet, or a pair fetched before the pass of the last one was made.
    """

    def __init__(self, batches: Any, task: TimmTask | None = None) -> None:
        self.__dict__.update(batches=batches, task=task)

    def __getattr__(self, name: str) -> Any:
        if name in ("batches", "task"):  # a copy in the making has none yet: avoid endless recursion
            raise AttributeError(name)
        return getattr(self.batches, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "task":
            self.__dict__[name] = value
        else:
            setattr(self.batches, name, value)

    def _steps(self) -> Any:
        """The passes over the batches, or the batches themselves."""
        if self.task is None:
            raise TrainingError(
                "the loader follows no task yet: set loader.task to the TimmTask that trains, or create it "
                "with task.over(loader)"
            )
        return self.batches if self.task.passes is None else self.task.passes.over(self.batches)

    def __len__(self) -> int:
        return len(self._steps())

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        steps, task = self._steps(), self.task
        if task.passes is None:
            yield from steps
            return
        for item in steps:
            task.due = item
            # Copies, because timm's Mixup works in place and would change the kept batch.
            yield tree_map_only(Tensor, _own, item["x"]) if item["letter"] != "S" else item["x"], item["y"]
            if task.due is not None:
                raise TrainingError(
                    "a pair was fetched before the pass of the last one was made: call task(input, target) for each "
                    "pair, and load ahead inside task.over(loader), not around it"
                )


def _asked(module: Any, method: str, otherwise: Any) -> Any:
    return getattr(module, method)() if hasattr(module, method) else otherwise


def _own(tensor: Tensor) -> Tensor:
    return tensor.clone() if tensor.device.type == "cpu" else tensor


def _shape(target: Any) -> Any:
    return list(target.shape) if isinstance(target, Tensor) else type(target).__name__
