"""An OpenVINO graph that computes both sides of every choice → one that branches and runs only the chosen depth.

The result is a tree of `If`s with a branch for each context (the flags up to a stage): a branch contains one stage with
its context's norms as constants, then the `If` of the next stage. Between a layer with shared weights and a norm that
is not shared, there is an identity that OpenVINO does not see through (a PReLU of slope 1, which the layer's kernel
fuses): otherwise OpenVINO would fold each norm into its own copy of the weights, one per branch. The branches read the
same weights; OpenVINO writes them to the file once and keeps them in memory once.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from openvino import Model, Node, Output, Type, opset13
from openvino.op import Parameter, Result, if_op
from openvino.passes import ConstantFolding, Manager

from ..artifact import INPUTS, Artifact

IMAGE, SKIP = INPUTS
LOGITS = "logits"
LAYERS = ("Convolution", "GroupConvolution", "MatMul")
_NORM_STEPS = ("Add", "Subtract", "Multiply", "Divide")

Value = tuple[str, int]  # an output of a node: the node's name and the output's index
Branch = tuple[Model, dict[Value, Parameter]]  # and the value that each parameter takes


def branched(flat: Model, artifact: Artifact, *, keep_norms: bool = True) -> Model:
    """The same computation with a branch for each context.

    Arguments:
        flat: a graph whose parameters are the inputs and booleans `[stages]`, in which each choice is a `Select`. It is
            modified: convert it again for another use.
        artifact: the names of inputs and outputs, and the depths that the result computes; for any other depth it
            returns the output of one of them.
        keep_norms: keep norms separate from layers; False lets OpenVINO fold them, in each branch separately.

    Returns:
        A graph with these inputs, `skip`, and these outputs.
    """
    plan = _plan(flat, artifact)
    if keep_norms:
        _hold_norms(plan)
    body, parameters = _grow(plan, artifact.skips, "", 0)
    model = new_model(body.get_results(), [parameters[value] for value in (*plan.inputs, plan.skip)])
    name_ends(model, artifact)
    return model


def name_ends(model: Model, artifact: Artifact) -> None:
    """Name the inputs and the outputs."""
    names = (*(each.name for each in artifact.takes), SKIP, *(artifact.outputs or (LOGITS,)))
    for node, name in zip([*model.get_parameters(), *model.get_results()], names, strict=True):
        node.set_friendly_name(name)
        node.output(0).set_names({name})


@dataclass(frozen=True)
class _Plan:
    """Where the graph is split.

    Attributes:
        flat: the graph; every node has a unique name, which identifies it in a copy.
        inputs, names: the parameters other than the skip, and their names in the result.
        skip: the parameter that choices are made by.
        sources: what each node reads, in the order of computation.
        of_inputs, of_skip: the nodes whose values depend on the inputs or on the skip.
        choices: each `Select` between two depths, and the stage whose flag decides.
        regions: the nodes of each stage; the first includes what precedes it, the last what follows it.
    """

    flat: Model
    inputs: tuple[Value, ...]
    names: tuple[str, ...]
    skip: Value
    sources: Mapping[str, tuple[Value, ...]]
    of_inputs: frozenset[str]
    of_skip: frozenset[str]
    choices: Mapping[str, int]
    regions: tuple[frozenset[str], ...]


def _plan(flat: Model, artifact: Artifact) -> _Plan:
    stages = len(artifact.skips[0])
    order = flat.get_ordered_ops()
    for number, node in enumerate(order):
        node.set_friendly_name(f"{node.get_type_name()}_{number}")
    *inputs, skip = map(_name, flat.get_parameters())  # in the order of the traced module's arguments
    sources = {_name(node): tuple(_value(port.get_source_output()) for port in node.inputs()) for node in order}
    of_inputs, of_skip = _depending(sources, inputs), _depending(sources, [skip])
    choices = {
        _name(node): _flag(node, skip)
        for node in order
        if node.get_type_name() == "Select" and _name(node) in of_inputs and sources[_name(node)][0][0] in of_skip
    }
    last = {stage: name for name, stage in choices.items()}  # later ones win, in the order of computation
    ends = [*([last[stage]] for stage in range(stages - 1)), [_name(result) for result in flat.get_results()]]
    seen, regions = {*inputs, skip}, []
    for stage_ends in ends:
        regions.append(_needed(sources, stage_ends, seen))
        seen |= regions[-1]
    values, names = tuple((name, 0) for name in inputs), tuple(each.name for each in artifact.takes)
    return _Plan(flat, values, names, (skip, 0), sources, of_inputs, of_skip, choices, tuple(regions))


def _depending(sources: Mapping[str, Sequence[Value]], parameters: Iterable[str]) -> frozenset[str]:
    """The nodes whose value depends on one of some parameters."""
    found = {*parameters}
    for name, values in sources.items():
        if any(source in found for source, _ in values):
            found.add(name)
    return frozenset(found)


def _needed(sources: Mapping[str, Sequence[Value]], ends: Sequence[str], without: set[str]) -> frozenset[str]:
    """What must be computed for some nodes, including themselves, except the nodes in `without`."""
    found: set[str] = set()
    waiting = [*ends]
    while waiting:
        name = waiting.pop()
        if name not in found and name not in without:
            found.add(name)
            waiting += [source for source, _ in sources[name]]
    return frozenset(found)


def _flag(select: Node, skip: str) -> int:
    """The stage whose flag decides a `Select`: the index of its condition in the skip."""
    node = select.input_value(0).get_node()
    while _name(node.input_value(0).get_node()) != skip:
        node = node.input_value(0).get_node()
    return int(np.ravel(node.input_value(1).get_node().data)[0])


def _hold_norms(plan: _Plan) -> None:
    """Insert an identity after each layer that is followed by norms of several contexts."""
    for node in plan.flat.get_ordered_ops():
        if node.get_type_name() in LAYERS and _meets_a_norm(node, plan):
            # Before the identity becomes one of them.
            targets = node.output(0).get_target_inputs()
            identity = opset13.prelu(node.output(0), opset13.constant(np.ones(1, np.float32)))
            for target in targets:
                target.replace_source_output(identity.output(0))


def _meets_a_norm(layer: Node, plan: _Plan) -> bool:
    """Whether norm operations that depend on the skip follow, directly or after others that do not."""
    node = layer
    while len(targets := node.output(0).get_target_inputs()) == 1:
        node = next(iter(targets)).get_node()
        beside = [source for source, _ in plan.sources[_name(node)] if source not in plan.of_inputs]
        if node.get_type_name() not in _NORM_STEPS or not beside:
            return False
        if beside[0] in plan.of_skip:
            return True
    return False


def _grow(plan: _Plan, skips: Sequence[str], context: str, start: int) -> Branch:
    """The branch of a context, starting at stage `start`."""
    while len(letters := {skip[len(context)] for skip in skips if skip.startswith(context) and skip != context}) == 1:
        context += letters.pop()  # no choice left among these depths: the next stage joins this branch
    region = frozenset[str]().union(*plan.regions[start : len(context)])
    branches = [_grow(plan, skips, context + letter, len(context)) for letter in "TF"] if letters else []
    wanted = dict.fromkeys(value for _, taken in branches for value in taken if value != plan.skip)
    read = [value for name in plan.sources if name in region for value in plan.sources[name]]

    copy = plan.flat.clone()
    nodes = {_name(node): node for node in copy.get_ops()}
    results = copy.get_results()
    handles = {value: Result(_output(nodes, value)) for value in wanted}  # Results follow replaced values
    parameters = {plan.skip: Parameter(Type.boolean, nodes[plan.skip[0]].get_output_partial_shape(0))}
    outermost = () if context or start else plan.inputs  # also those that nothing reads
    for value in dict.fromkeys([*read, *wanted, *outermost]):
        if value[0] not in region and value[0] in plan.of_inputs:
            old = _output(nodes, value)
            parameters[value] = Parameter(old.get_element_type(), old.get_partial_shape())
            old.replace(parameters[value].output(0))
    for value, name in zip(plan.inputs, plan.names, strict=True):
        if value in parameters:
            parameters[value].set_friendly_name(name)
    # Flags beyond the context do not matter in this region.
    flags = np.array([letter == "T" for letter in context.ljust(len(plan.regions), "F")])
    _output(nodes, plan.skip).replace(opset13.constant(flags).output(0))
    for name in region.intersection(plan.choices):
        nodes[name].output(0).replace(nodes[name].input_value(1 if context[plan.choices[name]] == "T" else 2))
    if branches:
        values = {value: handle.input_value(0) for value, handle in handles.items()}
        values[plan.skip] = parameters[plan.skip].output(0)
        models, takes = [model for model, _ in branches], [taken for _, taken in branches]
        chosen = choose(values[plan.skip], len(context), models, takes, values)
        return _body(chosen, parameters), parameters
    return _body([result.input_value(0) for result in results], parameters), parameters


def choose(
    skip: Output,
    stage: int,
    branches: Sequence[Model],
    takes: Sequence[Mapping[Any, Parameter]],
    values: Mapping[Any, Output] | Sequence[Output],
) -> list[Output]:
    """The outputs of an `If` on a stage's flag: of the branch that skips it, or of the other one.

    Arguments:
        skip: booleans `[stages]`.
        takes: each branch's parameters, by the key in `values` of what they take.
    """
    condition = opset13.gather(skip, opset13.constant(np.int64(stage)), opset13.constant(np.int64(0)))
    node = if_op(condition.output(0))
    node.set_then_body(branches[0])
    node.set_else_body(branches[1])
    for key in dict.fromkeys([*takes[0], *takes[1]]):
        node.set_input(values[key], takes[0].get(key), takes[1].get(key))  # type: ignore[arg-type] None: not read
    pairs = zip(branches[0].get_results(), branches[1].get_results(), strict=True)
    return [node.set_output(skipped, kept) for skipped, kept in pairs]


def _body(outputs: Sequence[Output], parameters: Mapping[Value, Parameter]) -> Model:
    """A graph of one branch with constants folded, including look-ups in the norms' tables."""
    body = new_model([Result(output) for output in outputs], list(parameters.values()))
    passes = Manager()
    passes.register_pass(ConstantFolding())
    passes.run_passes(body)
    return body


def new_model(results: Sequence[Result], parameters: Sequence[Parameter]) -> Model:
    """A graph from its results and parameters."""
    make: Any = Model  # its type annotations refer to another class of this name
    return make(list(results), list(parameters), "depths")


def _name(node: Node) -> str:
    return node.get_friendly_name()


def _value(output: Output) -> Value:
    return _name(output.get_node()), output.get_index()


def _output(nodes: Mapping[str, Node], value: Value) -> Output:
    return nodes[value[0]].output(value[1])
