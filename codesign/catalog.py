"""Catalog of named objects from several sources: built in, user files, and entry points of other packages.

Each object is loaded only on request, so a broken one does not affect the others. Errors are one line with the name,
the origin and the reason.
"""

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pkgutil import iter_modules
from types import ModuleType
from typing import Generic, TypeVar

from codesign.errors import CodesignError, InputError, ToolError

_LOG = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True)
class CatalogSource(Generic[T]):
    """Source of one named object.

    Attributes:
        name: name by which users request it.
        origin: its file, or its package with the command that removes it.
        load: returns the object or raises a one-line `CodesignError`.
        shipped: whether it is part of codesign; its name then takes precedence.
    """

    name: str
    origin: str
    load: Callable[[], T]
    shipped: bool = False


@dataclass(frozen=True)
class Catalog(Generic[T]):
    """All named objects of one kind.

    Attributes:
        kind: kind as named in messages.
        sources: all sources, built-in ones first.
        also: further legal requests, appended to the error message for an unknown name.
    """

    kind: str
    sources: tuple[CatalogSource[T], ...]
    also: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        """Usable names, sorted; loading one may still fail."""
        return tuple(sorted(self._usable()))

    @property
    def clashes(self) -> dict[str, str]:
        """One-line description of the conflict for each name with several sources."""
        return {name: self._clash(found) for name, found in self._by_name().items() if len(found) > 1}

    def load(self, name: str) -> T:
        """Loads the object of that name.

        Raises:
            InputError: unknown name, or several sources of it and none built in.
            CodesignError: loading fails.
        """
        usable, clash = self._usable(), self.clashes.get(name)
        if clash is not None and name not in usable:
            raise InputError(clash)
        if name not in usable:
            raise InputError(f"{self.kind} {name!r} is not known; legal: {', '.join(self.names)}{self.also}")
        if clash is not None:
            _LOG.warning("%s", clash)
        return usable[name].load()

    def loaded(self) -> dict[str, T]:
        """All loadable objects by name; failures and conflicts are logged in one line each."""
        found: dict[str, T] = {}
        for line in self.clashes.values():
            _LOG.warning("%s", line)
        for name, source in sorted(self._usable().items()):
            try:
                found[name] = source.load()
            except CodesignError as error:
                _LOG.warning("%s", " ".join(str(error).split()))
        return found

    def _by_name(self) -> dict[str, list[CatalogSource[T]]]:
        found: dict[str, list[CatalogSource[T]]] = {}
        for source in self.sources:
            found.setdefault(source.name, []).append(source)
        return found

    def _usable(self) -> dict[str, CatalogSource[T]]:
        """For each name its built-in source, or else its only one; ambiguous names are omitted."""
        return {name: found[0] for name, found in self._by_name().items() if found[0].shipped or len(found) == 1}

    def _clash(self, found: list[CatalogSource[T]]) -> str:
        name, (first, *others) = f"{self.kind} {found[0].name!r}", found
        if first.shipped:
            return f"{name} of {_listed(others)} is refused: codesign ships one; legal: another name"
        return f"{name} comes from {_listed(found)}; legal: one of them"


def _listed(sources: list[CatalogSource[T]]) -> str:
    return " and ".join(source.origin for source in sources)


def offered(kind: str, group: str, check: Callable[[str, object], T]) -> Iterator[CatalogSource[T]]:
    """Sources for all entry points of a group in installed packages.

    Args:
        kind: kind as named in messages.
        group: entry point group.
        check: takes the name and the loaded object; returns it or raises `TypeError`.
    """
    for entry in entry_points(group=group):
        origin = _origin(entry)
        yield CatalogSource(
            entry.name, origin, partial(guarded, kind, entry.name, origin, partial(_checked, entry, check))
        )


def _origin(entry: EntryPoint) -> str:
    dist = entry.dist
    return f"{dist.name} {dist.version} (pip uninstall {dist.name} removes it)" if dist is not None else entry.value


def _checked(entry: EntryPoint, check: Callable[[str, object], T]) -> T:
    return check(entry.name, entry.load())


def shipped(
    kind: str, package: str, path: Iterable[str], check: Callable[[str, ModuleType], T]
) -> Iterator[CatalogSource[T]]:
    """Sources of a package's modules without a leading underscore; in their names ``-`` stands for ``_``.

    Args:
        kind: word for error messages.
        package: name of the package.
        path: its ``__path__``.
        check: returns the thing that an imported module has, or raises.
    """
    for found in iter_modules(path):
        if not found.name.startswith("_"):
            name, origin = found.name.replace("_", "-"), f"{package}.{found.name}"
            load = partial(guarded, kind, name, origin, partial(_of_module, name, origin, check))
            yield CatalogSource(name, origin, load, True)


def _of_module(name: str, module: str, check: Callable[[str, ModuleType], T]) -> T:
    return check(name, import_module(module))


def guarded(kind: str, name: str, origin: str, make: Callable[[], T]) -> T:
    """Calls untrusted code and returns its result.

    Raises:
        ToolError: any exception of that code, as one line.
    """
    try:
        return make()
    except Exception as error:
        raise ToolError(f"{kind} {name!r} of {origin} cannot be loaded: {one_line(error)}") from error


def one_line(error: Exception) -> str:
    """Class and message of an exception in one line.

    >>> one_line(ValueError("two   blanks"))
    'ValueError: two blanks'
    """
    return " ".join(f"{type(error).__name__}: {error}".split())
