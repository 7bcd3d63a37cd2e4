"""Operands, words of the row buffers, and tiles that the parts of the linear engine pass to each other."""

from amaranth.lib import data

from codesign.hw.linear import LinearKernel
from codesign.hw.primitives.fifo import operands
from codesign.hw.primitives.memory import address_bits

SLOTS = 4
"""Commands in flight."""
OPERANDS = operands(**LinearKernel.fields)


class BufferWrite(data.StructLayout):
    """A word on its way to the private row buffers."""

    def __init__(self, s: LinearKernel) -> None:
        super().__init__(
            {"en": 1, "lane": range(max(2, s.n_l)), "addr": address_bits(2 * s.kw_max), "data": 8 * s.word_bytes}
        )


class Tile(data.StructLayout):
    """Tile descriptor passed from array to drain."""

    def __init__(self, s: LinearKernel) -> None:
        super().__init__(
            {
                "slot": range(SLOTS),
                "rows": range(s.n_l + 1),
                "column": 16,
                "first": 1,
                "new_group": 1,
                "last": 1,
                "release": 1,
                "table_addr": address_bits(s.table_words),
            }
        )
