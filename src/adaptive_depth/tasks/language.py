"""Text: the next token, or tokens at their own positions."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch.nn.functional as F
from torch import Tensor, nn

from ..batches import described, is_whole, split_batch
from ..errors import DataError, TrainingError
from ..hugging_face import context_of, foreign_tokens, is_of_transformers
from ..quality import Quality
from .checks import dtype_name, target_beside, tensor_of, value_range
from .task import Task
from .token_losses import token_cross_entropy, token_divergence

if TYPE_CHECKING:
    from torchmetrics import Metric


class LanguageModel(Task):
    """The next token: logits `[batch, tokens, vocabulary]`, labels `[batch, tokens]`.

    All tokens that count have the same weight in the loss, in the distillation (KL(super-net ‖ sub-network) of each
    token) and in perplexity; padding and `ignore_index` do not count. Losses are computed in float32, a few rows at a
    time: beyond the logits and their gradient, a large vocabulary takes no memory.

    A batch is token ids `[batch, tokens]`, or a dict with `input_ids` and whatever else the model takes. Labels are in
    it (`labels`, as from collators of transformers) or in a pair (input, labels). They are not passed to the model. By
    default they are the token ids, without padding (where `attention_mask` is 0) and without a token right after
    padding, which follows nothing.

    Arguments:
        temperature: of the softmax in distillation; the loss is multiplied by its square.
        shift: the logits at each position are those of the next token, so labels are the token ids themselves. False
            for encoder-decoders, masked language models and labels that are already shifted: each label is at the
            position of its logits.
        ignore_index: the label of positions that do not count.

    Raises:
        TrainingError: a temperature that is not above 0.

    Example:
        >>> import torch
        >>> task = LanguageModel()
        >>> ids, labels = task.inputs({"input_ids": torch.tensor([[2, 0, 1]])})
        >>> task.loss(torch.zeros(1, 3, 4), labels)
        tensor(1.3863)
    """

    quality = Quality("perplexity", higher_is_better=False)
    learns_from = ("a text", None)

    def __init__(self, *, temperature: float = 1.0, shift: bool = True, ignore_index: int = -100) -> None:
        if not temperature > 0:
            raise TrainingError(f"temperature={temperature!r}: expected a number above 0")
        self.temperature, self.shift, self.ignore_index = temperature, shift, ignore_index
        self._padding: int | None = None  # a token used for nothing else, if the model's config names one

    # -- batches ------------------------------------------------------------------------------------------------

    def inputs(self, batch: Any) -> tuple[Any, Any]:
        x, labels = split_batch(batch, None)
        if labels is None:
            return x, self._labels_of(x)
        if self.shift and isinstance(labels, Tensor):
            self._check_unshifted(x, labels)
        return x, labels

    def _labels_of(self, x: Any) -> Tensor:
        """The token ids themselves."""
        if not self.shift:
            raise DataError(
                "the loader yielded no labels, and with shift=False they are not the inputs: expected a dict with "
                "'labels', as from DataCollatorForSeq2Seq(tokenizer, model=model) or DataCollatorForLanguageModeling("
                "tokenizer, mlm=True), or pairs (input, labels)"
            )
        ids = _token_ids(x)
        if ids is None or ids.ndim != 2 or not is_whole(ids):
            received = described(x) if ids is None else f"{list(ids.shape)} of {dtype_name(ids)}"
            raise DataError(
                f"the loader yielded {received}, without labels: expected token ids [batch, tokens], integers, as a "
                "tensor or as 'input_ids' of a dict; or pass labels, too"
            )
        mask = x.get("attention_mask") if isinstance(x, Mapping) else None
        if not isinstance(mask, Tensor):
            self._check_not_padded(ids)
            return ids
        if mask.shape != ids.shape:
            raise DataError(
                f"attention_mask {list(mask.shape)} for input_ids {list(ids.shape)}: such a mask does not show which "
                f"tokens are padding; put 'labels' into the batch, {self.ignore_index} where none counts"
            )
        padding = mask == 0
        # A clone, because the two slices overlap.
        padding[:, 1:] |= padding[:, :-1].clone()  # a first token is not the next one of any
        return ids.masked_fill(padding, self.ignore_index)

    def _check_not_padded(self, ids: Tensor) -> None:
        """Refuse padding without a mask: it would be learned as text."""
        if self._padding is None or not ids.numel():
            return
        here = (ids == self._padding).long()
        # Padding never occurs between other tokens; if it does, it means something else here.
        if int((here[:, 1:] - here[:, :-1]).abs().sum(dim=1).max() if ids.shape[1] > 1 else 0) > 1:
            return
        behind, before = (int(edge.sum()) for edge in (here[:, -1], here[:, 0]))
        padded = behind or (before if before < len(ids) else 0)  # if all begin with it, it may be a start token
        if padded:
            raise DataError(
                f"{padded} of {len(ids)} texts begin or end with the padding token {self._padding}, but there is "
                "neither attention_mask nor labels, so padding would be learned as text: expected the dict that the "
                f"tokenizer returns, with its mask, or labels that are {self.ignore_index} there"
            )

    def _check_unshifted(self, x: Any, labels: Tensor) -> None:
        """Refuse labels that certainly are not token ids: they would train without an error and learn nonsense."""
        ids = _token_ids(x)
        if ids is None or ids.shape != labels.shape or ids.ndim != 2 or ids.shape[1] < 2 or not is_whole(labels):
            return
        counted = labels != self.ignore_index
        if bool(((labels == ids) | ~counted).all()):
            return
        shifted, several = (labels[:, :-1] == ids[:, 1:]) | ~counted[:, :-1], counted[:, :-1].sum() > 1
        if bool(several & shifted.all()):
            raise DataError(
                "the labels are the token ids already shifted by one, but this task shifts them: expected labels that "
                "are the token ids themselves, or the task LanguageModel(shift=False)"
            )
        if value_range(labels)[0] >= 0 and value_range(labels)[1] <= 1 < value_range(ids)[1]:
            raise DataError(
                "the labels are only 0 and 1, like an attention mask, but the token ids are not: expected "
                "{'input_ids': ids, 'attention_mask': mask}, or labels that are token ids"
            )

    def check_input(self, x: Any, model: nn.Module) -> None:
        """Token ids must be in the model's vocabulary, and texts within its context."""
        if not is_of_transformers(model):
            return
        further = x.get("decoder_input_ids") if isinstance(x, Mapping) else None
        for ids in (_token_ids(x), further):
            if not isinstance(ids, Tensor) or ids.ndim != 2 or not ids.numel() or not is_whole(ids):
                continue
            if found := foreign_tokens(model, ids):
                labels = f"padding needs an id, too, only labels may be {self.ignore_index}"
                raise DataError(f"the batch has {found}; {labels}")
            most = context_of(model)
            if most is not None and ids.shape[1] > most:
                raise DataError(
                    f"texts of {ids.shape[1]} tokens, but the model's context is {most} (max_position_embeddings): "
                    "expected shorter ones; split them, or if its positions reach further set "
                    f"model.config.max_position_embeddings = {ids.shape[1]}"
                )

    # -- losses and perplexity ----------------------------------------------------------------------------------

    def output(self, output: Any) -> Any:
        """The logits, from an object or a dict that has them, or from a pair (logits, loss) with a loss or None."""
        # A named tuple is an output with fields, not a pair (logits, loss).
        if isinstance(output, tuple) and len(output) == 2 and not hasattr(output, "_fields"):
            logits, loss = output
            if isinstance(logits, Tensor) and (loss is None or (isinstance(loss, Tensor) and loss.ndim == 0)):
                return logits
        return super().output(output)

    def check(self, output: Any, target: Any, /) -> None:
        self._counted(self._logits(output), target)

    def loss(self, output: Any, target: Any) -> Tensor:
        logits = self._logits(output)
        rows, labels = self._counted(logits, target)
        return token_cross_entropy(logits.flatten(0, 1), rows, labels)

    def distil(self, student: Any, teacher: Any, target: Any) -> Tensor:
        student, teacher = self._logits(student), self._logits(teacher)
        if student.shape != teacher.shape:
            raise TrainingError(
                f"the sub-network returned {list(student.shape)} and the super-net {list(teacher.shape)}: expected "
                "logits of the same tokens"
            )
        rows, _ = self._counted(student, target)
        return token_divergence(teacher.flatten(0, 1), student.flatten(0, 1), rows, self.temperature)

    def metric(self, output: Any) -> "Metric":  # noqa: ARG002 - of any vocabulary
        from .perplexity import Perplexity

        return Perplexity()

    def measure(self, metric: "Metric", output: Any, target: Any) -> None:
        logits = self._logits(output)
        rows, labels = self._counted(logits, target)
        metric.update(logits.flatten(0, 1), labels, rows)

    def compared(self, output: Any, target: Any) -> tuple[Tensor, Tensor]:
        """Log-probabilities `[counted, vocabulary]` and ids of the tokens that count, concatenated."""
        logits = self._logits(output)
        rows, labels = self._counted(logits, target)
        return logits.flatten(0, 1)[rows].float().log_softmax(1), labels

    def _counted(self, logits: Tensor, target: Any) -> tuple[Tensor, Tensor]:
        """Which of all `batch * tokens` rows count, and the token ids to compare them with."""
        y = target_beside(logits, target, f"token ids {list(logits.shape[:2])} for logits {list(logits.shape)}")
        if y.shape != logits.shape[:2]:
            raise TrainingError(
                f"labels {list(y.shape)} for logits {list(logits.shape)}: expected token ids {list(logits.shape[:2])}, "
                "one for each position; a model that returns logits of some positions only must return all"
            )
        if not is_whole(y):
            raise TrainingError(f"labels of {dtype_name(y)}: expected token ids, integers; convert them with y.long()")
        # The labels are shifted, not the logits, which would have to be copied.
        y = (F.pad(y[:, 1:], (0, 1), value=self.ignore_index) if self.shift else y).flatten()
        rows = (y != self.ignore_index).nonzero().squeeze(1)
        labels = y[rows].long()
        low, high = value_range(labels)
        if not len(rows):
            of_next = "has no next token that counts" if self.shift else "has no token that counts"
            raise TrainingError(
                f"this batch {of_next}, labels {list(target.shape)}: all are padding, ignore_index="
                f"{self.ignore_index}{' or texts of one token' * self.shift}; leave such batches out"
            )
        if low < 0 or high >= logits.shape[2]:
            fix = f"use the model's own tokenizer, or model.resize_token_embeddings({high + 1}) before ad.adapt"
            if low < 0:
                fix = f"set the label of positions that do not count, LanguageModel(ignore_index={low})"
            raise TrainingError(
                f"labels from {low} to {high}, but the network's vocabulary has {logits.shape[2]} tokens: expected "
                f"token ids from 0 to {logits.shape[2] - 1}; {fix}"
            )
        return rows, labels

    def _logits(self, output: Any) -> Tensor:
        found = self.output(output)
        hint = (
            f"logits [batch, tokens, vocabulary], alone or as the field logits, but received {described(found)}; use "
            "the model with its head (LlamaForCausalLM, not LlamaModel), or wrap it"
        )
        logits = tensor_of("the network's output", found, hint)
        if logits.ndim != 3 or not logits.is_floating_point():
            raise TrainingError(
                f"the network returned {list(logits.shape)} of {dtype_name(logits)}: expected logits [batch, tokens, "
                "vocabulary]"
            )
        return logits


# -- what a model is for ----------------------------------------------------------------------------------------

_BOTH_WAYS = {"xlnet"}  # listed as causal, but sees the whole text


def language_task(model: nn.Module) -> LanguageModel | None:
    """The task of a causal language model of transformers; None for anything but a language model of that library.

    Raises:
        TrainingError: an encoder-decoder or a masked language model, whose labels the user must define.
    """
    config = getattr(model, "config", None)
    theirs = [kind.__name__ for kind in type(model).__mro__ if kind.__module__.startswith("transformers.")]
    if not theirs or config is None:
        return None
    from transformers.models.auto import modeling_auto as auto  # imported already, since there is such a model

    def among(names: str) -> bool:
        return bool(set(theirs) & _flat(getattr(auto, names, {}).values()))

    masked = auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES
    kind = getattr(config, "model_type", "")
    if among("MODEL_FOR_CAUSAL_LM_MAPPING_NAMES"):
        encoder = kind in masked and not getattr(config, "is_decoder", False)
        if not encoder and kind not in _BOTH_WAYS and getattr(config, "is_causal", True) is not False:
            task = LanguageModel()
            task._padding = _padding_alone(config.get_text_config())
            return task
        raise TrainingError(
            f"{type(model).__name__} sees the tokens that come next, according to its config: expected "
            "is_decoder=True in the config of a causal language model, or task=LanguageModel(shift=False) and labels "
            "at their own positions"
        )
    if among("MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES"):
        raise TrainingError(
            f"{type(model).__name__} generates a separate text: expected task=adaptive_depth.tasks.LanguageModel("
            "shift=False), with batches of DataCollatorForSeq2Seq(tokenizer, model=model), which hold labels and "
            "decoder_input_ids"
        )
    if among("MODEL_FOR_MASKED_LM_MAPPING_NAMES"):
        raise TrainingError(
            f"{type(model).__name__} fills in tokens: expected task=adaptive_depth.tasks.LanguageModel(shift=False), "
            "with batches of DataCollatorForLanguageModeling(tokenizer, mlm=True), which hold labels"
        )
    return None


def _padding_alone(config: Any) -> int | None:
    """The padding token; None if there is none, or if it also begins or ends texts."""
    pad, end, begin = (getattr(config, name, None) for name in ("pad_token_id", "eos_token_id", "bos_token_id"))
    ends = end if isinstance(end, list) else [end]
    return pad if isinstance(pad, int) and pad >= 0 and pad not in (*ends, begin) else None


def _flat(names: Any) -> set[str]:
    return {each for name in names for each in ((name,) if isinstance(name, str) else name)}


def _token_ids(x: Any) -> Tensor | None:
    found = x.get("input_ids") if isinstance(x, Mapping) else x[0] if isinstance(x, tuple) and x else x
    return found if isinstance(found, Tensor) else None
