"""A folder of finished results, each under a name made from all that went into it.

Results appear whole or not at all, and are made by one process at a time.
"""

import fcntl
import hashlib
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from codesign.errors import ToolError


def default_cache() -> Path:
    """The folder for compiled designs where the caller names none: the user's cache folder."""
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "codesign"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "codesign"


def digest(*parts: str) -> str:
    """Hash of a sequence of texts: equal only for the same texts in the same order.

    >>> digest("ab", "c") == digest("a", "bc")
    False
    """
    joined = "".join(f"{len(part)}:{part}" for part in parts)
    return hashlib.sha256(joined.encode()).hexdigest()[:32]


def publish(cache: Path, name: str, make: Callable[[Path], None]) -> Path:
    """Folder ``name`` of the cache; if it is not there, ``make`` fills it.

    Args:
        cache: made if it is missing.
        name: of the result, with a `digest` in it.
        make: called with an empty folder, which it fills; other processes that want the name wait.

    Raises:
        ToolError: the cache folder cannot be written.
    """
    cache = cache.resolve()
    target = cache / name
    if target.is_dir():
        return target
    with _locked(cache, name):
        if not target.is_dir():
            with tempfile.TemporaryDirectory(prefix=".build-", dir=cache) as temporary:
                work = Path(temporary) / name
                work.mkdir()
                make(work)
                work.rename(target)
    return target


@contextmanager
def _locked(cache: Path, name: str) -> Iterator[None]:
    """Holds the lock of one name among all processes that use the cache.

    Raises:
        ToolError: the cache folder cannot be written.
    """
    try:
        cache.mkdir(parents=True, exist_ok=True)
        file = (cache / f".{name}.lock").open("w", encoding="utf-8")
    except OSError as reason:
        raise ToolError(f"cannot write to the cache folder {cache}: {reason.strerror}; name another one") from None
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
