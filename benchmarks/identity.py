"""Is the super-net, after `adapt`, bit-identical to the original: outputs and gradients, eval and train mode?

Every ResNet of torchvision, and one timm ResNet of each kind of stem, block and shortcut, at 64 px.
"""

import copy

import timm
import torch
import torchvision
from measure import report
from torch import nn

import adaptive_depth as ad

TORCHVISION = [name for name in torchvision.models.list_models() if name.startswith(("resnet", "wide_", "resnext"))]
TIMM = [
    "resnet18",
    "resnet18d",
    "resnet26t",
    "resnet50",
    "resnetaa50",
    "resnet50_gn",
    "resnetblur50",
    "resnext50_32x4d",
    "seresnet50",
    "ecaresnet26t",
    "seresnext26d_32x4d",
    "wide_resnet50_2",
    "res2net50_14w_8s",
    "resnetrs50",
]


def outputs_and_gradients(model: nn.Module, x: torch.Tensor, training: bool) -> list[torch.Tensor]:
    torch.manual_seed(1)  # for dropout, if there is any
    model.train(training).zero_grad()
    output = model(x)
    output.square().sum().backward()
    plain = model.model if isinstance(model, ad.AdaptiveNetwork) else model
    return [output, *(parameter.grad for parameter in plain.parameters())]


def main() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 64, 64)
    identical = {}
    for name in [f"torchvision/{name}" for name in TORCHVISION] + [name for name in TIMM if timm.is_model(name)]:
        model = ad.create_model(name)
        network = ad.adapt(copy.deepcopy(model))
        identical[name] = all(
            torch.equal(a, b)
            for training in (False, True)
            for a, b in zip(
                outputs_and_gradients(model, x, training), outputs_and_gradients(network, x, training), strict=True
            )
        )
        print(name, identical[name], flush=True)
    report("identity", {"target": "all bit-identical", "identical": identical}, passed=all(identical.values()))


if __name__ == "__main__":
    main()
