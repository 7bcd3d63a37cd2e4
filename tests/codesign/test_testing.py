"""The contract suites over every kernel and every board that there is, and their own sharpness.

A new kernel or board needs nothing here: its contract is made from the list of all.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from _pytest.mark import ParameterSet

from codesign.errors import InputError, ToolError
from codesign.hw.vector import VectorKernel
from codesign.ir.network import Layer, Read
from codesign.numerics.fixed_point import IntArray
from codesign.solver.space import ParameterSpace
from codesign.target.board import Board
from codesign.target.engines import kernels
from codesign.target.kernel import (
    Case,
    Columns,
    CommandKernel,
    Joules,
    Kernel,
    Memory,
    Number,
    Params,
    Placement,
    Port,
    Resources,
    Work,
    ceil_div,
    joules,
)
from codesign.testing import BoardContract, KernelContract, boards
from tests.marks import few_fast
from tests.packages import install

KERNELS, BOARDS = kernels(), boards()
CLAIMS = {"linear": ("dsp", "bram36", "uram"), "attention": ("dsp", "bram36", "uram")}
"""What never falls while a parameter grows, where that is more than the DSPs."""
ZCU102 = Board.load("zcu102")


def _names(contract: type) -> list[str]:
    return [name for name in dir(contract) if name.startswith("test_")]


def contract_of(kernel: type[Kernel], **more: object) -> KernelContract:
    made: type[KernelContract] = type("Contract", (KernelContract,), {"kernel": kernel, **more})
    return made()


def board_contract(board: Board) -> BoardContract:
    made: type[BoardContract] = type("Contract", (BoardContract,), {"board": lambda self: board})
    return made()


def _contract_tests() -> list[ParameterSet]:
    """Those that generate hardware take seconds."""
    names = _names(KernelContract)
    return [pytest.param(name, marks=pytest.mark.rtl if "sources" in name else ()) for name in names]


@pytest.mark.parametrize("test", _contract_tests())
@pytest.mark.parametrize("name", KERNELS)
def test_kernel(name: str, test: str) -> None:
    getattr(contract_of(KERNELS[name], growing=CLAIMS.get(name, ("dsp",))), test)()


@pytest.mark.parametrize("board", few_fast(BOARDS, 1))
@pytest.mark.parametrize("name", KERNELS)
def test_every_board_has_designs_of_every_kernel(name: str, board: str) -> None:
    contract = contract_of(KERNELS[name], board=lambda self: BOARDS[board])
    contract.test_space_names_every_parameter_and_holds_legal_designs()


@pytest.mark.parametrize("test", _names(BoardContract))
@pytest.mark.parametrize("name", BOARDS)
def test_board(name: str, test: str) -> None:
    getattr(board_contract(BOARDS[name]), test)()


# A kernel of somebody else ----------------------------------------------------------


@dataclass(frozen=True)
class Doubling(Layer):
    """A layer of a kind that codesign does not know."""

    name: str
    target: str
    rows: int
    columns: int

    @property
    def reads(self) -> tuple[Read, ...]:
        return (Read("x"),)

    @property
    def shape(self) -> tuple[object, ...]:
        return (self.columns,)

    def golden(self, values: Mapping[str, IntArray]) -> IntArray:
        return 2 * values["x"]


@dataclass(frozen=True)
class Doubler(CommandKernel):
    """Doubles ``lanes`` numbers per cycle."""

    contract: ClassVar[int] = 1
    op: ClassVar[str] = "doubler"
    layers: ClassVar[tuple[type[Layer], ...]] = (Doubling,)
    fields: ClassVar[Mapping[str, int]] = {"rows": 16, "columns": 16, "x_base": 24, "y_base": 24}
    ports: ClassVar[tuple[Port, ...]] = (
        Port("x", lanes="lanes", memories=("hidden",)),
        Port("y", lanes="lanes", writes=True),
    )
    geometry: ClassVar[tuple[str, ...]] = ("lanes",)

    lanes: int

    def __post_init__(self) -> None:
        if not self.legal(self.params):
            raise ValueError(f"{self}; legal: lanes from 1 to 64")

    @classmethod
    def supports(cls, layer: object) -> str | None:
        return None if isinstance(layer, Doubling) else "not a doubling"

    @classmethod
    def memories(cls, params: Params) -> tuple[Memory, ...]:
        return (Memory("doubled", 1, ("y", "linear.source", "store.source")),)

    @classmethod
    def reaches(cls, layer: Doubling) -> tuple[tuple[str, str], ...]:
        return ("x", "x"), (layer.target, "y")

    @classmethod
    def operands(cls, layer: Doubling, params: Params, place: Placement, first: int, rows: int) -> dict[str, int]:
        bases = {"x_base": place.base("x", first), "y_base": place.base(layer.target, first)}
        return {"rows": rows, "columns": layer.columns, **bases}

    @classmethod
    def work(cls, layer: Doubling, first: Number, rows: Number, columns: Columns | None = None) -> dict[str, Number]:
        return {"count": rows * layer.columns}

    @classmethod
    def axes(cls, layers: Sequence[Doubling]) -> dict[str, tuple[int, ...]]:
        return {"lanes": (1, 2, 4)}

    @classmethod
    def follows(cls, layers: Sequence[Doubling], params: Params) -> dict[str, Number]:
        return {}

    @classmethod
    def choices(cls, linear: Params) -> tuple[dict[str, int], ...]:
        return ({"lanes": 1}, {"lanes": 4})

    @classmethod
    def cases(cls, rng: np.random.Generator) -> Sequence[Case]:
        return [Case(Doubling("d", "y", n, 3), {"count": 3 * n}, {"x": (n, 3, 7)}) for n in (1, 17, 64)]

    @classmethod
    def small(cls) -> "Doubler":
        return cls(2)

    @classmethod
    def tile(cls, params: Params) -> tuple[int, int]:
        return 1, int(params["lanes"])

    @classmethod
    def legal(cls, params: Params) -> Number:
        return 1 * (params["lanes"] >= 1) * (params["lanes"] <= 64)

    @classmethod
    def space(cls, layer: object, board: Board) -> ParameterSpace:
        if not isinstance(layer, Doubling):
            raise TypeError("not a doubling")
        return ParameterSpace({"lanes": tuple(range(1, 65))}, cls.legal)

    @classmethod
    def cycles(cls, params: Params, work: Work) -> Number:
        return ceil_div(work["count"], params["lanes"]) + 1

    @classmethod
    def resources(cls, params: Params) -> Resources:
        return Resources(dsp=params["lanes"], lut=8 * params["lanes"], ff=16 * params["lanes"])

    @classmethod
    def traffic(cls, params: Params, work: Work) -> Number:
        return 2 * work["count"] + 0 * params["lanes"]

    @classmethod
    def energy(cls, params: Params, work: Work, board: Board) -> Joules:
        cycles, logic = cls.cycles(params, work), cls.resources(params)
        return joules(board, macs=2 * work["count"], ram_bytes=0, cycles=cycles, logic=logic)

    def component(self, depths: Mapping[str, int]) -> Any:
        raise ValueError("no hardware; legal: a kernel of this test")

    def trial(self, rng: np.random.Generator, slot: int) -> Any:
        raise ValueError("no hardware; legal: a kernel of this test")

    def refused_trial(self, rng: np.random.Generator, slot: int) -> Any:
        raise ValueError("no hardware; legal: a kernel of this test")

    def sources(self, target: str) -> dict[str, str]:
        if target != "rtl":
            raise InputError(f"target {target!r}; legal: rtl")
        return {"doubler.v": f"module doubler;  // {self.lanes} lanes\nendmodule\n"}


class TestDoubler(KernelContract):
    """As a third party writes it."""

    kernel = Doubler
    streams = True

    def unsupported(self) -> Sequence[object]:
        return (*super().unsupported(), 7)


class BrokenContract(KernelContract):
    """The suite over a doubler with a fault."""

    streams = True


class Drifting:
    """A golden function with a memory."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, values: Mapping[str, IntArray]) -> IntArray:
        self.calls += 1
        return 2 * values["x"] + self.calls


def in_place(layer: Doubling, values: Mapping[str, IntArray]) -> IntArray:
    x = values["x"]
    x *= 2
    return x


def scalar_only(cls: type[Doubler], params: Any, work: Any) -> Any:
    """Rounds down where it gets arrays."""
    return work["count"] // params["lanes"] + (2 if isinstance(params["lanes"], int) else 1)


FAULTS: Mapping[str, tuple[str, object, str]] = {
    "no reason": ("supports", classmethod(lambda cls, layer: None), "supports_its_layers_and_says_why_not_others"),
    "refuses its own": (
        "supports",
        classmethod(lambda cls, layer: "no"),
        "supports_its_layers_and_says_why_not_others",
    ),
    "two lines": (
        "supports",
        classmethod(lambda cls, layer: None if isinstance(layer, Doubling) else "a\nb"),
        "supports_its_layers_and_says_why_not_others",
    ),
    "space of another parameter": (
        "space",
        classmethod(lambda cls, layer, board: ParameterSpace({"width": (1,)}, lambda p: 1)),
        "space_names_every_parameter_and_holds_legal_designs",
    ),
    "space without a design": (
        "space",
        classmethod(lambda cls, layer, board: ParameterSpace({"lanes": (1, 2)}, lambda p: 0 * p["lanes"])),
        "space_names_every_parameter_and_holds_legal_designs",
    ),
    "space of illegal designs": (
        "space",
        classmethod(lambda cls, layer, board: ParameterSpace({"lanes": (65, 66)}, lambda p: 1)),
        "space_names_every_parameter_and_holds_legal_designs",
    ),
    "takes anything": ("__post_init__", lambda self: None, "illegal_parameters_are_refused"),
    "legal refuses less": (
        "legal",
        classmethod(lambda cls, params: params["lanes"] * 0 + 1),
        "illegal_parameters_are_refused",
    ),
    "legal of numbers alone": (
        "legal",
        classmethod(lambda cls, p: isinstance(p["lanes"], int) * (p["lanes"] >= 1) * (p["lanes"] <= 64)),
        "illegal_parameters_are_refused",
    ),
    "scalar cycles": ("cycles", classmethod(scalar_only), "formulas_are_one_expression_for_numbers_and_arrays"),
    "float cycles": (
        "cycles",
        classmethod(lambda cls, params, work: work["count"] / params["lanes"]),
        "formulas_are_one_expression_for_numbers_and_arrays",
    ),
    "no cycles": ("cycles", classmethod(lambda cls, params, work: 0 * work["count"]), "formulas_say_something"),
    "cycles of None": ("cycles", classmethod(lambda cls, params, work: None), "formulas_say_something"),
    "no resources": ("resources", classmethod(lambda cls, params: Resources()), "formulas_say_something"),
    "negative resources": (
        "resources",
        classmethod(lambda cls, params: Resources(dsp=-params["lanes"], lut=1, ff=1)),
        "formulas_say_something",
    ),
    "resources of None": ("resources", classmethod(lambda cls, params: None), "formulas_say_something"),
    "no traffic": ("traffic", classmethod(lambda cls, params, work: 0 * work["count"]), "formulas_say_something"),
    "shrinking": (
        "resources",
        classmethod(lambda cls, params: Resources(dsp=64 - params["lanes"], lut=1, ff=1)),
        "resources_grow_with_every_parameter",
    ),
    "no energy": (
        "energy",
        classmethod(lambda cls, params, work, board: 0.0 * work["count"]),
        "formulas_say_something",
    ),
    "one joule": ("energy", classmethod(lambda cls, params, work, board: 1.0), "energy_follows_the_coefficients"),
    "other operands": (
        "operands",
        classmethod(lambda cls, layer, params, place, first, rows: {"size": 1}),
        "commands_have_the_operands_and_the_work_that_are_declared",
    ),
    "other work": (
        "work",
        classmethod(lambda cls, layer, first, rows, columns=None: {"count": rows}),
        "commands_have_the_operands_and_the_work_that_are_declared",
    ),
    "another tensor": (
        "reaches",
        classmethod(lambda cls, layer: (("z", "x"), (layer.target, "y"))),
        "commands_have_the_operands_and_the_work_that_are_declared",
    ),
    "counts that are not said": ("assumes", "all rows", "golden_is_integer_and_deterministic"),
    "no files": ("sources", lambda self, target: {}, "sources_are_files_and_unknown_targets_are_refused"),
    "any target": ("sources", lambda self, target: {"a.v": "x"}, "sources_are_files_and_unknown_targets_are_refused"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_a_kernel_is_found(fault: str) -> None:
    attribute, replacement, test = FAULTS[fault]
    contract = BrokenContract()
    contract.kernel = type("Broken", (Doubler,), {attribute: replacement})  # type: ignore[misc]
    with pytest.raises(AssertionError):
        getattr(contract, f"test_{test}")()


GOLDENS: Mapping[str, object] = {
    "float": lambda layer, values: 2.0 * values["x"],
    "empty": lambda layer, values: values["x"][:, :0],
    "of fewer rows": lambda layer, values: 2 * values["x"][1:],
    "drifting": Drifting(),
    "in place": in_place,
}


@pytest.mark.parametrize("fault", GOLDENS)
def test_a_fault_in_a_golden_is_found(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Doubling, "golden", GOLDENS[fault])
    with pytest.raises(AssertionError):
        TestDoubler().test_golden_is_integer_and_deterministic()


@pytest.mark.parametrize(
    "counts", [{"count": np.ones(1, np.int64)}, {"size": np.ones(64, np.int64)}, {}], ids=["short", "unknown", "none"]
)
def test_a_fault_in_counts_is_found(counts: dict[str, IntArray], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Doubling, "counts", lambda layer, values: counts)
    contract = BrokenContract()
    contract.kernel = type("Assuming", (Doubler,), {"assumes": "all rows"})  # type: ignore[misc]
    with pytest.raises(AssertionError):
        contract.test_golden_is_integer_and_deterministic()


def test_a_kernel_must_give_cases() -> None:
    broken = type("Broken", (Doubler,), {"cases": classmethod(lambda cls, rng: [])})
    with pytest.raises(AssertionError, match="legal: cases"):
        contract_of(broken).test_supports_its_layers_and_says_why_not_others()


def test_fewer_than_a_thousand_points_are_refused() -> None:
    with pytest.raises(AssertionError, match="at least 1000"):
        contract_of(VectorKernel, points=999).test_formulas_say_something()


# Boards and registration -------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "test"),
    [
        ({"sources": {}}, "every_figure_has_a_source_or_a_reason"),
        ({"sources": dict(list(ZCU102.sources.items())[1:])}, "every_figure_has_a_source_or_a_reason"),
        ({"assumptions": {}}, "every_figure_has_a_source_or_a_reason"),
        ({"resources": replace(ZCU102.resources, ff=1000)}, "resources_are_those_of_a_device"),
        ({"memory": replace(ZCU102.memory, bytes_per_second=20_000_000_000)}, "memory_is_consistent"),
        ({"memory": replace(ZCU102.memory, ports=3, bytes_per_second=1)}, "memory_is_consistent"),
        ({"energy": replace(ZCU102.coefficients, offchip_byte_fj=10)}, "energy_is_plausible"),
    ],
)
def test_a_fault_in_a_board_is_found(changes: dict[str, Any], test: str) -> None:
    with pytest.raises((AssertionError, ValueError)):
        getattr(board_contract(replace(ZCU102, **changes)), f"test_{test}")()


def test_a_board_may_say_nothing_of_energy() -> None:
    def known(remarks: Mapping[str, str]) -> dict[str, str]:
        return {key: text for key, text in remarks.items() if not key.startswith("energy")}

    bare = replace(ZCU102, energy=None, sources=known(ZCU102.sources), assumptions=known(ZCU102.assumptions))
    for test in _names(BoardContract):
        getattr(board_contract(bare), test)()


def test_a_board_contract_needs_a_board() -> None:
    with pytest.raises(NotImplementedError):
        BoardContract().board()


OFFER = """
[codesign.boards]
mine = toyboard:MINE
"""
"""Entry points of a package."""
TOYBOARD = """
from dataclasses import replace

from codesign.target.board import Board

MINE = replace(Board.load("zcu102"), name="mine")
"""


def test_installed_packages_add_boards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, tmp_path, "toyboard", TOYBOARD, OFFER)
    assert boards() == {**BOARDS, "mine": replace(ZCU102, name="mine")}


def test_boards_of_names_in_use_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, tmp_path, "toyboard", TOYBOARD, OFFER.replace("mine", "zcu102"))
    with pytest.raises(InputError, match="codesign ships one; legal: another name"):
        boards()


def test_what_is_no_board_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, tmp_path, "toyboard", TOYBOARD, OFFER.replace("toyboard:MINE", "codesign.target.board:Board"))
    with pytest.raises(ToolError, match=r"board 'mine' of toyboard 1\.5 \(pip uninstall toyboard removes it\) cannot"):
        boards()


def test_the_sample_layers_are_many_and_their_values_integers() -> None:
    for kernel in KERNELS.values():
        cases = kernel.cases(np.random.default_rng(0))
        assert len(cases) >= 3
        for case in cases:
            assert all(np.issubdtype(x.dtype, np.integer) for x in case.values(np.random.default_rng(1)).values())
