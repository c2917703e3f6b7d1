"""One small family of errors: what was received, what was expected, how to mend it."""


class AdaptiveDepthError(ValueError):
    """Base of every error that this library raises for something its user can mend."""


class SkipError(AdaptiveDepthError):
    """A skip configuration that does not fit the network."""


class StagesError(AdaptiveDepthError):
    """Stages that do not fit the model, or a model without residual stages."""


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
