"""model → stages → network: the plan, and applying it."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from ..batches import arguments
from ..errors import StagesError, is_a_class
from ..hugging_face import is_of_transformers, predicts_the_next_token
from ..models import create_model, one_argument, usual_input
from ..modes import looking_at
from ..plan import (
    WHOLE,
    Mandatory,
    Run,
    Stage,
    Stages,
    Within,
    check_one_part,
    cut_runs,
    discover,
    families,
    known_runs,
    protect_last,
    searched,
)
from ..plan.bodies import LIBRARIES
from ..plan.checks import complete
from ..plan.frozen import can_be_doubled
from ..wrapping import check_shaped, unwrapped
from .measured import measured_stages
from .moving import fitting, taken_apart
from .network import AdaptiveNetwork, check_adapted
from .proof import prove_every_depth


def find_stages(
    model: nn.Module | str,
    example: Any = None,
    *,
    within: Within = None,
    mandatory: Mandatory = None,
    group_size: int | None = None,
    skip_aware: bool | None = None,
    cut: str = "groups",
) -> Stages:
    """The stages of a residual network: where it can be split into mandatory and skippable sub-paths.

    The paper's families (ResNet, MobileNetV2, ViT, Swin, of timm and torchvision) get exactly the paper's plan
    (sections 3.1 and 4.1). In every other model the stages are found by watching it run: two or more blocks in one
    container that keep the shape of their input and only add to it. With an example, and for every plan found in this
    way, all sub-networks are tried before the plan is returned.

    In a detector or a segmentation network only the body is split: the backbone of torchvision's and transformers'
    networks, the encoder of segmentation_models_pytorch's, timm's `features_only` in a custom model, or any part named
    `backbone`. A body that is a ResNet, MobileNetV2 or Swin gets the plan of the classifier.

    Arguments:
        model: any residual module, left unchanged; or a name for `create_model`.
        example: an input of the model: a tensor such as `[batch, channels, height, width]`, a tuple of positional or
            a dict of keyword arguments; for a model that takes a list of images, a tuple `([image, image],)`. Needed
            for models that are neither of a known family nor of timm, torchvision or transformers.
        within: the module in which to look for stages, such as `"backbone.body"`, or several; `""` is the whole
            model. By default the body of a detector or of a segmentation network, else the whole model.
        mandatory: where to split, for all stages or as a sequence with one entry per stage: a number of blocks, or a
            fraction of them such as 0.5; by default the paper's ``m = min(L - 1, ceil(L / 2))`` of L blocks.
        group_size: blocks in each stage of a flat transformer; by default four stages of equal size (12 blocks: the
            paper's 4 groups of 3).
        skip_aware: double the norms of mandatory blocks; the default, except in causal language models, where a second
            set brings no measurable gain (`benchmarks/language`). False is the paper's ablation (Table 3): one set of
            affine parameters. Running statistics of BatchNorms stay separate, without an effect on training: shared
            ones would fit neither the super-net nor the base-net.
        cut: which blocks of a flat transformer are skippable: the last ones of each of its `"groups"`, or those that
            its predictions on the example need least, `"measured"` by one pass per block. The example must then be data
            that a trained model knows: some text, some images. In a causal language model the last layers are never
            skippable.

    Returns:
        The plan that `adapt` applies. Nothing in the model is changed.

    Raises:
        StagesError: no residual stage that can be split, with the reason (in a language model, fewer than three
            layers); an example that the model does not take; a split that the stages do not allow; a detector whose
            body is unknown.

    Example:
        >>> import torchvision
        >>> print(find_stages(torchvision.models.resnet50()))
        stage            mandatory skippable  skip-aware norms
        layer1                   2         1                 6
        layer2                   2         2                 6
        layer3                   3         3                 9
        layer4                   2         1                 6
    """
    model = create_model(model) if isinstance(model, str) else model
    _check_plain(model)
    example = one_argument(model, example)
    if cut not in ("groups", "measured"):
        raise StagesError(f"cut={cut!r}: expected 'groups' or 'measured'")
    if cut == "measured" and example is None:
        raise StagesError(
            "cut='measured' measures how much predictions need each block: pass data that the model knows, "
            "example=tokens of some text, or a batch of images"
        )
    skip_aware = not predicts_the_next_token(model) if skip_aware is None else skip_aware
    places = _places(model, within)
    with looking_at(model):
        runs = known_runs(model, places)
        if runs is not None:
            stages = _planned(model, runs, example, cut, mandatory, group_size, skip_aware)
            if example is not None:
                prove_every_depth(AdaptiveNetwork(model, stages), *arguments(example))
            return stages
        example = usual_input(model) if example is None else example
        if example is None:
            raise StagesError(
                f"{type(model).__name__} belongs to no known family ({', '.join(families())}): pass an input, "
                "example=tensor, and its stages are found by watching it run; or write them by hand in Python, "
                "adapt(model, stages=[Stage(mandatory=('layer1.0',), skippable=('layer1.1',)), ...])"
            )
        args, kwargs = arguments(example)
        runs = discover(model, args, kwargs, places)
        # Only for custom models: the bodies of libraries' detectors are known.
        if within is None and places == WHOLE and not _of_a_library(model):
            check_one_part(model, runs, args, kwargs)
        if predicts_the_next_token(model):
            runs = _without_last(model, runs)
        stages = _planned(model, runs, example, cut, mandatory, group_size, skip_aware)
        try:
            prove_every_depth(AdaptiveNetwork(model, stages), args, kwargs, asked=True)
        except StagesError:
            if mandatory is not None or len(runs) == 1:
                raise
            # One run whose blocks cannot be skipped must not cost the others.
            stages = _cut(model, _those_that_work(model, runs, args, kwargs), None, None, skip_aware)
            prove_every_depth(AdaptiveNetwork(model, stages), args, kwargs, asked=True)
        return stages


def adapt(
    model: nn.Module,
    stages: Stages | Sequence[Stage] | None = None,
    *,
    example: Any = None,
    within: Within = None,
    body: AdaptiveNetwork | None = None,
    mandatory: Mandatory = None,
    group_size: int | None = None,
    skip_aware: bool | None = None,
    cut: str = "groups",
) -> AdaptiveNetwork:
    """Turn a residual network into one whose depth is chosen at run time (paper, section 3.1).

    The network takes over `model` without copying it; the super-net's outputs and gradients stay bit-identical.
    Stochastic depth in mandatory sub-paths (timm's DropPath, torchvision's StochasticDepth) is switched off, as the
    method requires. Choose the number of classes and load pretrained weights before, so that the skip-aware norms start
    as copies of trained ones.

    Arguments:
        model: any residual `nn.Module`.
        stages: the plan; by default `find_stages(model, example, mandatory=mandatory, ...)`.
        example: an input of the model, such as a tensor `[batch, channels, height, width]`, a tuple of positional
            or a dict of keyword arguments. Stages written by hand are verified on it at once; without it, on
            the first input that the network receives.
        body: an adapted network with the same body, such as a classifier trained with its depths: its weights, its
            plan, its second norms and its statistics per context are copied into the model's body. An adapted network
            inside the model (`detector.backbone.body = network`) is found, unwrapped and used likewise.
        within, mandatory, group_size, skip_aware, cut: as for `find_stages`.

    Raises:
        StagesError: the stages, or the network given as `body`, do not fit the model; whatever `find_stages` raises.

    Example:
        >>> import timm, torch
        >>> net = adapt(timm.create_model("resnet18", num_classes=10))
        >>> net.skips[0], net.skips[-1], len(net.skips)
        ('FFFF', 'TTTT', 16)
        >>> net(torch.zeros(1, 3, 64, 64), skip="TTFF").shape
        torch.Size([1, 10])
    """
    if isinstance(model, type):
        raise StagesError(is_a_class(model))
    if not isinstance(model, nn.Module):
        raise StagesError(f"adapt received a {type(model).__name__}: expected an nn.Module, or create_model({model!r})")
    if isinstance(model, AdaptiveNetwork):
        raise StagesError("adapt received an adapted network: adapt its plain model, network.model")
    check_shaped(model, "adapt received", StagesError)
    example = one_argument(model, example)
    with taken_apart(model) as inside:
        if body is not None or inside is not None:
            plan = {"stages": stages, "mandatory": mandatory, "group_size": group_size, "skip_aware": skip_aware}
            _reject_another_plan(plan | {"cut": None if cut == "groups" else cut})
            return _with_body(model, *_one_body(body, within, inside), example)
    by_hand = stages is not None
    if stages is None:
        chosen = find_stages(
            model,
            example,
            within=within,
            mandatory=mandatory,
            group_size=group_size,
            skip_aware=skip_aware,
            cut=cut,
        )
    elif not (within is mandatory is group_size is skip_aware is None and cut == "groups"):
        raise StagesError(
            "stages were given, so there is nothing to split: leave out within, mandatory, group_size, skip_aware, cut"
        )
    else:
        given = stages if isinstance(stages, Stages) else Stages(stages)  # type: ignore[arg-type]
        chosen = complete(model, given)
        named = [p for s, whole in zip(given, chosen, strict=True) if s.norms is not None for p in whole.norms or ()]
        if example is not None:
            with looking_at(model):
                prove_every_depth(AdaptiveNetwork(model, chosen), *arguments(example), named)
    with torch.inference_mode(False):  # inference tensors cannot be trained
        network = AdaptiveNetwork.adapted(model, chosen)
    places = WHOLE if by_hand else _places(model, within)
    watched = not by_hand and known_runs(model, places) is None  # found by running, so verified already
    # A known family's plan needs no check, unless custom code may run its blocks differently.
    network.proven = example is not None or watched or not (by_hand or _overridden(model, places))
    return network


def _check_plain(model: nn.Module) -> None:
    """Raise a StagesError if `find_stages` received anything other than a plain model."""
    if not isinstance(model, nn.Module):
        raise StagesError(f"find_stages received a {type(model).__name__}: expected an nn.Module or a model's name")
    inner = "module" if isinstance(model, nn.DataParallel) else "_orig_mod" if hasattr(model, "_orig_mod") else None
    if inner:
        raise StagesError(
            f"the model is wrapped in a {type(model).__name__}: adapt the inner model first, model.{inner}"
        )
    # By name, so that peft need not be imported.
    if type(model).__module__.startswith("peft.") and hasattr(model, "get_base_model"):
        raise StagesError(
            f"the model is wrapped in a {type(model).__name__}: adapt the inner model, model.get_base_model(), whose "
            "layers have its adapters"
        )
    if isinstance(model, AdaptiveNetwork):
        raise StagesError("find_stages received an adapted network: its stages are in network.stages")
    check_shaped(model, "find_stages received", StagesError)
    if is_of_transformers(model) and getattr(model.config, "rescale_every", 0):
        raise StagesError(
            f"{type(model).__name__} divides the weights of later layers by a number that depends on their index when "
            "it runs in eval mode, so its depths cannot share them: load it with rescale_every=0"
        )
    if inside := next((path for path, part in model.named_modules() if isinstance(part, AdaptiveNetwork)), None):
        raise StagesError(
            f"find_stages received a model that contains an adapted network at {inside!r}, with its own .stages: "
            "adapt(model) uses those"
        )


def _reject_another_plan(given: Mapping[str, Any]) -> None:
    wrong = [name for name, value in given.items() if value is not None]
    if wrong:
        raise StagesError(
            f"an adapted network becomes the model's body and brings its plan: leave out {', '.join(wrong)}, or "
            "adapt the plain network again"
        )


def _one_body(body: Any, within: Within, inside: tuple[AdaptiveNetwork, str] | None) -> tuple[AdaptiveNetwork, Within]:
    """The network that becomes a model's body, and where that is."""
    if inside is None:
        network: Any = unwrapped(body) if isinstance(body, nn.Module) else body
        check_adapted(network, "adapt(body=...)", StagesError)
        return network, within
    network, path = inside
    if body is not None or within not in (None, path):
        raise StagesError(
            f"the model already contains an adapted network at {path!r}, its body: leave out body and within, or "
            "first put the plain model, network.model, there"
        )
    return network, path


def _with_body(model: nn.Module, body: AdaptiveNetwork, within: Within, example: Any) -> AdaptiveNetwork:
    move = fitting(model, body, within)
    chosen = complete(model, move.stages)
    if example is not None:
        with looking_at(model):
            prove_every_depth(AdaptiveNetwork(model, chosen), *arguments(example))
    with torch.inference_mode(False):
        network = AdaptiveNetwork.adapted(model, chosen)
        move.fill(network)
    network.proven = example is not None or (body.proven and not _overridden(model, ("body",)))
    return network


def _places(model: nn.Module, within: Within) -> tuple[str, ...]:
    """Where to look for stages: everywhere in a classifier of a known family, whatever its parts."""
    return WHOLE if within is None and known_runs(model) is not None else searched(model, within)


def _of_a_library(model: nn.Module) -> bool:
    return type(model).__module__.startswith(LIBRARIES)


def _overridden(model: nn.Module, places: Sequence[str]) -> bool:
    """Does a model of a known family, or around such a body, have custom code: a subclass, or methods set on the
    object?"""
    derived = any(kind.__module__.startswith(LIBRARIES) for kind in type(model).__mro__)
    if not _of_a_library(model) and (derived or places != WHOLE):
        return True
    return any(name in vars(part) and name != "forward" for part in model.modules() for name in vars(type(part)))


def _without_last(model: nn.Module, runs: Sequence[Run]) -> list[Run]:
    """The runs of a language model without its last layers, if others remain to skip."""
    left = protect_last(runs)
    if runs and all(len(run.blocks) < 2 for run in left):
        layers = max(len(run.blocks) for run in runs)
        raise StagesError(
            f"{type(model).__name__} has {layers} layer{'s' * (layers > 1)}: expected 3 or more, because the first and "
            "the last one of a language model always run; to skip one anyway, write the stages by hand"
        )
    return left


def _planned(
    model: nn.Module,
    runs: Sequence[Run],
    example: Any,
    cut: str,
    mandatory: Mandatory,
    group_size: int | None,
    skip_aware: bool,
) -> Stages:
    """Runs split as requested: in groups, or by how much each block matters on the example."""
    if cut == "measured":
        stages = measured_stages(model, runs, *arguments(example), mandatory, group_size)
        return _with_norms(model, stages, skip_aware)
    return _cut(model, runs, mandatory, group_size, skip_aware)


def _cut(
    model: nn.Module, runs: Sequence[Run], mandatory: Mandatory, group_size: int | None, skip_aware: bool = True
) -> Stages:
    return _with_norms(model, cut_runs(runs, mandatory, group_size), skip_aware)


def _with_norms(model: nn.Module, stages: Stages, skip_aware: bool) -> Stages:
    stages = Stages(tuple(replace(stage, norms=_doubled(model, stage) if skip_aware else ()) for stage in stages))
    if not len(stages):
        raise StagesError(
            f"{type(model).__name__} has no residual stage of two or more blocks, so there is none to split"
        )
    return complete(model, stages)


def _doubled(model: nn.Module, stage: Stage) -> tuple[str, ...] | None:
    """The norms in a plan, without frozen ones whose second copy could not be trained."""
    if stage.norms is None:
        return None
    return tuple(path for path in stage.norms if can_be_doubled(model.get_submodule(path)))


def _those_that_work(model: nn.Module, runs: Sequence[Run], args: Any, kwargs: Any) -> list[Run]:
    """The runs whose blocks can be skipped, each tried alone; if none can, raise the first one's error."""
    working, errors = [], []
    for run in runs:
        try:
            prove_every_depth(AdaptiveNetwork(model, _cut(model, [run], None, None)), args, kwargs)
            working.append(run)
        except StagesError as error:
            errors.append(error)
    if not working:
        raise errors[0]
    return working
