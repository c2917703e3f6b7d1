"""All depths of a network but those that cannot be used by themselves."""

import warnings
from collections.abc import Sequence

from ..errors import DepthError, DepthsLeftOut, one_line
from ..text import left_out_lines
from .network import AdaptiveNetwork


def usable(network: AdaptiveNetwork, skips: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Those of some sub-networks that `subnet` gives, and why it refuses the others; of these it warns.

    For calls that go over depths that nobody asked for by name. A recurrent model with some attention layers, say, has
    depths without any of these, which cannot write text.

    Raises:
        DepthError: several depths, of which none but the super-net can be used: then it is no matter of a depth.
        StagesError: a reason that holds for all depths.
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
