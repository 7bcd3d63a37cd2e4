"""Things by name from several places: those that ship, files of the user, objects of other packages.

Each is loaded only when it is asked for, so what is broken breaks itself alone. What cannot be used has one line that
names it and its origin, and says why.
"""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.metadata import EntryPoint, entry_points
from typing import Generic, TypeVar

from codesign.errors import CodesignError, InputError, ToolError

_LOG = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True)
class CatalogSource(Generic[T]):
    """Where one thing comes from.

    Attributes:
        name: how users ask for it.
        origin: its file, or its package with the command that removes it.
        load: makes it, or raises a `CodesignError` of one line.
        shipped: whether it is part of codesign; such a name can be taken by nobody else.
    """

    name: str
    origin: str
    load: Callable[[], T]
    shipped: bool = False


@dataclass(frozen=True)
class Catalog(Generic[T]):
    """Everything of one kind that can be asked for by name.

    Attributes:
        kind: what messages call it.
        sources: all of them, those that ship first.
        also: what else may be asked for, as the end of a sentence.
    """

    kind: str
    sources: tuple[CatalogSource[T], ...]
    also: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        """What can be asked for, sorted; a name is no promise that loading works."""
        return tuple(sorted(self._usable()))

    @property
    def clashes(self) -> dict[str, str]:
        """One line for each name that more than one source has."""
        return {name: self._clash(found) for name, found in self._by_name().items() if len(found) > 1}

    def load(self, name: str) -> T:
        """The thing of that name.

        Raises:
            InputError: there is none, or several have the name and none of them ships.
            CodesignError: it is broken.
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
        """All that can be loaded, by name; the log has one line for each other."""
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
        """Of each name the source that ships, or else the only one."""
        return {name: found[0] for name, found in self._by_name().items() if found[0].shipped or len(found) == 1}

    def _clash(self, found: list[CatalogSource[T]]) -> str:
        name, (first, *others) = f"{self.kind} {found[0].name!r}", found
        if first.shipped:
            return f"{name} of {_listed(others)} is refused: codesign ships one; legal: another name"
        return f"{name} comes from {_listed(found)}; legal: one of them"


def _listed(sources: list[CatalogSource[T]]) -> str:
    return " and ".join(source.origin for source in sources)


def offered(kind: str, group: str, check: Callable[[str, object], T]) -> Iterator[CatalogSource[T]]:
    """Sources of all that installed packages offer through an entry point group.

    Args:
        kind: what messages call it.
        group: of the entry points.
        check: returns the loaded object if it is of the kind and has the name, else raises a `TypeError`.
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


def guarded(kind: str, name: str, origin: str, make: Callable[[], T]) -> T:
    """The result of code that nobody here vouches for.

    Raises:
        ToolError: whatever it raises, as one line.
    """
    try:
        return make()
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ToolError(f"{kind} {name!r} of {origin} cannot be loaded: {reason}") from error
