"""Things by name: what is broken or there twice breaks itself alone, and one line says how to get rid of it."""

import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from codesign.catalog import Catalog, CatalogSource, offered
from codesign.errors import InputError, ToolError
from tests.packages import install

GROUP = "codesign.toys"


def fail() -> str:
    raise InputError("toy b.txt:\nis empty")


def source(name: str, origin: str = "b.txt", load: Callable[[], str] | None = None) -> CatalogSource[str]:
    return CatalogSource(name, origin, load or (lambda: f"{name} of {origin}"), shipped=origin == "codesign")


def toys(*sources: CatalogSource[str]) -> Catalog[str]:
    return Catalog("toy", sources, also=", or none")


def text(name: str, found: object) -> str:
    if not isinstance(found, str):
        raise TypeError(f"{name} is {found!r}; legal: text")
    return found


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    assert all(record.levelno == logging.WARNING for record in caplog.records)
    return [record.getMessage() for record in caplog.records]


def test_names_are_sorted_and_nothing_is_loaded_before_it_is_asked_for(caplog: pytest.LogCaptureFixture) -> None:
    catalog = toys(source("b", "codesign"), source("c", load=fail), source("a"))
    assert catalog.names == ("a", "b", "c")
    assert catalog.load("a") == "a of b.txt"
    assert not caplog.records
    assert catalog.loaded() == {"a": "a of b.txt", "b": "b of codesign"}
    assert lines(caplog) == ["toy b.txt: is empty"]
    with pytest.raises(InputError, match="is empty"):
        catalog.load("c")


def test_an_unknown_name_lists_the_known() -> None:
    with pytest.raises(InputError, match=r"^toy 'x' is not known; legal: a, b, or none$"):
        toys(source("b"), source("a")).load("x")


def test_what_ships_keeps_its_name(caplog: pytest.LogCaptureFixture) -> None:
    catalog = toys(source("a", "codesign"), source("a"), source("b"))
    assert catalog.load("b") == "b of b.txt"
    assert not caplog.records
    assert catalog.load("a") == "a of codesign"
    refusal = "toy 'a' of b.txt is refused: codesign ships one; legal: another name"
    assert lines(caplog) == [refusal] == [*catalog.clashes.values()]
    caplog.clear()
    assert catalog.loaded() == {"a": "a of codesign", "b": "b of b.txt"}
    assert lines(caplog) == [refusal]


def test_two_others_of_one_name_are_both_refused(caplog: pytest.LogCaptureFixture) -> None:
    catalog = toys(source("a", "1.txt"), source("a", "2.txt"), source("b"))
    assert catalog.names == ("b",)
    with pytest.raises(InputError, match=r"^toy 'a' comes from 1\.txt and 2\.txt; legal: one of them$"):
        catalog.load("a")
    assert catalog.loaded() == {"b": "b of b.txt"}
    assert lines(caplog) == ["toy 'a' comes from 1.txt and 2.txt; legal: one of them"]


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import nothing_of_this_name", "ModuleNotFoundError: No module named 'nothing_of_this_name'"),
        ("TOY = 3", "TypeError: mine is 3; legal: text"),
        ("", "AttributeError: module 'toybox' has no attribute 'TOY'"),
        ("raise ValueError('two\\n lines')", "ValueError: two lines"),
        ("def", "SyntaxError: invalid syntax (toybox.py, line 1)"),
    ],
)
def test_a_package_that_fails_is_named_with_the_command_that_removes_it(
    code: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, tmp_path / "p", "toybox", code, f"[{GROUP}]\nmine = toybox:TOY\n")
    catalog = toys(*offered("toy", GROUP, text))
    assert catalog.names == ("mine",)
    with pytest.raises(ToolError) as caught:
        catalog.load("mine")
    assert str(caught.value) == f"toy 'mine' of toybox 1.5 (pip uninstall toybox removes it) cannot be loaded: {reason}"
    assert catalog.loaded() == {}


def test_a_package_s_object_is_found_and_two_packages_clash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, tmp_path / "p", "toybox", "TOY = 'bear'", f"[{GROUP}]\nmine = toybox:TOY\n")
    assert toys(*offered("toy", GROUP, text)).load("mine") == "bear"
    install(monkeypatch, tmp_path / "q", "toychest", "TOY = 'ball'", f"[{GROUP}]\nmine = toychest:TOY\n")
    with pytest.raises(InputError) as caught:
        toys(*offered("toy", GROUP, text)).load("mine")
    for name in ("toybox", "toychest"):
        assert f"{name} 1.5 (pip uninstall {name} removes it)" in str(caught.value)
