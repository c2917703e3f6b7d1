"""A recipe: everything that determines how a network is trained, as a plain value that YAML can hold.

The built-in recipes are the paper's (section 4 and appendix), one file each in `recipes/`.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

import yaml
from pydantic import ValidationError

from ..errors import TrainingError
from ..preprocessing import MOST_PIXELS
from ..schema import Such, adapter, read_yaml
from .schedule import Schedule

ALGORITHM_1 = "algorithm 1"
_OF_PATTERNS = ("delay", "fresh", "intermediate", "teacher_share")
_OF_ALGORITHM_1 = (
    "alpha", "temperature", "feature_weight", "low_memory", "learn_from", "teacher", "student", "distil_share",
    "keep_scale",
)  # fmt: skip
# Bounds far beyond any use, so that products of such numbers are finite.
_Above0 = Such(lambda value: 0 < value < 1e15, "a number above 0")
_From0 = Such(lambda value: 0 <= value < 1e15, "0 or more")
_Share = Such(lambda value: 0 <= value <= 1, "a number from 0 to 1")
_Part = Such(lambda value: 0 < value <= 1, "a fraction of each batch, above 0 and at most 1")
_Decay = Such(lambda value: 0 < value < 1, "a decay between 0 and 1, such as 0.9999")
_Pixels = Such(
    lambda value: all(0 < side <= MOST_PIXELS for side in (value if isinstance(value, tuple) else (value,))),
    f"a number of pixels above 0 and at most {MOST_PIXELS:,}",
)
_FOLDERS = (Path(__file__).parent.parent / "recipes", Path(__file__).parents[3] / "recipes")  # installed, or in a clone


@dataclass(frozen=True)
class Recipe:
    """How to train. Omitted fields have their defaults; sizes are in pixels, times in epochs.

    Attributes:
        model: a name for `create_model`; may be omitted if a network is given.
        model_kwargs: arguments of its constructor.
        data: `"digits"`, `"torch/cifar10"`, `"hfds/NAME"`, `"wds/FOLDER"` or a folder; may be omitted if batches are
            given.

        epochs: passes over the training images.
        batch_size: images in an optimiser step, over all processes and accumulated parts.
        accumulate: sequential parts in which each process computes its share of a step.
        seed: of all random numbers; None leaves them alone.

        optimizer: timm's name of it.
        momentum: of `sgd`.
        lr: the peak learning rate.
        weight_decay: not applied to norms, biases and other one-dimensional parameters.
        no_decay: name parts of other parameters without decay.
        clip_grad: the maximum norm of all gradients together; None does not clip.

        schedule: `"cosine"` to `min_lr`, or `"multistep"`: times `decay_rate` at each of `milestones`.
        milestones, decay_rate, min_lr: see `schedule`.
        warmup_epochs, warmup_lr: a linear rise from `warmup_lr` before that; by default for a tenth of the epochs, at
            most five.

        image_size: of training images; with boxes or masks also a pair, height and width.
        eval_size: of evaluation images, after a central crop; if None, as in training.
        eval_resize: of their shorter side before that crop; None uses the model's own crop.
        interpolation: `"bilinear"` or `"bicubic"`.
        augment: `"crop"` (random crops and flips), `"flip"` (flips only), `"trivial"` or `"rand"` (TrivialAugmentWide
            or RandAugment, after crops and flips), `"characters"` (small shifts, no flips), or `"none"`; by default
            `"flip"` with boxes.
        crop_scale: the smallest part of an image's area that a random crop keeps.
        random_erasing: probability of erasing a rectangle.
        repeats: times that an image is drawn in an epoch, augmented differently each time (repeated augmentation).
        mixup, cutmix: their parameters; 0 is off.
        label_smoothing: of the super-net's labels.

        freeze: name parts of parameters that are not trained, such as `["conv1", "layer1"]`.
        skip_aware_norms: double the norms of mandatory blocks; False is the paper's ablation (Table 3).
        passes: how sub-networks learn: the pattern of a `Schedule` (each pass has its own optimiser step), or
            `"algorithm 1"` (the paper's, both passes summed in one step). A plain network has one pass per step anyway.
            Epochs, warm-up and milestones count passes over the images; with a pattern, an epoch has more steps.
        delay, fresh, intermediate, teacher_share, buffer_mb: of `Schedule` and `Passes`, for a pattern.
        teacher_start: the fraction of the training after which the teacher has its share.
        alpha, temperature, feature_weight, low_memory, learn_from, teacher, student, distil_share, keep_scale: of
            `SelfDistillation`, for `"algorithm 1"`.
        precision: `"fp32"`, `"bf16"` or `"fp16"`.
        channels_last: use that memory layout for images.
        compile: let `torch.compile` compile both passes.
        grad_checkpointing: recompute the activations of each block in the backward pass, for less memory.
        sync_batchnorm: BatchNorms normalise with the images of all processes; needs accelerators.
        fsdp: shard parameters, gradients and the optimiser's state over the processes (FSDP2), for large networks.
        ema: decay of an average of the weights, which is then evaluated and saved; None is off.
        validate_every: epochs between two evaluations of `validate`; 0 evaluates after the last one only.
        validate: the sub-networks to evaluate then; if None, super-net and base-net.
        calibrate: images on which the command `train` measures BatchNorm statistics per context afterwards; 0 is off.
        checkpoint_every: steps between two checkpoints, in addition to the one after each epoch.
        keep: how many of the last checkpoints to keep.
        skip_damaged: the largest share of training images that may be unreadable before a run stops.
    """

    model: str | None = None
    model_kwargs: dict[str, Any] = field(default_factory=dict)
    data: str | None = None

    epochs: Annotated[int, _Above0] = 30
    batch_size: Annotated[int, _Above0] = 64
    accumulate: Annotated[int, _Above0] = 1
    seed: int | None = 0

    optimizer: str = "sgd"
    momentum: Annotated[float, _Share] = 0.9
    lr: Annotated[float, _Above0] = 0.1
    weight_decay: Annotated[float, _From0] = 1e-4
    no_decay: tuple[str, ...] = ()
    clip_grad: Annotated[float, _Above0] | None = None

    schedule: Literal["cosine", "multistep"] = "cosine"
    milestones: tuple[int, ...] = ()
    decay_rate: Annotated[float, _Above0] = 0.1
    min_lr: Annotated[float, _From0] = 0.0
    warmup_epochs: Annotated[float, _From0] | None = None
    warmup_lr: Annotated[float, _From0] = 0.0

    image_size: Annotated[int | tuple[int, int], _Pixels] | None = None
    eval_size: Annotated[int | tuple[int, int], _Pixels] | None = None
    eval_resize: Annotated[int, _Pixels] | None = None
    interpolation: Literal["bilinear", "bicubic"] | None = None
    augment: Literal["crop", "flip", "trivial", "rand", "characters", "none"] | None = None
    crop_scale: Annotated[float, _Above0] = 0.35
    random_erasing: Annotated[float, _Share] = 0.0
    repeats: Annotated[int, _Above0] = 1
    mixup: Annotated[float, _From0] = 0.0
    cutmix: Annotated[float, _From0] = 0.0
    label_smoothing: Annotated[float, _Share] = 0.0

    freeze: tuple[str, ...] = ()
    skip_aware_norms: bool = True
    passes: str = "SBSBR"
    delay: Annotated[int, _From0] | None = None
    fresh: bool = False
    intermediate: tuple[str, ...] | None = None
    teacher_share: Annotated[float, _Share] = 0.0
    teacher_start: Annotated[float, _Share] = 0.5
    buffer_mb: Annotated[float, _Above0] = 2048.0
    alpha: Annotated[float, _Share] = 0.5
    temperature: Annotated[float, _Above0] = 1.0
    feature_weight: Annotated[float, _From0] = 0.0
    low_memory: bool = False
    learn_from: Literal["teacher", "labels"] = "teacher"
    teacher: Literal["super-net", "random"] = "super-net"
    student: Literal["base-net", "random"] = "base-net"
    distil_share: Annotated[float, _Part] = 1.0
    keep_scale: bool = True
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    channels_last: bool = False
    compile: bool = False
    grad_checkpointing: bool = False
    sync_batchnorm: bool = False
    fsdp: bool = False
    ema: Annotated[float, _Decay] | None = None
    validate_every: Annotated[int, _From0] = 0
    validate: tuple[str, ...] | None = None
    calibrate: Annotated[int, _From0] = 5000
    checkpoint_every: Annotated[int, _Above0] | None = None
    keep: Annotated[int, _Above0] = 2
    skip_damaged: Annotated[float, _Share] = 0.01

    def __post_init__(self) -> None:
        hints = get_type_hints(type(self), include_extras=True)
        for name, value in vars(self).items():
            object.__setattr__(self, name, _checked(name, value, hints[name]))
        if self.schedule == "multistep" and not self.milestones:
            raise TrainingError("schedule='multistep' without milestones: set the epochs, such as milestones=[60, 100]")
        self._check_passes()
        if self.batch_size % self.accumulate:
            raise TrainingError(
                f"batch_size={self.batch_size} cannot be divided into accumulate={self.accumulate} equal parts"
            )

    def _check_passes(self) -> None:
        defaults = {each.name: each.default for each in fields(self)}
        if self.passes == ALGORITHM_1:
            strange, owner, other = _OF_PATTERNS, "a pattern of passes, such as passes='SBSBR'", ALGORITHM_1
        else:
            strange, owner, other = _OF_ALGORITHM_1, f"passes={ALGORITHM_1!r}", self.passes
            self.schedule_of(1)  # raises for an invalid pattern
        for name in strange:
            if getattr(self, name) != defaults[name]:
                raise TrainingError(
                    f"{name}={getattr(self, name)!r} belongs to {owner}, but passes is {other!r}: change one of them"
                )

    def schedule_of(self, batches: int, epoch: int | None = None) -> Schedule:
        """The schedule of passes for a training of this many batches, `epoch` of them in an epoch.

        Raises:
            TrainingError: a delay longer than an epoch.
        """
        delay = self.delay
        if epoch is not None and not self.fresh:
            if delay is not None and delay >= max(1, epoch):
                raise TrainingError(
                    f"delay={delay} is not shorter than an epoch of {epoch} batches: expected less, or none (null) for "
                    "a delay that fits"
                )
            delay = min(16, (epoch - 1) // 2) if delay is None else delay
        start = round(self.teacher_start * batches) if self.teacher_share else 0
        return Schedule(self.passes, delay, self.fresh, self.intermediate, self.teacher_share, start, self.seed or 0)

    def changed(self, changes: Mapping[str, Any]) -> "Recipe":
        """The same recipe with other values of some fields.

        Raises:
            TrainingError: an unknown field (similar ones are listed), or a value of another type.

        Example:
            >>> Recipe().changed({"epochs": 3}).epochs
            3
        """
        known = [each.name for each in fields(self)]
        for name in changes:
            if name not in known:
                near = get_close_matches(str(name), known, n=3, cutoff=0.5)
                hint = f"did you mean {' or '.join(near)}?" if near else f"expected one of {', '.join(known)}"
                raise TrainingError(f"a recipe has no field {name!r}: {hint}")
        return replace(self, **changes)

    def to_json(self) -> dict[str, Any]:
        """Dictionaries, lists, strings and numbers only."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    def to_yaml(self) -> str:
        """Every field, as `load_recipe` reads it."""
        return yaml.safe_dump(self.to_json(), sort_keys=False)


def load_recipe(name: str | Path) -> Recipe:
    """A built-in recipe by its name, or your own by its path.

    A file without `passes` is from version 0.1 and keeps its meaning: `"algorithm 1"`.

    Raises:
        TrainingError: no such recipe, a file that is not YAML, or unknown fields.

    Example:
        >>> load_recipe("resnet50").milestones
        (60, 100, 140)
    """
    path = Path(name)
    if path.suffix not in (".yaml", ".yml"):
        found = {each.stem: each for folder in _FOLDERS if folder.is_dir() for each in sorted(folder.glob("*.yaml"))}
        if str(name) not in found:
            near = get_close_matches(str(name), found, n=2, cutoff=0.5)
            hint = (
                f"did you mean {' or '.join(near)}?" if near else f"expected one of {', '.join(found)}, or a .yaml file"
            )
            raise TrainingError(f"there is no recipe {str(name)!r}: {hint}")
        path = found[str(name)]
    content = read_yaml(path, TrainingError, "expected a recipe, with lines such as 'epochs: 30'")
    if not isinstance(content, dict):
        raise TrainingError(f"recipe {path} holds a {type(content).__name__}: expected lines such as 'epochs: 30'")
    if "passes" not in content:  # from version 0.1, which had only this
        content = {"passes": ALGORITHM_1, "keep_scale": False, **content}
    try:
        return Recipe().changed(content)
    except TrainingError as error:
        raise TrainingError(f"recipe {path}: {error}") from error


def recipe_names() -> tuple[str, ...]:
    """The built-in recipes."""
    return tuple(sorted({path.stem for folder in _FOLDERS if folder.is_dir() for path in folder.glob("*.yaml")}))


def _checked(name: str, value: Any, kind: Any) -> Any:
    """The value as the field's type: a list may stand for a tuple, and 1e-4 is allowed, which YAML reads as text."""
    if isinstance(value, str) and str(kind).startswith("tuple[str"):
        value = (value,)
    try:
        return adapter(kind).validate_python(value)
    except ValidationError as error:
        said = error.errors()[0]["msg"].replace("a valid tuple", "a list, such as [conv1, layer1] or [30, 60]")
        raise TrainingError(f"{name}={value!r}: {said.replace('Input should be', 'expected')}") from error
