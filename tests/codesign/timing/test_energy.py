from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from codesign.compiler.program import compile_network
from codesign.errors import InputError
from codesign.flow.build import Plan, plan
from codesign.hw.system import accelerator
from codesign.hw.system.energies import engine_joules
from codesign.target.board import Board
from codesign.target.kernel import Resources, joules
from codesign.timing.energy import RunEnergy, full_power, run_energy
from codesign.timing.stalls import busy

ZCU102 = Board.load("zcu102")
PUBLISHED = (  # DSP, BRAM36, LUT, FF, clock in Hz, watts of the chip
    ("CoQMoE, arXiv 2506.08496", "zcu102", (1754, 383, 0, 156_100, 198_200), 300_000_000, 9.83),
    ("UbiMoE, arXiv 2502.05602", "zcu102", (1850, 458, 0, 123_400, 142_600), 300_000_000, 11.50),
    ("CoQMoE, arXiv 2506.08496", "u280", (2635, 697, 0, 311_600, 454_100), 250_000_000, 33.7),
    ("UbiMoE, arXiv 2502.05602", "u280", (3413, 974, 0, 316_100, 385_900), 200_000_000, 32.49),
)


@pytest.fixture(scope="module")
def made() -> Plan:
    return plan("digits-vit", ZCU102)


def energy_of(made: Plan, *, board: Board = ZCU102, traffic_bytes: int = 1000) -> RunEnergy:
    design = replace(made.design, board=board)
    parts = accelerator.resources(design)
    return run_energy(
        made.program, design, cycles=made.timing.total, busy=busy(made.timing.activities), parts=parts,
        engines=engine_joules(design), traffic_bytes=traffic_bytes,
    )  # fmt: skip


@pytest.mark.parametrize(("name", "board", "resources", "clock", "watts"), PUBLISHED)
def test_published_designs_draw_what_the_coefficients_say(
    name: str, board: str, resources: tuple[int, ...], clock: int, watts: float
) -> None:
    """Every board states 20 % as the reason for its band."""
    target = Board.load(board).with_overrides([f"clock_hz={clock}"])
    assert full_power(Resources(*resources), target) == pytest.approx(watts, rel=0.2)
    assert "20 %" in Board.load(board).assumptions["energy.error_percent"]


def test_power_is_the_sum_of_its_parts_for_numbers_and_arrays() -> None:
    e, clock = ZCU102.coefficients, ZCU102.clock_hz
    assert full_power(Resources(), ZCU102) == e.static_mw / 1e3
    each = (2 * e.mac_fj, 16 * e.ram_byte_fj, 16 * e.ram_byte_fj, e.lut_cycle_fj, e.ff_cycle_fj)
    for index, cost in enumerate(each):
        counts = [0] * 5
        counts[index] = 1000
        watts = 1000 * cost * 1e-15 * clock + e.static_mw / 1e3
        assert full_power(Resources(*counts), ZCU102) == pytest.approx(watts, rel=1e-12)
    many = np.asarray(full_power(Resources(dsp=np.arange(50), lut=np.arange(50) ** 2), ZCU102))
    assert many.tolist() == [full_power(Resources(dsp=i, lut=i * i), ZCU102) for i in range(50)]


def test_joules_count_every_event_once() -> None:
    e = ZCU102.coefficients
    found = joules(ZCU102, macs=7, ram_bytes=11, cycles=13, logic=Resources(dsp=99, bram36=99, lut=17, ff=19))
    expected = 7 * e.mac_fj + 11 * e.ram_byte_fj + 13 * (17 * e.lut_cycle_fj + 19 * e.ff_cycle_fj)
    assert found == pytest.approx(expected * 1e-15, rel=1e-12)


def test_the_total_is_the_sum_and_the_band_lies_around_it(made: Plan) -> None:
    found = energy_of(made)
    assert set(found.engines) == {"linear", "attention", "vector"}
    parts = [*found.engines.values(), found.offchip, found.shell, found.idle, found.static]
    assert min(parts) > 0
    assert found.total == pytest.approx(sum(parts), rel=1e-12)
    low, high = found.band
    assert low == pytest.approx(found.total / 2)
    assert high == pytest.approx(found.total * 1.5)
    assert found.to_json() == {
        "engines": dict(found.engines),
        "offchip": found.offchip, "shell": found.shell, "idle": found.idle, "static": found.static,
        "total": found.total, "band": [low, high], "error": 0.5, "evidence": "modelled",
    }  # fmt: skip


def test_parts_that_follow_from_cycles_and_bytes(made: Plan) -> None:
    found, e = energy_of(made, traffic_bytes=12_345), ZCU102.coefficients
    seconds, parts = made.timing.total / ZCU102.clock_hz, accelerator.resources(made.design)
    assert found.static == pytest.approx(e.static_mw / 1e3 * seconds)
    assert found.offchip == pytest.approx(12_345 * (e.offchip_byte_fj + e.ram_byte_fj) * 1e-15)
    other = parts["shell"] + parts["memories"]
    per_cycle = other.lut * e.lut_cycle_fj + other.ff * e.ff_cycle_fj
    assert found.shell == pytest.approx(made.timing.total * per_cycle * 1e-15)
    assert found.idle == pytest.approx(waiting(made) * e.ff_cycle_fj * 1e-15)


def waiting(made: Plan) -> int:
    """Flip-flops of engines times the cycles in which their engine has no command under way."""
    found = 0
    for name, part in accelerator.resources(made.design).items():
        at_work = np.zeros(made.timing.total, bool)
        for activity in made.timing.activities:
            if activity.engine == name:
                at_work[activity.start : activity.stop] = True
        found += int(part.ff) * int((~at_work).sum()) if name in made.design.engines else 0
    return found


def test_commands_that_overlap_do_not_wait_less_than_never() -> None:
    made = plan("gemm:512x256x256", ZCU102)
    spans = [(a.start, a.stop) for a in made.timing.activities if a.engine == "linear"]
    assert any(start < stop for (_, stop), (start, _) in pairwise(spans))  # the next begins while one still writes
    assert energy_of(made).idle == pytest.approx(waiting(made) * ZCU102.coefficients.ff_cycle_fj * 1e-15)


def test_engines_cost_what_their_commands_cost(made: Plan) -> None:
    found, engines = energy_of(made), engine_joules(made.design)
    for name, cost in engines.items():
        commands = [command for command in made.program.commands if command.engine == name]
        assert commands
        assert found.engines[name] == pytest.approx(sum(cost(command.work) for command in commands))


def test_a_program_that_is_shared_costs_what_the_design_s_own_costs(made: Plan) -> None:
    """Its on-chip addresses count in the units of the first design that asked for it."""
    attention = {**made.design.engines["attention"], "t_a": 4, "db_max": 4}
    first = replace(made.design, engines={**made.design.engines, "attention": attention})
    bare = compile_network(made.network, first, bare=True)
    shared = compile_network(made.network, made.design, bare=True)
    assert shared is bare
    assert shared.encode() != made.program.encode()
    assert energy_of(replace(made, program=shared)) == energy_of(made)


def test_a_slower_clock_costs_only_static_energy(made: Plan) -> None:
    fast, slow = energy_of(made), energy_of(made, board=ZCU102.with_overrides(["clock_hz=150e6"]))
    assert slow.static == pytest.approx(2 * fast.static)
    assert replace(slow, static=0.0) == replace(fast, static=0.0)


def test_a_board_without_coefficients_is_refused_in_one_line(made: Plan) -> None:
    bare = replace(ZCU102, energy=None, sources={}, assumptions={})
    for call in (lambda: energy_of(made, board=bare), lambda: full_power(Resources(dsp=1), bare)):
        with pytest.raises(InputError, match=r"zcu102 has no table \[energy\]; legal: a board file with one"):
            call()
