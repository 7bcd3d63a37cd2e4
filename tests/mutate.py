"""Plants single faults in the code and reports which of them no test finds.

``python -m tests.mutate --count 60 --seed 1`` draws 60 faults by class and seed from hardware, cycle model, compiler,
solver and lowering; ``--only 'hw/system/*'`` from some of their files. Each is planted in a copy of the tree, alone.
Then the module's own tests run, doctests included, fast before rtl, then the tests that import the module, until one
fails. A test kills a fault only if it passes without it. One line per fault says where it is, its class, the line
before and after, the test that killed it or SURVIVED, and seconds. The exit code is 1 if a fault survived.

Nothing is planted where no test could look: docstrings, texts, errors that are raised, assertions, annotations,
decorators, ``__repr__``, and names of signals.
"""

import argparse
import ast
import json
import os
import queue
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from tests.mutants import Mutant, mutants

ROOT = Path(__file__).parent.parent
AREAS = ("hw", "codesign/timing", "codesign/compiler", "codesign/solver", "quant/lower", "quant/match")
"""Folders whose files get faults."""
LEVELS = ("fast", "rtl")
_MAPPED = ("hw", "sim", "quant", "boards")
"""Folders at the top that are packages of ``codesign``."""
_UNWANTED = shutil.ignore_patterns(".*", "build", "*.egg-info", "__pycache__")
_MEMORY = 8 << 30
"""Bytes that a test may take: a fault can make a loop endless."""
_FAILED = re.compile(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", re.MULTILINE)

Stage = tuple[str, ...]
"""Arguments of pytest: paths, or a test's name, and a level."""


@dataclass(frozen=True, slots=True)
class Planted:
    """What became of a fault.

    Attributes:
        where: ``file:line``.
        kind: class of the fault.
        before, after: the first line that differs.
        killer: the test that failed, or why no verdict was reached; None if all passed.
        sound: whether ``killer`` passes without the fault.
        seconds: of all tests that ran.
    """

    where: str
    kind: str
    before: str
    after: str
    killer: str | None
    sound: bool
    seconds: float

    @property
    def killed(self) -> bool:
        """Whether a test that passes without the fault failed with it."""
        return self.killer is not None and self.sound

    def row(self) -> str:
        """The line of the table."""
        verdict = (
            self.killer if self.killed else f"SURVIVED{f' ({self.killer} fails without it)' if self.killer else ''}"
        )
        return f"{self.where} | {self.kind} | {self.before} | {self.after} | {verdict} | {self.seconds:.0f}"


def files(root: Path, only: str = "*") -> list[str]:
    """Files that get faults, as paths from ``root``, sorted; ``only`` is a pattern of them."""
    found = (path.relative_to(root).as_posix() for area in AREAS for path in (root / area).rglob("*.py"))
    return sorted(path for path in found if fnmatchcase(path, only))


def draw(root: Path, names: Sequence[str], count: int, seed: int) -> list[Mutant]:
    """Different faults of the files: the classes in turn, a file of those that have it, a place in it.

    The list depends on the sources, ``names`` and ``seed`` alone, and a longer one begins with a shorter.
    """
    chance = random.Random(seed)
    places: dict[str, dict[str, list[Mutant]]] = defaultdict(lambda: defaultdict(list))
    for name in names:
        for mutant in mutants(name, (root / name).read_bytes()):
            places[mutant.kind][name].append(mutant)
    drawn = list[Mutant]()
    while places and len(drawn) < count:
        for kind in sorted(places):
            name = chance.choice(sorted(places[kind]))
            here = places[kind][name]
            mutant = here.pop(chance.randrange(len(here)))
            if not here:
                del places[kind][name]
            if not places[kind]:
                del places[kind]
            if mutant.valid((root / name).read_bytes()):
                drawn.append(mutant)
    return drawn[:count]


def module(path: str) -> str:
    """Name of the module in a file of the tree.

    >>> module("hw/linear/__init__.py"), module("codesign/timing/cycles.py")
    ('codesign.hw.linear', 'codesign.timing.cycles')
    """
    parts = path.removesuffix(".py").removesuffix("/__init__").split("/")
    return ".".join(["codesign", *parts] if parts[0] in _MAPPED else parts)


def _imports(path: Path) -> Iterator[str]:
    """Names that a file imports; of ``from a import b`` both ``a`` and ``a.b``, as b may be a module."""
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


class Importers:
    """Which tests of a tree import a module, nearest first; those of the example distribution run apart."""

    def __init__(self, root: Path) -> None:
        tops = ("codesign", *_MAPPED, "tests")
        paths = (path.relative_to(root) for top in tops for path in (root / top).rglob("*.py"))
        elsewhere = [*(("codesign", name) for name in _MAPPED), ("tests", "plugin_engine")]
        kept = (path.as_posix() for path in paths if path.parts[:2] not in elsewhere)
        self._file = {module(path): path for path in sorted(kept)}
        self._users: dict[str, list[str]] = defaultdict(list)
        for name, path in self._file.items():
            for used in {*_imports(root / path)} & self._file.keys():
                self._users[used].append(name)

    def tests(self, path: str) -> list[str]:
        """Test files that import the module of ``path`` themselves or through helpers of tests.

        Where none does, those that import the modules that import it, and so on.
        """
        reached, edge = {module(path)}, [module(path)]
        while edge:
            found, others = set[str](), set[str]()
            while edge:
                for user in self._users[edge.pop()]:
                    if user not in reached:
                        reached.add(user)
                        is_test = self._file[user].rpartition("/")[2].startswith("test_")
                        (found if is_test else others).add(user)
                        if user.startswith("tests.") and not is_test:
                            edge.append(user)
            if found:
                return sorted(self._file[name] for name in found)
            edge = sorted(others)
        return []


def mirror(path: str) -> str:
    """The test file of the module in ``path``.

    >>> mirror("hw/system/movers.py"), mirror("hw/linear/__init__.py")
    ('tests/hw/system/test_movers.py', 'tests/hw/linear/test_linear.py')
    """
    folder, _, name = path.removesuffix("/__init__.py").removesuffix(".py").rpartition("/")
    package = f"{folder}/{name}" if path.endswith("__init__.py") else folder
    return f"tests/{package}/test_{name}.py"


def stages(root: Path, importers: Importers, path: str) -> list[Stage]:
    """What is run for a fault in ``path``, in order: own tests, then those of importers, nearest folder first."""
    own = mirror(path)
    doctests = path if path.startswith("codesign/") else f"codesign/{path}"
    near = [name for name in importers.tests(path) if name != own]
    near.sort(key=lambda name: (-len(os.path.commonpath([name, own])), name))
    first: Stage = (doctests, own) if (root / own).is_file() else (doctests,)
    return [(*names, "-m", level) for names in (first, near) if names for level in LEVELS]


class Copy:
    """A copy of a tree in which faults are planted one at a time.

    Args:
        root: the tree.
        folder: where the copy is made; it must not exist.
        timeout: seconds that a stage may take.
    """

    def __init__(self, root: Path, folder: Path, timeout: float) -> None:
        self.root, self.timeout = folder, timeout
        shutil.copytree(root, folder, symlinks=True, ignore=_UNWANTED)
        # Byte code that is checked by content: files change and change back within a second.
        held = [area for area in AREAS if (folder / area).is_dir()]
        compiling = [sys.executable, "-m", "compileall", "-q", "--invalidation-mode", "checked-hash", *held]
        subprocess.run(compiling, cwd=folder, check=False)
        self._environment = {k: v for k, v in os.environ.items() if k not in ("CI", "PYTHONDONTWRITEBYTECODE")}
        self._environment |= {"PYTHONPATH": str(folder), "XDG_CACHE_HOME": str(_caches(folder)), "OMP_NUM_THREADS": "1"}

    def failure(self, stage: Stage) -> str | None:
        """The first test of the stage that fails, or what else went wrong; None if all pass or there are none."""
        command = [sys.executable, "-m", "pytest", "-q", "-x", "--no-header", "-p", "no:cacheprovider", *stage]
        with tempfile.TemporaryFile("w+") as log:
            process = subprocess.Popen(
                command, cwd=self.root, env=self._environment, stdout=log, stderr=log, start_new_session=True
            )
            try:
                code = process.wait(self.timeout)
            except subprocess.TimeoutExpired:
                return f"more than {self.timeout:.0f} s"
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            if code in (0, 5):
                return None
            log.seek(0)
            found = _FAILED.search(log.read())
        return found[1] if found else f"pytest ends with {code}"

    def judge(self, mutant: Mutant, order: Iterable[Stage], clean: "Clean") -> Planted:
        """Plants a fault, runs the stages until one fails, and takes the fault out again."""
        path = self.root / mutant.file
        source = path.read_bytes()
        start = time.monotonic()
        try:
            path.write_bytes(mutant.planted(source))
            failed = next(((stage, found) for stage in order if (found := self.failure(stage))), None)
        finally:
            path.write_bytes(source)
        seconds = time.monotonic() - start
        stage, killer = failed or ((), None)
        sound = killer is None or clean.passes(self, _alone(killer, stage))
        line, before, after = mutant.shown(source)
        return Planted(f"{mutant.file}:{line}", mutant.kind, before, after, killer, sound, seconds)


class Clean:
    """Which stages pass on the tree as it is; each is run once."""

    def __init__(self) -> None:
        self._lock, self._known = threading.Lock(), dict[Stage, bool]()

    def passes(self, copy: Copy, stage: Stage) -> bool:
        """Whether all tests of the stage pass in a copy without a fault."""
        with self._lock:
            known = self._known.get(stage)
        if known is None:
            known = copy.failure(stage) is None
            with self._lock:
                self._known[stage] = known
        return known


def _alone(killer: str, stage: Stage) -> Stage:
    """What to run to see the killer of a stage again: one test or file if it is one, otherwise all of the stage."""
    if "::" in killer:
        return (killer,)
    return (killer, *stage[-2:]) if killer in stage else stage


def _caches(folder: Path) -> Path:
    """A folder of caches beside the copy: what the user has is seen there, what faults make is lost with it."""
    own = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    made = folder.with_name(f"{folder.name}-cache")
    (made / "codesign").mkdir(parents=True)
    for here, there in ((own, made), (own / "codesign", made / "codesign")):
        for entry in here.iterdir() if here.is_dir() else ():
            if not (there / entry.name).exists() and not entry.name.endswith(".lock"):
                (there / entry.name).symlink_to(entry)
    return made


def run(root: Path, drawn: Sequence[Mutant], *, workers: int, minutes: float, timeout: float) -> Iterator[Planted]:
    """Plants the faults one after the other, in ``workers`` copies at once; yields verdicts as they come.

    No fault is begun after ``minutes``.
    """
    importers, clean, end = Importers(root), Clean(), time.monotonic() + 60 * minutes
    verdicts: queue.Queue[Planted | None] = queue.Queue()
    with tempfile.TemporaryDirectory(prefix="mutate-") as folder, ThreadPoolExecutor(workers) as pool:
        copies: queue.Queue[Copy] = queue.Queue()
        for index in range(workers):
            copies.put(Copy(root, Path(folder) / str(index), timeout))

        def judge(mutant: Mutant) -> Planted | None:
            if time.monotonic() > end:
                return None
            copy = copies.get()
            try:
                return copy.judge(mutant, stages(root, importers, mutant.file), clean)
            finally:
                copies.put(copy)

        tasks = [pool.submit(judge, mutant) for mutant in drawn]
        for task in tasks:
            task.add_done_callback(lambda done: verdicts.put(None if done.exception() else done.result()))
        for _ in tasks:
            if (verdict := verdicts.get()) is not None:
                yield verdict
        for task in tasks:
            task.result()


def _summary(verdicts: Sequence[Planted]) -> str:
    """Faults and survivors of each class, then of all."""
    planted, alive = Counter(v.kind for v in verdicts), Counter(v.kind for v in verdicts if not v.killed)
    rows = [f"{kind:12} {planted[kind]:4} planted, {alive[kind]:3} survived" for kind in sorted(planted)]
    return "\n".join([*rows, f"{'all':12} {len(verdicts):4} planted, {alive.total():3} survived"])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.mutate", description="plants faults, reports what survives")
    parser.add_argument("--count", type=int, default=60, help="faults to plant (default 60)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the draw (default 0)")
    parser.add_argument("--only", default="*", metavar="PATTERN", help="files, such as 'hw/system/*'")
    parser.add_argument("--minutes", type=float, default=60, help="plant none after so many (default 60)")
    parser.add_argument("--timeout", type=float, default=300, help="seconds for a group of tests (default 300)")
    parser.add_argument("--workers", type=int, default=2, help="copies of the tree at work at once (default 2)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="verdicts as a list of objects")
    parser.add_argument("--list", action="store_true", help="draw and show, but run nothing")
    return parser


def main(argv: Sequence[str], root: Path = ROOT) -> int:
    """Draws, plants and reports; returns 0 if every fault was killed, 1 if one survived. Bad options exit with 2."""
    parser = _parser()
    asked = parser.parse_args(argv)
    for name in ("count", "minutes", "timeout", "workers"):
        if getattr(asked, name) <= 0:
            parser.error(f"--{name} {getattr(asked, name)}; legal: above 0")
    names = files(root, asked.only)
    if not names:
        parser.error(f"--only {asked.only!r} matches no file; legal: a pattern of paths in {', '.join(AREAS)}")
    drawn = draw(root, names, asked.count, asked.seed)
    if asked.list:
        for mutant in drawn:
            line, before, after = mutant.shown((root / mutant.file).read_bytes())
            print(f"{mutant.file}:{line} | {mutant.kind} | {before} | {after}")
        return 0
    verdicts = list[Planted]()
    print("place | class | before | after | killed by | seconds", flush=True)
    for verdict in run(root, drawn, workers=asked.workers, minutes=asked.minutes, timeout=asked.timeout):
        verdicts.append(verdict)
        print(verdict.row(), flush=True)
        if asked.json:
            asked.json.write_text(json.dumps([asdict(v) | {"killed": v.killed} for v in verdicts], indent=1) + "\n")
    print(
        f"\n{_summary(verdicts)}\nseed {asked.seed}, {len(drawn) - len(verdicts)} of {len(drawn)} not planted in time"
    )
    return 0 if all(verdict.killed for verdict in verdicts) else 1


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_DATA, (_MEMORY, _MEMORY))
    sys.exit(main(sys.argv[1:]))
