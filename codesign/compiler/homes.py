"""The engine that runs each layer of a network, and the on-chip memory that holds each tensor."""

from collections import defaultdict
from collections.abc import Iterable, Iterator

from codesign.errors import NothingFits
from codesign.ir.network import Linear, Network
from codesign.target.engines import RING, MemoryMap, engine_names, kernel_for, kernel_name, kernel_of


def runners(network: Network, engines: Iterable[str]) -> list[str]:
    """The engine of a design that runs each layer; several engines of a kernel take its layers in turn.

    Args:
        network: the layers.
        engines: the design's engines.

    Raises:
        NothingFits: there is no engine for some layers; the message names them.
    """
    check_engines(network)
    mine: dict[str, list[str]] = {}
    for engine in engine_names(engines):
        mine.setdefault(kernel_name(engine), []).append(engine)
    found, lost = list[str](), list[str]()
    turns: dict[str, int] = defaultdict(int)
    for layer in network:
        kernel = kernel_for(layer)
        assert kernel is not None, "checked above"
        able = mine.get(kernel.op)
        if able is None:
            lost.append(f"{layer.name} ({kernel.op})")
            continue
        found.append(able[turns[kernel.op] % len(able)])
        turns[kernel.op] += 1
    if lost:
        raise NothingFits(f"{network.name}: the design has no engine for {', '.join(lost)}")
    return found


def check_engines(network: Network) -> None:
    """Refuses layers for which there is no kernel.

    Raises:
        NothingFits: the message names them.
    """
    lost = [f"{layer.name} ({type(layer).__name__})" for layer in network if kernel_for(layer) is None]
    if lost:
        raise NothingFits(f"{network.name}: no engine runs {', '.join(lost)}")


def homes(network: Network, runs: Iterable[str], memories: MemoryMap) -> dict[str, str]:
    """The memory of every tensor, from the engines that write and read it.

    Args:
        network: the layers.
        runs: the engine that runs each of them.
        memories: the design's memories.

    Raises:
        NothingFits: a tensor is needed in two memories at once, or where its reader cannot read it.
    """
    found: dict[str, set[str]] = {name: set() for name in network.tensors}
    found |= {name: {"position"} for name in network.constants}
    for put in network.inputs:
        found[put.target].add("input" if network.tensors[put.target].bits == 8 else "position")
    reached = [*_reached(network, runs)]
    for name, engine, port in reached:
        legal = memories.numbers[engine, port]
        if engine != RING and len(legal) == 1:
            found[name].add(legal[0])
    _linear_homes(network, found)
    for name, places in found.items():
        if len(places) != 1:
            raise NothingFits(
                f"tensor {name} would be needed in {sorted(places) or 'no memory'}; legal: one memory each"
            )
    home = {name: places.pop() for name, places in found.items()}
    reached += [(output.source, "store", "source") for output in network.outputs]
    for name, engine, port in reached:
        if home[name] not in (legal := memories.numbers[engine, port]):
            reach = f"port {port} of the {engine} engine reaches {', '.join(legal)}"
            raise NothingFits(f"tensor {name} lies in memory {home[name]}; {reach}")
    return home


def _reached(network: Network, runs: Iterable[str]) -> Iterator[tuple[str, str, str]]:
    """Yields every tensor that a layer reads or writes, with the engine and its port."""
    for layer, engine in zip(network, runs, strict=True):
        yield from ((name, engine, port) for name, port in kernel_of(engine).reaches(layer))


def _linear_homes(network: Network, found: dict[str, set[str]]) -> None:
    """Places targets of linear layers: wide ones in residual, unplaced ones in output or hidden."""
    outputs = {output.source for output in network.outputs}
    wide = {layer.addend for layer in network if isinstance(layer, Linear) and layer.addend is not None}
    for layer in network:
        if not isinstance(layer, Linear):
            continue
        if network.tensors[layer.target].bits == 16 or layer.target in wide:
            found[layer.target].add("residual")
        elif layer.target in outputs and not found[layer.target]:
            found[layer.target].add("output")
        elif not found[layer.target]:
            found[layer.target].add("hidden")
