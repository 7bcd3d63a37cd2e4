import json
import shlex
from collections.abc import Mapping
from typing import Any

import pytest

from codesign import cli
from codesign.dse.design_space import parse_design
from codesign.report import search_section
from codesign.report.search_section import base_command, build_commands, explorer, neighbours, sections

SEARCH: Mapping[str, Any] = {
    "strategy": "exact",
    "proven": True,
    "objectives": ["latency_us", "dsp"],
    "points": 1000,
    "evaluated": 9,
    "proof": "1,000 points: all settled",
    "chosen": 1,
    "front": [
        {"t_in": 16, "n_l": 2, "row_group": 9, "latency_us": 10.0, "dsp": 400.0},
        {"t_in": 8, "n_l": 2, "row_group": 9, "latency_us": 20.0, "dsp": 200.0},
        {"t_in": 8, "n_l": 1, "row_group": 9, "latency_us": 30.0, "dsp": 100.0},
        {"t_in": 4, "n_l": 1, "row_group": 9, "latency_us": 60.0, "dsp": 50.0},
    ],
}


def test_the_plot_shows_what_is_asked_for() -> None:
    assert "4 designs: dsp against latency_us" in search_section.plot(SEARCH).svg
    assert "4 designs: dsp against n_l" in search_section.plot(SEARCH, "n_l", "dsp").svg


def test_every_design_has_a_command_that_build_takes() -> None:
    call = base_command("a model; rm -rf.onnx", "zcu102")
    commands = build_commands(SEARCH["front"], SEARCH["objectives"], call)
    assert len(commands) == len(SEARCH["front"])
    for command, row in zip(commands, SEARCH["front"], strict=True):
        program, *words = shlex.split(command)
        found = vars(cli._parser().parse_args(words))
        assert (program, found["verb"], found["model"], found["board"]) == (
            "codesign",
            "build",
            "a model; rm -rf.onnx",
            "zcu102",
        )
        assert parse_design(found["design"]) == {name: row[name] for name in ("t_in", "n_l", "row_group")}
        assert found["objective"] is None


def test_the_built_design_has_the_command_that_built_it() -> None:
    page = explorer({**SEARCH, "objective": "area"}, "codesign build m --board b", {"lut": 1000})
    data = json.loads(page.partition('type="application/json">')[2].partition("</script>")[0])
    assert data["commands"][1] == "codesign build m --board b --objective area --strategy exact --budget lut=1000"
    assert data["commands"][2] == "codesign build m --board b --design t_in=8,n_l=1,row_group=9"


def test_a_tolerance_is_part_of_the_command_and_of_the_sentence() -> None:
    search = {**SEARCH, "objective": "area", "within": 0.025}
    page = sections(search, "codesign build m --board b", {})
    assert "codesign build m --board b --objective area --strategy exact --within 2.5%" in page
    assert "it was chosen for area, within 2.5% of the best." in page


def test_the_strategy_is_part_of_the_command_that_built_the_design() -> None:
    page = explorer({**SEARCH, "objective": "area", "strategy": "nsga2"}, "codesign build m --board b", {})
    data = json.loads(page.partition('type="application/json">')[2].partition("</script>")[0])
    assert data["commands"][1] == "codesign build m --board b --objective area --strategy nsga2"


def test_commands_of_the_search_come_first() -> None:
    given = [f"command {i}" for i in range(4)]
    page = explorer({**SEARCH, "commands": given}, "codesign build m --board b", {})
    data = json.loads(page.partition('type="application/json">')[2].partition("</script>")[0])
    assert data["commands"] == given
    assert data["rows"][1] == [20.0, 200.0, 8, 2, 9]
    assert (data["chosen"], data["columns"][:2]) == (1, ["latency_us", "dsp"])


def test_nothing_in_the_data_ends_the_script() -> None:
    page = explorer(SEARCH, "codesign build '</script><b>&' --board b", {})
    inside = page.partition('type="application/json">')[2].partition("</script>")[0]
    assert json.loads(inside)["commands"][0].startswith("codesign build '</script><b>&'")
    assert not {*inside} & set("<>&")


@pytest.mark.parametrize(
    "change",
    [
        {"chosen": 4},
        {"chosen": -1},
        {"front": [{"dsp": float("nan")}]},
        {"front": [{"dsp": "1"}]},
        {"front": [{"dsp": True}]},
    ],
)
def test_a_damaged_search_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="legal"):
        sections({**SEARCH, **change}, "codesign build m --board b", {})


def test_the_front_tells_what_a_parameter_buys() -> None:
    page = sections(SEARCH, "codesign build m --board b", {})
    row = page.partition("<th>t_in</th>")[2].partition("</tr>")[0]  # from 8 down to 4
    for text in (">8<", ">4<", "60 (+200.0 %)", "50 (−75.0 %)", "n_l 2 → 1"):
        assert text in row
    other = page.rpartition("<th>t_in</th>")[2].partition("</tr>")[0]  # and up to 16
    for text in (">16<", "10 (−50.0 %)", "400 (+100.0 %)", "nothing else"):
        assert text in other
    assert "The same in all of the best designs: row_group 9." in page


def test_neighbours_change_one_parameter_by_one_step() -> None:
    axes = {"t_in": (4, 8, 16), "n_l": (1, 2)}
    asked: list[Mapping[str, int]] = []

    def score(point: Mapping[str, int]) -> Mapping[str, float] | None:
        asked.append(point)
        return (
            None
            if point["t_in"] == 16
            else {"latency_us": 100.0 / point["n_l"], "dsp": 25.0 * point["t_in"] * point["n_l"]}
        )

    found = neighbours({"t_in": 8, "n_l": 2}, axes, score)
    assert asked == [{"t_in": 4, "n_l": 2}, {"t_in": 16, "n_l": 2}, {"t_in": 8, "n_l": 1}]
    assert found[1] == {"parameter": "t_in", "value": 16}
    page = sections({**SEARCH, "neighbours": found}, "codesign build m --board b", {})
    assert "not possible" in page
    assert "100 (+400.0 %)" in page


def test_the_proof_is_marked_only_if_it_is_one() -> None:
    good = sections(SEARCH, "c", {})
    assert 'all settled <span class="cs-mark proven">' in good
    assert "4 designs of 1,000 of which" in good
    for proven in (False, None, "no", 1):
        page = sections({**SEARCH, "proven": proven}, "c", {})
        assert "cs-mark proven" not in page
        assert "4 designs of the 9 looked at, out of 1,000, of which" in page
    other = {**SEARCH, "strategy": "somebody-s", "proof": "NOT PROVEN by the old one, but by this"}
    assert "cs-mark proven" in sections(other, "c", {})


def test_a_search_that_found_nothing_still_tells_how() -> None:
    page = sections({**SEARCH, "front": [], "chosen": None}, "c", {})
    assert "all settled" in page
    assert "cs-explorer" not in page


def test_many_designs_are_a_table_of_those_next_to_the_chosen_one() -> None:
    front = [{"n": i, "latency_us": 1000.0 - i, "dsp": float(i)} for i in range(500)]
    page = sections({**SEARCH, "front": front, "chosen": 499}, "c", {})
    assert "designs 401 to 500 of 500" in page
    assert 'class="binding"><th class="n">500</th>' in page
