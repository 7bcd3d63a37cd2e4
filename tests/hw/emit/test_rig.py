"""Kernels alone: their spaces of designs, and their Verilog."""

import numpy as np
import pytest

from codesign.errors import InputError
from codesign.hw.attention import AttentionKernel
from codesign.hw.emit.rig import TOP
from codesign.hw.linear import LinearKernel
from codesign.hw.vector import VectorKernel
from codesign.ir.network import Attention, Norm
from codesign.ir.network import Linear as LinearLayer
from codesign.target.engines import kernels
from codesign.target.kernel import Kernel
from tests.accelerators import board
from tests.quant.vits import random_network

_SMALL: tuple[Kernel, ...] = (
    LinearKernel(t_in=4, t_out=4, n_l=3, kw_max=16, ring_words=64, table_words=16, tables=2, word_bytes=16),
    AttentionKernel(t_a=4, n_a=2, max_keys=64, db_max=3),
    VectorKernel(t_v=2, max_d=64),
    VectorKernel(t_v=2, max_d=64, wide=1),
)


@pytest.mark.rtl
@pytest.mark.parametrize("kernel", _SMALL, ids=str)
def test_its_sources_are_a_module_with_multipliers(kernel: Kernel) -> None:
    files = kernel.sources("rtl")
    assert f"module {TOP}(" in files[f"{TOP}.v"]
    assert any("DSP48E2" in text for text in files.values())
    with pytest.raises(InputError, match=f"no 'gds' sources of {kernel.op}; legal: rtl"):
        kernel.sources("gds")


def test_high_level_synthesis_is_there_for_two_kernels() -> None:
    linear, attention, *vectors = _SMALL
    for kernel in (linear, *vectors):
        files = kernel.sources("hls")
        assert "run_hls.tcl" in files
        assert any(
            "#pragma HLS PIPELINE II=1" in text or "#pragma HLS pipeline II=1" in text for text in files.values()
        )
    with pytest.raises(InputError, match="no 'hls' sources of attention; legal: rtl"):
        attention.sources("hls")


@pytest.mark.parametrize("seed", range(3))
def test_every_legal_point_of_a_space_is_a_kernel_that_holds_the_layer(seed: int) -> None:
    rng, engines = np.random.default_rng(seed), {LinearLayer: "linear", Attention: "attention", Norm: "vector"}
    for layer in random_network(seed)[0]:
        kernel = kernels()[engines[type(layer)]]
        space = kernel.space(layer, board())
        points = space.points()
        legal = np.flatnonzero(space.legal(points))
        assert len(legal)
        for index in rng.choice(legal, 20):
            made = kernel(**{name: int(values[index]) for name, values in points.items()})
            if isinstance(layer, LinearLayer):
                assert made.params["kw_max"] * made.params["word_bytes"] >= layer.k
                assert made.params["ring_words"] * made.params["t_in"] >= layer.k
            elif isinstance(layer, Attention):
                assert 0 <= made.params["t_a"] * made.params["db_max"] - layer.head_dim < made.params["t_a"]


def test_a_space_of_another_kind_of_layer_is_refused() -> None:
    network, _ = random_network(0)
    for layer in network:
        for kernel in kernels().values():
            if kernel.supports(layer) is not None:
                with pytest.raises(TypeError, match="is not"):
                    kernel.space(layer, board())
