"""One small family of errors: what was received, what was expected, how to fix it."""

_LONGEST = 3000  # characters of a message: a damaged file may contain text of any length


class AdaptiveDepthError(ValueError):
    """Base of all errors of this library: each reports something that the user can fix.

    An overlong message is shortened in the middle, and unprintable characters are escaped.
    """

    def __init__(self, *args: object) -> None:
        super().__init__(*(_readable(each) if isinstance(each, str) else each for each in args))


class SkipError(AdaptiveDepthError):
    """A skip configuration that does not fit the network."""


class StagesError(AdaptiveDepthError):
    """Stages that do not fit the model, or a model without residual stages."""


class DepthError(StagesError):
    """A depth of a network that cannot be used, although others can."""


class DepthsLeftOut(UserWarning):
    """Some depths cannot be used: a call covers only the others."""


class ModelError(AdaptiveDepthError):
    """A model name or model arguments that cannot be built."""


class DataError(AdaptiveDepthError):
    """A data set that is missing, empty or does not fit the network."""


class FetchError(DataError):
    """A data set that is not on this machine, and is downloaded only on request."""


class TrainingError(AdaptiveDepthError):
    """A training step that cannot continue: labels out of range, a loss that is not finite."""


class CheckpointError(AdaptiveDepthError):
    """A saved network that is missing, truncated, foreign or newer than this library."""


class ExportError(AdaptiveDepthError):
    """A network that cannot be exported, or an export that does not compute what the network does."""


class ArtifactError(AdaptiveDepthError):
    """An exported file that is missing, truncated, foreign or newer, or that cannot be run here."""


class MeasurementError(AdaptiveDepthError):
    """Something that cannot be measured, or measurements that do not fit together."""


class BudgetError(AdaptiveDepthError):
    """A budget that no sub-network meets, or that is invalid."""


def one_line(error: BaseException) -> str:
    """The message of another library's error on one line; its type if it has no message."""
    return " ".join(str(error).split()) or type(error).__name__


def is_a_class(given: type) -> str:
    """The message for a class where an instance is expected.

    Example:
        >>> is_a_class(dict)
        'dict is a class: expected an instance, dict(...)'
    """
    return f"{given.__name__} is a class: expected an instance, {given.__name__}(...)"


def _readable(text: str) -> str:
    if len(text) > _LONGEST:
        text = f"{text[: _LONGEST * 2 // 3]} [...] {text[-_LONGEST // 4 :]}"
    # Lone surrogates, as in names of damaged files, cannot be printed.
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
