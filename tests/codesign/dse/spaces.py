"""Design spaces of networks on a board, and random points of them."""

import numpy as np

from codesign.dse.design_space import DesignSpace
from codesign.flow.build import tools
from codesign.ir.network import Network
from codesign.target.board import Board


def space_of(network: Network, kind: type[DesignSpace] = DesignSpace) -> DesignSpace:
    return kind(network, Board.load("zcu102"), tools())


def drawn_points(space: DesignSpace, seed: int, count: int, **fixed: tuple[int, ...]) -> list[dict[str, int]]:
    rng = np.random.default_rng(seed)
    return [{name: int(rng.choice(fixed.get(name, v))) for name, v in space.axes.items()} for _ in range(count)]
