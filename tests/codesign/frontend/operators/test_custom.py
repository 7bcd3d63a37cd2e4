"""Operators of other packages: how they are found, and what becomes of one that cannot be used."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from codesign.frontend.operators.custom import CustomOperator, custom_operators
from tests.packages import install

CODE = """
from codesign.frontend.operators.custom import CustomOperator


class Twice(CustomOperator):
    domain, op = "org.toy", "Twice"

    def evaluate(self, call):
        return (2 * call.inputs[0],)

    def layer(self, request):
        raise ValueError("legal: nothing")


class Half(Twice):
    layer = CustomOperator.layer


class Other:
    pass
"""


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """Discovery anew, before and behind a test."""
    custom_operators.cache_clear()
    yield
    custom_operators.cache_clear()


def _offer(monkeypatch: pytest.MonkeyPatch, folder: Path, **offered: str) -> None:
    points = "\n".join(["[codesign.operators]", *(f"{name} = toyoperators:{what}" for name, what in offered.items())])
    install(monkeypatch, folder, "toyoperators", CODE, points)


def test_an_operator_is_known_by_domain_and_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _offer(monkeypatch, tmp_path, twice="Twice")
    found = custom_operators()["org.toy.Twice"]
    assert isinstance(found, CustomOperator)
    assert found.op == "Twice"


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ("Other", "legal: a subclass of codesign.frontend.operators.custom.CustomOperator"),
        ("CODE", "has no attribute 'CODE'"),
        ("Half", "abstract"),
    ],
)
def test_what_is_no_operator_is_told_and_the_others_work(
    what: str, reason: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _offer(monkeypatch, tmp_path, broken=what, twice="Twice")
    with caplog.at_level(logging.WARNING):
        assert list(custom_operators()) == ["org.toy.Twice"]
    (record,) = caplog.records
    message = record.getMessage()
    assert message.startswith("operator 'broken' of toyoperators 1.5 (pip uninstall toyoperators removes it)")
    assert reason in message
    assert "\n" not in message
