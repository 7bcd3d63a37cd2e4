import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from codesign.errors import CheckError, ToolError
from codesign.frontend import zoo
from codesign.frontend.workload import Workload
from codesign.hw.emit import hls as project
from codesign.hw.emit.hls import Argument, ap_types, decode, encode, words
from codesign.hw.linear import LinearKernel
from codesign.hw.linear import hls as linear_hls
from codesign.hw.vector import VectorKernel
from codesign.hw.vector import hls as vector_hls
from codesign.hw.vector.hls import HlsNorm, data, sources
from codesign.ir.network import Linear, Norm, run
from codesign.quant.lower.lowering import lower
from codesign.sim import hls

compiled = pytest.mark.skipif(
    importlib.util.find_spec("hls4ml") is None, reason="needs hls4ml's ap_types: pip install codesign[hls]"
)
KERNEL = VectorKernel(t_v=4, max_d=1024)


@pytest.fixture
def files() -> dict[str, str]:
    """The testbench's folder for two rows of five columns."""
    ones = np.ones(5, np.int64)
    layer = Norm("n", "r", "x", 2, 1000 * ones, ones, 12, 1)
    return data(KERNEL, [HlsNorm(layer, np.arange(10).reshape(2, 5) ** 3)])


@pytest.fixture
def program() -> Path:
    return hls.build(sources(KERNEL))


@compiled
def test_the_headers_are_those_of_the_installed_package() -> None:
    folder = ap_types()
    assert "Apache License, Version 2.0" in (folder / "ap_int.h").read_text(encoding="utf-8")
    assert (folder / "hls_stream.h").is_file()
    assert project.ap_types_version().count(".") == 2


def test_missing_headers_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    find: Callable[[str], Any] = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "hls4ml" else find(name))
    with pytest.raises(ToolError, match=r"headers of HLS types are missing; .* pip install 'codesign\[hls\]'"):
        hls.build(sources(KERNEL))


@compiled
@pytest.mark.rtl
def test_a_second_build_compiles_nothing(program: Path, tmp_path: Path) -> None:
    before = program.stat().st_mtime_ns
    assert hls.build(sources(KERNEL)) == program
    assert program.stat().st_mtime_ns == before
    recorder = tmp_path / "c++"
    recorder.write_text(f"#!{sys.executable}\nimport sys\nsys.exit(0 if '--version' in sys.argv else 7)\n")
    recorder.chmod(0o755)
    with pytest.raises(ToolError, match="exit code 7"):
        hls.build(sources(KERNEL), compiler=(str(recorder),), cache=tmp_path / "cache")


@compiled
@pytest.mark.rtl
def test_what_the_compiler_objects_to_is_shown(tmp_path: Path) -> None:
    with pytest.raises(ToolError) as caught:
        hls.build({"vector.cpp": "int main() {\n no code\n}\n"}, cache=tmp_path)
    assert "vector.cpp:2" in caught.value.details()
    assert not list(tmp_path.glob("hls-*"))


@compiled
@pytest.mark.rtl
def test_results_stay_in_a_named_folder(program: Path, files: dict[str, str], tmp_path: Path) -> None:
    found = hls.simulate(program, files, tmp_path / "data")
    assert found == {"target.hex": files["target.expected.hex"]}
    assert {path.name for path in (tmp_path / "data").iterdir()} == {*files, "target.hex"}


@compiled
@pytest.mark.rtl
def test_too_few_words_in_a_file(program: Path, files: dict[str, str]) -> None:
    with pytest.raises(CheckError, match=r"source\.hex: too few words"):
        hls.simulate(program, files | {"source.hex": files["source.hex"].split("\n", 1)[1]})


@compiled
@pytest.mark.rtl
@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ("3 2 4", "is read while empty"),
        ("4 1 4", "is read while empty"),
        ("4 2 3", "target: words left over"),
        ("4 2 5", "target: too few words written"),
    ],
)
def test_a_stream_out_of_balance(program: Path, files: dict[str, str], counts: str, message: str) -> None:
    operands = files["commands.txt"].rsplit(maxsplit=3)[0]
    with pytest.raises(CheckError, match=message):
        hls.simulate(program, files | {"commands.txt": f"{operands} {counts}\n"})


@compiled
@pytest.mark.rtl
def test_words_that_nothing_reads(program: Path, files: dict[str, str]) -> None:
    operands = files["commands.txt"].rsplit(maxsplit=3)[0]
    with pytest.raises(CheckError, match="source: words left over"):
        hls.simulate(
            program,
            files | {"commands.txt": f"{operands} 5 2 4\n", "source.hex": files["source.hex"] + "0" * 16 + "\n"},
        )


@compiled
@pytest.mark.rtl
def test_commands_that_are_missing_or_broken(program: Path, files: dict[str, str]) -> None:
    with pytest.raises(CheckError, match=r"no file .*commands\.txt"):
        hls.simulate(program, {name: text for name, text in files.items() if name != "commands.txt"})
    with pytest.raises(CheckError, match="too few numbers in: 2 5"):
        hls.simulate(program, files | {"commands.txt": "2 5\n"})


@compiled
@pytest.mark.slow
def test_every_linear_layer_and_norm_of_a_vision_transformer() -> None:
    """Each layer of digits-vit on what golden gives it for one image, all in one run of each kernel."""
    workload = zoo.load("digits-vit")
    assert isinstance(workload, Workload)
    network, (images, _) = lower(workload), zoo.heldout("digits-vit")
    values = run(network, {name: image[7] for name, image in images.items()})
    linears = [layer for layer in network if isinstance(layer, Linear)]
    jobs = [linear_hls.HlsProduct(a, values[a.source], values[a.addend] if a.addend else None) for a in linears]
    size = LinearKernel(t_in=8, t_out=8, n_l=4, kw_max=16, ring_words=256, table_words=32, tables=16, word_bytes=16)
    found = {a.target: x for a, x in zip(linears, hls.run_jobs(linear_hls, size, jobs), strict=True)}
    norms = [layer for layer in network if isinstance(layer, Norm)]
    rows = [HlsNorm(layer, values[layer.source]) for layer in norms]
    found |= {a.target: x for a, x in zip(norms, hls.run_jobs(vector_hls, KERNEL, rows), strict=True)}
    assert len(linears) > 20
    assert len(norms) == 9
    assert all(layer.table is not None for layer in linears if "fc1" in layer.name)
    for name, got in found.items():
        assert got.tolist() == values[name].tolist(), name


def test_words_and_lines(rng: np.random.Generator) -> None:
    values = rng.integers(-(2**63), 2**63, 12)
    for word_bytes in (1, 8, 32, 96):
        block = words(values, word_bytes)
        assert block.shape == (96 // word_bytes, word_bytes)
        assert np.array_equal(decode(encode(block)), block)
        assert int(encode(block).split()[0], 16) == int.from_bytes(
            values.astype("<i8").tobytes()[:word_bytes], "little"
        )
    assert decode("").shape == (0, 0)


def test_arguments_are_checked() -> None:
    with pytest.raises(ValueError, match="argument x is 'bus'; legal: operand, memory, input, output"):
        Argument("x", "bus", 8, "")
    with pytest.raises(ValueError, match="argument x has 0 bits; legal: 1 to 4096"):
        Argument("x", "input", 0, "")
