"""`deploy/onnx/branches.py`: choices of an ONNX graph become branches. Graphs and results are written by hand."""

import random
from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import parser

from adaptive_depth.deploy.onnx.branches import add_branches, move_constants

X = np.array([1.0, -2.0, 0.5], np.float32)


def model(
    body: str, outputs: str = "float[n] y", constants: str = "float two = {2}, float six = {6}"
) -> onnx.ModelProto:
    """A graph of `x` and of two flags, `f` and `g`."""
    return parser.parse_model(f"""
        <ir_version: 10, opset_import: ["" : 18]>
        graph (float[n] x, bool[2] skip) => ({outputs}) <int64[1] zero = {{0}}, int64[1] one = {{1}}, {constants}> {{
            f = Gather <axis = 0> (skip, zero)
            g = Gather <axis = 0> (skip, one)
            {body}
        }}""")


def run(proto: onnx.ModelProto, flags: Sequence[bool]) -> list[NDArray[Any]]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, 1
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": X, "skip": np.array(flags)})


def turned(before: onnx.ModelProto) -> tuple[int, onnx.ModelProto]:
    """The graph with branches, a valid one that computes the same for all flags, and the number it was said to have."""
    read = ir.from_proto(before)
    number = add_branches(read.graph, next(value for value in read.graph.inputs if value.name == "skip"))
    move_constants(read.graph)
    after = ir.to_proto(read)
    onnx.checker.check_model(after, full_check=True)
    assert [output.name for output in after.graph.output] == [output.name for output in before.graph.output]
    for flags in product((False, True), repeat=read.graph.inputs[1].shape.numpy()[0]):
        for wanted, found in zip(run(before, flags), run(after, flags), strict=True):
            np.testing.assert_allclose(found, wanted, rtol=1e-6)
    return number, after


def shape(graph: onnx.GraphProto) -> list[Any]:
    """The operators in their order; of an `If`, those of its two branches (skipped, kept)."""
    inner = [{one.name: one.g for one in node.attribute} for node in graph.node]
    return [
        (shape(sides["then_branch"]), shape(sides["else_branch"])) if node.op_type == "If" else node.op_type
        for node, sides in zip(graph.node, inner, strict=True)
    ]


def constants(graph: onnx.GraphProto) -> set[str]:
    return {tensor.name for tensor in graph.initializer}


def branch(graph: onnx.GraphProto, side: str) -> onnx.GraphProto:
    """The branch of the graph's only `If`."""
    (node,) = (node for node in graph.node if node.op_type == "If")
    return next(one.g for one in node.attribute if one.name == side)


FLAGS = ["Gather", "Gather"]


def test_one_choice() -> None:
    number, after = turned(model("a = Mul(x, two)\n b = Add(a, six)\n y = Where(f, x, b)"))
    # Skipped, x is handed on; kept, both operators run, and only there: 2 * -2 + 6 = 2.
    assert (number, shape(after.graph)) == (1, [*FLAGS, (["Identity"], ["Mul", "Add"])])
    assert run(after, (False, True))[0].tolist() == [8, 2, 7]
    assert run(after, (True, True))[0].tolist() == X.tolist()


def test_a_chain_of_one_flag_is_one_branch() -> None:
    body = (
        "a = Mul(x, two)\n b = Where(f, x, a)\n c = Add(b, six)\n d = Where(f, b, c)\n e = Neg(d)\n y = Where(f, d, e)"
    )
    number, after = turned(model(body))
    assert (number, shape(after.graph)) == (1, [*FLAGS, (["Identity"], ["Mul", "Add", "Neg"])])


def test_variants_and_what_is_skipped_behind_them_are_one_branch() -> None:
    # A mandatory block in two variants, then a skippable one.
    body = "a = Mul(x, two)\n b = Mul(x, six)\n c = Where(f, a, b)\n d = Neg(c)\n y = Where(f, c, d)"
    number, after = turned(model(body))
    assert (number, shape(after.graph)) == (1, [*FLAGS, (["Mul"], ["Mul", "Neg"])])


def test_stages_are_branches_one_after_the_other() -> None:
    body = "a = Mul(x, two)\n b = Where(f, x, a)\n c = Neg(b)\n d = Add(c, six)\n y = Where(g, c, d)"
    number, after = turned(model(body))
    assert (number, shape(after.graph)) == (
        2,
        [*FLAGS, (["Identity"], ["Mul"]), "Neg", (["Identity"], ["Add"])],
    )


def test_a_choice_in_a_branch_of_another() -> None:
    body = "a = Mul(x, two)\n b = Neg(x)\n c = Where(f, a, b)\n d = Add(c, six)\n y = Where(g, x, d)"
    number, after = turned(model(body))
    # The inner choice's flag is only looked up where it is needed.
    inner = ["Gather", (["Mul"], ["Neg"]), "Add"]
    assert (number, shape(after.graph)) == (1, ["Gather", (["Identity"], inner)])


def test_what_both_sides_use_stays_outside() -> None:
    number, after = turned(model("s = Neg(x)\n a = Mul(s, two)\n b = Mul(s, six)\n y = Where(f, a, b)"))
    assert (number, shape(after.graph)) == (1, [*FLAGS, "Neg", (["Mul"], ["Mul"])])


def test_what_is_used_behind_the_choice_stays_outside() -> None:
    number, after = turned(model("a = Mul(x, two)\n b = Neg(a)\n c = Where(f, x, b)\n y = Add(c, a)"))
    assert (number, shape(after.graph)) == (1, [*FLAGS, "Mul", (["Identity"], ["Neg"]), "Add"])


def test_an_output_of_the_graph_stays_outside_and_keeps_its_name() -> None:
    body = "a = Mul(x, two)\n b = Neg(a)\n y = Where(f, x, b)"
    number, after = turned(model(body, outputs="float[n] a, float[n] y"))
    assert (number, shape(after.graph)) == (1, [*FLAGS, "Mul", (["Identity"], ["Neg"])])


def test_a_where_that_no_flag_decides_stays() -> None:
    number, after = turned(model("p = Greater(x, two)\n a = Mul(x, six)\n b = Where(p, x, a)\n y = Where(f, x, b)"))
    assert (number, shape(after.graph)) == (1, [*FLAGS, (["Identity"], ["Greater", "Mul", "Where"])])
    number, after = turned(model("p = Greater(x, two)\n a = Mul(x, six)\n y = Where(p, x, a)"))
    assert (number, shape(after.graph)) == (0, [*FLAGS, "Greater", "Mul", "Where"])


def test_weights_of_convolutions_go_where_they_alone_are_used() -> None:
    body = """
        axes = Constant <value_ints = [0, 1]> ()
        i = Unsqueeze(x, axes)
        a = Conv(i, kernel)
        b = Conv(a, used_twice)
        c = Mul(b, two)
        d = Where(f, i, c)
        e = Conv(d, used_twice)
        y = Squeeze(e, axes)"""
    weights = "float[1, 1, 1] kernel = {3}, float[1, 1, 1] used_twice = {-1}, float two = {2}"
    number, after = turned(model(body, constants=weights))
    assert number == 1
    assert constants(branch(after.graph, "else_branch")) == {"kernel"}
    assert constants(branch(after.graph, "then_branch")) == set()
    # `used_twice` is used behind the branch, too; `two` is no weight that a runtime lays out.
    assert constants(after.graph) == {"zero", "one", "two", "used_twice"}
    assert run(after, (False, False))[0].tolist() == [6, -12, 3]  # 3 * -1 * 2 * -1 = 6


def test_a_constant_that_a_choice_hands_on() -> None:
    # Looked-up parameters of a norm may fall so: either constant, then something with it.
    body = "a = Where(f, p, q)\n y = Mul(x, a)"
    number, after = turned(model(body, constants="float[3] p = {1, 2, 3}, float[3] q = {4, 5, 6}"))
    assert (number, shape(after.graph)) == (1, [*FLAGS, (["Identity"], ["Identity"]), "Mul"])
    assert constants(branch(after.graph, "then_branch")) == set()  # a runtime finds `p` where it is
    assert run(after, (False, False))[0].tolist() == [4, -10, 3]


@pytest.mark.parametrize("seed", range(25))
def test_any_graph_of_choices(seed: int) -> None:
    """Graphs drawn at random: no choice is left, no branch is without use, and `turned` compares the outputs."""
    draw = random.Random(seed)
    values, lines = ["x"], []
    for number in range(14):
        near = values[-4:]
        lines.append(
            f"v{number} = "
            + draw.choice(
                [
                    f"Where({draw.choice('fg')}, {draw.choice(near)}, {draw.choice(near)})",
                    f"Mul({draw.choice(near)}, {draw.choice(['two', 'six'])})",
                    f"Add({draw.choice(near)}, {draw.choice(near)})",
                ]
            )
        )
        values.append(f"v{number}")
    lines.append("y = Identity(v13)")
    before = model("\n".join(needed(lines)), constants="float two = {0.5}, float six = {-0.75}")
    number, after = turned(before)
    top = [node for node in after.graph.node if node.op_type == "If"]
    assert len(top) == number
    assert "'Where'" not in repr(shape(after.graph))
    used = {value.name for node in ir.from_proto(after).graph.all_nodes() for value in node.inputs if value is not None}
    assert {node.output[0] for node in top} <= used


def needed(lines: list[str]) -> list[str]:
    """Without the lines whose value nothing uses."""
    kept: list[str] = []
    for line in reversed(lines):
        name = line.split(" = ")[0]
        if not kept or any(
            name in other.split(" = ")[1].replace(",", " ").replace(")", " ").replace("(", " ").split()
            for other in kept
        ):
            kept.append(line)
    return kept[::-1]
