"""Walking an ONNX graph."""

from __future__ import annotations

from collections.abc import Iterable

import onnx


def leading_to(names: Iterable[str], graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """The nodes that some values depend on, last first; `graph` is in the order of execution, as a valid one is."""
    wanted, found = set(names), []
    for node in reversed(graph.node):
        if wanted.intersection(node.output):
            found.append(node)
            wanted.update(node.input)
    return found
