"""What `train` costs around the bare objective and optimiser, on the same batches: a small ResNet, 64 px, batch 32."""

from collections.abc import Callable

import torch
from measure import interleaved, ratio, report

import adaptive_depth as ad

STEPS, EPOCHS = 12, 3


def network() -> ad.AdaptiveNetwork:
    torch.manual_seed(0)
    return ad.adapt(ad.create_model("resnet18", num_classes=10, channels=(32, 64, 128, 256)))


def batches() -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [(torch.randn(32, 3, 64, 64, generator=generator), torch.arange(32) % 10) for _ in range(STEPS)]


def bare() -> Callable[[], None]:
    net, data = network(), batches()
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-3, momentum=0.9, nesterov=True, weight_decay=1e-4)

    def run() -> None:
        net.train()
        objective = ad.SelfDistillation(net)
        for x, y in EPOCHS * data:
            optimizer.zero_grad()
            objective(x, y).total.backward()
            optimizer.step()

    return run


def trained() -> Callable[[], None]:
    net, data, recipe = network(), batches(), ad.Recipe(epochs=EPOCHS, lr=1e-3, batch_size=32, passes="algorithm 1")
    return lambda: ad.train(net, data, recipe) and None


def main(rounds: int = 11) -> None:
    seconds = interleaved({"bare": bare(), "train": trained()}, rounds, warmup=2)
    cost = ratio(seconds, ["train"], ["bare"])
    result = {"target": "at most 1.03", "train / bare loop": cost, "steps in each run": EPOCHS * STEPS}
    report("trainer_overhead", result, passed=cost["median"] <= 1.03)


if __name__ == "__main__":
    main()
