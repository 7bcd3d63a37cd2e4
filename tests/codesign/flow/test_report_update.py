import json
import logging
import shutil
from pathlib import Path

import pytest

from codesign.bundle.files import read_bundle, write_bundle
from codesign.errors import BundleError, InputError
from codesign.flow import report_update as record
from codesign.flow.report_update import recorded, report_files
from codesign.report.report import Report


@pytest.fixture
def own(built: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(built, tmp_path / "b"))


def graded(report: Report) -> Report:
    return report.with_accuracy(0.5, 8, "modelled")


def test_the_report_changes_and_nothing_else(own: Path) -> None:
    before = read_bundle(own)
    noted = recorded(before, graded)
    after = read_bundle(own)
    assert Report.from_json(after.json("report.json")) == noted
    assert {n for n in after.files if after.data(n) != before.data(n)} == {"report.json", "report.html"}
    assert "50.00 % of 8 samples right" in after.data("report.html").decode()


def test_nothing_is_lost_that_was_noted_in_between(own: Path) -> None:
    before = read_bundle(own)
    recorded(before, graded)
    both = recorded(before, lambda report: report.verified(bit_exact=True, simulated=9, images=1, faults=()))
    assert both.accuracy is not None
    assert json.loads(read_bundle(own).data("report.json"))["accuracy"]["share"] == 0.5


def test_a_bundle_that_was_built_anew_is_left_alone(own: Path) -> None:
    before = read_bundle(own)
    write_bundle(own, {**before.files, "weights.bin": b"other"})
    changed = (own / "report.json").read_bytes()
    with pytest.raises(BundleError, match="was built anew in between"):
        recorded(before, graded)
    assert (own / "report.json").read_bytes() == changed


def test_a_folder_that_cannot_be_written_keeps_its_report(
    own: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise InputError("cannot write bundle")

    monkeypatch.setattr(record, "write_bundle", refuse)
    before = (own / "report.json").read_bytes()
    with caplog.at_level(logging.WARNING, "codesign"):
        assert recorded(read_bundle(own), graded).accuracy is not None
    assert "keeps its old state: cannot write bundle" in caplog.text
    assert (own / "report.json").read_bytes() == before


def test_the_two_files_say_the_same(own: Path) -> None:
    report = Report.from_json(read_bundle(own).json("report.json"))
    found = report_files(report)
    assert found == {name: read_bundle(own).data(name) for name in ("report.json", "report.html")}
