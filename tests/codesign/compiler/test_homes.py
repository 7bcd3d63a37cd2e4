from dataclasses import replace

import pytest

from codesign.compiler.layout import whole_layout
from codesign.errors import NothingFits
from codesign.ir.network import Attention, Layer, Linear, Network
from codesign.target.design import Design
from tests.accelerators import SMALL_VIT, board
from tests.quant.vits import random_network


def _with(network: Network, old: Layer, new: Layer) -> Network:
    return replace(network, layers=tuple(new if layer is old else layer for layer in network))


def test_a_tensor_needed_in_two_places_is_refused() -> None:
    network = random_network(1)[0]
    attention = next(layer for layer in network if isinstance(layer, Attention))
    with pytest.raises(NothingFits, match=r"needed in \['key', 'query'\]; legal: one memory each"):
        whole_layout(_with(network, attention, replace(attention, key=attention.query)), Design(board(), SMALL_VIT, {}))


def test_a_tensor_out_of_its_reader_s_reach_is_refused() -> None:
    network = random_network(1)[0]
    attention = next(layer for layer in network if isinstance(layer, Attention))
    reader = next(layer for layer in network if isinstance(layer, Linear) and layer.source == attention.target)
    with pytest.raises(NothingFits, match="in memory query; port source of the linear engine reaches input, hidden"):
        whole_layout(_with(network, reader, replace(reader, source=attention.query)), Design(board(), SMALL_VIT, {}))
