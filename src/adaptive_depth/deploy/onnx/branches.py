"""An ONNX graph that computes both sides of each choice → one that runs one side: `Where` nodes become `If` nodes.

A choice is a `Where` whose condition is one flag of the skip. What only one of its sides needs moves into a branch,
so that it runs only if chosen. Choices by the same flag that feed each other are merged.
"""

from collections.abc import Iterable, Sequence
from itertools import count

import onnx_ir as ir

_THEN, _ELSE = 1, 2  # the positions of a Where's inputs
_LAID_OUT = ("Conv", "BatchNormalization")
_Side = tuple[ir.Node, int]


def add_branches(graph: ir.Graph, flags: ir.Value) -> int:
    """Turn every choice of a graph into a branch, in place.

    Arguments:
        graph: without subgraphs, in topological order, as from an exporter.
        flags: the graph's input of booleans that choices are made by.

    Returns:
        The number of branches at the top of the graph.
    """
    conditions = {id(value) for value in _derived(graph, flags)}
    for choice in reversed([node for node in graph if _is_choice(node, conditions)]):
        if choice.graph is not None:  # None if it was merged into another
            _join(choice, conditions)
    choices = [node for node in graph if _is_choice(node, conditions)]
    owner: dict[ir.Node, _Side] = {}
    for choice in reversed(choices):  # outermost first, so that the innermost overrides
        for side in (_THEN, _ELSE):
            owner.update(dict.fromkeys(_only_for(choice, side), (choice, side)))
    return _Builder(graph, choices, owner).build()


def _is_choice(node: ir.Node, conditions: set[int]) -> bool:
    return node.op_type == "Where" and id(node.inputs[0]) in conditions


def _derived(graph: ir.Graph, flags: ir.Value) -> list[ir.Value]:
    """The values that depend only on the flags and on constants."""
    found, known = [flags], {id(flags)}
    for node in graph:
        variable = [value for value in node.inputs if value is not None and not _is_constant(value)]
        if variable and all(id(value) in known for value in variable):
            found += node.outputs
            known |= {id(value) for value in node.outputs}
    return found


def _is_constant(value: ir.Value) -> bool:
    producer = value.producer()
    return value.is_initializer() or (producer is not None and producer.op_type == "Constant")


# -- joining --------------------------------------------------------------------------------------------------------


def _join(choice: ir.Node, conditions: set[int]) -> None:
    """Remove choices by the same flag from the two sides of a choice, where their outcome is known."""
    while True:
        for side in (_THEN, _ELSE):
            while (inner := _same(choice, _producer(choice, side), conditions)) is not None:
                choice.replace_input_with(side, inner.inputs[side])
                _remove_unused(inner)
        sides = {side: _only_for(choice, side) for side in (_THEN, _ELSE)}
        within = sides[_THEN] | sides[_ELSE]
        read = {feeder for node in within for feeder in _feeders(node)}
        known = [node for node in read if _same(choice, node, conditions) and set(_users(node)) <= within | {choice}]
        if not known:
            return
        for inner in known:
            output = inner.outputs[0]
            for user, place in list(output.uses()):
                user.replace_input_with(place, inner.inputs[_ELSE if user in sides[_ELSE] else _THEN])
            _remove_unused(inner)


def _same(choice: ir.Node, other: ir.Node | None, conditions: set[int]) -> ir.Node | None:
    """The other node, if it is a choice by the same flag."""
    if other is None or other is choice or not _is_choice(other, conditions):
        return None
    return other if other.inputs[0] is choice.inputs[0] else None


def _remove_unused(node: ir.Node) -> None:
    """Remove a node that nothing uses any more, then what only it used."""
    if node.graph is None or any(value.uses() or value.is_graph_output() for value in node.outputs):
        return
    feeders = _feeders(node)
    node.graph.remove(node, safe=True)
    for feeder in feeders:
        _remove_unused(feeder)


def _only_for(choice: ir.Node, side: int) -> set[ir.Node]:
    """The nodes that only one side of a choice needs."""
    found: set[ir.Node] = set()
    start = _producer(choice, side)
    waiting = [start] if start is not None else []
    while waiting:
        node = waiting.pop()
        if node in found or any(value.is_graph_output() for value in node.outputs):
            continue
        uses = [use for value in node.outputs for use in value.uses()]
        if all(use.node in found or (use.node is choice and use.idx == side) for use in uses):
            found.add(node)
            # A node is revisited through each of its users: at the last one, all others are known.
            waiting += _feeders(node)
    return found


def _producer(node: ir.Node, place: int) -> ir.Node | None:
    return _node_of(node.inputs[place])


def _node_of(value: ir.Value | None) -> ir.Node | None:
    return None if value is None else value.producer()


def _feeders(node: ir.Node) -> list[ir.Node]:
    return [feeder for value in node.inputs if (feeder := _node_of(value)) is not None]


def _users(node: ir.Node) -> Iterable[ir.Node]:
    return [user for value in node.outputs for user in value.consumers()]


# -- building -------------------------------------------------------------------------------------------------------


class _Builder:
    """Moves nodes into branches."""

    def __init__(self, graph: ir.Graph, choices: Sequence[ir.Node], owner: dict[ir.Node, _Side]) -> None:
        self.graph, self.choices = graph, choices
        self.inside: dict[_Side, list[ir.Node]] = {}
        self.top = [choice for choice in choices if choice not in owner]
        for node in graph:  # in topological order
            if node in owner:
                self.inside.setdefault(owner[node], []).append(node)
        self.names = count()

    def build(self) -> int:
        for choice in self.choices:
            for side in (_THEN, _ELSE):
                if self.inside.get((choice, side)):
                    self.graph.remove(self.inside[choice, side])
        for choice in self.top:
            branch = self._branch_node(choice)
            self.graph.insert_before(choice, branch)
            self.graph.remove(choice, safe=True)
        return len(self.top)

    def _branch_node(self, choice: ir.Node) -> ir.Node:
        """An `If` that replaces a choice; choices inside it are converted first."""
        sides = {}
        for side, name in ((_THEN, "then_branch"), (_ELSE, "else_branch")):
            nodes = [
                self._branch_node(node) if node in self.choices else node
                for node in self.inside.get((choice, side), ())
            ]
            sides[name] = self._graph(f"{name}_{next(self.names)}", nodes, choice.inputs[side])
        old = choice.outputs[0]
        node = ir.Node(
            "", "If", [choice.inputs[0]], [ir.AttrGraph(name, graph) for name, graph in sides.items()], num_outputs=1
        )
        new = node.outputs[0]
        new.name, new.type, new.shape = old.name, old.type, old.shape
        ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
        for place in range(len(choice.inputs)):
            # Otherwise it would still count as a user of its inputs.
            choice.replace_input_with(place, None)
        return node

    def _graph(self, name: str, nodes: list[ir.Node], result: ir.Value | None) -> ir.Graph:
        assert result is not None
        if _node_of(result) not in nodes:  # a branch may only return what it computed itself
            identity = ir.Node("", "Identity", [result], num_outputs=1)
            given = identity.outputs[0]
            given.name, given.type, given.shape = f"{result.name}_in_{name}", result.type, result.shape
            nodes, result = [*nodes, identity], given
        return ir.Graph([], [result], nodes=nodes, name=name)


# -- constants ------------------------------------------------------------------------------------------------------


def move_constants(graph: ir.Graph) -> None:
    """Move constants of convolutions that only one branch uses into that branch, in place.

    ONNX Runtime folds norms into a convolution, and lays out its weights for its fastest kernels, only if they are in
    the same graph: without this, ResNet-50 is 8 % slower. But it keeps constants in a branch twice, and other operators
    can use outer ones just as well, so those stay outside: moved, a ViT-B/16 takes 1.5 times the memory.
    """
    for name, value in list(graph.initializers.items()):
        users = value.consumers()
        graphs = {user.graph for user in users}
        inner = graphs.pop() if len(graphs) == 1 else None
        if isinstance(inner, ir.Graph) and inner is not graph and all(user.op_type in _LAID_OUT for user in users):
            del graph.initializers[name]
            inner.initializers[name] = value
