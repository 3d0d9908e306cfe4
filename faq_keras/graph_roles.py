"""What part a node plays in the network: first, last, logits, on a grid with others.

First and last are found by following the graph, not by the position in a list of layers, where
shortcuts come last.

    first_layers(graph) | last_layers(graph)     # their weights keep 8 bits
    common_grids(graph)["cat"]                   # ("cat", "branch_a", "branch_b")
"""

from __future__ import annotations

from faq_keras.graph import HEAD_KIND, JOINING_KINDS, KERNEL_KINDS, PASSING_KINDS, Graph, Node


def common_grids(graph: Graph) -> dict[str, tuple[str, ...]]:
    """The quantized nodes that share bits and exponent with each quantized node, itself included.

    A concatenation only copies, and AVERAGE_POOL_2D keeps its input's scale: both have the grid of
    what they read.
    """
    grids: dict[str, tuple[str, ...]] = {}
    carriers = graph.carriers()
    for node in graph.quantized_nodes:
        together = [node.name]
        if node.kind in JOINING_KINDS:
            together += [name for read in node.inputs for name in grids[carriers[read]]]
        grid = tuple(dict.fromkeys(together))
        grids.update(dict.fromkeys(grid, grid))
    return grids


def first_layers(graph: Graph) -> set[str]:
    """The layers with weights that an input reaches without passing other weights."""
    behind: set[str] = set()  # nodes that have weights somewhere before them
    for node in graph.nodes:
        if any(n in behind or graph[n].kind in KERNEL_KINDS for n in node.inputs):
            behind.add(node.name)
    return {n.name for n in graph.nodes if n.kind in KERNEL_KINDS and n.name not in behind}


def last_layers(graph: Graph) -> set[str]:
    """The layers with weights from which an output is reached without passing other weights."""
    before: set[str] = set()  # nodes that have weights somewhere behind them
    for node in reversed(graph.nodes):
        readers = graph.consumers(node.name)
        if any(n.name in before or n.kind in KERNEL_KINDS for n in readers):
            before.add(node.name)
    return {n.name for n in graph.nodes if n.kind in KERNEL_KINDS and n.name not in before}


def last_activations(graph: Graph) -> set[str]:
    """The tensors from the last ReLU on: what feeds the last layers, and the outputs."""
    found: set[str] = set()
    pending = [name for last in last_layers(graph) for name in graph[last].inputs]
    pending += list(graph.outputs)
    while pending:
        node = graph[pending.pop()]
        if node.name in found:
            continue
        found.add(node.name)
        if node.kind not in (*KERNEL_KINDS, "affine", "add", "input"):
            pending += list(node.inputs)
    return found


def is_logits(graph: Graph, node: Node) -> bool:
    """Whether a node is a dense layer without ReLU whose output leaves the network."""
    if node.kind != "dense" or node.activation:
        return False
    return all(_leads_out(graph, reader) for reader in graph.consumers(node.name))


def _leads_out(graph: Graph, node: Node) -> bool:
    """Whether a node only hands values on to the network's outputs."""
    if node.kind in PASSING_KINDS:
        return all(_leads_out(graph, reader) for reader in graph.consumers(node.name))
    return node.kind == HEAD_KIND
