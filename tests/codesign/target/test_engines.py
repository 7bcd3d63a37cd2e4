"""What follows from the kernels that are found: numbers, memories with who reaches them, and what is refused."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from numpy.typing import NDArray

from codesign.compiler.homes import runners
from codesign.compiler.program import compile_network
from codesign.ir.network import Attention, Network, Norm
from codesign.target import engines
from codesign.target.board import Board
from codesign.target.commands import Command
from codesign.target.design import Design
from codesign.target.engines import (
    HEADER_BITS,
    MOST_ENGINES,
    MOVERS,
    OPERAND_BITS,
    RING,
    MemoryMap,
    engine_names,
    fault_of,
    fields_of,
    found,
    geometry,
    kernel_for,
    kernel_name,
    kernel_of,
    kernels,
    memory_map,
    memory_name,
)
from codesign.target.kernel import CommandKernel, Kernel, Memory, Params, Port
from tests.accelerators import SMALL_VIT, board, compiled, fitting, run_program
from tests.codesign.test_testing import Doubler, Doubling
from tests.packages import install
from tests.quant.vits import random_network


@pytest.fixture
def fresh() -> Any:
    """Discovery anew, before and behind a test."""
    found.cache_clear()
    engines._by_layer.cache_clear()
    yield
    found.cache_clear()
    engines._by_layer.cache_clear()


def test_ours_are_found_in_their_folders_the_ring_s_owner_first() -> None:
    assert next(iter(kernels())) == RING
    assert {kernel.__module__ for kernel in kernels().values()} == {f"codesign.hw.{name}" for name in kernels()}
    for name, kernel in kernels().items():
        assert fault_of(kernel, {other: each for other, each in kernels().items() if other != name}) is None


def test_the_header_has_room_for_all_engines() -> None:
    assert HEADER_BITS == 32 + 2 * 4 * MOST_ENGINES
    assert HEADER_BITS + OPERAND_BITS == 512


def test_numbers_follow_the_design() -> None:
    names = engine_names(["vector", "linear", "attention", "attention_2"])
    assert names == ("load", "store", "fetch", "linear", "vector", "attention", "attention_2")
    assert fields_of("attention_2") == kernels()["attention"].fields
    with pytest.raises(KeyError):
        fields_of("attention-2")
    assert Command("attention_2", {"rows": 1}).encode(names)[0] == 6


def test_an_instance_has_the_kernel_of_its_name() -> None:
    assert [kernel_name(name) for name in ("linear", "attention_12", "a_b_3", "a_b")] == [
        "linear",
        "attention",
        "a_b",
        "a_b",
    ]
    assert kernel_of("vector_2") is kernels()["vector"]


def test_a_design_of_more_engines_than_there_may_be_is_refused() -> None:
    zcu102, most = Board.load("zcu102"), MOST_ENGINES - len(MOVERS)
    many = {RING: SMALL_VIT[RING]} | {f"vector_{n}": SMALL_VIT["vector"] for n in range(2, most + 1)}
    assert len(engine_names(Design(zcu102, many).engines)) == MOST_ENGINES
    with pytest.raises(ValueError, match="17 engines, those that move data included; legal: at most 16"):
        Design(zcu102, {**many, "vector": SMALL_VIT["vector"]})


def test_a_layer_that_no_kernel_runs_has_none() -> None:
    assert kernel_for(Doubling("d", "y", 1, 1)) is None


# Memories ----------------------------------------------------------------------------


def test_every_memory_has_one_writer_and_a_copy_per_reader() -> None:
    found_map = memory_map(geometry({**SMALL_VIT, "vector": {**SMALL_VIT["vector"], "wide": 1}}))
    for name, reached in found_map.memories.items():
        assert reached.writer.port.writes
        assert reached.readers, name
        for access in (reached.writer, *reached.readers):
            assert name in found_map.numbers[access.engine, access.port.name]
    readers = [(each.engine, each.port.name) for each in found_map.memories["residual"].readers]
    assert readers == [("linear", "addend"), ("store", "source"), ("vector", "r")]
    assert found_map.number("linear", "addend", "residual") == 1


def test_a_second_engine_of_a_kernel_has_memories_of_its_own() -> None:
    designs = SMALL_VIT, {**SMALL_VIT, "attention_2": SMALL_VIT["attention"]}
    one, two = (memory_map(geometry(each)) for each in designs)
    assert set(two.memories) - set(one.memories) == {"query_2", "key_2", "value_2", "context_2"}
    assert two.memories["context_2"].owner == "attention_2"
    assert memory_name("attention_2", "query") == "query_2"
    for at, names in one.numbers.items():
        assert two.numbers[at][: len(names)] == names
    assert two.numbers["attention_2", "q"] == ("query_2",)


# What is refused ---------------------------------------------------------------------


def _changed(name: str = "Other", **changes: object) -> type[CommandKernel]:
    made: type[CommandKernel] = type(name, (Doubler,), changes)
    return made


def _memories(*made: Memory) -> object:
    return classmethod(lambda cls, params: made)


OFFERED: Mapping[str, tuple[type[Kernel], str]] = {
    "another contract": (_changed(contract=2), "it keeps contract 2; legal: 1"),
    "a name in use": (_changed(op="vector"), "there is an engine 'vector' already"),
    "a mover's name": (_changed(op="load"), "there is an engine 'load' already"),
    "an instance's name": (_changed(op="doubler_2"), "name 'doubler_2' is not legal"),
    "operands too wide": (_changed(fields={"a": 200, "b": 153}), "operands take 353 bits; legal: 352, larger ones"),
    "layers of another": (
        _changed(layers=(Doubling, *kernels()["vector"].layers)),
        "vector runs layers of type Norm already",
    ),
    "an axis of another": (
        _changed(axes=classmethod(lambda cls, layers: {"lanes": (1,), "t_v": (1, 2)})),
        "vector has an axis 't_v' already",
    ),
    "a memory of another": (
        _changed(memories=_memories(Memory("query", 1, ("y", "linear.source")))),
        "memory query of doubler is another engine's already",
    ),
    "a port that there is not": (
        _changed(memories=_memories(Memory("doubled", 1, ("y", "linear.sauce")))),
        "names port 'linear.sauce', which there is not",
    ),
    "two writers": (
        _changed(memories=_memories(Memory("doubled", 1, ("y", "linear.out", "linear.source")))),
        "memory doubled has 2 ports that write it; legal: 1",
    ),
    "no writer": (
        _changed(memories=_memories(Memory("doubled", 1, ("linear.source",)))),
        "memory doubled has 0 ports that write it; legal: 1",
    ),
    "a memory that there is not": (
        _changed(ports=(Port("x", memories=("shelf",)), Port("y", writes=True))),
        "port x of doubler reads memory shelf, which there is not",
    ),
}


@pytest.mark.parametrize("case", OFFERED)
def test_a_kernel_that_does_not_fit_is_refused_in_a_line(case: str) -> None:
    kernel, message = OFFERED[case]
    fault = fault_of(kernel, kernels())
    assert fault is not None
    assert message in fault
    assert "\n" not in fault
    assert fault_of(Doubler, kernels()) is None


def test_a_missing_method_is_named() -> None:
    class Lazy(CommandKernel):
        contract: ClassVar[int] = 1
        op: ClassVar[str] = "lazy"

    fault = fault_of(Lazy, kernels())  # type: ignore[type-abstract]
    assert fault is not None
    assert fault.startswith("it does not declare axes, cases, choices, component, cycles,")
    assert fault.endswith("layers, fields, ports")


MODULE = """
from tests.codesign.test_testing import Doubler


class Linear(Doubler):
    op = "linear"


class Careless(Doubler):
    op = "careless"

    @classmethod
    def memories(cls, params):
        return {}["deep"]


seven = 7
"""


def _offer(monkeypatch: pytest.MonkeyPatch, folder: Path, **offered: str) -> None:
    points = "\n".join(["[codesign.kernels]", *(f"{name} = {what}" for name, what in offered.items())])
    install(monkeypatch, folder, "toyengine", MODULE, points)


def test_an_offered_kernel_is_found_behind_ours(fresh: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    ours = list(kernels())
    found.cache_clear()
    _offer(monkeypatch, tmp_path, doubler="toyengine:Doubler")
    assert list(kernels()) == [*ours, "doubler"]
    assert not found().refused


def test_what_cannot_be_used_is_told_once_and_the_rest_works(
    fresh: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _offer(
        monkeypatch, tmp_path, broken="toyengine:nothing", other="toyengine:Doubler", linear="toyengine:Linear",
        seven="toyengine:seven", careless="toyengine:Careless", doubler="toyengine:Doubler",
    )  # fmt: skip
    caplog.set_level(logging.WARNING)
    assert list(found().kernels)[-1] == "doubler"
    told = found().refused
    assert set(told) == {"broken", "careless", "other", "linear", "seven"}
    kernels(), found()
    assert len(caplog.records) == 5
    for name, line in told.items():
        assert line.startswith(f"engine {name!r} of toyengine 1.5 (pip uninstall toyengine removes it) cannot be ")
        assert "\n" not in line
    assert "has no attribute 'nothing'" in told["broken"]
    assert "its class says that it is 'doubler'" in told["other"]
    assert "there is an engine 'linear' already" in told["linear"]
    assert told["careless"].endswith("loaded: KeyError: 'deep'")
    assert "7; legal: a subclass of codesign.target.kernel.CommandKernel" in told["seven"]


def test_memory_maps_know_the_kernels_they_are_given() -> None:
    class Wide(Doubler):
        @classmethod
        def memories(cls, params: Params) -> tuple[Memory, ...]:
            return (Memory("doubled", 2, ("y", "linear.addend")),)

    made = MemoryMap([(RING, {}), ("doubler", {"lanes": 4})], {RING: kernels()[RING], "doubler": Wide})
    assert made.numbers[RING, "addend"] == ("residual", "position", "doubled")
    assert made.memories["doubled"].writer.port == Port("y", lanes="lanes", writes=True)


# Several engines of a kernel ---------------------------------------------------------


def _twice(seed: int) -> tuple[Network, Design]:
    """A transformer with two attention layers, and a design with two attention and two vector engines."""
    network = random_network(seed)[0]
    linear = {**SMALL_VIT[RING], "tables": 16, "kw_max": 64}
    others = {f"{name}{again}": SMALL_VIT[name] for name in ("attention", "vector") for again in ("", "_2")}
    return network, fitting(Design(board(), {RING: linear, **others}, {}, 5), [network])


def test_engines_of_a_kernel_take_its_layers_in_turn() -> None:
    network, design = _twice(1)
    runs = dict(zip((layer.name for layer in network), runners(network, design.engines), strict=True))
    for kind, kernel in ((Attention, "attention"), (Norm, "vector")):
        mine = [runs[layer.name] for layer in network if isinstance(layer, kind)]
        assert len(mine) >= 2
        assert mine == [(kernel, f"{kernel}_2")[number % 2] for number in range(len(mine))]
    program = compile_network(network, design)
    assert {command.engine for command in program.commands} == set(program.engines) == set(engine_names(design.engines))
    assert {command.label: command.engine for command in program.commands if command.engine not in MOVERS} == runs


@pytest.mark.rtl
def test_two_engines_of_each_kernel_equal_the_rtl() -> None:
    network, design = _twice(1)
    (put,) = network.inputs
    samples: list[Mapping[str, NDArray[np.generic]]] = [
        {put.name: np.random.default_rng(n).normal(size=put.shape)} for n in range(3)
    ]
    for outcome in run_program(compiled(design), design, network, samples):
        assert outcome.bits_equal
        assert outcome.simulated == outcome.modelled
