"""Boards by name: built in, in user folders, or from installed packages.

A user board is a file ``NAME.toml`` in a folder listed in the environment variable ``CODESIGN_BOARDS`` (joined by the
path separator), or in ``codesign/boards`` under ``XDG_CONFIG_HOME``, else ``~/.config``.
``codesign boards --format`` prints its format. A package offers a `Board` through an entry point::

    [project.entry-points."codesign.boards"]
    mine = "mypackage:BOARD"
"""

import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from codesign.catalog import Catalog, CatalogSource, offered
from codesign.errors import InputError
from codesign.target.board import Board, boards

GROUP = "codesign.boards"
"""Entry point group through which other packages offer boards."""


def board_folders(environ: Mapping[str, str]) -> tuple[Path, ...]:
    """Folders searched for user boards, from the environment; they need not exist.

    >>> [folder.as_posix() for folder in board_folders({"CODESIGN_BOARDS": "mine", "HOME": "/home/me"})]
    ['mine', '/home/me/.config/codesign/boards']
    """
    found = _named_folders(environ)
    home, settings = environ.get("HOME"), environ.get("XDG_CONFIG_HOME")
    if settings or home:
        found.append(Path(settings or f"{home}/.config") / "codesign" / "boards")
    return tuple(dict.fromkeys(found))


def missing_folders(environ: Mapping[str, str]) -> tuple[Path, ...]:
    """Entries of ``CODESIGN_BOARDS`` that are no folders."""
    return tuple(folder for folder in dict.fromkeys(_named_folders(environ)) if not folder.is_dir())


def _named_folders(environ: Mapping[str, str]) -> list[Path]:
    return [Path(text) for text in environ.get("CODESIGN_BOARDS", "").split(os.pathsep) if text]


def board_catalog(folders: Sequence[Path] = ()) -> Catalog[Board]:
    """Catalog of every board; user files and packages are loaded only on request.

    Args:
        folders: user folders with one file per board.
    """
    shipped = [CatalogSource(name, "codesign", partial(Board.load, name), True) for name in boards()]
    paths = [path for folder in folders for path in sorted(folder.glob("*.toml"))]
    files = [CatalogSource(path.stem, str(path), partial(_of_file, path)) for path in paths]
    searched = f" (searched: {', '.join(map(str, folders))})" if folders else ""
    also = f"{searched}, or a path to a .toml file"
    return Catalog("board", (*shipped, *files, *offered("board", GROUP, _checked)), also)


def load_board(name_or_path: str | Path, folders: Sequence[Path] = ()) -> Board:
    """The board of that name, or from that file if it ends in ``.toml``.

    Raises:
        InputError: unknown name or unusable file; one line.
        ToolError: the package that offers it fails.
    """
    text = str(name_or_path)
    return Board.load(text) if text.endswith(".toml") else board_catalog(folders).load(text)


def _of_file(path: Path) -> Board:
    found = Board.load(path)
    if found.name != path.stem:
        raise InputError(f"board {path}: name is {found.name!r}; legal: {path.stem!r}, as its file is called")
    return found


def _checked(name: str, found: object) -> Board:
    if not isinstance(found, Board) or found.name != name:
        raise TypeError(f"{found!r} is no Board of that name; legal: see codesign.target.board")
    return found
