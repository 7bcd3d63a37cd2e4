"""Bundle folder: arbitrary files, and ``bundle.json`` with the size and hash of each.

A bundle is written atomically, and every hash is checked when it is read. Only the standard
library is used, so a board with numpy alone can read one.

``bundle.json`` holds ``{"files": {NAME: {"bytes": N, "sha256": HEX}}, "format": 1}`` with sorted keys;
equal files give equal bytes.
"""

import ctypes
import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from codesign.errors import BundleError, InputError

FORMAT = 1
MANIFEST = "bundle.json"
LIMIT_BYTES = 1 << 32  # of all files; a larger bundle is refused before reading them

_MANIFEST_LIMIT = 1 << 22
_FILES_LIMIT = 10_000
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*(/[A-Za-z0-9_][A-Za-z0-9_.+-]*)*")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class StoredBundle:
    """A bundle read from disk, with every file checked against its hash.

    Attributes:
        path: the folder.
        files: contents by name, sorted, without ``bundle.json``.
    """

    path: Path
    files: Mapping[str, bytes] = field(repr=False)

    def data(self, name: str) -> bytes:
        """Contents of one file.

        Raises:
            BundleError: the bundle has no such file.
        """
        if name not in self.files:
            raise BundleError(f"bundle {self.path} has no {name!r}; it has: {', '.join(self.files)}")
        return self.files[name]

    def json(self, name: str) -> object:
        """One file parsed as JSON.

        Raises:
            BundleError: no such file, or not JSON.
        """
        return _json(self.data(name), f"{self.path}/{name}")


def write_bundle(path: Path, files: Mapping[str, bytes]) -> None:
    """Writes a bundle atomically, replacing an existing one as a whole.

    Args:
        path: the folder; missing parents are created.
        files: contents by name; names are relative paths separated by ``/``.

    Raises:
        ValueError: a name that is not a plain relative path, or that is reserved.
        InputError: ``path`` is a file or a non-empty folder that is not a bundle, or cannot be written.
    """
    _check_names(files)
    path = path.resolve()
    try:
        check_target(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with _sibling(path) as new:
            _fill(new, {**files, MANIFEST: _manifest(files)})
            _publish(new, path)
    except OSError as error:
        raise InputError(f"cannot write bundle {path}: {error.strerror or error}") from error


def read_bundle(path: Path, limit_bytes: int = LIMIT_BYTES) -> StoredBundle:
    """Reads a bundle and checks every file; files that ``bundle.json`` does not list are ignored.

    Args:
        path: the folder.
        limit_bytes: maximum bytes of all files together.

    Raises:
        BundleError: missing, damaged, too large, of another format, or a name that leaves the folder.
    """
    try:
        entries = _entries(path, limit_bytes)
        return StoredBundle(path, {name: _checked(path, name, *entries[name]) for name in sorted(entries)})
    except OSError as error:
        raise BundleError(f"cannot read bundle {path}: {error.strerror or error}") from error


def check_target(path: Path) -> None:
    """Checks that a bundle may be written to a path; call it before long work.

    Raises:
        InputError: ``path`` is a file, or a non-empty folder that is not a bundle.
    """
    try:
        other, filled = path.exists() and not path.is_dir(), path.is_dir() and any(path.iterdir())
    except OSError as error:
        raise InputError(f"cannot use {path}: {error.strerror or error}; legal: a new or empty folder") from error
    if other:
        raise InputError(f"{path} is not a folder; legal: a new or empty folder, or an existing bundle")
    if filled and not _is_bundle(path):
        raise InputError(f"{path} holds other files; legal: a new or empty folder, or an existing bundle")


def _is_bundle(path: Path) -> bool:
    try:
        _entries(path, None)
    except (BundleError, OSError):
        return False
    return True


def _check_names(files: Mapping[str, bytes]) -> None:
    for name in files:
        if not _NAME.fullmatch(name) or name == MANIFEST:
            raise ValueError(f"file name {name!r}; legal: letters, digits and _.+- in parts joined by /")
        for parent in PurePosixPath(name).parents:
            if str(parent) in files:
                raise ValueError(f"file name {name!r}; {str(parent)!r} is a file, not a folder")


def _manifest(files: Mapping[str, bytes]) -> bytes:
    entries = {name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in files.items()}
    return (json.dumps({"files": entries, "format": FORMAT}, indent=1, sort_keys=True) + "\n").encode()


@contextmanager
def _sibling(path: Path) -> Iterator[Path]:
    """A new folder next to ``path``, removed at the end unless it was renamed."""
    folder = path.with_name(f".{secrets.token_hex(6)}.part")
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _fill(folder: Path, files: Mapping[str, bytes]) -> None:
    for name, data in sorted(files.items()):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_synced(folder / name, data)
    for parent in sorted({(folder / name).parent for name in files}):
        sync_folder(parent)


def write_synced(target: Path, data: bytes) -> None:
    """Writes a file that is on the disk when this returns.

    Raises:
        OSError: it cannot be written.
    """
    with target.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Returns once the names in a folder are on the disk.

    Raises:
        OSError: the folder cannot be synced.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _publish(new: Path, path: Path) -> None:
    """Moves ``new`` to ``path``; a previous folder ends up at ``new`` or is removed."""
    if not path.exists() or not any(path.iterdir()):
        new.rename(path)
    elif not _exchange(new, path):
        _swap(new, path)
    sync_folder(path.parent)


def _exchange(one: Path, other: Path) -> bool:
    """Exchanges two folders atomically; False where the system cannot (only Linux can)."""
    call = getattr(ctypes.CDLL(None), "renameat2", None)
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE of Linux
    return call is not None and call(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0


def _swap(new: Path, path: Path) -> None:
    """Replaces a folder with two renames; restores the old one if the second fails."""
    old = new.with_suffix(".old")
    path.rename(old)
    try:
        new.rename(path)
    except BaseException:
        old.rename(path)
        raise
    old.rename(new)


def _entries(path: Path, limit_bytes: int | None) -> dict[str, tuple[int, str]]:
    """Checked size and hash of each file, from ``bundle.json``."""
    origin = f"{path}/{MANIFEST}"
    with (path / MANIFEST).open("rb") as file:
        data = file.read(_MANIFEST_LIMIT + 1)
    if len(data) > _MANIFEST_LIMIT:
        raise BundleError(f"{origin} is larger than {_MANIFEST_LIMIT} bytes")
    document = _json(data, origin)
    if not isinstance(document, dict) or document.keys() != {"files", "format"}:
        raise BundleError(f'{origin} is not a bundle\'s; legal: an object with "files" and "format"')
    if document["format"] != FORMAT:
        raise BundleError(f"{origin} has format {document['format']!r}; this version reads {FORMAT}")
    if not isinstance(document["files"], dict) or len(document["files"]) > _FILES_LIMIT:
        raise BundleError(f"{origin}: files is not an object of at most {_FILES_LIMIT} names")
    entries = {name: _entry(origin, name, value) for name, value in document["files"].items()}
    total = sum(size for size, _ in entries.values())
    if limit_bytes is not None and total > limit_bytes:
        raise BundleError(f"{origin} states {total} bytes; legal: at most {limit_bytes}")
    return entries


def _entry(origin: str, name: str, value: object) -> tuple[int, str]:
    if not _NAME.fullmatch(name) or name == MANIFEST:
        raise BundleError(f"{origin} names {name!r}; legal: a plain path inside the bundle")
    if not isinstance(value, dict) or value.keys() != {"bytes", "sha256"}:
        raise BundleError(f"{origin}: {name!r} has no size and hash")
    size, digest = value["bytes"], value["sha256"]
    if type(size) is not int or size < 0 or not isinstance(digest, str) or not _SHA256.fullmatch(digest):
        raise BundleError(f"{origin}: {name!r} has an illegal size or hash")
    return size, digest


def _checked(path: Path, name: str, size: int, digest: str) -> bytes:
    target = path / name
    if any((path / part).is_symlink() for part in (name, *map(str, PurePosixPath(name).parents[:-1]))):
        raise BundleError(f"{target} is a link; legal: files of the bundle itself")
    if not target.is_file():
        raise BundleError(f"{target} is missing")
    if target.stat().st_size != size:
        raise BundleError(f"{target} has {target.stat().st_size} bytes; bundle.json states {size}")
    data = target.read_bytes()
    if hashlib.sha256(data).hexdigest() != digest:
        raise BundleError(f"{target} does not match its hash in bundle.json: the bundle is damaged")
    return data


def _json(data: bytes, origin: str) -> object:
    try:
        found: object = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{origin} is not JSON: {' '.join(str(error).split())}") from error
    return found
