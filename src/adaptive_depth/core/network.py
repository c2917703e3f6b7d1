"""stages → network: skip-aware norms, and every sub-network as an ordinary module that shares the weights."""

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import partial
from typing import Any, NoReturn, Self
from uuid import uuid4

import torch
from torch import nn

from ..errors import AdaptiveDepthError, DepthError, StagesError
from ..hub.methods import OnTheHub
from ..hugging_face import forget_capturing, is_of_transformers, prepare_capturing, writes_text
from ..models import Source, remembered_source
from ..plan import Stage, Stages
from ..plan.checks import complete, homes, prove
from ..plan.frozen import is_frozen, thawed
from ..plan.norms import gathers_inside, has_statistics
from ..skip import Skip, all_skips, parse_skip
from ..wrapping import plain_names, unwrapped
from .caches import guarded, marking
from .left import Left
from .recompute import recompute
from .stand_in import hooks_of, readable, stand_in
from .stochastic_depth import switch_off_stochastic_depth
from .trying import try_depths
from .views import Links, View, build_view, independent_copy, links_of, plain, statistics_twin, twin
from .whole import Whole, check_same

# Outputs of transformers models with one entry per layer.
_BY_LAYER = ("output_hidden_states", "output_attentions", "output_router_logits")
_ONE_A_LAYER = ("attentions", "cross_attentions", "decoder_attentions", "encoder_attentions", "router_logits")


class RunningStatistics(nn.Module):
    """The running statistics of one norm in one context, without affine parameters; also those of norms inside it."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        for name, buffer in norm.named_buffers(recurse=False):
            self.register_buffer(name, buffer.detach().clone())
        for name, child in norm.named_children():
            if gathers_inside(child):
                self.add_module(name, RunningStatistics(child))


def gathers(module: nn.Module) -> bool:
    """Does it hold running statistics, its own or a context's?"""
    return has_statistics(module) or isinstance(module, RunningStatistics)


def check_adapted(network: object, received_by: str, error: type[AdaptiveDepthError]) -> None:
    """Raise `error` for anything other than an adapted network."""
    if not isinstance(network, AdaptiveNetwork):
        inside = isinstance(network, nn.Module) and isinstance(unwrapped(network), AdaptiveNetwork)
        fix = "pass the adapted network inside it" if inside else "expected an adapted network, adapt(model)"
        raise error(f"{received_by} received a {type(network).__name__}: {fix}")


def check_runs(network: object, received_by: str, error: type[AdaptiveDepthError]) -> None:
    """Raise `error` for anything other than an adapted network, or if its sub-networks no longer match its model."""
    check_adapted(network, received_by, error)
    assert isinstance(network, AdaptiveNetwork)
    if replaced := network.replaced():
        raise error(
            f"{received_by} received a network whose model's modules were replaced after its sub-networks were made "
            f"({replaced}; peft and quantisation do so), so these still use the old ones: call "
            "network.forget_views() first"
        )


class AdaptiveNetwork(OnTheHub):
    """A network of N stages with 2^N sub-networks of different depth; made by `adapt`.

    Attributes:
        model: the original model; by itself it is the super-net.
        stages: the plan.
        skip_norms: the second set of norms, used by a stage whose skippable sub-path is skipped, in a tree of
            the same paths; frozen ones are thawed. A BatchNorm that is not doubled but sees what a skipped stage
            changed has only its running statistics twice.
        statistics: running statistics per context, gathered by `calibrate`; empty before.
        skips: all skip configurations, super-net first.
        proven: whether an input verified the stages (`prove`), or they are of a known family.
        left: what forward passes store on the modules.
        grad_checkpointing: whether activations are recomputed (`set_grad_checkpointing`).

    The sub-networks are views: caches that are not in the state dict, not pickled and not copied. Parameters,
    buffers, hooks, modes and plain attributes (such as an annealed temperature) may change at any time: the network
    follows when it runs, and `subnet` when it is called in training. After replacing a module of `model`, call
    `forget_views()`, or sub-networks in use keep the old one.
    """

    def __init__(self, model: nn.Module, stages: Stages) -> None:
        super().__init__()
        self.model = model
        self.stages = stages
        self.skips = all_skips(len(stages))
        self.source: Source | None = remembered_source(model)
        self.homes = homes(model, stages)
        self.skip_norms = nn.Module()
        self.statistics = nn.Module()
        self.proven = True
        self.grad_checkpointing = False
        self.left = Left()
        prepare_capturing(model)
        # Hooks that the model came with are part of it; later ones belong to an observer.
        self._hooks = {p: hooks_of(model.get_submodule(p)) for stage in stages for p in stage.skippable}
        self.forget_views()
        doubled = {path for stage in stages for path in stage.norms or ()}
        for path in self.homes:
            norm = model.get_submodule(path)
            if path in doubled:
                _plant(self.skip_norms, path, (is_frozen(norm) and thawed(norm)) or independent_copy(norm))
            elif not self._skippable(path):
                _plant(self.skip_norms, path, RunningStatistics(norm))
        self.register_load_state_dict_pre_hook(_grow_statistics)
        self.training = model.training  # nn.Module starts in training mode, which the model may not be in
        self.skip_norms.train(model.training)

    @classmethod
    def adapted(cls, model: nn.Module, stages: Stages) -> Self:
        """The network of a model and a plan that fit: what `adapt` does once both are known.

        Stochastic depth in mandatory sub-paths is switched off, as the method requires.
        """
        network = cls(model, complete(model, stages))
        for path in (path for stage in network.stages for path in stage.mandatory):
            for module in model.get_submodule(path).modules():
                switch_off_stochastic_depth(module)
        return network

    # -- choosing a depth ---------------------------------------------------------------------------------------

    def forward(self, *args: Any, skip: Skip | None = None, **kwargs: Any) -> Any:
        """The output of a sub-network; by default of the super-net.

        Arguments:
            *args, **kwargs: the input, as for the original model.
            skip: one letter (T skips, F does not) or boolean per stage.

        Raises:
            SkipError: a skip that does not fit the stages.
            StagesError: stages written by hand that the first input refutes.
        """
        if not self.proven:
            self.prove(*args, **kwargs)
        chosen = self.skips[0] if skip is None else skip
        view = self.view(chosen)
        if self._may_use_caches(kwargs):
            view = self._given(chosen)  # its caches are those of `subnet`
        output = view(*args, **kwargs)
        if "T" in view.skip and isinstance(output, Mapping):
            self._check_indices(view.skip, output)
        return output

    def _may_use_caches(self, kwargs: Mapping[str, Any]) -> bool:
        """Can this call create or continue a cache? Not with outputs per layer, which keep all layers' numbers."""
        if self.training or kwargs.get("use_cache") is False or not writes_text(self.model):
            return False
        return not any(kwargs.get(name) for name in _BY_LAYER)

    def _check_indices(self, skip: str, output: Mapping[str, Any]) -> None:
        """Raise if an output with one entry per layer misses those of skipped blocks (attentions of transformers)."""
        layers = getattr(getattr(self.model, "config", None), "num_hidden_layers", None)
        for name in _ONE_A_LAYER:
            found = output.get(name)
            if isinstance(found, tuple) and isinstance(layers, int) and 0 < len(found) < layers:
                raise StagesError(
                    f"{name} of sub-network {skip} has {len(found)} entries but the model has {layers} layers, because "
                    "skipped blocks have none: entry k would not belong to layer k. Leave it out, or use "
                    f"network.subnet({skip!r}), which counts only the blocks that run"
                )

    def subnet(self, skip: Skip) -> nn.Module:
        """A sub-network: an ordinary module of the original's own class, sharing every parameter and buffer.

        For a model of transformers it is a complete one: without the skipped layers, the others renumbered, and with a
        matching config. `generate`, caches and `save_pretrained` are those of a model built with these layers.

        It follows `network.train()` and `.eval()`; in training, also the modes of single modules (such as a frozen
        BatchNorm) at the time of the lookup.

        Raises:
            SkipError: a skip that does not fit the stages.
            StagesError: stages written by hand that no input has verified yet; a language model of transformers whose
                config cannot express fewer layers, or (DepthError) that does not run with only these.
        """
        view = self.view(skip)  # `_given` inlined, so that choosing a depth takes 0.2 us
        if self._wholes is not self._views:
            view = self._whole_view(view)
        return view.module

    def view(self, skip: Skip) -> View:
        """A sub-network with what the library's own loops need; raises what `subnet` raises."""
        if not self.proven:
            raise StagesError(
                "no input has verified the stages written by hand yet: call network.prove(x) with an input of the "
                "model, or adapt(model, stages, example=x)"
            )
        try:
            view = self._views[skip]  # type: ignore[index]
        except (KeyError, TypeError):  # the latter for a list of booleans, which is not hashable
            view = self._build(parse_skip(skip, len(self.stages)))
        if self.training:  # in eval mode `train()` below did this, so that choosing a depth stays a lookup
            view.follow_modes()
            view.follow_attributes()
        return view

    def extract(self, skip: Skip) -> nn.Module:
        """An independent copy of a sub-network: plain modules of the original classes, without a trace of this library.

        Raises:
            SkipError: a skip that does not fit the stages.
        """
        with torch.no_grad():
            view = self._given(skip)
            view.follow_attributes()
            module = plain(independent_copy(view.module), self.model)
        for part in module.modules() if self.grad_checkpointing else ():
            recompute(part, False)
        forget_capturing(module)
        return module

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compile every sub-network; takes the arguments of `torch.compile`.

        Each is compiled when it runs for the first time; switching between compiled ones compiles nothing again.
        """
        for skip in self.skips:
            views = [self.view(skip)]
            with suppress(DepthError):  # one that only runs inside the network
                views.append(self._given(skip))
            for module in {id(view): view.module for view in views}.values():
                hooked = twin(module)  # so that the sub-network's hooks run around its compiled forward
                hooked.__dict__["forward"] = torch.compile(module.forward, *args, **kwargs)
                # `nn.Module.__call__` uses this if it is set.
                module._compiled_call_impl = hooked._call_impl

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute the activations of every block of the stages in the backward pass: less memory, more time.

        Gradients and running statistics are the same. Works on any model, and has timm's name; the model's own
        (`model.set_grad_checkpointing()`) may be used instead, but gathers BatchNorm statistics twice. A block that
        changes its input in place cannot run again: it raises a StagesError when it runs.
        """
        for stage in self.stages:
            for path in stage.blocks:
                recompute(self.model.get_submodule(path), enable)
        self.grad_checkpointing = enable
        self.forget_views()

    def prove(self, *args: Any, **kwargs: Any) -> None:
        """Check the stages on an input: blocks run once and in order, skippable ones only add to it, every depth runs.

        Raises:
            StagesError: with the block and the reason.
        """
        prove(self.model, self.stages, args, kwargs)
        # Before the depths are tried, because `view` requires it.
        self.proven = True
        try:
            try_depths(self, args, kwargs)
        except BaseException:
            self.proven = False
            raise

    @property
    def fingerprint(self) -> str:
        """A hash of the architecture and the plan, not of the weights: networks that share it share measured costs.

        Sixteen hexadecimal digits, from the names and shapes of parameters and buffers and from the stages.
        """
        state, names = self.model.state_dict(), plain_names(self.model)
        shapes = {names[name]: list(each.shape) for name, each in state.items() if isinstance(each, torch.Tensor)}
        return hashlib.sha256(json.dumps([shapes, self.stages.to_json()]).encode()).hexdigest()[:16]

    # -- statistics per context ---------------------------------------------------------------------------------

    @property
    def calibrated(self) -> bool:
        """Whether running statistics per context were gathered (`calibrate`)."""
        return any(True for _ in self.statistics.children())

    def contexts(self) -> Iterator[tuple[str, str]]:
        """Every (context, path of a norm with running statistics): its input depends on the flags up to its stage.

        A context is the letters of the stages up to and including the norm's own: 2 + 4 + ... + 2^N sets.
        """
        for path, home in self.homes.items():
            flags = self._gathering(path)
            yield from ((context, path) for context in all_skips(home) if context[-1] in flags)

    def gathers(self, path: str) -> bool:
        """Does a norm have running statistics per context, once calibrated?"""
        return bool(self._gathering(path))

    def _gathering(self, path: str) -> str:
        """The flags of its stage with which a norm gathers: for a frozen one, only its thawed copy does."""
        flags = "F" if self._skippable(path) else "FT"
        return "".join(flag for flag in flags if gathers_inside(self._norm(path, flag)))

    def _skippable(self, path: str) -> bool:
        """Does a norm lie in a skippable block of the stage that it follows?"""
        return any(f"{path}.".startswith(f"{block}.") for block in self.stages[self.homes[path] - 1].skippable)

    def reset_statistics(self, *, per_context: bool) -> None:
        """Drop the statistics per context; with `per_context`, start new ones as copies of the two sets."""
        statistics = nn.Module()
        if per_context:
            for context, path in self.contexts():
                _plant(statistics, f"{context}.{path}", RunningStatistics(self._norm(path, context[-1])))
        self.statistics = statistics.train(self.training)
        self.forget_views()

    # -- sub-networks of transformers ---------------------------------------------------------------------------

    def _given(self, skip: Skip) -> View:
        """The view that `subnet` returns: for a model of transformers the whole one, if there is one."""
        view = self.view(skip)
        return view if self._wholes is self._views else self._whole_view(view)

    def _whole_view(self, view: View) -> View:
        found = self._wholes.get(view.skip)
        if found is None:
            found = self._wholes[view.skip] = self._build_whole(view)
        if self.training:
            found.follow_modes()
            found.follow_attributes()
        return found

    def _build_whole(self, view: View) -> View:
        """
        Raises:
            StagesError: a language model whose class cannot be built without the skipped layers.
        """
        skip, whole = view.skip, view
        if "T" in skip:  # the super-net is the unchanged model
            try:
                whole = self._without_layers(view)
            except StagesError as error:
                if writes_text(self.model):
                    raise type(error)(
                        f"sub-network {skip} cannot be a separate {type(self.model).__name__}: {error}. It runs "
                        f"inside the network without a cache: network(..., use_cache=False, skip={skip!r})"
                    ) from error
                view.keep("save_pretrained", partial(_not_saved, type(self.model).__name__, str(error)))
        if writes_text(self.model):
            whole.keep("forward", guarded(whole.module, self._name, skip, plain="T" not in skip))
            whole.keep("generate", marking(whole.module, self._name, skip))
        return whole

    def _without_layers(self, view: View) -> View:
        """
        Raises:
            StagesError: a model whose class cannot be built without the skipped layers.
        """
        pairs = zip(self.stages, view.skip, strict=True)
        left_out = [path for stage, flag in pairs if flag == "T" for path in stage.skippable]
        with self._lock:
            if self._whole is None:
                self._whole = Whole.of(self.model, self.stages)
            assert self._links is not None
            whole, reason = self._whole.view(self._changes(view.skip), left_out, self._links)
        whole.left, whole.skip = self.left, view.skip
        whole.follow_modes()
        check_same(self.model, view.module, whole.module)
        if reason is not None:
            whole.keep("save_pretrained", partial(_not_saved, type(self.model).__name__, reason))
        return whole

    # -- views --------------------------------------------------------------------------------------------------

    def _build(self, skip: str) -> View:
        with self._lock:
            if skip not in self._views:
                self._links = links_of(self.model) if self._links is None else self._links
                view = build_view(self.model, self._changes(skip), self._links)
                view.left, view.skip = self.left, skip
                view.follow_modes()
                self._views[skip] = view
            return self._views[skip]

    def _changes(self, skip: str) -> dict[str, nn.Module]:
        """The modules that a sub-network replaces in the super-net, by path."""
        changes: dict[str, nn.Module] = {}
        left_out = {
            path: self._stand_in(path, stage)
            for stage, flag in zip(self.stages, skip, strict=True)
            if flag == "T"
            for path in stage.skippable
        }
        for path, home in self.homes.items():
            flag = skip[home - 1]
            if flag == "T" and self._skippable(path):
                continue
            norm = self._norm(path, flag)
            if self.calibrated and gathers_inside(norm):
                statistics = self.statistics.get_submodule(f"{skip[:home]}.{path}")
                affine = self.model.get_submodule(path) if isinstance(norm, RunningStatistics) else norm
                changes[path] = statistics_twin(affine, statistics)
            elif flag == "T":
                if isinstance(norm, RunningStatistics):
                    norm = statistics_twin(self.model.get_submodule(path), norm)
                changes[path] = norm
        return changes | left_out

    def _stand_in(self, path: str, stage: Stage) -> nn.Module:
        block = self.model.get_submodule(path)
        if path not in self._reads:
            self._reads[path] = readable(block)
        return stand_in(block, stage.returns, self._hooks[path], self._reads[path])

    def _norm(self, path: str, flag: str) -> nn.Module:
        """The norm at `path` that a stage uses: the model's own, or the one (or its statistics) for a skipped stage."""
        return self.model.get_submodule(path) if flag == "F" else self.skip_norms.get_submodule(path)

    def forget_views(self) -> None:
        """Drop all sub-networks; they are rebuilt when needed."""
        self._views: dict[str, View] = {}
        # The same dictionary unless the model is of transformers, so that choosing a depth is a lookup.
        self._wholes: dict[str, View] = {} if is_of_transformers(self.model) else self._views
        self._whole: Whole | None = None
        self._name = uuid4().hex  # identifies these sub-networks in the caches that they fill
        self._links: Links | None = None
        self._reads: dict[str, dict[str, Any]] = {}
        self._lock = threading.Lock()  # several threads may ask for depths

    def replaced(self) -> str | None:
        """Modules added to or removed from the model after sub-networks were made; None if there are none."""
        if self._links is None:
            return None
        known = {id(part) for part, _ in self._links.parts}
        now = {id(part): path for path, part in self.model.named_modules()}
        if known == now.keys():
            return None
        return next((f"{path} is new" for part, path in now.items() if part not in known), "some were removed")

    def train(self, mode: bool = True) -> "AdaptiveNetwork":
        super().train(mode)
        self.follow_modes()
        return self

    def follow_modes(self) -> None:
        """Set every sub-network in use to the modes (training, evaluation) of the network's modules."""
        in_use = {id(view): view for view in (*self._views.values(), *self._wholes.values())}
        for view in in_use.values():
            view.follow_modes()

    def __getstate__(self) -> dict[str, Any]:
        made_anew = ("_views", "_wholes", "_whole", "_name", "_links", "_reads", "_lock", "left")
        return {name: value for name, value in super().__getstate__().items() if name not in made_anew}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.left = Left()
        self.forget_views()

    def __repr__(self) -> str:
        calibrated = ", calibrated" if self.calibrated else ""
        return (
            f"AdaptiveNetwork of {type(self.model).__name__}, {len(self.skips)} sub-networks{calibrated}\n{self.stages}"
        )


def _not_saved(name: str, reason: str, *_: Any, **__: Any) -> NoReturn:
    """Replaces a `save_pretrained` whose result would be read back with untrained layers."""
    raise StagesError(
        f"this sub-network cannot be saved as a {name}: {reason}; save the network (adaptive_depth.save), or the "
        "weights (state_dict) with the code that builds it"
    )


def _plant(tree: nn.Module, path: str, leaf: nn.Module) -> None:
    """Put `leaf` at `path` in a tree of empty modules, adding missing branches."""
    *parents, name = path.split(".")
    for parent in parents:
        if parent not in tree._modules:
            tree.add_module(parent, nn.Module())
        tree = tree.get_submodule(parent)
    tree.add_module(name, leaf)


def _grow_statistics(network: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Let a calibrated state load into an uncalibrated network, or vice versa, with the result that was saved.

    A partial state (such as a head's) does not determine the calibration, which then stays.
    """
    assert isinstance(network, AdaptiveNetwork)
    incoming = any(name.startswith(f"{prefix}statistics.") for name in state)
    own = (name for name in network.state_dict() if not name.startswith("statistics."))
    if incoming != network.calibrated and (incoming or all(f"{prefix}{name}" in state for name in own)):
        tensors = (each for each in network.state_dict().values() if isinstance(each, torch.Tensor))
        device = next((tensor.device for tensor in tensors), None)
        network.reset_statistics(per_context=incoming)
        network.statistics.to(device)
