from dataclasses import replace
from pathlib import Path

import pytest

from codesign import api as flow
from codesign.flow.deviation import Deviation
from codesign.report.figures import Figures


@pytest.fixture
def figures(built: Path) -> Figures:
    found = flow.report(built)
    return replace(
        found,
        resources={
            "modelled": {"dsp": 40, "uram": 0, "lut": 10},
            "synthesized": None,
            "available": {"dsp": 80, "uram": 0, "lut": 1000},
        },
        parts={"linear": {"dsp": 40, "uram": 0, "lut": 6}, "shell": {"dsp": 0, "uram": 0, "lut": 4}},
        macs=3000,
        peak_macs=64,
        clock_mhz=200.0,
        cycles={"modelled": 150, "simulated": None},
    )


def test_figures_that_follow_from_others(figures: Figures) -> None:
    document = figures.to_json()
    assert document["latency_ms"] == pytest.approx(150 / 200e3)
    assert document["gops"] == pytest.approx(2 * 3000 / (150 / 200e6) / 1e9)
    assert document["macs_per_cycle"] == 20
    assert document["mac_utilization"] == 20 / 64
    assert figures.binding == "dsp"
    assert list(dict(figures.used())) == ["dsp", "lut"]  # the device has no uram


def test_what_was_simulated_counts_for_more(figures: Figures) -> None:
    found = figures.verified(bit_exact=True, simulated=160, images=2, faults=("a fault",))
    assert found.total_cycles == 160
    assert not found.agrees
    assert found.verdict() == "simulated on 2 images: cycles differ from the model; a fault"
    assert figures.verdict() == "modelled; not simulated yet"
    good = figures.verified(bit_exact=True, simulated=150, images=2, faults=())
    assert good.verdict() == "simulated: bit-exact on 2 images, cycles equal to the model"
    bad = figures.verified(bit_exact=False, simulated=150, images=1, faults=())
    assert bad.verdict() == "simulated on 1 images: bits differ"


def test_synthesized_parts_add_up(figures: Figures) -> None:
    one = figures.with_synthesis({"linear": {"dsp": 41.0, "uram": 0, "lut": 5.5}})
    assert one.resources["synthesized"] == {"dsp": 41, "uram": 0, "lut": 5.5}
    assert not one.wholly_synthesized
    assert one.lines()[-2] == "synthesis  dsp 41, lut 5.5, of linear"
    both = one.with_synthesis({"shell": {"dsp": 0, "uram": 0, "lut": 3}})
    assert both.resources["synthesized"] == {"dsp": 41, "uram": 0, "lut": 8.5}
    again = both.with_synthesis({"linear": {"dsp": 42, "uram": 0, "lut": 5}})
    assert again.resources["synthesized"] == {"dsp": 42, "uram": 0, "lut": 8}
    assert again.wholly_synthesized
    assert again.lines()[-2] == "synthesis  dsp 42, lut 8, of all parts"
    assert len(figures.lines()) == len(again.lines()) - 1


def test_a_searched_design_says_what_it_is_the_best_of(figures: Figures) -> None:
    assert not [line for line in figures.lines() if line.startswith("choice")]
    search = {"objective": "area", "within": 0.05, "front": [{}, {}, {}]}
    near, best = replace(figures, search=search), replace(figures, search={**search, "within": 0.0})
    assert "choice     best within 5 % for area, of 3 designs that no other one dominates" in near.lines()
    assert "choice     best for area, of 3 designs that no other one dominates" in best.lines()


def test_accuracy_is_that_of_the_last_run(figures: Figures) -> None:
    found = figures.with_accuracy(0.5, 10, "modelled").with_accuracy(0.75, 4, "simulated")
    assert found.accuracy == {"share": 0.75, "samples": 4, "evidence": "simulated"}


def test_the_error_and_its_warnings_stand_before_the_evidence(figures: Figures) -> None:
    assert not [line for line in figures.lines() if line.startswith("error")]
    found = replace(figures, deviation=Deviation(0.25, "2 samples", ("a fault",)).judged("do this").to_json())
    assert found.lines()[-4:] == [
        "error      0.25 of the outputs' squares against the model, 2 samples, modelled",
        "warning    a fault",
        "warning    squared error of the outputs 0.25 of their squares; legal: 0.02; do this",
        "evidence   modelled; not simulated yet",
    ]
