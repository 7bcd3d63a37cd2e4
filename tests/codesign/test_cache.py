import multiprocessing
import os
import sys
import time
from pathlib import Path

import pytest

from codesign.cache import default_cache, digest, publish
from codesign.errors import ToolError


def test_digests_know_where_a_text_ends() -> None:
    assert len({digest("ab", "c"), digest("a", "bc"), digest("abc"), digest("abc", ""), digest("c", "ab")}) == 5


def test_relative_folders_give_absolute_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert publish(Path("here"), "x", lambda work: None) == tmp_path / "here" / "x"


@pytest.mark.parametrize(
    ("platform", "variable", "folder"),
    [
        ("linux", "/elsewhere", "/elsewhere/codesign"),
        ("linux", "", "~/.cache/codesign"),
        ("darwin", "", "~/Library/Caches/codesign"),
    ],
)
def test_the_default_folder(monkeypatch: pytest.MonkeyPatch, platform: str, variable: str, folder: str) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setenv("XDG_CACHE_HOME", variable)
    assert default_cache() == Path(folder).expanduser()


def test_a_result_is_made_once(tmp_path: Path) -> None:
    made = []

    def make(work: Path) -> None:
        made.append(work)
        (work / "result").write_text("x", encoding="utf-8")

    first, second = publish(tmp_path / "new", "x", make), publish(tmp_path / "new", "x", make)
    assert first == second == tmp_path / "new" / "x"
    assert len(made) == 1
    assert (first / "result").read_text(encoding="utf-8") == "x"


def test_a_cache_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(ToolError, match=r"cannot write to the cache folder .*name another"):
        publish(tmp_path / "file" / "cache", "x", lambda work: None)


def test_what_failed_is_not_published(tmp_path: Path) -> None:
    def fail(work: Path) -> None:
        (work / "half").write_text("", encoding="utf-8")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        publish(tmp_path, "x", fail)
    assert [path for path in tmp_path.iterdir() if path.is_dir()] == []


def _publish_slowly(cache: Path) -> None:
    def make(work: Path) -> None:
        time.sleep(0.3)
        (work / f"made-by-{os.getpid()}").write_text("", encoding="utf-8")

    publish(cache, "x", make)


@pytest.mark.rtl
def test_processes_that_want_the_same_make_it_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_publish_slowly, args=(tmp_path,)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert len(list((tmp_path / "x").iterdir())) == 1
