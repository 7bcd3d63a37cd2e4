from pathlib import Path

import pytest

from codesign import errors


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (errors.CodesignError, 1),
        (errors.InputError, 2),
        (errors.BundleError, 2),
        (errors.CheckError, 1),
        (errors.NothingFits, 1),
        (errors.ToolError, 3),
    ],
)
def test_exit_codes(kind: type[errors.CodesignError], code: int) -> None:
    assert issubclass(kind, errors.CodesignError)
    assert kind("what").exit_code == code
    assert str(kind("what")) == "what"


def test_the_tree_in_the_docstring_is_the_tree_in_the_module() -> None:
    tree = errors.__doc__ or ""
    for name, kind in vars(errors).items():
        if isinstance(kind, type) and issubclass(kind, errors.CodesignError):
            line = next(line for line in tree.splitlines() if name in line)
            assert f" {kind.exit_code} " in line


def test_tool_error_keeps_the_end_of_the_log() -> None:
    log = "\n".join(f"line {i}" for i in range(100))
    error = errors.ToolError("make failed", ("make", "-C", "x"), Path("obj"), log)
    assert error.log_tail.splitlines() == [f"line {i}" for i in range(80, 100)]
    assert error.details().startswith("command: make -C x\ndirectory: obj\nline 80\n")


def test_tool_error_without_details() -> None:
    assert errors.ToolError("verilator is missing").details() == ""
