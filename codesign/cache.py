"""Cache folder of finished results, each named by a hash of all its inputs.

Results are published atomically, and each is made by one process at a time.
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
    """Default cache folder: ``codesign`` in the user's cache folder."""
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "codesign"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "codesign"


def digest(*parts: str) -> str:
    """Hash of a sequence of texts, 32 hex digits; sensitive to order and boundaries.

    >>> digest("ab", "c") == digest("a", "bc")
    False
    """
    joined = "".join(f"{len(part)}:{part}" for part in parts)
    return hashlib.sha256(joined.encode()).hexdigest()[:32]


def publish(cache: Path, name: str, make: Callable[[Path], None]) -> Path:
    """Path of result ``name`` in the cache; if it is missing, ``make`` creates it first.

    Args:
        cache: cache folder; created if missing.
        name: name of the result, containing a `digest`.
        make: fills the empty folder passed to it; other processes requesting the name wait.

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
    """Holds the inter-process lock of one name.

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
