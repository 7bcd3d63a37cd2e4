"""Repeating layers of a network, and the first linear reader of each tensor."""

from typing import NamedTuple

from codesign.ir.network import Linear, Network


class Repeat(NamedTuple):
    """A repeating sequence of layers: index of its first layer, layers in it, and number of repetitions."""

    first: int
    length: int
    times: int


def repeats(network: Network) -> Repeat:
    """The repetition that skips the most layers, from index ``length`` on and before the last linear layer.

    Length 0 if nothing repeats. Layers are equal if they have the same shape and read from layers equally far back.
    """
    layers, tables, looks = network.layers, set[bytes](), list[tuple[object, ...]]()
    makers = {layer.target: number for number, layer in enumerate(layers)}
    for number, layer in enumerate(layers):
        names = [read.tensor for read in layer.reads]
        reads = [number - makers[name] if name in makers else -number for name in names]
        table = layer.table.tobytes() if isinstance(layer, Linear) and layer.table is not None else None
        looks.append((type(layer), layer.rows, *layer.shape, table in tables, *reads))
        tables |= {table} if table is not None else set()
    end = max((number for number, layer in enumerate(layers) if isinstance(layer, Linear)), default=0)
    best = Repeat(0, 0, 1)
    for length in range(1, len(layers) // 3 + 1):
        for first in range(length, len(layers) - 2 * length + 1):
            last = first + length
            while last < end and looks[last] == looks[last - length]:
                last += 1
            times = (last - first) // length
            if (times - 1) * length > (best.times - 1) * best.length:
                best = Repeat(first, length, times)
    return best


def readers(network: Network) -> dict[str, int]:
    """By tensor, index of the first linear layer that depends on it; the count of linear layers if none does."""
    count = number = sum(isinstance(layer, Linear) for layer in network)
    found = dict.fromkeys(network.tensors, count)
    for layer in reversed(network.layers):
        number -= isinstance(layer, Linear)
        first = number if isinstance(layer, Linear) else found[layer.target]
        for name in (read.tensor for read in layer.reads):
            found[name] = min(found.get(name, count), first)
    return found
