import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest

from codesign import api as flow
from codesign.cli import main
from codesign.errors import InputError, ToolError
from codesign.flow.verify import VerifyRequest, VerifyResult, checked, chosen
from codesign.frontend import zoo
from codesign.sim.synthesis import synth
from codesign.sim.synthesis.synth import Counts, Synthesis


@pytest.fixture
def own(built: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(built, tmp_path / "b"))


class FakeYosys:
    """Gives counts without running anything, and remembers which Verilog it was given."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, frozenset[str]]] = []

    def top(self, sources: Mapping[str, str], root: str) -> Synthesis:
        self.asked.append((root, frozenset(sources)))
        parts = {"linear": Counts(dsp=40, ramb18=1, lut=100), "memory_output": Counts(ff=9)}
        return Synthesis(
            "top", {"top": Counts(lut=7), "x": sum(parts.values(), Counts())}, {"top": 1, "x": 1}, parts
        )  # fmt: skip

    def engines(self, sources: Mapping[str, str]) -> dict[str, Counts]:
        self.asked.append(("engines", frozenset(sources)))
        return {"linear": Counts(dsp=41, ramb18=1, lut=101)}


@pytest.fixture
def yosys(monkeypatch: pytest.MonkeyPatch) -> FakeYosys:
    fake = FakeYosys()
    monkeypatch.setattr(synth, "synthesize", fake.top)
    monkeypatch.setattr(synth, "synthesize_engines", fake.engines)
    return fake


def test_what_is_asked_is_checked_first() -> None:
    with pytest.raises(InputError, match="--images 0; legal: at least 1"):
        VerifyRequest("b", images=0)
    with pytest.raises(InputError, match="--synth 'all'; legal: none, engines, top"):
        VerifyRequest("b", synth="all")


def test_the_call_that_does_it_again_has_waves() -> None:
    assert VerifyRequest("b", seed=4, images=2).rerun == "codesign verify b --waves --seed 4 --images 2"
    assert VerifyRequest("b", kernel="linear").rerun == "codesign verify b --kernel linear --waves --seed 0 --images 3"


@pytest.mark.usefixtures("yosys")
def test_an_unknown_kernel_is_refused_before_any_work(own: Path, yosys: FakeYosys) -> None:
    held = flow.open(own)
    with pytest.raises(InputError, match="--kernel 'attention'; legal: linear, the kernels of"):
        checked(held.stored, held.contents, VerifyRequest("b", kernel="attention", synth="top"))
    assert yosys.asked == []


def test_samples_of_a_shipped_model_are_held_out_and_follow_the_seed(mlp: Path) -> None:
    inside = flow.open(mlp).contents
    arrays, _ = zoo.heldout("digits-mlp")
    first = chosen(inside, 2, 0)
    assert all((sample["image"] == arrays["image"][i]).all() for i, sample in enumerate(first))
    with pytest.raises(InputError, match="--images 401; legal: 1 to 400"):
        chosen(inside, 401, 0)


def test_nothing_run_is_nothing_passed(own: Path) -> None:
    found = VerifyResult(own, flow.report(own), {}, "linear", ("layer",))
    assert not found.passed
    assert found.problems == ["no room to run alone: layer"]


@pytest.mark.rtl
def test_a_synthesis_of_the_top_is_in_the_report(own: Path, yosys: FakeYosys) -> None:
    found = flow.verify(own, images=1, synth="top")
    assert found.passed
    ((root, names),) = yosys.asked
    assert root == "top"
    assert {f"rtl/{name}" for name in names} < set(flow.open(own).stored.files)
    report = flow.report(own)
    assert report == found.report
    assert report.resources["synthesized"] == {"dsp": 40, "bram36": 0.5, "uram": 0, "lut": 107, "ff": 9}
    assert report.wholly_synthesized
    assert report.agrees
    assert json.loads((own / "report.json").read_text())["resources"]["synthesized"]["lut"] == 107
    assert "synthesis  dsp 40, bram36 0.5, lut 107, ff 9, of all parts" in report.lines()
    page = (own / "report.html").read_text()
    assert '<span class="cs-mark synthesized">synthesized</span>' in page
    assert "Every part of the design, through open synthesis" in page


@pytest.mark.rtl
def test_a_synthesis_of_the_engines_is_marked_as_a_part(own: Path, yosys: FakeYosys) -> None:
    found = flow.verify(own, images=1, kernel="linear", synth="engines")
    assert found.synthesized == {"linear": {"dsp": 41, "bram36": 0.5, "uram": 0, "lut": 101, "ff": 0}}
    report = flow.report(own)
    assert report.bit_exact is None  # a kernel alone says nothing of the whole
    assert report.resources["synthesized"] == {"dsp": 41, "bram36": 0.5, "uram": 0, "lut": 101, "ff": 0}
    assert not report.wholly_synthesized
    assert report.lines()[-2].endswith("of linear")
    assert "Parts of the design, the others not yet" in (own / "report.html").read_text()
    again = flow.verify(own, images=1, synth="none")
    assert again.report.synthesized_parts == report.synthesized_parts  # what is known stays


@pytest.mark.rtl
def test_the_command_shows_both_counts(own: Path, yosys: FakeYosys, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(own), "--images", "1", "--synth", "engines", "--quiet"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["part", "resource", "synthesized", "modelled"] in rows
    assert ["linear", "dsp", "41", "41"] in rows
    assert yosys.asked[0][0] == "engines"
    assert main(["report", str(own)]) == 0
    assert "of linear" in capsys.readouterr().out


def test_without_yosys_the_line_says_how_to_get_it(
    own: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing(*_: object) -> None:
        raise ToolError("open synthesis is missing; get it with: pip install 'codesign[synth]'")

    monkeypatch.setattr(synth, "synthesize", missing)
    before = (own / "report.json").read_bytes()
    assert main(["verify", str(own), "--synth", "top", "--quiet"]) == 3
    assert capsys.readouterr().err == (
        "codesign: error: open synthesis is missing; get it with: pip install 'codesign[synth]'\n"
    )
    assert (own / "report.json").read_bytes() == before
    assert main(["verify", str(own), "--synth", "all", "--quiet"]) == 2
    assert capsys.readouterr().err == "codesign: error: --synth 'all'; legal: none, engines, top\n"
