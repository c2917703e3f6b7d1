"""All depths of a network except those that cannot be used."""

import warnings
from collections.abc import Sequence

from ..errors import DepthError, DepthsLeftOut, one_line
from ..text import left_out_lines
from .network import AdaptiveNetwork


def usable(network: AdaptiveNetwork, skips: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """The sub-networks that `subnet` returns, and why it refuses the others, with a warning.

    For calls over depths that the user did not name. For example, a recurrent model with some attention layers has
    depths without any of these, which cannot generate text.

    Raises:
        DepthError: of several depths only the super-net can be used: then the cause is not a depth.
        StagesError: a reason that applies to all depths.
    """
    refused: dict[str, DepthError] = {}
    for skip in skips:
        try:
            network.subnet(skip)
        except DepthError as error:
            refused[skip] = error
    left = [skip for skip in skips if skip not in refused]
    if len(refused) > 1 and not any("T" in skip for skip in left):
        raise next(iter(refused.values()))
    reasons = {skip: one_line(error.__cause__ or error) for skip, error in refused.items()}
    for line in left_out_lines(reasons):
        warnings.warn(line, DepthsLeftOut, stacklevel=3)
    return left, reasons
