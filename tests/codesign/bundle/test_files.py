import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from codesign.bundle import files as bundle
from codesign.bundle.files import StoredBundle, check_target, read_bundle, write_bundle
from codesign.errors import BundleError, InputError

FILES = {"design.json": b'{"a": 1}', "rtl/top.v": b"module top; endmodule\n", "weights.bin": bytes(range(256))}


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def edit(folder: Path, change: Callable[[dict[str, object]], None]) -> None:
    document = json.loads((folder / "bundle.json").read_text())
    change(document)
    (folder / "bundle.json").write_text(json.dumps(document))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_bundle(tmp_path / "build" / "b", FILES)
    return tmp_path / "build" / "b"


def test_what_is_written_is_read(path: Path) -> None:
    assert read_bundle(path) == StoredBundle(path, FILES)
    assert read_bundle(path).data("rtl/top.v") == FILES["rtl/top.v"]
    assert read_bundle(path).json("design.json") == {"a": 1}


def test_the_manifest_states_size_and_hash(path: Path) -> None:
    document = json.loads((path / "bundle.json").read_text())
    assert document["format"] == 1
    assert document["files"]["weights.bin"] == {"bytes": 256, "sha256": hashlib.sha256(bytes(range(256))).hexdigest()}


def test_the_same_files_give_the_same_bytes(path: Path, tmp_path: Path) -> None:
    write_bundle(tmp_path / "again", dict(reversed(FILES.items())))
    assert tree(path) == tree(tmp_path / "again")


def test_a_bundle_is_replaced_as_a_whole(path: Path) -> None:
    write_bundle(path, {"report.json": b"{}"})
    assert list(read_bundle(path).files) == ["report.json"]
    assert not (path / "rtl").exists()
    assert [p.name for p in path.parent.iterdir()] == ["b"]


def test_a_bundle_is_replaced_without_an_exchange_call(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle, "_exchange", lambda one, other: False)
    write_bundle(path, {"report.json": b"{}"})
    assert list(read_bundle(path).files) == ["report.json"]
    assert [p.name for p in path.parent.iterdir()] == ["b"]


def test_a_failed_replacement_brings_the_old_one_back(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rename = Path.rename

    def failing(self: Path, target: Path) -> Path:
        if self.name.endswith(".part"):
            raise OSError(28, "No space left on device")
        return rename(self, target)

    monkeypatch.setattr(bundle, "_exchange", lambda one, other: False)
    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(InputError, match="No space left on device"):
        write_bundle(path, {"report.json": b"{}"})
    assert read_bundle(path).files == FILES
    assert [p.name for p in path.parent.iterdir()] == ["b"]


def test_an_empty_folder_is_used(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    write_bundle(tmp_path / "empty", FILES)
    assert read_bundle(tmp_path / "empty").files == FILES


def test_a_link_to_a_bundle_stays_a_link(path: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(path)
    write_bundle(tmp_path / "link", {"report.json": b"{}"})
    assert (tmp_path / "link").is_symlink()
    assert list(read_bundle(path).files) == ["report.json"]


@pytest.mark.parametrize("manifest", [None, "", "[]", "{", '{"files": 3, "format": 1}', '{"format": 1}'])
def test_a_foreign_folder_is_refused_and_kept(tmp_path: Path, manifest: str | None) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    if manifest is not None:
        (tmp_path / "bundle.json").write_text(manifest)
    before = tree(tmp_path)
    with pytest.raises(InputError, match="holds other files") as caught:
        write_bundle(tmp_path, FILES)
    assert caught.value.exit_code == 2
    with pytest.raises(InputError, match="holds other files"):
        check_target(tmp_path)
    assert tree(tmp_path) == before


def test_a_file_in_the_place_is_refused_and_kept(tmp_path: Path) -> None:
    (tmp_path / "b").write_text("mine")
    with pytest.raises(InputError, match="is not a folder"):
        write_bundle(tmp_path / "b", FILES)
    with pytest.raises(InputError, match="cannot write bundle"):
        write_bundle(tmp_path / "b" / "deeper", FILES)
    assert (tmp_path / "b").read_text() == "mine"


def test_an_unwritable_folder_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, *arguments: object, **options: object) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(InputError, match="Permission denied") as caught:
        write_bundle(tmp_path / "b", FILES)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("exists", [False, True])
def test_an_interrupted_write_leaves_nothing_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: BaseException, exists: bool
) -> None:
    if exists:
        write_bundle(tmp_path / "b", {"old.txt": b"old"})
    before = tree(tmp_path)
    synced: list[int] = []

    def fail_at_the_third(descriptor: int) -> None:
        synced.append(descriptor)
        if len(synced) == 3:
            raise failure

    monkeypatch.setattr(os, "fsync", fail_at_the_third)
    with pytest.raises((InputError, KeyboardInterrupt)):
        write_bundle(tmp_path / "b", FILES)
    assert len(synced) == 3
    assert tree(tmp_path) == before
    assert [p.name for p in tmp_path.iterdir()] == (["b"] if exists else [])


@pytest.mark.parametrize("name", ["", "/x", "../x", "a/../b", "a//b", "a/", ".x", "a\\b", "a b", "é", "bundle.json"])
def test_illegal_names_are_misuse(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="file name"):
        write_bundle(tmp_path / "b", {name: b""})
    assert not (tmp_path / "b").exists()


def test_a_file_cannot_be_a_folder_too(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is a file, not a folder"):
        write_bundle(tmp_path / "b", {"a": b"", "a/b": b""})


def test_every_flipped_byte_is_found(path: Path) -> None:
    for name, data in FILES.items():
        (path / name).write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        with pytest.raises(BundleError, match="does not match its hash"):
            read_bundle(path)
        (path / name).write_bytes(data)
    assert read_bundle(path).files == FILES


def test_a_truncated_file_is_found(path: Path) -> None:
    (path / "weights.bin").write_bytes(b"\x00")
    with pytest.raises(BundleError, match=r"has 1 bytes; bundle\.json states 256"):
        read_bundle(path)


def test_a_missing_file_is_found(path: Path) -> None:
    (path / "weights.bin").unlink()
    with pytest.raises(BundleError, match="is missing"):
        read_bundle(path)


@pytest.mark.parametrize("size", [0, 10, -3])
def test_a_truncated_manifest_is_found(path: Path, size: int) -> None:
    data = (path / "bundle.json").read_bytes()
    (path / "bundle.json").write_bytes(data[:size])
    with pytest.raises(BundleError, match="is not JSON"):
        read_bundle(path)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[]", "is not a bundle's"),
        ('{"files": {}}', "is not a bundle's"),
        ('{"files": {}, "format": 2}', "has format 2; this version reads 1"),
        ('{"files": [], "format": 1}', "files is not an object"),
        ('{"files": {"a": 1}, "format": 1}', "has no size and hash"),
        ('{"files": {"a": {"bytes": true, "sha256": "0"}}, "format": 1}', "illegal size or hash"),
        ('{"files": {"a": {"bytes": -1, "sha256": "0"}}, "format": 1}', "illegal size or hash"),
        ("[" * 100_000, "is not JSON"),
        (" " * (1 << 23), "is larger than"),
    ],
)
def test_illegal_manifests_are_one_line(path: Path, text: str, says: str) -> None:
    (path / "bundle.json").write_text(text)
    with pytest.raises(BundleError, match=says) as caught:
        read_bundle(path)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    "name", ["../secret", "/etc/passwd", "rtl/../../secret", "rtl\\top.v", "a\x00b", "bundle.json"]
)
def test_a_manifest_cannot_leave_the_folder(path: Path, name: str) -> None:
    (path.parent / "secret").write_bytes(b"secret")
    entry = {"bytes": 6, "sha256": hashlib.sha256(b"secret").hexdigest()}
    edit(path, lambda document: document.update(files={name: entry}))
    with pytest.raises(BundleError, match="legal: a plain path inside the bundle"):
        read_bundle(path)


@pytest.mark.parametrize("link", ["weights.bin", "rtl"])
def test_links_are_refused(path: Path, link: str) -> None:
    (path / link).rename(path.parent / "elsewhere")
    (path / link).symlink_to(path.parent / "elsewhere")
    with pytest.raises(BundleError, match="is a link"):
        read_bundle(path)


def test_sizes_are_checked_before_anything_is_read(path: Path) -> None:
    total = sum(map(len, FILES.values()))
    assert read_bundle(path, limit_bytes=total).files == FILES
    with pytest.raises(BundleError, match=f"states {total} bytes; legal: at most {total - 1}"):
        read_bundle(path, limit_bytes=total - 1)


def test_a_folder_that_is_no_bundle(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing"):
        with pytest.raises(BundleError, match="cannot read bundle"):
            read_bundle(path)


def test_unlisted_files_are_ignored(path: Path) -> None:
    (path / "notes.txt").write_text("mine")
    assert read_bundle(path).files == FILES


def test_asking_for_what_is_not_there(path: Path) -> None:
    with pytest.raises(BundleError, match=r"has no 'report.json'; it has: design.json, rtl/top.v, weights.bin"):
        read_bundle(path).json("report.json")
    with pytest.raises(BundleError, match="is not JSON"):
        read_bundle(path).json("rtl/top.v")


def test_a_name_that_the_system_does_not_take_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="File name too long"):
        check_target(tmp_path / ("n" * 300))


def test_the_longest_name_is_written(tmp_path: Path) -> None:
    longest = tmp_path / ("n" * 255)
    for _ in range(2):
        write_bundle(longest, {"a": b"1"})
    assert read_bundle(longest).files == {"a": b"1"}
    assert [path.name for path in tmp_path.iterdir()] == [longest.name]


def test_a_bundle_is_shown_without_its_bytes(tmp_path: Path) -> None:
    assert len(repr(StoredBundle(tmp_path, {"a": bytes(1000)}))) < 200
