from functools import cache
from itertools import product

import pytest

from codesign.compiler.program import compile_network
from codesign.dse.planner import RESOURCES, DesignChoice, HardwareQueries, Planner, available, parse_budget, plain
from codesign.errors import InputError, NothingFits
from codesign.flow.build import tools
from codesign.frontend import zoo
from codesign.frontend.workload import Workload
from codesign.hw.linear import LinearKernel
from codesign.hw.system import accelerator
from codesign.ir.network import Network
from codesign.quant.lower.lowering import lower
from codesign.target.board import Board
from codesign.target.design import Design
from codesign.target.engines import kernels
from codesign.target.kernel import Kernel, Resources
from tests.marks import few_fast
from tests.quant.vits import random_network

ZCU102 = Board.load("zcu102")


@cache
def network(name: str) -> Network:
    found = zoo.load(name)
    return lower(found) if isinstance(found, Workload) else found


def used(design: Design) -> Resources:
    return accelerator.total(accelerator.resources(design))


@pytest.mark.parametrize(
    "name", ["digits-vit", "digits-mlp", "gemm:64x64x64", "gemm:1x1x1", "gemm:3x2000x7", "gemm:197x192x768"]
)
def test_what_is_chosen_is_legal_fits_and_compiles(name: str) -> None:
    net = network(name)
    design = plain(net, ZCU102, tools())
    accelerator.shape(design)
    assert compile_network(net, design).commands
    for resource in RESOURCES:
        assert getattr(used(design), resource) <= getattr(ZCU102.resources, resource)
    vector = design.engines.get("vector")
    assert vector is None or vector["t_v"] <= design.linear["t_out"]


def test_the_promised_arrays() -> None:
    assert plain(network("digits-vit"), ZCU102, tools()).multipliers >= 512
    design = plain(network("gemm:1024x1024x1024"), ZCU102, tools())
    assert design.multipliers >= 2048
    assert design.linear["ring_words"] * design.linear["t_in"] * design.linear["t_out"] == 1 << 20
    assert design.memories == {"input": 16 * 1024, "output": 16 * 1024}


@pytest.mark.parametrize("name", ["digits-vit", "digits-mlp", "gemm:40x70x90"])
@pytest.mark.parametrize("budget", ["dsp=300", "dsp=150,bram36=100", "lut=60000", "bram36=60"])
def test_a_budget_is_kept(name: str, budget: str) -> None:
    limits = parse_budget(budget)
    design = plain(network(name), ZCU102, tools(), budget=limits)
    for resource, limit in limits.items():
        assert getattr(used(design), resource) <= limit


def test_what_the_rules_find_too_large_is_named() -> None:
    with pytest.raises(NothingFits, match=r"digits-vit: the design needs \d+ of 20 dsp, \d+ of 1 bram36$"):
        plain(network("digits-vit"), ZCU102, tools(), budget={"dsp": 20, "bram36": 1})


def test_a_layer_without_a_kernel_is_named() -> None:
    class Picky(LinearKernel):
        @classmethod
        def supports(cls, layer: object) -> str | None:
            return f"{getattr(layer, 'name', '')}: too odd"

    mine: dict[str, type[Kernel]] = {**kernels(), "linear": Picky}
    picky = HardwareQueries(mine, accelerator.resources, accelerator.formulas)
    with pytest.raises(NothingFits, match="no kernel runs 1 of its layers: gemm: too odd"):
        plain(network("gemm:2x2x2"), ZCU102, picky)


@pytest.mark.parametrize("text", ["dsp", "dsp=", "dsp=-1", "dsp=1.5", "watts=3", "dsp=1,dsp=2", "", "dsp=1,", "dsp=²"])
def test_a_budget_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="legal: dsp=N"):
        parse_budget(text)


def test_available_is_the_smaller_of_board_and_budget() -> None:
    found = available(ZCU102, {"dsp": 100, "lut": 10**9})
    assert (found.dsp, found.lut, found.bram36) == (100, ZCU102.resources.lut, ZCU102.resources.bram36)
    assert parse_budget(None) == {}


@pytest.mark.parametrize("seed", few_fast(range(10), 2))
def test_random_transformers_get_a_design(seed: int) -> None:
    net, _ = random_network(seed)
    design = plain(net, ZCU102, tools())
    accelerator.shape(design)
    assert compile_network(net, design).commands
    assert used(design).dsp <= ZCU102.resources.dsp


@pytest.mark.parametrize("name", ["digits-vit", "gemm:300x64x64"])
def test_a_design_does_not_depend_on_what_was_asked_before(name: str) -> None:
    """A planner remembers sizes by what they depend on; a new one remembers nothing."""
    net, limit = network(name), available(ZCU102, {})
    one = Planner(net, ZCU102, tools(), limit)
    axes = ((4, 8), (8, 32), (8, 16), (4, 32), (5, 40), (2, 4), (False, True))
    for t_in, t_out, t_a, t_v, rows, ports, generous in product(*axes):
        others = {"t_a": t_a, "t_v": t_v}
        choice = DesignChoice(t_in, t_out, row_group=rows, ports=ports, generous=generous).with_others(others)
        assert one.design(choice) == Planner(net, ZCU102, tools(), limit).design(choice)
