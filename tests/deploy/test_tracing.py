"""`deploy/tracing.py`: what cannot be followed or converted is named with the block it came from."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules import module as modules

from adaptive_depth.deploy.switching import Switching
from adaptive_depth.deploy.tracing import block_name, cannot_convert, exported
from adaptive_depth.errors import ExportError


class Looking(nn.Module):
    """Looks at its numbers to decide what it does."""

    def forward(self, x: Tensor) -> Tensor:
        return x + 1 if x.sum() > 0 else x - 1


class Wrapped(nn.Module):
    def __init__(self, *parts: nn.Module) -> None:
        super().__init__()
        self.model = nn.Sequential(nn.Linear(4, 4), nn.Sequential(*parts))

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


class Log(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.special.bessel_j0(x) + x.sum() + torch.sign(x)


X = torch.ones(2, 4)


def test_a_program_computes_what_the_module_does() -> None:
    module = Wrapped(nn.Tanh())
    program = exported(module, (X,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},)).module()
    x = torch.randn(5, 4)  # the batch is free
    torch.testing.assert_close(program(x), module(x))


def test_attention_is_followed_although_it_has_a_fast_path() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    x = torch.randn(2, 3, 8)
    with torch.no_grad():
        program = exported(layer, (x,))
    assert not [node for node in program.graph.nodes if "_transformer_encoder_layer_fwd" in str(node.target)]
    assert torch.backends.mha.get_fastpath_enabled()


def test_the_innermost_module_is_named_and_no_hook_is_left() -> None:
    before = [len(hooks) for hooks in (modules._global_forward_hooks, modules._global_forward_pre_hooks)]
    with pytest.raises(ExportError, match=r"^torch\.export cannot trace 1\.1: .*data-dependent") as caught:
        exported(Wrapped(nn.Tanh(), Looking()), (X,))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400
    assert before == [len(hooks) for hooks in (modules._global_forward_hooks, modules._global_forward_pre_hooks)]


def test_code_of_the_wrapped_module_itself_is_the_networks() -> None:
    class Itself(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.relu(x) if x.sum() > 0 else x

    with pytest.raises(ExportError, match=r"^torch\.export cannot trace Itself: "):
        exported(Itself(), (X,))


@pytest.mark.parametrize("folded", [False, True])
def test_blocks_of_a_switching_module_have_the_users_names(two_stages, folded: bool) -> None:
    class Residual(Looking):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm2d(6)

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(self.norm(x))

    module = Switching(two_stages(Residual, calibrated=True), folded=folded)
    with pytest.raises(ExportError, match=r"^torch\.export cannot trace one\.1: "):
        exported(module, (torch.ones(2, 3, 8, 8), torch.zeros(2, dtype=torch.bool)))


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("view.layer1.0.conv1", "layer1.0.conv1"),
        ("view.layer1.1.skippable_block.conv1", "layer1.1.conv1"),
        ("view.layer2.0.by_context.TF.conv1", "layer2.0.conv1"),
        ("view.blocks.3.skippable_block.by_context.TFF", "blocks.3"),
        ("model.model.block.0.blocks.1", "model.block.0.blocks.1"),  # the user's own names stay
        ("view.viewer.modeling", "viewer.modeling"),
        ("model", "the network"),
        ("", "the network"),
    ],
)
def test_block_names(path: str, name: str) -> None:
    assert block_name(path) == name


@pytest.mark.parametrize(
    "said",
    [
        "no function for aten.special_bessel_j0.default here",
        "<OpOverload(op='aten.special_bessel_j0', overload='default')>",
        "<OpOverload(op='prims.bessel_j0', overload='default')>",
    ],
)
def test_the_operator_that_a_message_names(said: str) -> None:
    program = exported(Wrapped(nn.Tanh(), Log()), (X,))
    error = cannot_convert("Something", [program], RuntimeError(said))
    assert str(error) == f"Something cannot take the operator aten::special_bessel_j0 of 1.1: {said}"


def test_the_operator_is_looked_for_in_causes_and_the_first_cause_is_told() -> None:
    cause, error = RuntimeError("op='aten.sign' is new to me,\n sorry"), RuntimeError("it failed")
    error.__cause__ = cause
    said = str(cannot_convert("Something", [exported(Wrapped(Log()), (X,))], error))
    assert said == "Something cannot take the operator aten::sign of 1.0: op='aten.sign' is new to me, sorry"


def test_a_message_that_names_no_operator() -> None:
    said = str(cannot_convert("Something", [exported(Wrapped(Log()), (X,))], MemoryError()))
    assert said == "Something cannot take the network: MemoryError"


def test_a_program_that_cannot_be_decomposed_is_told_of_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where sizes depend on values."""

    def fail(_: object) -> None:
        raise AssertionError("pending symbols")

    program = exported(Wrapped(nn.Tanh(), Log()), (X,))
    monkeypatch.setattr(type(program), "run_decompositions", fail)
    said = [str(cannot_convert("Something", [program], RuntimeError(f"aten.{name} is new"))) for name in ("sign", "no")]
    assert said == [
        "Something cannot take the operator aten::sign of 1.1: aten.sign is new",
        "Something cannot take the network: aten.no is new",
    ]
