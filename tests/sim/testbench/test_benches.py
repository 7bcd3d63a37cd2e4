import logging
import re
from pathlib import Path

import numpy as np
import pytest

from codesign.errors import CheckError, InputError
from codesign.hw.emit.rig import TOP, make_rig
from codesign.hw.vector import VectorKernel
from codesign.hw.verilog import generate
from codesign.sim.testbench.benches import default_kernel, kernel_sources, run_kernel_bench
from codesign.sim.waves import read
from codesign.target.kernel import Kernel

SMALL = VectorKernel(t_v=1, max_d=24)
WIDE = VectorKernel(t_v=2, max_d=40, wide=1)
STREAMED = ["back_to_back", "random_gaps"]


def broken(kernel: Kernel, **faults: str) -> dict[str, str]:
    """The rig of a kernel behind a shell that replaces outputs; in an expression ``NAME`` is the output as it was.

    ``late`` is ``done`` a cycle later, ``count`` the number of cycles with ``done`` so far.
    """
    sources = generate(make_rig(kernel), "core")
    ports, wires, assigns = [], [], []
    for name, (bits, flow) in sources.ports.items():
        ports.append(f"{'input' if flow == 'i' else 'output'} [{bits - 1}:0] {name}")
        if flow == "o":
            wires.append(f"wire [{bits - 1}:0] core_{name};")
            assigns.append(f"assign {name} = {re.sub('NAME', f'core_{name}', faults.get(name, 'NAME'))};")
    pins = ", ".join(f".{name}({'core_' * (flow == 'o')}{name})" for name, (_, flow) in sources.ports.items())
    state = "reg late; reg [7:0] count; always @(posedge clk) begin late <= core_done;"
    state += " count <= rst ? 0 : count + core_done; end"
    body = "\n".join([*wires, state, f"core core({pins});", *assigns])
    return {**sources.files, "shell.v": f"module {TOP}({', '.join(ports)});\n{body}\nendmodule\n"}


@pytest.mark.rtl
class TestRunKernelBench:
    @pytest.mark.parametrize("name", ["linear", "attention", "vector"])
    def test_the_engines_pass(self, name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO, "codesign.sim.testbench.benches")
        report = run_kernel_bench(name, directory=tmp_path, commands=12)
        assert [outcome.name for outcome in report.outcomes] == ["one_by_one"] * (name == "linear") + STREAMED
        assert report.waves is None
        assert "seed 0, 12 commands" in caplog.text
        log = report.log.read_text(encoding="utf-8")
        for text in re.findall(r"12 commands, cycles by command: \{(.*)\}", log):
            ended = [int(index) for index in re.findall(r"(\d+): \d+", text)]
            assert len(ended) == 12 - 3, "three of twelve are illegal"
        assert log.count("12 commands, cycles by command") == len(report.outcomes)

    def test_a_wide_vector_engine_passes(self, tmp_path: Path) -> None:
        report = run_kernel_bench("vector", directory=tmp_path, commands=24, kernel=WIDE)
        assert [outcome.name for outcome in report.outcomes] == STREAMED

    def test_results_in_both_memories_at_once_are_found(self, tmp_path: Path) -> None:
        with pytest.raises(CheckError, match=r"write to \(-1, \d+\), which is not the command's"):
            run_kernel_bench(
                "vector", directory=tmp_path, kernel=WIDE, tests=["back_to_back"],
                sources=broken(WIDE, y_en="core_x_en | NAME"),
            )  # fmt: skip

    def test_a_wrong_element_is_named_and_the_waves_show_it(self, tmp_path: Path) -> None:
        faults = {"x_data": "NAME ^ (count == 2 && core_x_addr[1:0] == 1)"}
        why = (
            r"bench_command\.back_to_back \(seed 5\): cycle \d+, command \d+: element \[\d+, \d+\]:"
            r" expected -?\d+, got -?\d+; operands rows="
        )
        with pytest.raises(CheckError, match=why) as caught:
            run_kernel_bench(
                "vector", directory=tmp_path, seed=5, commands=9, kernel=SMALL, waves=True, tests=["back_to_back"],
                sources=broken(SMALL, **faults),
            )  # fmt: skip
        expected, got = (int(x) for x in re.findall(r"(?:expected|got) (-?\d+)", str(caught.value)))
        assert expected ^ got in (1, -1)
        done, count = read(tmp_path / "waves.vcd", ["core_done", "count"], cycles=100_000, period=10_000)
        assert int(np.sum(np.array(done.values) == 1)) == max(int(value or 0) for value in count.values) == 2

    def test_a_late_done_is_found(self, tmp_path: Path) -> None:
        why = r"random_gaps \(seed 0\): cycle \d+: busy is 0 while 1 commands run"
        with pytest.raises(CheckError, match=why):
            run_kernel_bench(
                "vector", directory=tmp_path, commands=4, kernel=SMALL, tests=["random_gaps"],
                sources=broken(SMALL, done="late"),
            )  # fmt: skip

    def test_a_module_of_one_s_own(self, tmp_path: Path) -> None:
        report = run_kernel_bench("vector", directory=tmp_path, commands=3, module="tests.sim.own_bench")
        assert [outcome.name for outcome in report.outcomes] == ["one_command"]


class TestMisuse:
    def test_unknown_kernel(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"kernel 'conv' is not known; legal: linear, attention, vector"):
            run_kernel_bench("conv", directory=tmp_path)

    def test_kernel_of_another_class(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="the bench of linear is for a LinearKernel, not a VectorKernel"):
            run_kernel_bench("linear", directory=tmp_path, kernel=SMALL)

    def test_no_commands(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="0 commands; legal: at least 1"):
            run_kernel_bench("vector", directory=tmp_path, commands=0)


@pytest.mark.rtl
@pytest.mark.parametrize("name", ["linear", "attention", "vector"])
def test_sources_have_the_top(name: str) -> None:
    assert f"module {TOP}(" in kernel_sources(default_kernel(name))[f"{TOP}.v"]
