"""network → artifact: written in one of the formats and checked against the network at every depth."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..batches import described, device_of, logits_in, outputs_in
from ..choose.tradeoffs import TradeOffs
from ..core.network import AdaptiveNetwork, check_adapted
from ..data import DataConfig
from ..errors import AdaptiveDepthError, ArtifactError, ExportError, one_line
from ..files import alone, drafts, move
from ..meaning import Meanings
from ..modes import evaluating
from ..packages import hint
from ..preprocessing import Preprocessing
from ..registry import Registry
from ..skip import Skip, parse_skip
from ..tasks import as_task
from .artifact import FILE, INPUTS, Artifact
from .comparing import OnProgress, compare, inputs_of
from .detectors import (
    class_names,
    detections_of,
    exportable,
    suppresses_inside,
    usual_meanings,
    usual_outputs,
    usual_preprocessing,
)
from .inputs import Example, example_of
from .session import open_session
from .sidecar import write_sidecar
from .tracing import FixedBatchError

_PARAMETERS = ("network", "path", "example", "artifact", "form")  # of every format's `write`


@dataclass(frozen=True)
class Format:
    """A kind of artifact.

    Attributes:
        suffix: of its file; empty for a folder.
        module: the one of this package whose `write(network, path, example, artifact, form=...)` writes it.
        extra: of this package, with what the format needs.
        forms: the ways to store norms that differ between depths, the default first.
        free_batch: whether one file can take batches of any size.
        free_inside: whether sizes inside a graph can depend on values, as when proposals are suppressed.
        int8: the module whose `quantize(network, path, images, artifact, labelled=..., task=...)` writes it in int8,
            and the extra that it needs; None if there is none.
        suppression: the module whose `suppress(path, session, inputs)` adds suppression to a detector's file; None if
            there is none.
    """

    suffix: str
    module: str
    extra: str
    forms: tuple[str, ...] = ("shared", "folded")
    free_batch: bool = True
    free_inside: bool = True
    suppression: str | None = None
    int8: tuple[str, str] | None = None


FORMATS: Registry[Format] = Registry("to", ExportError)
FORMATS.register("onnx")(Format(".onnx", "onnx.write", "export", suppression="onnx.suppression"))
FORMATS.register("onnx-files")(
    Format("", "onnx.files", "export", forms=("folded",), int8=("onnx.quantization", "export"))
)
FORMATS.register("openvino")(
    Format(
        ".xml",
        "openvino.write",
        "openvino",
        forms=("shared",),
        free_inside=False,
        int8=("openvino.quantization", "int8"),
    )
)
FORMATS.register("executorch")(Format(".pte", "executorch.write", "executorch", free_batch=False, free_inside=False))
FORMATS.register("web")(Format("", "web.write", "export"))
FORMATS.register("torch")(Format("", "torch.programs", "train", forms=("folded",)))


def export_network(
    network: AdaptiveNetwork,
    path: str | Path,
    example: Any,
    *,
    to: str | None = None,
    skips: Iterable[Skip] | None = None,
    form: str | None = None,
    data: DataConfig | Preprocessing | None = None,
    trade_offs: TradeOffs | None = None,
    outputs: Iterable[str] | None = None,
    meanings: Meanings | None = None,
    suppress: bool = False,
    on_progress: OnProgress | None = None,
    **options: Any,
) -> Artifact:
    """Write every depth of a network to one artifact, from which `open_session` runs any of them.

    The artifact is compared with the network at every depth before it replaces whatever was at `path`. Its description
    is also written as JSON beside it, `model.onnx.json` for example.

    Arguments:
        network: an adapted network; it is not changed.
        path: the file (`model.onnx`, `model.xml`, `model.pte`) or, for the other formats, the folder.
        example: an input, such as `[batch, channels, height, width]`; several as a tuple (positional arguments) or a
            dict (keyword arguments) of tensors. It fixes the artifact's sizes and, for ExecuTorch and for networks
            whose code makes a constant of it (RT-DETR, say), the batch size. An image is called `image` in the file,
            everything else as the parameter of the network's forward; floats are float32, integers and booleans stay.
        to: `"onnx"`, `"onnx-files"` (one file per depth, without `If`), `"openvino"`, `"executorch"`, `"web"` (a page
            for browsers) or `"torch"`; by default implied by the ending of `path`.
        skips: the depths; all by default.
        form: how norms that differ between depths are stored: `"shared"` beside the weights that all depths share, or
            `"folded"` into copies of them, which is a little faster and takes more memory. The default depends on `to`.
        data: the images that the network was trained on, or a `Preprocessing`: their preparation and classes go into
            the artifact. For a detector of torchvision, the preparation is known.
        trade_offs: accuracy and cost of the depths, for choosing one later.
        outputs: which outputs of a network that returns several, by their names in its dict, dataclass or named tuple;
            `"output_0"`, ... for a tuple. By default, for a detector those that objects are made of; for torchvision's
            segmentation networks `out`; the one named `logits` if there is one; otherwise all.
        meanings: what outputs stand for, `task.meanings()`, with which `adaptive-depth run` reads them. If None, what
            the class of a segmentation network implies; a vector is one class per image.
        suppress: let a detector's file suppress by itself (onnx, with the operator NonMaxSuppression): its outputs are
            then `boxes` `[batch, objects, 4]`, `scores` and `labels` `[batch, objects]`. By default they are boxes and
            scores of all candidates, and the caller suppresses (`deploy.boxes.find_objects`).
        on_progress: called with (done, total, what).
        **options: of the format: `compiled=True` for torch also writes AOTInductor packages; `runtime=` for web is the
            folder of the npm package onnxruntime-web.

    Returns:
        The artifact's description.

    Raises:
        ExportError: an invalid network, format, form or option; an operator that the format does not have, with the
            block it came from; an artifact whose outputs are not the network's; a missing package.
        SkipError: a skip that does not fit the stages.

    Example:
        >>> import adaptive_depth as ad, torch
        >>> net = ad.adapt(ad.create_model("resnet18", num_classes=10, channels=(8, 16, 32, 64)))
        >>> print(export_network(net, "model.onnx", torch.randn(1, 3, 32, 32)))  # doctest: +SKIP
        onnx of 16 depths, float32, norms shared, input any x 3 x 32 x 32
    """
    check_adapted(network, "export_network", ExportError)
    network = exportable(network)
    path, tell = Path(path), on_progress or _say_nothing
    name = format_of(path) if to is None else to
    kind = FORMATS.take(name)
    chosen = kind.forms[0] if form is None else form
    if chosen not in kind.forms:
        raise ExportError(f"form={form!r} for {name}: expected {' or '.join(kind.forms)}")
    told: Any = {"skips": skips, "data": data, "trade_offs": trade_offs, "outputs": outputs, "meanings": meanings}
    given = example_of(network.model, example)
    artifact = describe(network, name, given, form=chosen, **told)
    writer = import_format(name)
    _check_options(name, writer, options)
    if suppress and kind.suppression is None:
        able = ", ".join(each for each, other in FORMATS.items() if other.suppression)
        raise ExportError(
            f"suppress=True for {name}: expected one of {able}; or leave it out, and suppress the outputs yourself"
        )
    with into_place(path, kind) as new:
        tell(0, len(artifact.skips) + 1, f"writing {name}")
        with evaluating(network):
            try:
                writer.write(network, new, given, artifact, form=chosen, **options)
            # Only tracing reveals that the code fixes the batch size.
            except FixedBatchError:
                artifact = _with_inputs(artifact, given, free_batch=False)
                writer.write(network, new, given, artifact, form=chosen, **options)
        session = writer.open_written(new) if hasattr(writer, "open_written") else open_session(new)
        try:
            compare(session, network, given, tell)
        except ArtifactError as error:  # ExecuTorch converts a Conv3d, for example, and has no kernel for it
            raise ExportError(
                f"{name} cannot run what it converted ({error}); nothing was written: choose another format"
            ) from error
        # Only after the comparison: suppressed objects cannot be compared number by number.
        if suppress:
            images = [image for (image,) in inputs_of(session, given)]
            session = import_format(name, kind.suppression).suppress(new, session, images)
        write_sidecar(new, session.artifact)
    return session.artifact


def quantize_network(
    network: AdaptiveNetwork,
    path: str | Path,
    images: Any,
    *,
    to: str | None = None,
    labelled: Iterable[Any] | None = None,
    task: Any = None,
    skips: Iterable[Skip] | None = None,
    data: DataConfig | Preprocessing | None = None,
    trade_offs: TradeOffs | None = None,
    outputs: Iterable[str] | None = None,
) -> Artifact:
    """Write every depth of a network in int8, by post-training quantisation: one OpenVINO model (NNCF), or a folder
    with a model for each depth (ONNX Runtime).

    OpenVINO's int8 weights are stored once for all depths, those of ONNX Runtime once for depths with the same norms;
    activations have separate ranges in every context.

    Arguments:
        network: an adapted network on the CPU, with calibrated statistics if it has BatchNorms.
        path: the `.xml`, with the weights in the `.bin` beside it; or a folder.
        images: `[samples, channels, height, width]` as the network takes them, 300 or more from the training set.
        to: `"openvino"` or `"onnx-files"`; by default implied by the ending of `path`.
        labelled: batches of images and labels `[batch]`, or of what the task takes, on which the int8 accuracy of each
            depth is measured.
        task: what the network is for, as `evaluate` takes it: its quality is measured in int8 and, on the same batches,
            in float. If None, one class per sample.
        skips, data, trade_offs, outputs: as for `export_network`.

    Returns:
        The file's description; `accuracy` holds the int8 accuracies, or what `quality` names, `trade_offs` those of
        the float network.

    Raises:
        ExportError: a path that cannot be written, an operator that the runtime does not have, a missing package.
        DataError: no calibration images, or ones of another shape or with non-finite numbers; labels that do not fit.
        SkipError: a skip that does not fit the stages.

    Example:
        >>> import adaptive_depth as ad, numpy
        >>> net = ad.adapt(ad.create_model("resnet18", num_classes=10))
        >>> images = numpy.zeros((300, 3, 32, 32), numpy.float32)
        >>> quantize_network(net, "int8.xml", images).precision  # doctest: +SKIP
        'int8'
    """
    check_adapted(network, "quantize_network", ExportError)
    network = exportable(network)
    try:
        example = torch.as_tensor(images)[:1]
    except (TypeError, ValueError, RuntimeError, IndexError) as error:
        raise ExportError(
            f"quantize_network received images as a {type(images).__name__} ({one_line(error)[:200]}): expected one "
            "array [samples, channels, height, width]; networks with several inputs cannot be quantised"
        ) from error
    name = to or format_of(Path(path))
    kind = FORMATS.take(name)
    if kind.int8 is None:
        able = " or ".join(each for each, other in FORMATS.items() if other.int8)
        raise ExportError(f"int8 is not available for {name}: expected {able}")
    if example.dim() != 4 or not example.is_floating_point():
        raise ExportError(
            f"quantize_network received images {list(example.shape[1:])} of {example.dtype}: expected floats "
            "[samples, channels, height, width]; networks that take anything else can be exported in float32"
        )
    told: Any = {"skips": skips, "data": data, "trade_offs": trade_offs, "outputs": outputs}
    known = None if task is None else as_task(task, network.model).meanings()
    artifact = describe(network, name, example_of(network.model, example), meanings=known, **told)
    module, extra = kind.int8
    writer = import_format(name, module, extra)
    with into_place(Path(path), kind) as new:
        found = writer.quantize(network, new, images, artifact, labelled=labelled, task=task)
        write_sidecar(new, found)
    return found


def describe(
    network: AdaptiveNetwork,
    kind: str,
    example: Example,
    *,
    skips: Iterable[Skip] | None = None,
    form: str = "shared",
    data: DataConfig | Preprocessing | None = None,
    trade_offs: TradeOffs | None = None,
    outputs: Iterable[str] | None = None,
    meanings: Meanings | None = None,
) -> Artifact:
    """The description of a network's artifact; arguments and errors as for `export_network`."""
    tensors = [tensor.to(device_of(network)) for tensor in example.tensors]
    with evaluating(network), torch.no_grad():
        try:
            if not network.proven:  # adapted without an input
                example.call(network.prove, tensors)
            output = example.call(network, tensors)
        except AdaptiveDepthError:
            raise
        except (TypeError, ValueError, RuntimeError, IndexError) as error:  # of the model, for an input that it refuses
            takes = ", ".join(f"{each.name} {each}" for each in example.inputs(free_batch=False))
            raise ExportError(f"the network does not take the example ({takes}): {one_line(error)[:300]}") from error
    if suppresses_inside(network) and not FORMATS[kind].free_inside:
        able = " or ".join(name for name, each in FORMATS.items() if each.free_inside)
        raise ExportError(
            f"{kind} cannot take a {type(network.model).__name__}: it suppresses proposals inside its graph "
            f"(torchvision::nms), and how many are left depends on the image: export it to {able}, or run it in torch, "
            "network(images, skip=...)"
        )
    detections = detections_of(network, output)
    if outputs is None:
        outputs = usual_outputs(network, output)
    names = _names_of_outputs(output, outputs, example)
    if not example.is_image and data is not None:
        takes = ", ".join(f"{each.name} ({each})" for each in example.inputs(free_batch=False))
        raise ExportError(f"data= says how images are prepared, and this network takes {takes}: leave data out")
    if data is None:
        sides = example.tensors[0].shape[2:] if example.is_image else None
        prepared = None if sides is None else usual_preprocessing(network.model, (sides[0], sides[1]))
        labels = class_names(network.model)
    else:
        prepared = Preprocessing.of(data)
        labels = prepared.classes
    asked = network.skips if skips is None else [skips] if isinstance(skips, str) else list(skips)
    depths = {parse_skip(skip, len(network.stages)) for skip in asked}
    if not depths:
        raise ExportError(f"skips={skips!r} names no depth: expected some of {', '.join(network.skips)}")
    if meanings is not None and outputs is None:
        _check_meanings(names, meanings)
    described_so_far = Artifact(
        kind,
        tuple(network.stages.to_json()),
        tuple(skip for skip in network.skips if skip in depths),
        (),
        network.fingerprint,
        form,
        labels=labels,
        preprocessing=prepared,
        trade_offs=None if trade_offs is None else _of_depths(trade_offs, depths),
        outputs=names,
        meanings=_meanings(names, usual_meanings(network.model) if meanings is None else meanings),
        detections=None if detections is None or {*detections.outputs} - {*names} else detections,
    )
    return _with_inputs(described_so_far, example, free_batch=FORMATS[kind].free_batch)


def _with_inputs(artifact: Artifact, example: Example, *, free_batch: bool) -> Artifact:
    """A description with what the file takes."""
    inputs = example.inputs(free_batch=free_batch)
    return replace(artifact, input_shape=inputs[0].shape, inputs=() if example.is_image else inputs)


def _check_meanings(outputs: Sequence[str], given: Meanings) -> None:
    """Raise an ExportError for meanings of outputs that are not there, which would be lost."""
    wrong = {*given} - {"", *outputs}
    if wrong and not _are_places(outputs):
        raise ExportError(
            f"meanings of {', '.join(map(repr, sorted(wrong)))}: expected some of the network's outputs, "
            f"{', '.join(map(repr, outputs or ('',)))}"
        )


def _are_places(outputs: Sequence[str]) -> bool:
    """Are these the outputs of a tuple, which have numbers instead of names?"""
    return bool(outputs) and all(re.fullmatch(r"output_\d+", name) for name in outputs)


def _meanings(outputs: Sequence[str], known: Meanings) -> Meanings:
    """The meanings of a file's outputs, from what a task says about those of its network."""
    if not outputs or set(known) & set(outputs):
        return {name: meaning for name, meaning in known.items() if name in (outputs or ("",))}
    if _are_places(outputs):  # heads of a tuple are in its order
        by_place = {f"output_{place}": meaning for place, meaning in enumerate(known.values())}
        return {name: meaning for name, meaning in by_place.items() if name in outputs}
    return {"out": known[""]} if "" in known and "out" in outputs else {}  # torchvision names segmentation so


def _names_of_outputs(output: Any, asked: Iterable[str] | None, example: Example) -> tuple[str, ...]:
    """A file's outputs, in its order; empty for a network that returns one tensor, or logits."""
    if asked is None and isinstance(logits_in(output), Tensor):
        return ()
    parts = outputs_in(output)
    names = tuple(parts) if asked is None else (asked,) if isinstance(asked, str) else tuple(asked)
    if not parts:
        expected = "expected a tensor, or tensors in a dict, a dataclass or a tuple"
        if isinstance(output, Tensor):
            expected = f"which has no name: leave out outputs={asked!r}"
        raise ExportError(f"the network returned {described(output)}, {expected}")
    if not names or [name for name in names if name not in parts]:
        raise ExportError(
            f"outputs={asked!r}: expected some of those that the network returns, {', '.join(map(repr, parts))}"
        )
    if wrong := [name for name in names if not isinstance(parts[name], Tensor)]:
        tensors = [name for name, part in parts.items() if isinstance(part, Tensor)]
        mend = f"leave it out, outputs={tensors}" if tensors else "adapt a model whose forward returns tensors"
        raise ExportError(
            f"the network's output {wrong[0]!r} is {described(parts[wrong[0]])}: expected a tensor; {mend}"
        )
    inputs = (*example.call.names, INPUTS[1])
    if len({*names, *inputs}) < len(names) + len(inputs):
        raise ExportError(
            f"the outputs are named {', '.join(names)}: expected each once, and none with the name of an input of the "
            f"file ({' or '.join(inputs)}); rename it in the model's forward"
        )
    return names


def _check_options(name: str, writer: Any, options: Mapping[str, Any]) -> None:
    known = [option for option in signature(writer.write).parameters if option not in _PARAMETERS]
    unknown = [option for option in options if option not in known]
    if unknown:
        raise ExportError(f"{name} does not take {', '.join(unknown)}: expected {', '.join(known) or 'no options'}")


def import_format(name: str, module: str | None = None, extra: str | None = None) -> Any:
    """The module that writes a format, or another module for it.

    Raises:
        ExportError: what it needs is not installed.
    """
    kind = FORMATS[name]
    try:
        return import_module(f".{module or kind.module}", __package__)
    except ImportError as error:
        raise ExportError(f"{name} needs {hint(error, extra or kind.extra)}") from error


@contextmanager
def into_place(path: Path, kind: Format) -> Iterator[Path]:
    """A temporary path of the same name to write to; it replaces `path` if nothing fails.

    Raises:
        ExportError: a path that cannot be written, that another process is writing, or that holds something else.
    """
    if kind.suffix and path.suffix != kind.suffix:
        raise ExportError(
            f"the ending of {path} does not match its format: expected a name such as {path.stem}{kind.suffix}"
        )
    if path.is_dir() and (kind.suffix or (any(path.iterdir()) and not (path / FILE).is_file())):
        raise ExportError(f"{path} is a folder with other contents, which would be lost: name another")
    if not kind.suffix and path.is_file():
        raise ExportError(f"{path} is a file, which would be lost: expected the name of a folder")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            lock_file = path.with_name(f".{path.name}.lock")
            stack.enter_context(alone(lock_file, path, "export", ExportError))
            place = stack.enter_context(drafts(path.parent))
            # Only opening is inside the `try`: writing has its own error messages.
            inside = stack.pop_all()
    except OSError as error:
        raise ExportError(f"{path} cannot be written ({error.strerror}): name another file") from error
    with inside:
        folder = place / "export"  # so that nothing else is in it
        folder.mkdir()
        new = folder / path.name
        yield new
        if new.is_dir():
            _replace_folder(new, path)
        else:
            for written in sorted(folder.iterdir(), key=lambda file: file == new):  # the file that is opened goes last
                move(written, path.with_name(written.name))


def _replace_folder(new: Path, path: Path) -> None:
    if path.exists():
        path.rename(new.with_name("old"))  # deleted with the temporary folder
    new.rename(path)


def format_of(path: Path) -> str:
    """The format that the ending of a name implies.

    Raises:
        ExportError: no ending, or an unknown one.
    """
    endings = {kind.suffix: name for name, kind in FORMATS.items() if kind.suffix}
    if path.suffix not in endings:
        raise ExportError(
            f"the format of {path} is unclear: expected a name that ends in {', '.join(endings)}, or to= one of "
            f"{', '.join(name for name, kind in FORMATS.items() if not kind.suffix)}"
        )
    return endings[path.suffix]


def _of_depths(table: TradeOffs, depths: set[str]) -> TradeOffs | None:
    rows = tuple(row for row in table.rows if row.skip in depths)
    ties = tuple(pair for pair in table.ties if set(pair) <= depths)
    return replace(table, rows=rows, ties=ties) if rows else None


def _say_nothing(done: int, total: int, what: str) -> None:
    pass
