"""Loops that add up gradients over several batches: refused, where these would be gradients of different passes."""

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState
from torch import nn

import adaptive_depth as ad
from adaptive_depth.errors import TrainingError

IMAGES, LABELS = torch.randn(4, 3, 8, 8), torch.tensor([0, 1, 2, 0])


@pytest.fixture
def accelerator():
    """With two batches a step; what it keeps for the process is forgotten afterwards."""

    def make(steps):
        return Accelerator(cpu=True, gradient_accumulation_steps=steps)

    yield make
    for state in (AcceleratorState, GradientState, PartialState):
        state._reset_state()


def passes_of(nets):
    return ad.Passes(nets.chain().train(), nn.CrossEntropyLoss(), ad.Schedule("SB", delay=0))


def step_around(accelerator, passes, optimizer):
    with accelerator.accumulate(passes.module):
        for loss in passes(IMAGES, LABELS):
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()


def step_inside(accelerator, passes, optimizer):
    for loss in passes(IMAGES, LABELS):
        with accelerator.accumulate(passes.module):
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()


@pytest.mark.parametrize("step", [step_around, step_inside])
def test_a_step_of_several_passes_is_refused(step, accelerator, nets):
    passes, mine = passes_of(nets), accelerator(2)
    optimizer = mine.prepare(torch.optim.SGD(passes.network.parameters(), lr=0.1))
    said = r"inside accelerator.accumulate.*gradient_accumulation_steps=2.*passes.load\(\["
    before = [parameter.clone() for parameter in passes.network.parameters()]
    with pytest.raises(TrainingError, match=said):
        step(mine, passes, optimizer)
    assert all(torch.equal(a, b) for a, b in zip(passes.network.parameters(), before, strict=True))


@pytest.mark.parametrize("step", [step_around, step_inside])
def test_a_step_of_each_pass_is_taken(step, accelerator, nets):
    passes, mine = passes_of(nets), accelerator(1)
    optimizer = mine.prepare(torch.optim.SGD(passes.network.parameters(), lr=0.1))
    for _ in range(2):
        step(mine, passes, optimizer)
    assert passes.steps_done == 4


def test_parts_of_one_pass_may_be_accumulated(accelerator, nets):
    passes, mine = passes_of(nets), accelerator(2)
    optimizer = mine.prepare(torch.optim.SGD(passes.network.parameters(), lr=0.1))
    for due in passes.load([(IMAGES[:2], LABELS[:2]), (IMAGES[2:], LABELS[2:])]):
        for item in passes.items(due):
            with mine.accumulate(passes.module):
                mine.backward(passes.learn(item).loss)
                optimizer.step()
                optimizer.zero_grad()
        assert mine.sync_gradients
        passes.done()
    assert passes.steps_done == 2


def test_a_loader_of_steps_in_a_loop_that_accumulates(accelerator, nets):
    passes = passes_of(nets)
    accelerator(4)
    with pytest.raises(TrainingError, match=r"passes.over.*gradient_accumulation_steps=4.*is its own step"):
        next(iter(passes.over([(IMAGES, LABELS)])))
    assert not passes.loaded
