"""Runs the passes of a schedule: each trains one sub-network on one batch in its own optimiser step."""

from collections.abc import Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from ..batches import arguments, device_of
from ..core.network import AdaptiveNetwork, check_runs, gathers
from ..core.sharing import SharedForward
from ..core.views import View
from ..errors import CheckpointError, DataError, TrainingError
from ..modes import Generators, buffers_restored_on_error
from ..tasks import Detection, OwnCriterion, Task, Watched, as_task
from .accumulating import check_steps_for_each_item, check_steps_once
from .compiling import Compiled
from .objective import learned
from .replay import Replay
from .schedule import Due, Schedule


@dataclass(frozen=True)
class PassResult:
    """What one pass yields.

    Attributes:
        loss: a scalar to differentiate.
        output: what the sub-network returned, in its task's form, without gradients.
    """

    loss: Tensor
    output: Any


class OnePass(nn.Module):
    """A pass as a module, for loops that wrap their model (precision, several devices): have them wrap this one.

    Arguments:
        network: the network to train.
        task: what it is for.
    """

    def __init__(self, network: AdaptiveNetwork, task: Task) -> None:
        super().__init__()
        self.network, self.task = network, task
        self._compiled = Compiled()
        self._shared: SharedForward | None = None  # runs the passes whose modules a task watches

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compile each sub-network when it first runs; takes `torch.compile`'s arguments.

        Raises:
            TrainingError: for a task that compares features inside the passes.
        """
        if self.task.watch:
            raise TrainingError(
                f"the task {type(self.task).__name__} looks inside the passes ({', '.join(self.task.watch)}): let "
                "sub-networks learn from labels alone, or do not compile"
            )
        self._compiled.ask(*args, **kwargs)

    def forward(self, x: Any, y: Any, skip: str, teacher: Any = None, share: float = 0.0) -> PassResult:
        """The loss of one sub-network on one batch.

        Arguments:
            x: the input; `[batch, channels, height, width]` for images, a dict of keyword arguments, or a tuple of
                positional ones.
            y: what the criterion takes besides the output.
            skip: the sub-network.
            teacher, share: the super-net's output for the same batch, and its share of the loss.

        Raises:
            TrainingError: what the task refuses. Weights, gradients and running statistics are then unchanged.
        """
        network = self.network
        args, kwargs = arguments(dict(x) if isinstance(x, Mapping) else x)
        if not network.proven:
            network.prove(*args, **kwargs)
        if network.calibrated and network.training:
            network.reset_statistics(per_context=False)  # they belong to weights that are about to change
        view = network.view(skip)  # brings it into the modes of training, too
        with buffers_restored_on_error(view.parts) if network.training else nullcontext():
            watch = self.task.watch if skip != network.skips[0] else ()
            taught = self._taught(args, kwargs) if watch else {}
            with nullcontext() if skip in (network.skips[0], network.skips[-1]) else self._gathering_aside(view):
                if watch:
                    output, seen = self._sharing().run(skip, None, args, kwargs, watch)
                else:
                    run = self._compiled.of(network, skip, view.module) if self._compiled.asked else view
                    output, seen = run(*args, **kwargs), {}
            output = self.task.output(output)
            if watch:
                loss = learned(self.task, Watched(output, seen), y, Watched(None, taught), 1.0)
            else:
                loss = learned(self.task, output, y, teacher, share)
        return PassResult(loss, tree_map_only(Tensor, torch.Tensor.detach, output))

    def _taught(self, args: Any, kwargs: Any) -> dict[str, Any]:
        """The outputs in the super-net of the modules that the task watches, on the same batch and with the same random
        numbers: a detector draws the size of its images.

        They are recomputed, up to these modules: stored for each waiting batch, features would take a multiple of its
        memory.
        """
        network = self.network
        generators = Generators(network, device_of(network))
        drawn, deep = generators.state(), network.skips[0]
        with torch.no_grad(), self._gathering_aside(network.view(deep)):
            seen = self._sharing().seen(deep, args, kwargs, self.task.watch)
        torch.clear_autocast_cache()  # it holds weights cast without gradients, which the learning pass would reuse
        generators.put(drawn)
        return seen

    def _sharing(self) -> SharedForward:
        if self._shared is None or self._shared.network is not self.network:
            self._shared = SharedForward(self.network)
        return self._shared

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_shared": None}

    @contextmanager
    def _gathering_aside(self, view: View) -> Iterator[None]:
        """Keep intermediate sub-networks out of the two sets of running statistics, the super-net's and base-net's."""
        if not self.network.training:
            yield
            return
        # Copies take their place: writing back into the same tensors would invalidate what backward saved of them.
        homes = [home._buffers for home in view.parts if gathers(home)]
        before = [dict(buffers) for buffers in homes]
        for buffers in homes:
            buffers |= {name: None if buffer is None else buffer.clone() for name, buffer in buffers.items()}
        try:
            yield
        finally:
            for buffers, own in zip(homes, before, strict=True):
                buffers |= own


class Passes:
    """A schedule for the user's own loop: one optimiser step for each pass.

    The blocks that a pass skips have no gradient, so with `zero_grad(set_to_none=True)`, torch's default, they get no
    momentum, decay or update from it. Learning-rate schedules cover all steps, `schedule.steps(batches)`.

    Arguments:
        network: the network to train.
        task: what the network is for: a task of `adaptive_depth.tasks`, a dict of them for several heads, or a
            criterion of output and labels; if None, what the model's class implies (`as_task`), else cross-entropy.
        schedule: which sub-network learns when; the default one if None (without R for a network of one stage).
        buffer_mb: memory off the device for the batches that wait for a later pass, see `Replay`.

    Raises:
        TrainingError: a schedule or a task that does not fit.

    Example:
        >>> import timm, torch, adaptive_depth as ad
        >>> net = ad.adapt(timm.create_model("resnet18", num_classes=10)).train()
        >>> optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        >>> passes = Passes(net, torch.nn.CrossEntropyLoss(), Schedule("SB", delay=1))
        >>> for x, y in [(torch.randn(2, 3, 64, 64), torch.tensor([3, 7]))] * 2:
        ...     for loss in passes(x, y):
        ...         optimizer.zero_grad()
        ...         loss.backward()
        ...         optimizer.step()
        >>> passes.steps_done
        3
    """

    def __init__(
        self,
        network: AdaptiveNetwork,
        task: Any = None,
        schedule: Schedule | None = None,
        *,
        buffer_mb: float = 2048,
    ) -> None:
        check_runs(network, "Passes", TrainingError)
        if schedule is None:
            schedule = Schedule("SBSBR" if len(network.stages) > 1 else "SB")
        if not isinstance(schedule, Schedule):
            raise TrainingError(f"schedule={schedule!r}: expected a Schedule, such as Schedule('SBSBR', delay=16)")
        if not any(due.letter == "S" for due in schedule.due(0)):
            raise TrainingError(
                f"the schedule {type(schedule).__name__} does not train the super-net on the first batch: expected a "
                "pass S, which loads it, as in Schedule('SBSBR')"
            )
        if not buffer_mb > 0:
            raise TrainingError(f"buffer_mb={buffer_mb!r}: expected megabytes, above 0")
        if "R" in schedule.pattern:
            schedule.drawn_from(len(network.stages))
        self.task = as_task(task, network.model)
        if schedule.teacher_share and isinstance(self.task, Detection):
            raise TrainingError(
                f"teacher_share={schedule.teacher_share:g} compares outputs, but a detector's are boxes: expected "
                "teacher_share=0 and Detection(learn='both'), which compares features"
            )
        if schedule.teacher_share and isinstance(self.task, OwnCriterion):
            self.task = self.task.distilling()
        self.module = OnePass(network, self.task)
        if schedule.teacher_share and not self.task.can_distil:
            raise TrainingError(
                f"teacher_share={schedule.teacher_share:g} needs a loss between two outputs, but the task "
                f"{type(self.task).__name__} has none: pass a task of adaptive_depth.tasks, such as "
                "Classification(criterion), or teacher_share=0"
            )
        self.network, self.schedule = network, schedule
        self.loaded, self.steps_done = 0, 0
        self.waiting: list[Due] = []  # passes of the newest batch that are still due
        self._kept = Replay(schedule.kept, buffer_mb)
        self._newest: list[tuple[Any, Any]] | None = None
        self.resumed = False  # from a checkpoint, and no loader was started since

    def __call__(self, x: Any, y: Any = None) -> Iterator[Tensor]:
        """The losses that follow a new batch; make an optimiser step with each before requesting the next.

        Arguments:
            x, y: input and labels, on the network's device; or a batch of the loader as it is, which the task splits
                (token ids of a language model, a dict with `labels`).

        Raises:
            TrainingError: what the task refuses, a batch that cannot be kept for a later pass, or a loop that adds up
                the gradients of several passes (`accelerator.accumulate`).
        """
        check_steps_once()
        for due in self.load([self.task.taken_apart(x) if y is None else (x, y)]):
            yield self.learn(self.items(due)[0]).loss
            check_steps_once()
            self.done()

    def load(self, parts: Sequence[tuple[Any, Any]]) -> Iterator[Due]:
        """Take in a new batch and yield the passes that follow it; after each, call `done()`.

        Arguments:
            parts: the batch as pairs of input and labels; several if a step is accumulated, else one.

        Raises:
            DataError: an input that the network cannot take (`Task.check_input`).
        """
        for x, _ in parts:
            self.task.check_input(x, self.network.model)
        self.waiting = list(self.schedule.due(self.loaded))
        if not self.schedule.fresh:
            self._kept.put(self.loaded, {"parts": list(parts), "teacher": [None] * len(parts)})
        self._newest = list(parts)
        self.loaded += 1
        return self.left()

    def left(self) -> Iterator[Due]:
        """The passes of the newest batch that are not done, for example after loading a checkpoint."""
        while self.waiting:
            yield self.waiting[0]

    def done(self) -> None:
        """Mark the first waiting pass as done."""
        self.waiting.pop(0)
        self.steps_done += 1

    def items(self, due: Due) -> list[dict[str, Any]]:
        """A pass as plain values, one dict for each part of its batch; `learn` runs it."""
        parts, teachers = self._batch(due)
        named = {"skip": self.schedule.skip_of(due, self.network.skips), "letter": due.letter, "batch": due.batch}
        return [
            {"x": x, "y": y, **named, "part": part, "teacher": teacher}
            for part, ((x, y), teacher) in enumerate(zip(parts, teachers, strict=True))
        ]

    def learn(self, item: Mapping[str, Any], module: Any = None) -> PassResult:
        """The forward pass of one part of a pass.

        Arguments:
            item: from `items`, or from a loader made by `over`.
            module: what to call if a loop wrapped `self.module`.
        """
        schedule, teacher = self.schedule, item["teacher"]
        share = schedule.teacher_share if teacher is not None else 0.0
        result = (module or self.module)(item["x"], item["y"], item["skip"], teacher, share)
        if item["letter"] == "S" and schedule.teacher_share and item["batch"] >= schedule.teacher_start:
            self._kept.answered(item["batch"], item["part"], result.output)  # kept for later passes
        return result

    def _batch(self, due: Due) -> tuple[Any, Any]:
        """The parts of a pass's batch, and the super-net's output for each, if kept."""
        if due.letter == "S" or self.schedule.fresh:  # as loaded: the kept copy may have 8 bits
            assert self._newest is not None
            return self._newest, [None] * len(self._newest)
        if due.batch not in self._kept.batches:
            raise TrainingError(
                f"batch {due.batch} is no longer kept: make all passes of a batch before loading the next one"
            )
        kept = self._kept.get(due.batch, device_of(self.network))
        return kept["parts"], kept["teacher"]

    # -- for loops that make one step for each batch of their loader --------------------------------------------

    def over(self, batches: Any) -> "PassLoader":
        """A loader with one item for each optimiser step, for loops that make one step per item of their loader."""
        return PassLoader(self, batches)

    # -- for a checkpoint ---------------------------------------------------------------------------------------

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The position in the schedule and the kept batches: tensors by name, and plain values for JSON."""
        tensors, kept = self._kept.state()
        return tensors, {"loaded": self.loaded, "steps": self.steps_done, "waiting": len(self.waiting), "kept": kept}

    def put_state(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """The inverse of `state`.

        Raises:
            CheckpointError: something other than such a state.
        """
        try:
            self._kept.put_state(tensors, facts["kept"])
            self.loaded, self.steps_done = int(facts["loaded"]), int(facts["steps"])
            number = int(facts["waiting"])
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise CheckpointError(f"the state of the passes is damaged ({error!r}): start again") from error
        due = list(self.schedule.due(self.loaded - 1)) if self.loaded else []
        self.waiting = due[len(due) - number :]
        self._newest = None
        self.resumed = True


class PassLoader:
    """A loader with one item for each optimiser step of a schedule; made by `Passes.over`.

    An item is a dict of `x`, `y`, `skip` and whatever else `Passes.learn` takes; the batches of the wrapped loader stay
    on the device that they come on. Its epochs are those of the wrapped loader, which also has all other attributes
    (`dataset`, `set_epoch`, ...).

    A pass counts as made when its item is yielded, so save checkpoints after the step and before fetching the next
    item. After `Passes.put_state` the first epoch continues where it was interrupted, without the batches loaded
    before.

    Raises:
        DataError: batches without a length or without labels.
        TrainingError: a loop that makes one step for several items (`gradient_accumulation_steps`).
    """

    def __init__(self, passes: Passes, batches: Any) -> None:
        if not isinstance(batches, Sized):
            raise DataError(f"a {type(batches).__name__} has no length: expected a list or DataLoader")
        self.passes: Passes = passes
        self.batches: Any = batches

    def __getattr__(self, name: str) -> Any:
        if name in ("passes", "batches"):  # a copy in the making has none yet: avoid endless recursion
            raise AttributeError(name)
        return getattr(self.batches, name)

    def __len__(self) -> int:
        """Steps of the next epoch, or of the one that was interrupted.

        Epochs differ: in the first, passes on batches from before the start are left out, and a round may end in the
        next epoch. A loop that asks only once would cut later epochs short: have it ask before each (Lightning:
        `reload_dataloaders_every_n_epochs=1`), or count in `schedule.steps(epochs * len(batches))`.
        """
        start, steps = self._start(), self.passes.schedule.steps
        return steps(start + len(self.batches)) - steps(start)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        check_steps_for_each_item()
        loaded = 0
        if self.passes.resumed:
            self.passes.resumed = False
            loaded = self.passes.loaded - self._start()
            yield from self._items(self.passes.left())
        for batch in islice(self.batches, loaded, None):
            yield from self._items(self.passes.load([self.passes.task.taken_apart(batch)]))

    def _start(self) -> int:
        """The number of the epoch's first batch."""
        finished = self.passes.loaded - bool(self.passes.waiting)
        return finished - finished % max(1, len(self.batches))

    def _items(self, dues: Iterator[Due]) -> Iterator[dict[str, Any]]:
        for due in dues:
            item = self.passes.items(due)[0]
            # Not after the yield: a loop that counts items does not fetch another at the end of an epoch, and the
            # state that it saves there must not list this pass as due.
            self.passes.done()
            yield item
