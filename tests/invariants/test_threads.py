"""Threads that run different depths at once give exactly the serial outputs."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import timm
import torch

import adaptive_depth as ad


@pytest.mark.alone
@pytest.mark.parametrize("calibrated", [False, True])
def test_eight_threads_at_different_depths(calibrated: bool) -> None:
    torch.manual_seed(0)
    network = ad.adapt(timm.create_model("resnet18", num_classes=7, channels=(8, 8, 16, 16))).eval()
    x = torch.randn(2, 3, 32, 32)
    if calibrated:
        ad.calibrate(network, [torch.randn(8, 3, 32, 32)])
    with torch.no_grad():
        serial = {skip: network(x, skip=skip) for skip in network.skips}
        network.forget_views()  # so that the threads also meet while sub-networks are made

    def work(thread: int) -> list[str]:
        wrong = []
        with torch.no_grad():
            for turn in range(40):
                skip = network.skips[(thread * 5 + turn * 3) % 16]
                output = network(x, skip=skip) if turn % 2 else network.subnet(skip)(x)
                if not torch.equal(output, serial[skip]):
                    wrong.append(skip)
        return wrong

    with ThreadPoolExecutor(8) as pool:
        assert [wrong for found in pool.map(work, range(8)) for wrong in found] == []


@pytest.mark.alone
def test_training_in_one_thread_while_another_evaluates_its_own_copy_of_the_depths() -> None:
    """Shared runs keep their tapes to themselves: evaluation in several threads at once gives the serial result."""
    torch.manual_seed(0)
    network = ad.adapt(timm.create_model("resnet18", num_classes=7, channels=(8, 8, 16, 16))).eval()
    batches = [(torch.randn(16, 3, 32, 32), torch.randint(7, (16,))) for _ in range(2)]
    expected = ad.evaluate(network, batches)
    with ThreadPoolExecutor(4) as pool:
        assert all(found == expected for found in pool.map(lambda _: ad.evaluate(network, batches), range(4)))
