"""A folder of shards with a manifest, of which a kill at any moment loses nothing that was finished.

A shard is renamed into place when it lies on disk, and entered in the manifest after that; whoever resumes
keeps what the manifest lists and the hashes confirm, and writes everything else again. ``manifest.json`` holds
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
        rows: rows in it.
        bytes: its size.
        sha256: its hash.
    """

    rows: int
    bytes: int
    sha256: str

    @classmethod
    def read(cls, entry: object) -> "Shard":
        """The shard of a manifest's entry.

        Raises:
            ValueError: not one.
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
    """The folder while one process writes to it; see `opened`.

    Attributes:
        path: the folder.
        identity: what the shards are made from, as JSON values; a folder is resumed only with the same.
        names: every shard that belongs into it.
        done: the finished ones.
        notes: what else is to be known when it is resumed, as JSON values.
    """

    path: Path
    identity: Mapping[str, Any]
    names: Sequence[str]
    done: dict[str, Shard] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """Truth of every shard being finished."""
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
        """Enters a note into the manifest; likewise."""
        self.notes[key] = value
        self.save()

    def save(self) -> None:
        """Writes the manifest; likewise."""
        shards = {name: asdict(self.done[name]) for name in sorted(self.done)}
        document = {"format": FORMAT, "identity": self.identity, "notes": self.notes, "shards": shards}
        _write(self.path / MANIFEST, (json.dumps(document, indent=1) + "\n").encode())


def name_of(number: int) -> str:
    """The name of a shard.

    >>> name_of(7)
    'part-000007.parquet'
    """
    return f"part-{number:06}.parquet"


def check_folder(path: Path, *, resume: bool) -> None:
    """Refuses a place that `opened` would refuse whatever is to be written; call it before long work.

    Raises:
        InputError: not a folder, one with other files in it, or one with shards that are not to be resumed.
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
    """A folder to write shards to, which no other process writes to meanwhile.

    Args:
        path: made if it is missing.
        identity: what the shards are made from, as JSON values.
        names: every shard that belongs into the folder.
        resume: take up what a folder with the same identity holds; an empty one is begun.

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
    """The folder, locked until the end of the process at the latest."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDONLY)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from error
    try:
        _lock(path, descriptor)
        yield
    finally:
        os.close(descriptor)


def _lock(path: Path, descriptor: int) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise InputError(f"another sweep is writing to {path}; legal: one at a time") from error


def _write(target: Path, data: bytes) -> None:
    """Puts a file in its place when it lies on disk."""
    part = target.with_name(f".{target.name}.part")
    try:
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(target)
        descriptor = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise InputError(f"cannot write {target}: {error.strerror or error}") from error


def _take_up(found: Shards) -> None:
    """Takes from the manifest what is finished and confirmed by its hash."""
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
    """The manifest of a folder that nobody vouches for."""
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
