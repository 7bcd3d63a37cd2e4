"""Crash-safe folder of shard files with a manifest.

A shard is synced to disk, renamed into place and then entered in the manifest; resuming keeps the shards that are
listed with matching hashes and writes the others again. ``manifest.json`` holds
``{"format": 1, "identity": {...}, "notes": {...}, "shards": {NAME: {"bytes": N, "rows": N, "sha256": HEX}}}``.
"""

import fcntl
import hashlib
import json
import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from codesign.bundle.files import sync_folder, write_synced
from codesign.errors import InputError

FORMAT = 1
MANIFEST = "manifest.json"

_LOG = logging.getLogger(__name__)
_MANIFEST_LIMIT = 1 << 28
_LEFT_OVER = re.compile(r"\.(manifest\.json|part-\d{6}\.parquet)\.part")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Shard:
    """One finished file.

    Attributes:
        rows: number of rows.
        bytes: size of the file.
        sha256: hash of the file.
    """

    rows: int
    bytes: int
    sha256: str

    @classmethod
    def read(cls, entry: object) -> "Shard":
        """Parses a shard's manifest entry.

        Raises:
            ValueError: malformed entry.
        """
        if not isinstance(entry, dict) or entry.keys() != {"rows", "bytes", "sha256"}:
            raise ValueError(f"shard {entry!r}; legal: rows, bytes and sha256")
        counts, digest = (entry["rows"], entry["bytes"]), entry["sha256"]
        if not all(type(count) is int and count >= 0 for count in counts):
            raise ValueError(f"shard of {counts} rows and bytes; legal: whole numbers from 0")
        if not isinstance(digest, str) or not _SHA256.fullmatch(digest):
            raise ValueError(f"shard with sha256 {digest!r}; legal: 64 hexadecimal digits")
        return cls(*counts, digest)


@dataclass(eq=False)
class Shards:
    """Shard folder opened for writing by one process; see `opened`.

    Attributes:
        path: the folder.
        identity: inputs of the shards, as JSON values; a folder is resumed only with equal ones.
        names: names of all its shards.
        done: finished shards by name.
        notes: further data needed to resume, as JSON values.
    """

    path: Path
    identity: Mapping[str, Any]
    names: Sequence[str]
    done: dict[str, Shard] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """Whether every shard is finished."""
        return len(self.done) == len(self.names)

    def add(self, name: str, rows: int, data: bytes) -> None:
        """Writes a shard, then the manifest.

        Raises:
            InputError: the folder cannot be written.
        """
        _write(self.path / name, data)
        self.done[name] = Shard(rows, len(data), hashlib.sha256(data).hexdigest())
        self.save()

    def note(self, key: str, value: object) -> None:
        """Sets a note and writes the manifest; raises as `add`."""
        self.notes[key] = value
        self.save()

    def save(self) -> None:
        """Writes the manifest; raises as `add`."""
        shards = {name: asdict(self.done[name]) for name in sorted(self.done)}
        document = {"format": FORMAT, "identity": self.identity, "notes": self.notes, "shards": shards}
        _write(self.path / MANIFEST, (json.dumps(document, indent=1) + "\n").encode())


def name_of(number: int) -> str:
    """File name of a shard.

    >>> name_of(7)
    'part-000007.parquet'
    """
    return f"part-{number:06}.parquet"


def check_folder(path: Path, *, resume: bool) -> None:
    """Checks a path for errors that `opened` would raise for any content; call it before long work.

    Raises:
        InputError: not a folder, one with other files, or one with a sweep but ``resume`` is False.
    """
    try:
        if path.exists() and not path.is_dir():
            raise InputError(f"{path} is not a folder; legal: a new or empty folder, or a sweep with --resume")
        entries = [entry.name for entry in path.iterdir()] if path.is_dir() else []
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    if MANIFEST not in entries and not all(_LEFT_OVER.fullmatch(name) for name in entries):
        raise InputError(f"{path} holds other files; legal: a new or empty folder, or a sweep with --resume")
    if MANIFEST in entries and not resume:
        raise InputError(f"{path} holds a sweep; legal: a new or empty folder, or --resume")


@contextmanager
def opened(path: Path, identity: Mapping[str, Any], names: Sequence[str], *, resume: bool) -> Iterator[Shards]:
    """Opens a folder for shards, locked against other processes.

    Args:
        path: the folder; created if missing.
        identity: inputs of the shards, as JSON values.
        names: names of all shards.
        resume: keep the finished shards of a folder with equal identity; an empty folder is started.

    Raises:
        InputError: see `check_folder`; another process writes there; a manifest that is damaged, of another
            version or of another identity; or the folder cannot be written.
    """
    check_folder(path, resume=resume)
    with _locked(path):
        check_folder(path, resume=resume)
        found = Shards(path, json.loads(json.dumps(identity)), names)
        if (path / MANIFEST).exists():
            _take_up(found)
        for entry in list(path.iterdir()):
            if _LEFT_OVER.fullmatch(entry.name):
                entry.unlink()
        found.save()
        yield found


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Creates the folder and holds its lock, which also ends with the process."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDONLY)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise InputError(f"another sweep is writing to {path}; legal: one at a time") from error
        yield
    finally:
        os.close(descriptor)


def _write(target: Path, data: bytes) -> None:
    """Writes a file atomically and durably."""
    part = target.with_name(f".{target.name}.part")
    try:
        write_synced(part, data)
        part.replace(target)
        sync_folder(target.parent)
    except OSError as error:
        raise InputError(f"cannot write {target}: {error.strerror or error}") from error


def _take_up(found: Shards) -> None:
    """Restores notes and the finished shards with matching hashes from the manifest."""
    document = _manifest(found.path / MANIFEST)
    for key in dict.fromkeys((*found.identity, *document["identity"])):
        there, here = document["identity"].get(key), found.identity.get(key)
        if there != here:
            raise InputError(
                f"{found.path} is a sweep of other arguments: {key} is {_brief(there)}, not {_brief(here)}"
            )
    found.notes.update(document["notes"])
    for name, shard in _listed(found, document["shards"]).items():
        if _intact(found.path / name, shard):
            found.done[name] = shard
        else:
            _LOG.warning("%s is missing or damaged and is written again", found.path / name)


def _manifest(path: Path) -> dict[str, Any]:
    """Reads and checks an untrusted manifest."""
    try:
        if path.is_symlink() or path.stat().st_size > _MANIFEST_LIMIT:
            raise InputError(f"{path} is a link or larger than {_MANIFEST_LIMIT} bytes")
        document = json.loads(path.read_bytes())
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is damaged: {' '.join(str(error).split())}") from error
    tables = ("identity", "notes", "shards")
    if not isinstance(document, dict) or not all(isinstance(document.get(key), dict) for key in tables):
        raise InputError(f"{path} is not a sweep's; legal: an object with {', '.join(tables)}")
    if document.get("format") != FORMAT:
        raise InputError(f"{path} has format {document.get('format')!r}; this version reads {FORMAT}")
    return document


def _listed(found: Shards, entries: Mapping[str, Any]) -> dict[str, Shard]:
    unknown = sorted(set(entries) - set(found.names))
    if unknown:
        raise InputError(f"{found.path / MANIFEST} lists {unknown[0]!r}; legal: the {len(found.names)} shards of it")
    try:
        return {name: Shard.read(entry) for name, entry in entries.items()}
    except ValueError as error:
        raise InputError(f"{found.path / MANIFEST} is damaged: {error}") from error


def _intact(path: Path, shard: Shard) -> bool:
    try:
        if path.is_symlink() or path.stat().st_size != shard.bytes:
            return False
        return hashlib.sha256(path.read_bytes()).hexdigest() == shard.sha256
    except OSError:
        return False


def _brief(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:76]} ..."
