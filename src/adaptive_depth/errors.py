"""One small family of errors: what was received, what was expected, how to mend it."""

_LONGEST = 3000  # characters of a message: what a damaged file holds may be of any length


class AdaptiveDepthError(ValueError):
    """Base of every error that this library raises for something its user can mend.

    A message that is too long to be read is cut in its middle, and what cannot be printed is escaped.
    """

    def __init__(self, *args: object) -> None:
        super().__init__(*(_readable(each) if isinstance(each, str) else each for each in args))


class SkipError(AdaptiveDepthError):
    """A skip configuration that does not fit the network."""


class StagesError(AdaptiveDepthError):
    """Stages that do not fit the model, or a model without residual stages."""


class DepthError(StagesError):
    """One depth of a network that cannot be used by itself, where others can."""


class DepthsLeftOut(UserWarning):
    """Of all depths, some cannot be used: a call goes over the others."""


class ModelError(AdaptiveDepthError):
    """A model name or model arguments that cannot be built."""


class DataError(AdaptiveDepthError):
    """A data set that is missing, empty or does not fit the network."""


class FetchError(DataError):
    """A data set that is not on this machine, and is not fetched unasked."""


class TrainingError(AdaptiveDepthError):
    """A training step that cannot go on: labels out of range, a loss that is not finite."""


class CheckpointError(AdaptiveDepthError):
    """A saved network that is missing, truncated, foreign or newer than this library."""


class ExportError(AdaptiveDepthError):
    """A network that cannot be exported, or an export that does not compute what the network does."""


class ArtifactError(AdaptiveDepthError):
    """An exported file that is missing, truncated, foreign or newer, or that cannot be run here."""


class MeasurementError(AdaptiveDepthError):
    """Something that cannot be measured, or measurements that do not fit together."""


class BudgetError(AdaptiveDepthError):
    """A budget that no sub-network meets, or one that is no budget."""


def one_line(error: BaseException) -> str:
    """What an error of another library says, in one line; its kind where it says nothing."""
    return " ".join(str(error).split()) or type(error).__name__


def _readable(text: str) -> str:
    if len(text) > _LONGEST:
        text = f"{text[: _LONGEST * 2 // 3]} [...] {text[-_LONGEST // 4 :]}"
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
