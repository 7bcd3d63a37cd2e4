"""What the toolkit computes for some models on every board, as one recorded table to compare any later code with.

``python -m tests.oracle`` compares all rows, ``--only 'digits-mlp@*' minilm@u280`` some of them, and ``--record``
writes what is found into the table; each prints what differs. The exit code of a comparison is 1 on a difference.

A row is a case on a board, ``digits-vit@kv260``. Its columns hold numbers as they are, and hashes of what is long:
the golden model's outputs, the command list, the constants, the front of latency and DSPs, every Verilog module.
Only what a user has is asked: the names of ``codesign``, a bundle's files and the command line. So the table
outlives a change of anything inside. The front is asked last, because its search takes longest.
"""

import argparse
import hashlib
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import codesign
from tests.quant import vits

TABLE = Path(__file__).with_name("oracle.json")
BOARDS = ("kv260", "u280", "zcu102", "zcu104")
OBJECTIVES = ("latency_us", "dsp")

Column = dict[str, float | str]
"""Figures by what they are figures of."""
Row = dict[str, Column]
"""Columns by name."""
Table = dict[str, Row]
"""Rows by ``CASE@BOARD``."""
Array = NDArray[Any]

_ROOT = Path(__file__).parent.parent
_MODULE = re.compile(r"^module \\?([^\s(]+).*?^endmodule$", re.MULTILINE | re.DOTALL)
_FILES = {"constants": "weights.bin", "model": "model.onnx", "program": "program.bin"}
"""Files of a bundle by the column that holds their hash."""
_GROUP = 10
"""Designs of a front per item."""
_SHOWN = 12
"""Lines per column of a difference."""


# Cases ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """A model and the samples that it runs.

    Attributes:
        model: what `codesign.build` takes; given a folder for a file that must be made first.
        samples: for the model's one input, samples first; given the same folder.
        objective: the design is searched for with it; None for the plain choice.
        boards: where it is built.
    """

    model: Callable[[Path], str]
    samples: Callable[[Path], Array]
    objective: str | None = None
    boards: tuple[str, ...] = BOARDS


def _digits(name: str, objective: str | None = None, boards: tuple[str, ...] = BOARDS) -> Case:
    """A model of handwritten digits with images that training never saw."""
    return Case(lambda _: name, lambda _: _some(_only(codesign.heldout(name)[0]), count=4), objective, boards)


def _only(arrays: Mapping[str, Array]) -> Array:
    """The array of a model with one input."""
    (found,) = arrays.values()
    return found


def _vit(chosen: vits.Recipe) -> Case:
    """A random vision transformer as an ONNX file, with random images."""

    def written(folder: Path) -> str:
        path = folder / f"vit{chosen.seed}.onnx"
        path.write_bytes(vits.build(chosen).SerializeToString(deterministic=True))
        return str(path)

    shape = (4, chosen.channels, chosen.image, chosen.image)
    return Case(written, lambda _: np.random.default_rng(chosen.seed).random(shape))


def _gemm(m: int, k: int, n: int) -> Case:
    """A product of matrices with all values of 8 bits."""
    return Case(
        lambda _: f"gemm:{m}x{k}x{n}", lambda _: np.random.default_rng(k).integers(-128, 128, (2, m, k)).astype(float)
    )


def _sentences(folder: Path) -> Array:
    """What the sentence encoder's device model gets for two texts; exported once per folder."""
    target = folder / "minilm"
    if not (target / "inputs.npy").is_file():
        command = [sys.executable, "-m", "codesign", "models", "minilm", "--export", str(target)]
        subprocess.run(command, cwd=_ROOT, check=True, capture_output=True, timeout=600)
    return _some(np.load(target / "inputs.npy", allow_pickle=False), count=2)


def _some(samples: Array, count: int) -> Array:
    """A few samples, the same ones every time."""
    return samples[np.random.default_rng(0).permutation(len(samples))[:count]]


CASES: Mapping[str, Case] = {
    "digits-mlp": _digits("digits-mlp"),
    "digits-vit": _digits("digits-vit"),
    "digits-vit:latency": _digits("digits-vit", "latency", ("zcu102",)),
    "gemm:200x96x72": _gemm(200, 96, 72),
    "minilm": Case(lambda _: "minilm", _sentences),
    "vit-masked": _vit(
        vits.Recipe(
            seed=23, image=8, channels=3, width=48, heads=3, depth=2, mlp=80, classes=10, form="qdq", scales="float",
            qkv="split", norm="decomposed", activation="erf", mask="sliding",
        )
    ),
    "vit-post": _vit(
        vits.Recipe(
            seed=4, width=32, mlp=64, depth=2, form="qcdq", embedding="reshape", activation="tanh", scaling="both",
            mask="causal", order="post",
        )
    ),
    "vit-small": _vit(vits.Recipe(seed=11, qkv="gather", activation="silu", scaling="query", class_token=False)),
}  # fmt: skip
KEYS = tuple(f"{name}@{board}" for name, case in CASES.items() for board in case.boards)


# Columns --------------------------------------------------------------------------------


def observed(key: str, folder: Path, *, searched: bool = True) -> Row:
    """The row that the code as it is now gives.

    Args:
        key: one of `KEYS`.
        folder: for bundles and models; files of an earlier call with the same folder are taken up.
        searched: whether the front is asked for too, as far as the row has one.
    """
    name, _, board = key.partition("@")
    case, out = CASES[name], folder / key.replace(":", "-")
    model = case.model(folder)
    row = _attempt(lambda: _built(codesign.build(model, board, out=out, objective=case.objective), case, folder))
    if searched and case.objective is None:
        row |= _attempt(lambda: {"front": _front(codesign.search(model, board, OBJECTIVES))}, "front")
    return row


def _attempt(make: Callable[[], Row], column: str = "build") -> Row:
    """What is made, or why nothing fits in a column of this name."""
    try:
        return make()
    except Exception as error:
        if type(error).__name__ != "NothingFits":  # which no public name stands for
            raise
        return {column: {"error": str(error)}}


def _built(bundle: codesign.Bundle, case: Case, folder: Path) -> Row:
    report, design = (json.loads((bundle.path / name).read_bytes()) for name in ("report.json", "design.json"))
    engines = report["engines"]
    return {
        "cycles": {"total": report["cycles"]["modelled"], **{f"busy {e['name']}": e["busy_cycles"] for e in engines}},
        "design": {**{e["name"]: _text(e["parameters"]) for e in engines if e["parameters"]}, **_memories(design)},
        "energy": _energy(report["energy"]),
        "identity": {"hex": design["identity"]},
        "modules": _modules(bundle.path, bytes.fromhex(design["identity"])),
        "predictions": {name: _array(x) for name, x in bundle.run(case.samples(folder)).outputs.items()},
        "resources": {n: _text(x) for n, x in (*report["parts"].items(), ("total", report["resources"]["modelled"]))},
        "work": {"macs": report["macs"], "traffic_bytes": report["traffic_bytes"]},
        **{name: _file(bundle.path / file) for name, file in _FILES.items() if (bundle.path / file).is_file()},
    }


def _memories(design: Mapping[str, Any]) -> Column:
    return {"memories": _text(design["design"]["memories"]), "row_group": design["design"]["row_group"]}


def _energy(found: Mapping[str, Any]) -> Column:
    """Joules by where they go, and how far off they may be as a share."""
    engines = {f"engine {name}": joules for name, joules in found["engines"].items()}
    return {**{name: joules for name, joules in found.items() if isinstance(joules, float)}, **engines}


def _modules(bundle: Path, identity: bytes) -> Column:
    """Hash of every Verilog module, without the words that only say which design it is."""
    words = {f"32'd{int.from_bytes(identity[i : i + 4], 'little')}": f"identity{i // 4}" for i in range(0, 32, 4)}
    hidden = re.compile("|".join(rf"{word}\b" for word in words))
    return {
        f"{folder}/{module[1]}": _hash(hidden.sub(lambda found: words[found[0]], module[0]).encode())
        for folder in ("rtl", "sim")
        for path in sorted((bundle / folder).glob("*.v"))
        for module in _MODULE.finditer(path.read_text(encoding="utf-8"))
    }


def _front(front: Any) -> Column:
    """A front's designs: all their values and parameters as hashes, the first and last as they are."""
    rows = [dict(sorted(row.items())) for row in front.rows]
    values = [[row[name] for name in front.objectives] for row in rows]
    parameters = [[x for name, x in row.items() if name not in front.objectives] for row in rows]
    ends = {"first": _text(rows[0]), "last": _text(rows[-1])} if rows else {}
    return {
        "designs": len(rows), "space": front.proof.points, **ends,
        "values": _hash(_bytes(values)), "parameters": _hash(_bytes(parameters)), **_grouped(rows),
    }  # fmt: skip


def _grouped(rows: Sequence[Mapping[str, object]]) -> Column:
    """A short hash per design, ten to an item."""
    short = [_hash(_bytes([*row.values()]))[:8] for row in rows]
    return {f"rows from {at:04}": " ".join(short[at : at + _GROUP]) for at in range(0, len(short), _GROUP)}


def _array(value: Array) -> str:
    """Type, shape and hash of the bytes."""
    return f"{value.dtype} {'x'.join(map(str, value.shape))} {_hash(np.ascontiguousarray(value).tobytes())}"


def _file(path: Path) -> Column:
    data = path.read_bytes()
    return {"bytes": len(data), "sha256": _hash(data)}


def _text(values: Mapping[str, object]) -> str:
    return ", ".join(f"{name}={value}" for name, value in sorted(values.items()))


def _bytes(value: object) -> bytes:
    return json.dumps(value).encode()


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:12]


# The table ------------------------------------------------------------------------------


def read(path: Path = TABLE) -> Table:
    """A recorded table; an empty one if there is no file."""
    if not path.is_file():
        return {}
    stored = json.loads(path.read_text(encoding="utf-8"))
    table: Table = stored["rows"]
    for name, places in stored["modules"].items():
        module, _, digest = name.rpartition(" ")
        for key in _spread(places):
            table[key].setdefault("modules", {})[module] = digest
    return table


def write(table: Table, path: Path = TABLE) -> None:
    """Records a table: a line per figure, and one per text of a module, which names the rows that have it."""
    places: dict[str, list[str]] = {}
    for key, row in table.items():
        for module, digest in row.get("modules", {}).items():
            places.setdefault(f"{module} {digest}", []).append(key)
    stored = {
        "modules": {name: _gathered(keys) for name, keys in places.items()},
        "rows": {key: {name: x for name, x in row.items() if name != "modules"} for key, row in table.items()},
    }
    path.write_text(json.dumps(stored, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def _gathered(keys: Iterable[str]) -> str:
    """Keys in short, the boards of a case together.

    >>> _gathered(["b@u280", "a@u280", "a@kv260"])
    'a@kv260,u280 b@u280'
    """
    boards: dict[str, list[str]] = {}
    for name, _, board in (key.partition("@") for key in sorted(keys)):
        boards.setdefault(name, []).append(board)
    return " ".join(f"{name}@{','.join(found)}" for name, found in boards.items())


def _spread(text: str) -> list[str]:
    """The keys that `_gathered` made short.

    >>> _spread("a@kv260,u280 b@u280")
    ['a@kv260', 'a@u280', 'b@u280']
    """
    pairs = (part.partition("@") for part in text.split())
    return [f"{name}@{board}" for name, _, boards in pairs for board in boards.split(",")]


# Comparing ------------------------------------------------------------------------------


def differences(recorded: Row, found: Row) -> list[str]:
    """A line per figure that differs: its column, what was recorded and what was found; [] for equal rows."""
    lines = []
    for column in sorted({*recorded, *found}):
        changed = _changed(column, recorded.get(column, {}), found.get(column, {}))
        more = [f"{column}: and {len(changed) - _SHOWN} more"] if len(changed) > _SHOWN else []
        lines += [*changed[:_SHOWN], *more]
    return lines


def _changed(column: str, recorded: Column, found: Column) -> list[str]:
    names = [name for name in sorted({*recorded, *found}) if recorded.get(name) != found.get(name)]
    return [f"{column} {n}: recorded {recorded.get(n, 'nothing')}, found {found.get(n, 'nothing')}" for n in names]


def chosen(patterns: Sequence[str]) -> tuple[str, ...]:
    """The keys that a pattern matches, in the table's order; all without a pattern.

    Raises:
        ValueError: a pattern that matches none.

    >>> chosen(["digits-mlp@u*", "minilm@kv260"])
    ('digits-mlp@u280', 'minilm@kv260')
    """
    for pattern in patterns:
        if not any(fnmatchcase(key, pattern) for key in KEYS):
            raise ValueError(f"{pattern!r}; legal: {', '.join(KEYS)}, or a pattern with * that matches some")
    return tuple(key for key in KEYS if not patterns or any(fnmatchcase(key, pattern) for pattern in patterns))


def run(keys: Sequence[str], table: Table) -> Table:
    """The rows as they are now; prints how each differs from the table's."""
    found: Table = {}
    with tempfile.TemporaryDirectory() as folder:
        for key in keys:
            start = time.monotonic()
            found[key] = observed(key, Path(folder))
            lines = differences(table[key], found[key]) if key in table else []
            verdict = ("different" if lines else "equal") if key in table else "not recorded"
            print(f"{key}: {verdict}, {time.monotonic() - start:.1f} s", *lines, sep="\n  ", flush=True)
    return found


def main(arguments: Sequence[str], path: Path = TABLE) -> int:
    """Compares with the table of this file or records it; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.oracle", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--record", action="store_true", help="write what is found into the table")
    parser.add_argument("--only", nargs="+", default=[], metavar="CASE@BOARD", help="these rows; * matches any text")
    options = parser.parse_args(arguments)
    try:
        keys = chosen(options.only)
    except ValueError as error:
        parser.error(str(error))
    start, table = time.monotonic(), read(path)
    found = run(keys, table)
    wrong = [key for key, row in found.items() if row != table.get(key)]
    print(f"{len(found) - len(wrong)} of {len(found)} rows equal, {time.monotonic() - start:.0f} s")
    if options.record:
        write({key: row for key, row in {**table, **found}.items() if key in KEYS}, path)
    return 1 if wrong and not options.record else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
