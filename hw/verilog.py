"""Amaranth to Verilog: each distinct shared module once, instantiated wherever it is used."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from amaranth.back import verilog
from amaranth.hdl import ClockSignal, Elaboratable, Instance, Module, ResetInserter, ResetSignal, Signal, ValueCastable
from amaranth.lib import wiring


@dataclass
class Target:
    """The platform handed to ``elaborate``: what the Verilog is for.

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
    """A component that is elaborated once per distinct `module_name` and instantiated elsewhere.

    Subclasses implement ``module_name`` (unique for class and parameters) and ``build``.
    Without a `Target` (in Amaranth's own simulator) they elaborate in place.
    """

    @property
    def module_name(self) -> str:
        """Verilog name; equal names mean equal hardware."""
        raise NotImplementedError(f"{type(self).__name__} must name its module")

    def build(self, platform: object) -> Module:
        """The hardware itself."""
        raise NotImplementedError(f"{type(self).__name__} must describe its hardware")

    def verilog(self) -> str | None:
        """Verilog text of the module where it is written by hand; None to convert `build`."""
        return None

    def elaborate(self, platform: object) -> Elaboratable:
        """In place, or as an instance of the shared module."""
        if not isinstance(platform, Target):
            return self.build(platform)
        platform.modules.setdefault(self.module_name, self)
        m = Module()
        m.submodules.shared = _instance(self.module_name, self, ResetSignal())
        return m

    @property
    def interface(self) -> wiring.Component:
        """Whose members are the module's ports."""
        return self


class Resettable(Elaboratable):
    """A component as a module of its own that ``clear`` resets too, with all that is inside.

    Args:
        name: Verilog name, unique in the design.
        component: what is reset; its members stay the way to it.
        clear: resets for as long as it is high.
    """

    def __init__(self, name: str, component: wiring.Component, clear: Signal) -> None:
        self.module_name, self.interface, self._clear = name, component, clear

    def build(self, platform: object) -> Elaboratable:
        """The hardware itself."""
        return self.interface

    def verilog(self) -> None:
        """None: `build` is converted."""

    def elaborate(self, platform: object) -> Elaboratable:
        """In place, or as an instance of the module."""
        if not isinstance(platform, Target):
            return ResetInserter(self._clear)(self.interface)
        platform.modules[self.module_name] = self
        m = Module()
        m.submodules.unit = _instance(self.module_name, self.interface, ResetSignal() | self._clear)
        return m


def _instance(name: str, interface: wiring.Component, reset: ValueCastable) -> Instance:
    connections = {f"{flow}_{port}": value for port, flow, value in _ports(interface)}
    return Instance(name, i_clk=ClockSignal(), i_rst=reset, **connections)


class _Body(Elaboratable):
    """The body of a module that is converted on its own."""

    def __init__(self, unit: SharedComponent | Resettable) -> None:
        self._unit = unit

    def elaborate(self, platform: object) -> Elaboratable:
        return self._unit.build(platform)


def _ports(component: wiring.Component) -> list[tuple[str, str, ValueCastable]]:
    """Flattened ports as (name, "i" or "o", value)."""
    found = []
    for path, member, value in component.signature.flatten(component):
        flow = "i" if member.flow == wiring.In else "o"
        found.append(("_".join(str(part) for part in path), flow, value))
    return found


def generate(component: wiring.Component, name: str, target: Target | None = None) -> Sources:
    """Verilog of a component and of every shared module below it.

    Args:
        component: the top; its signature gives the ports.
        name: module name of the top.
        target: what the Verilog is for; behavioural multipliers if not given.
    """
    target = target or Target()
    files = {f"{name}.v": _convert(component, component, name, target)}
    done: set[str] = set()
    while pending := sorted(set(target.modules) - done):
        for module in pending:
            shared = target.modules[module]
            files[f"{module}.v"] = shared.verilog() or _convert(_Body(shared), shared.interface, module, target)
            done.add(module)
    ports = {"clk": (1, "i"), "rst": (1, "i")}
    for port, flow, value in _ports(component):
        ports[port] = (len(_flat(value)), flow)
    return Sources(name, dict(sorted(files.items())), ports)


def _flat(value: ValueCastable) -> ValueCastable:
    return value.as_value() if isinstance(value, ValueCastable) else value


def _convert(elaboratable: Elaboratable, interface: wiring.Component, name: str, target: Target) -> str:
    ports = {port: (_flat(value), None) for port, _, value in _ports(interface)}
    return str(
        verilog.convert(elaboratable, name=name, platform=target, ports=ports, strip_internal_attrs=True, emit_src=False)
    )
