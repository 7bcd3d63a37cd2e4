"""A design: one point of a board's design space, as plain numbers."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from codesign.target.board import Board
from codesign.target.engines import MOST_ENGINES, RING, engine_names

Params = Mapping[str, int]


@dataclass(frozen=True)
class Design:
    """Parameters of every engine and memory of an accelerator.

    Attributes:
        board: the target board.
        engines: parameters by engine, in engine number order, without load, store and fetch; must include the linear
            engine. Names are kernel names, with a numeric suffix for further instances.
        memories: bytes of each on-chip memory.
        row_group: maximum rows per command; layers with more rows are split so that engines overlap.
    """

    board: Board
    engines: Mapping[str, Params]
    memories: Mapping[str, int] = field(default_factory=dict)
    row_group: int = 1 << 15

    def __post_init__(self) -> None:
        count = len(engine_names(self.engines))
        if count > MOST_ENGINES:
            raise ValueError(f"{count} engines, those that move data included; legal: at most {MOST_ENGINES}")

    @property
    def word_bytes(self) -> int:
        """Bytes of a bus word, which is also a word of the activation memories."""
        return self.board.memory.ports * self.board.memory.port_bits // 8

    @property
    def linear(self) -> Params:
        """Parameters of the linear engine."""
        return self.engines[RING]

    @property
    def multipliers(self) -> int:
        """int8 multipliers of the linear engine."""
        return self.linear["t_in"] * self.linear["t_out"] * self.linear["n_l"]

    def to_json(self) -> dict[str, Any]:
        """JSON-compatible data; the board as its name."""
        return {
            "board": self.board.name,
            "engines": {name: dict(params) for name, params in self.engines.items()},
            "memories": dict(self.memories),
            "row_group": self.row_group,
        }
