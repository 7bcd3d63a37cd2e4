import numpy as np
import pytest

from codesign.compiler.layout import layout
from codesign.compiler.program import block_tiles
from codesign.dse.design_space import DesignSpace
from codesign.flow.build import tools
from codesign.ir.network import Linear
from codesign.target.board import Board
from codesign.timing.bound.layer_shapes import LayerShapes
from tests.codesign.dse.spaces import drawn_points
from tests.quant.vits import random_network


@pytest.mark.parametrize("seed", [2, 5])
def test_sizes_are_those_of_the_layout(seed: int) -> None:
    """Tiles per command, words per tile, tiles and words of constants of random designs, alone and as arrays."""
    network = random_network(seed)[0]
    space, shapes = DesignSpace(network, Board.load("zcu102"), tools()), LayerShapes(network)
    points = drawn_points(space, seed, 12)
    words = [space.bounds.word(point["ports"]) for point in points]
    alone = [
        (shapes.cuts(space.bounds.engines(p), w, p["row_group"]), shapes.lengths(space.bounds.engines(p), w))
        for p, w in zip(points, words, strict=True)
    ]
    for point, (cuts, lengths) in zip(points, alone, strict=True):
        found, p = layout(network, space.design(point)), space.design(point).linear
        linears = [layer for layer in network if isinstance(layer, Linear)]
        sizes = [(layer.rows, *found.tiles(layer, point["t_in"])) for layer in linears]
        tiles = {(rows, ib, ob, int(block_tiles(rows, ib, ob, p, point["row_group"]))) for rows, ib, ob in sizes}
        pairs = zip(lengths[::2], lengths[1::2], strict=False)
        assert {(ib, ob, cut) for _, ib, ob, cut in tiles} == {
            (int(ib), int(ob), int(cut)) for (ib, ob), cut in zip(pairs, cuts, strict=False)
        }
        constants = {stop - start for places in found.constants for _, start, stop in places}
        word = space.bounds.word(point["ports"])
        assert {int(size) * int(word) for size in lengths[2 * len(cuts) :]} == constants
    columns = {axis: np.array([point[axis] for point in points]) for axis in space.axes}
    together = shapes.cuts(space.bounds.engines(columns), np.array(words), columns["row_group"])
    more = shapes.lengths(space.bounds.engines(columns), np.array(words))
    for number, (cuts, lengths) in enumerate(alone):
        assert [int(np.broadcast_to(each, len(points))[number]) for each in (*together, *more)] == [*cuts, *lengths]


def test_the_table_ring_delays_nothing_behind_its_window() -> None:
    """The window holds the tiles of each layer and of the one before it."""
    network = random_network(2)[0]
    space, shapes = DesignSpace(network, Board.load("zcu102"), tools()), LayerShapes(network)
    (point,) = drawn_points(space, 0, 1)
    found = layout(network, space.design(point))
    tiles = [found.tiles(layer, point["t_in"])[1] for layer in network if isinstance(layer, Linear)]
    window = shapes.window(space.bounds.engines(point), space.bounds.word(point["ports"]))
    assert window == max(sum(pair) for pair in zip([0, *tiles], tiles, strict=False))
