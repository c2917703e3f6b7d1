"""The measurements of an analysis, accumulated batch by batch."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..batches import arguments, device_of, entries_in, samples_in, split_batch
from ..core.network import AdaptiveNetwork
from ..core.stand_in import stand_in
from ..core.views import build_view
from ..errors import MeasurementError
from ..modes import Generators
from ..plan import Stage
from ..training.self_distillation import feature_loss
from .criterion import Criterion
from .norms import norm_observers, summarise
from .observers import BlockObserver, FeatureLeaf, cosines, observed
from .values import Analysis, BlockAnalysis, StageAnalysis


class Measurement:
    """Everything measured about one network.

    Arguments:
        network: proven, in eval mode, its parameters frozen.
        criterion: of outputs and labels.
        compare: a model with the same blocks, in eval mode.

    Attributes:
        passes: the number of passes that `add` runs per batch.
        losing: the modules whose outputs go to the criterion.
    """

    def __init__(self, network: AdaptiveNetwork, criterion: Criterion, compare: nn.Module | None) -> None:
        self.network, self.criterion, self.images = network, criterion, 0
        stages, number = network.stages, len(network.stages)
        self.deep, self.shallow = network.skips[0], network.skips[-1]
        self.alone = ["F" * stage + "T" + "F" * (number - stage - 1) for stage in range(number)]
        # "F" sorts before "T": the super-net comes first, the base-net last.
        skips = sorted({self.deep, self.shallow, *self.alone})
        self.norms = {skip: norm_observers(network.view(skip).module, skip) for skip in skips}
        self.subnets = {skip: observed(network.view(skip).module, self.norms[skip]) for skip in skips}
        self.blocks = {path: BlockObserver(path, path in stage.skippable) for stage in stages for path in stage.blocks}
        self.bases = {stage.mandatory[-1]: BlockObserver(stage.mandatory[-1], keep=True) for stage in stages}
        self.subnets[self.deep] = observed(self.subnets[self.deep], self.blocks)
        self.subnets[self.shallow] = observed(self.subnets[self.shallow], self.bases)
        self.losses = {skip: _Mean() for skip in skips}
        self.divergences = [_Mean() for _ in stages]
        self.ratios = _Ratios(self.blocks)
        self.terms = {path: _Term(network, stage, path) for stage in stages for path in stage.skippable}
        self.compared = None if compare is None else _Compared(compare, self.blocks, network.model)
        self.passes = len(skips) + len(self.terms) + (compare is not None)
        self.losing = [*self.subnets.values(), *(term.subnet for term in self.terms.values())]
        self.generators = Generators(network, device_of(network))

    def add(self, x: Any, y: Tensor | None) -> Iterator[None]:
        """Measure one batch; yields after each pass."""
        (args, kwargs), rows = arguments(x), samples_in(x)
        samples = entries_in(y) if rows is None else rows
        drawn = self.generators.state()  # a detector samples regions for its loss: reuse the same ones
        for skip, subnet in self.subnets.items():
            self.losses[skip].add(float(self.criterion(f"sub-network {skip}", subnet(*args, **kwargs), y)), samples)
            self.generators.put(drawn)
            yield
        # These observers see only the super-net, so their numbers are still those of its pass.
        self.ratios.gather(rows)
        for stage, divergence in zip(self.network.stages, self.divergences, strict=True):
            deep, shallow = self.blocks[stage.skippable[-1]].kept, self.bases[stage.mandatory[-1]].kept
            divergence.add(float(feature_loss(deep.after, shallow.after, stage.channel_dim)), samples)
        for path, term in self.terms.items():
            term.add(args, kwargs, y, self.criterion, self.blocks[path].kept.change, samples)
            self.generators.put(drawn)
            yield
        # Frees their features before another model runs.
        for block in (*self.blocks.values(), *self.bases.values()):
            block.forget()
        if self.compared is not None:
            self.compared.add(x)
            yield
        self.images += samples

    def result(self) -> Analysis:
        """Everything but the advice."""
        losses = {skip: mean.known for skip, mean in self.losses.items()}
        blocks = [
            self._block(number, path, losses[self.deep])
            for number, stage in enumerate(self.network.stages, 1)
            for path in stage.blocks
        ]
        stages = [self._stage(number, losses) for number in range(1, len(self.network.stages) + 1)]
        norms = tuple(summarise(self.norms, self.network.homes))
        classes = self.criterion.classes
        seen = None if classes is None else len(self.criterion.seen)
        counts = {"images": self.images, "classes": classes, "seen": seen}
        return Analysis(tuple(blocks), tuple(stages), norms, losses, network=self.network.fingerprint, **counts)

    def _block(self, number: int, path: str, super_loss: float) -> BlockAnalysis:
        ratio = self.ratios.means[path].value
        alone = None if self.compared is None else self.compared.ratios.means[path].value
        if path not in self.terms:
            return BlockAnalysis(path, number, False, ratio, alone)
        skippable, term = self.network.stages[number - 1].skippable, self.terms[path]
        following = skippable[skippable.index(path) + 1 :]
        # Leaving out the following block leaves this one as the last.
        with_it = self.terms[following[0]].loss.known if following else super_loss
        change = with_it - term.loss.known
        return BlockAnalysis(path, number, True, ratio, alone, term.predicted.known, change, term.cosine.value)

    def _stage(self, number: int, losses: Mapping[str, float]) -> StageAnalysis:
        stage = self.network.stages[number - 1]
        terms = [self.terms[path] for path in stage.skippable]
        return StageAnalysis(
            number,
            stage.name,
            predicted=sum(term.predicted.known for term in terms),
            change=losses[self.deep] - terms[0].loss.known,
            cosine=_Mean.of([term.cosine for term in terms]).value,
            skipping=losses[self.alone[number - 1]] - losses[self.deep],
            divergence=self.divergences[number - 1].known,
        )


class _Mean:
    """A mean over samples, accumulated batch by batch."""

    def __init__(self, total: float = 0.0, count: int = 0) -> None:
        self.total, self.count = total, count

    @classmethod
    def of(cls, means: "list[_Mean]") -> "_Mean":
        """The mean over the samples of several means."""
        return cls(sum(mean.total for mean in means), sum(mean.count for mean in means))

    def add(self, mean: float, count: int) -> None:
        self.total, self.count = self.total + mean * count, self.count + count

    def add_all(self, values: Tensor) -> None:
        self.total, self.count = self.total + float(values.cpu().double().sum()), self.count + len(values)

    @property
    def value(self) -> float | None:
        """None without samples."""
        return self.total / self.count if self.count else None

    @property
    def known(self) -> float:
        """The mean; requires at least one sample."""
        return self.total / self.count


class _Ratios:
    """Mean ‖F(h)‖₂ / ‖h‖₂ of blocks, by path."""

    def __init__(self, blocks: Mapping[str, BlockObserver]) -> None:
        self.blocks, self.means = blocks, {path: _Mean() for path in blocks}

    def gather(self, rows: int | None) -> None:
        """Add the last pass; `rows` is its number of samples if that is certain."""
        for path, block in self.blocks.items():
            block.check(rows)
            if block.ratios is not None:
                self.means[path].add_all(block.ratios)


class _Term:
    """One skippable block's term of the first-order expansion, F_j(h_j) · ∂L/∂h_j.

    L at h_j is the loss of the super-net whose sub-path ends before block j.
    """

    def __init__(self, network: AdaptiveNetwork, stage: Stage, path: str) -> None:
        super_net = network.view(network.skips[0]).module
        later = stage.skippable[stage.skippable.index(path) :]
        left_out = {block: stand_in(super_net.get_submodule(block), stage.returns) for block in later}
        self.path, self.h = path, FeatureLeaf()
        self.subnet = observed(build_view(super_net, left_out).module, {path: self.h})
        self.loss, self.predicted, self.cosine = _Mean(), _Mean(), _Mean()

    def add(self, args: Any, kwargs: Any, y: Any, criterion: Criterion, change: Tensor, samples: int) -> None:
        what = f"the super-net without {self.path} and what follows in its stage"
        with torch.enable_grad():
            loss = criterion(what, self.subnet(*args, **kwargs), y)
            if not loss.requires_grad:
                raise MeasurementError(
                    f"the loss of {what} has no gradient: expected a criterion made of torch's functions, and a model "
                    "that does not detach its output"
                )
            (gradient,) = torch.autograd.grad(loss, self.h.leaf)
        product = change.to(torch.promote_types(change.dtype, torch.float32)) * gradient
        if not torch.isfinite(product).all():
            raise MeasurementError(f"the gradient of the loss of {what} is not finite")
        self.loss.add(float(loss), samples)
        self.predicted.add(float(product.sum()), samples)  # the loss is a batch mean, so this sum is one, too
        self.cosine.add_all(cosines(change, -gradient))


class _Compared:
    """The blocks of a model that was trained without the method."""

    def __init__(self, model: nn.Module, paths: Mapping[str, Any], like: nn.Module) -> None:
        if isinstance(model, AdaptiveNetwork):
            model = model.view(model.skips[0]).module
        has = dict(model.named_modules())
        lacking = [path for path in paths if path not in has]
        if lacking:
            more = f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
            raise MeasurementError(
                f"the {type(model).__name__} to compare with lacks the network's block {lacking[0]!r}{more}: expected "
                "the same model, trained without the method"
            )
        names, own = ({name for name, _ in each.named_parameters()} for each in (model, like))
        if names != own:
            raise MeasurementError(
                f"the {type(model).__name__} to compare with has other parameters than the network, such as "
                f"{min(names ^ own)!r}: expected the same model, trained without the method"
            )
        blocks = {path: BlockObserver(path) for path in paths}
        self.model, self.ratios, self.device = observed(model, blocks), _Ratios(blocks), device_of(model)

    def add(self, x: Any) -> None:
        # The other model may be on another device.
        x, _ = split_batch((x, None), self.device)
        args, kwargs = arguments(x)
        self.model(*args, **kwargs)
        self.ratios.gather(samples_in(x))
