"""Folders of shards: what is finished stays, what is damaged or foreign is not taken."""

import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from codesign.errors import InputError
from codesign.sweeps.shards import MANIFEST, Shard, check_folder, name_of, opened

NAMES = [name_of(number) for number in range(3)]
IDENTITY = {"models": {"a": "1"}, "limit": 7}


@pytest.fixture
def begun(tmp_path: Path) -> Path:
    """A folder with the first two of three shards."""
    with opened(tmp_path / "s", IDENTITY, NAMES, resume=False) as store:
        store.add(NAMES[0], 2, b"first")
        store.note("0", {"front": [[1, 2]]})
        store.add(NAMES[1], 1, b"second")
        assert not store.complete
    return tmp_path / "s"


def test_what_is_finished_is_taken_up(begun: Path) -> None:
    with opened(begun, IDENTITY, NAMES, resume=True) as store:
        assert {name: shard.rows for name, shard in store.done.items()} == {NAMES[0]: 2, NAMES[1]: 1}
        assert store.notes == {"0": {"front": [[1, 2]]}}
        store.add(NAMES[2], 1, b"third")
        assert store.complete
    document = json.loads((begun / MANIFEST).read_text())
    assert sorted(document["shards"]) == NAMES
    assert sorted(path.name for path in begun.iterdir()) == [MANIFEST, *NAMES]


def test_what_is_not_in_the_manifest_is_written_again(begun: Path) -> None:
    (begun / NAMES[2]).write_bytes(b"renamed, but the process died before it was listed")
    (begun / f".{NAMES[2]}.part").write_bytes(b"half")
    (begun / f".{MANIFEST}.part").write_bytes(b"half")
    with opened(begun, IDENTITY, NAMES, resume=True) as store:
        assert NAMES[2] not in store.done
        assert not [path for path in begun.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("damage", ["change", "cut", "remove", "link"])
def test_a_damaged_shard_is_written_again(
    begun: Path, damage: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("codesign"), "handlers", [])
    path = begun / NAMES[0]
    data = {"change": b"FIRST", "cut": b"fir", "remove": b"", "link": b"first"}[damage]
    path.unlink()
    if damage == "link":
        (begun.parent / "elsewhere").write_bytes(data)
        path.symlink_to(begun.parent / "elsewhere")
    elif damage != "remove":
        path.write_bytes(data)
    with opened(begun, IDENTITY, NAMES, resume=True) as store:
        assert [*store.done] == [NAMES[1]]
    assert "missing or damaged" in caplog.text


@pytest.mark.parametrize(
    ("identity", "part"),
    [({"models": {"a": "2"}, "limit": 7}, "models"), ({"models": {"a": "1"}, "limit": 8}, "limit is 7, not 8")],
)
def test_another_identity_is_refused(begun: Path, identity: dict[str, object], part: str) -> None:
    with pytest.raises(InputError, match=f"other arguments: {part}"):
        with opened(begun, identity, NAMES, resume=True):
            pass


def test_an_existing_sweep_is_not_replaced(begun: Path) -> None:
    with pytest.raises(InputError, match="--resume"):
        check_folder(begun, resume=False)
    check_folder(begun, resume=True)


@pytest.mark.parametrize("resume", [False, True])
def test_foreign_folders_and_files_are_refused(tmp_path: Path, resume: bool) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="not a folder"):
        check_folder(tmp_path / "file", resume=resume)
    with pytest.raises(InputError, match="other files"):
        check_folder(tmp_path / "foreign", resume=resume)
    check_folder(tmp_path / "new", resume=resume)


def _without(key: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda document: {name: value for name, value in document.items() if name != key}


DAMAGES: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "a list": (lambda document: [document], "not a sweep's"),
    "no shards": (_without("shards"), "not a sweep's"),
    "another format": (lambda document: {**document, "format": 2}, "format 2"),
    "no format": (_without("format"), "format None"),
    "a path": (lambda document: {**document, "shards": {"../x": {}}}, "lists '../x'"),
    "one too many": (lambda document: {**document, "shards": {name_of(3): {}}}, "part-000003"),
    "no hash": (lambda document: {**document, "shards": {NAMES[0]: {"rows": 1, "bytes": 1}}}, "damaged"),
    "a bad hash": (lambda d: {**d, "shards": {NAMES[0]: {"rows": 1, "bytes": 1, "sha256": "x"}}}, "damaged"),
    "bad rows": (lambda d: {**d, "shards": {NAMES[0]: {"rows": -1, "bytes": 1, "sha256": "0" * 64}}}, "damaged"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_manifest_is_refused(begun: Path, name: str) -> None:
    change, part = DAMAGES[name]
    (begun / MANIFEST).write_text(json.dumps(change(json.loads((begun / MANIFEST).read_text()))))
    before = (begun / MANIFEST).read_bytes()
    with pytest.raises(InputError, match=part), opened(begun, IDENTITY, NAMES, resume=True):
        pass
    assert (begun / MANIFEST).read_bytes() == before


@pytest.mark.parametrize("data", [b"", b"{", b"\xff\xfe", b"[" * 100_000])
def test_a_manifest_that_is_not_json_is_refused(begun: Path, data: bytes) -> None:
    (begun / MANIFEST).write_bytes(data)
    with pytest.raises(InputError, match="damaged"), opened(begun, IDENTITY, NAMES, resume=True):
        pass


def test_a_linked_manifest_is_refused(begun: Path) -> None:
    (begun / MANIFEST).rename(begun.parent / "m")
    (begun / MANIFEST).symlink_to(begun.parent / "m")
    with pytest.raises(InputError, match="link"), opened(begun, IDENTITY, NAMES, resume=True):
        pass


def test_one_writer_at_a_time(begun: Path) -> None:
    with opened(begun, IDENTITY, NAMES, resume=True):
        with pytest.raises(InputError, match="another sweep"), opened(begun, IDENTITY, NAMES, resume=True):
            pass
    with opened(begun, IDENTITY, NAMES, resume=True):
        pass


def test_a_full_disk_is_one_error_and_the_shard_is_not_listed(begun: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with opened(begun, IDENTITY, NAMES, resume=True) as store:
        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(InputError, match="No space left"):
            store.add(NAMES[2], 1, b"third")
        monkeypatch.undo()
    with opened(begun, IDENTITY, NAMES, resume=True) as store:
        assert NAMES[2] not in store.done


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="file"), opened(tmp_path / "file" / "s", IDENTITY, NAMES, resume=False):
        pass


def test_a_shard_is_read_from_what_was_written(begun: Path) -> None:
    entry = json.loads((begun / MANIFEST).read_text())["shards"][NAMES[0]]
    assert Shard.read(entry) == Shard(2, 5, entry["sha256"])
