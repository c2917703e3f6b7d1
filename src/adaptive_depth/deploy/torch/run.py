"""Sessions for an adapted network in this process: eager, or compiled with `torch.compile`."""

from dataclasses import replace
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils._pytree import tree_map

from ...batches import arguments, described, device_of, logits_in, outputs_in
from ...core.network import AdaptiveNetwork
from ...data import input_shape
from ...errors import ArtifactError, StagesError
from ...meaning import Detections
from ...models import usual_input
from ..artifact import Artifact
from ..detectors import detections_of, runnable, usual_outputs
from ..session import Arrays


def open_backend(source: Any, *, threads: int | None, backend: str) -> "NetworkBackend":
    """The backend of a session; see `open_session`.

    Arguments:
        source: an adapted network, on any device; it is put into eval mode.
        threads: of torch, for the whole process; unchanged by default.
        backend: `"eager"` or `"compiled"`; compiled depths are compiled on their first run.

    Raises:
        ArtifactError: not an adapted network, or one whose stages no input has proven.
    """
    if not isinstance(source, AdaptiveNetwork):
        raise ArtifactError(
            f"{backend} received a {type(source).__name__}: expected an adapted network, such as load('runs/mine')"
        )
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        return NetworkBackend(source.eval(), compiled=backend == "compiled")
    except StagesError as error:
        raise ArtifactError(f"{backend}: {error}") from error


class NetworkBackend:
    """The sub-networks of a network as they are; changes of its weights take effect with the next call.

    Threads may share it.
    """

    def __init__(self, network: AdaptiveNetwork, *, compiled: bool) -> None:
        network = runnable(network)
        # Known models take images; what others take is known to them alone.
        self.takes_any = not isinstance(usual_input(network.model), Tensor)
        channels, _ = input_shape(network)
        self.artifact = Artifact(
            "network",
            tuple(network.stages.to_json()),
            network.skips,
            (None, channels, None, None),
            network.fingerprint,
        )
        subnets = {skip: network.subnet(skip) for skip in network.skips}
        self._subnets: dict[str, Any] = (
            {skip: torch.compile(subnet) for skip, subnet in subnets.items()} if compiled else subnets
        )
        self._network = network

    def run(self, x: Any, skip: str) -> Arrays:
        """The output of one depth for `[batch, channels, height, width]`: `[batch, classes]` for a classifier.

        Arguments:
            x: an array, or several as the network takes them: a tuple by position, a dictionary by keyword.
            skip: the depth.
        """
        with torch.inference_mode():
            args, kwargs = arguments(tree_map(self._tensor, x))
            output = self._subnets[skip](*args, **kwargs)
            parts, names = outputs_in(output), usual_outputs(self._network, output)
            if names is not None:
                parts = {name: parts[name] for name in names}
                self._told(detections_of(self._network, output), names)
            elif isinstance(logits := logits_in(output), Tensor):
                return _array(logits)
            if not parts or not all(isinstance(part, Tensor) for part in parts.values()):
                raise ArtifactError(
                    f"the network returned {described(output)}: expected a tensor, or tensors in a dict, a dataclass "
                    "or a tuple; call the network itself, network(x, skip=...)"
                )
            return {name: _array(part) for name, part in parts.items()}

    def _tensor(self, array: NDArray[Any]) -> Tensor:
        writable = array if array.flags.writeable else array.copy()  # torch requires it, although nothing is written
        return torch.from_numpy(writable).to(device_of(self._network))

    def _told(self, detections: Detections | None, outputs: tuple[str, ...]) -> None:
        """Keep what the last call showed about the network: a detector's depends on the input size."""
        if (detections, outputs) != (self.artifact.detections, self.artifact.outputs):
            self.artifact = replace(self.artifact, detections=detections, outputs=outputs)


def _array(output: Tensor) -> NDArray[Any]:
    return (output.float() if output.is_floating_point() else output).cpu().numpy()
