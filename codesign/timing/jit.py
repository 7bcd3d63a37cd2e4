"""The event kernel as machine code, compiled from its one source on first request and kept in a cache folder."""

import importlib
import importlib.machinery
import importlib.util
import logging
import platform
import sys
from collections.abc import Callable
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

from codesign.cache import default_cache, digest, publish
from codesign.errors import ToolError
from codesign.timing import event_kernel

Run = Callable[[Any], None]
"""`codesign.timing.event_kernel.run` on an array of 64-bit integers."""
_LOG = logging.getLogger(__name__)
_FILE = "codesign_compiled_rules.py"
_SIGNATURE = "void(int64[::1])"
_OPTIONS = {"error_model": "numpy", "nogil": True, "_nrt": False}
_PARTS = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}


@lru_cache(maxsize=4)
def compiled_run(cache: Path | None = None) -> Run | None:
    """The event kernel as machine code; None if it is unavailable, with the reason in the log.

    The first call on a machine takes about ten seconds, the first of a later process half a second.

    Args:
        cache: folder for the compiled code; None for the user's cache.
    """
    if importlib.util.find_spec("numba") is None:
        _LOG.info("the cycle model runs uncompiled; get the compiler with: pip install 'codesign[compiled]'")
        return None
    text = Path(event_kernel.__file__).read_text(encoding="utf-8")

    def fill(folder: Path) -> None:
        _LOG.info("compiling the cycle model; ten seconds, once")
        (folder / _FILE).write_text(text, encoding="utf-8")
        _compiled(folder / _FILE)

    name = f"cycles-{digest(text, version('numba'), sys.version, platform.machine())}"
    try:
        folder = publish(cache or default_cache(), name, fill)
    except ToolError as error:
        _LOG.warning("the cycle model runs uncompiled: %s", error)
        return None
    return _compiled(folder / _FILE)


def ready_run() -> Run | None:
    """The result of `compiled_run` if it was called before, else None without compiling."""
    return compiled_run() if compiled_run.cache_info().currsize else None


def _module(path: Path) -> ModuleType:
    """Module of a source file, registered under the file's stem, by which the compiler's cache finds it again."""
    loader = importlib.machinery.SourceFileLoader(path.stem, str(path))
    spec = importlib.util.spec_from_loader(path.stem, loader)
    assert spec is not None, "a loader is given"
    module = sys.modules[path.stem] = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def _compiled(path: Path) -> Run:
    """Compiles the functions of a file, or reads the result cached beside it.

    Functions that ``run`` calls are compiled into it, so only ``run`` is cached.
    """
    numba: Any = importlib.import_module("numba")
    module = _module(path)
    functions = [found for found in vars(module).values() if isinstance(found, FunctionType)]
    for function in functions:
        if function is not module.run:
            part = numba.njit(forceinline=function in module.OFTEN, **_PARTS, **_OPTIONS)(function)
            setattr(module, function.__name__, part)
    run: Run = numba.njit(_SIGNATURE, cache=True, **_OPTIONS)(module.run)
    return run
