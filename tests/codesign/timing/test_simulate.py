"""One text of the rules runs in two ways that never differ, and says what rings a run needs."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from codesign.compiler.program import Program, compile_network
from codesign.frontend.zoo import gemm
from codesign.hw.system.accelerator import formulas
from codesign.target.board import Board
from codesign.target.commands import Command, Span
from codesign.target.design import Design
from codesign.target.engines import LUT, engine_names
from codesign.timing import event_kernel as ev
from codesign.timing.cycles import exact
from codesign.timing.formulas import Formulas
from codesign.timing.jit import compiled_run
from codesign.timing.simulate import BURST_BYTES, Machine, _Layout
from tests.accelerators import board, chain, fitting
from tests.marks import few_fast

_TIMES = {"attention": lambda work: 7 * work["rows"] + 3, "vector": lambda work: 5 * work["rows"] + 40}
_FORMULAS = Formulas(_TIMES, 15, 13)
_ENGINES = engine_names(["linear", *_TIMES])
_LINEAR = {"t_in": 8, "t_out": 16, "kw_max": 64, "table_words": 16, "tables": 4}


def _random_board(rng: np.random.Generator) -> Board:
    rates = (15_360_000_000, 10**9, 2_400_000_000, 19_200_000_000, 7_777_777_000, 600_000_000)
    base = board(
        int(rng.choice([1, 2, 4])),
        int(rng.choice([3, 20, 60, 200])),
        int(rng.choice([1, 2, 3, 8, 16])),
        int(rng.choice(rates)),
    )
    return replace(base, memory=replace(base.memory, write_latency=int(rng.choice([1, 20, 60]))))


def _random_body(rng: np.random.Generator, design: Design) -> list[Command]:
    """A few commands with tokens between some of them, in the order of the list or to the next round."""
    word, whole = design.word_bytes, rng.random() < 0.7

    def transfer(memory: int) -> dict[str, int]:
        words = int(rng.integers(1, 40)) * (BURST_BYTES // word) if whole else int(rng.integers(1, 120))
        at = int(rng.integers(64)) * BURST_BYTES if whole else int(rng.integers(512)) * word
        return {"memory": memory, "address": 0, "words": words, "dram": at}

    body = []
    for _ in range(int(rng.integers(1, 5))):
        ib, ob, rows = int(rng.integers(1, 9)), int(rng.integers(1, 9)), int(rng.integers(1, 30))
        release = int(rng.integers(2))
        fetch = {"table_words": ob * 128 // word, "weight_words": ob * ib * 128 // word, "dram": transfer(0)["dram"]}
        linear = {"rows": rows, "kw": int(rng.integers(1, 20)), "ib": ib, "ob": ob, "flags": release}
        table = (Span(LUT, 0, 256),) * int(rng.random() < 0.1)  # written byte after byte
        body.append(Command("load", transfer(0), writes=table))
        body += [Command("fetch", fetch)] * release + [Command("linear", linear)]
        body += [Command("store", transfer(0))] * int(rng.integers(2)) + [
            Command("vector", {"rows": rows}, work={"rows": rows})
        ] * int(rng.integers(2))
    return body


def _random_program(seed: int) -> tuple[Program, Design]:
    """Rounds of equal commands, now and then with another transfer in between."""
    rng = np.random.default_rng([seed, 31])
    linear = _LINEAR | {"n_l": int(rng.integers(1, 9)), "ring_words": int(rng.choice([64, 256]))}
    design = Design(_random_board(rng), {"linear": linear}, {})
    body = _random_body(rng, design)
    waits: list[dict[str, int]] = [{} for _ in body]
    posts: list[dict[str, int]] = [{} for _ in body]
    for _ in range(len(body)):
        first, second = sorted(int(index) for index in rng.integers(len(body), size=2))
        if first != second and body[second].engine not in posts[first]:
            posts[first][body[second].engine] = 1
            waits[second][body[first].engine] = waits[second].get(body[first].engine, 0) + 1
    resident = {"table_words": 128 // design.word_bytes, "weight_words": 64 * 128 // design.word_bytes, "dram": 0}
    commands = [Command("fetch", resident)]
    for _ in range(int(rng.integers(5, 60))):
        commands += [c._replace(waits=wait, posts=post) for c, wait, post in zip(body, waits, posts, strict=True)]
        if rng.random() < 0.05:
            commands.append(body[0])
    return Program(tuple(commands), int(rng.integers(16)) * BURST_BYTES, b"", 0, {}, {}, 0, _ENGINES), design


def _weights(seed: int) -> tuple[Program, Design]:
    """A few layers of many weights, rings that hold them all or little of them, on memories of any speed."""
    rng = np.random.default_rng([seed, 47])
    widths = [int(rng.choice([40, 96, 160, 256])) for _ in range(int(rng.integers(3, 6)))]
    network = chain(rng, int(rng.integers(1, 24)), widths)
    linear = {
        "t_in": int(rng.choice([4, 8, 16])), "t_out": int(rng.choice([8, 16, 32])), "n_l": int(rng.integers(1, 9)),
        "kw_max": 64, "ring_words": int(rng.choice([64, 128, 512, 4096])), "table_words": int(rng.choice([16, 64])),
        "tables": 8,
    }  # fmt: skip
    rates = [15_360_000_000, 15_360_000_000, 4_000_000_000, 30_000_000_000]
    interface = board(
        int(rng.choice([1, 2, 4, 4])), int(rng.choice([7, 60])), int(rng.choice([2, 8, 16])), rates[seed % 4]
    )
    design = fitting(Design(interface, {"linear": linear}, {}, int(rng.integers(1, 30))), [network])
    return compile_network(network, design, bare=True), design


def _run(program: Program, design: Design, *, compiled: bool = True) -> Machine:
    machine = Machine(program, design, _FORMULAS, compiled=compiled)
    machine.run()
    return machine


def _with_rings(design: Design, weights: int, tables: int) -> Design:
    linear = {**design.linear, "ring_words": weights, "table_words": tables}
    return replace(design, engines={**design.engines, "linear": linear})


@pytest.mark.parametrize("ports", [4, 2, 1])
def test_commands_behind_a_full_queue_are_dispatched_one_per_cycle(ports: int) -> None:
    """Ten loads fill the engine and its queue; what follows for other engines waits, then goes out in turn."""
    interface = board(ports)
    load = Command("load", {"memory": 0, "address": 0, "words": 64, "dram": 0})
    others = [Command(name, {"rows": 1}, work={"rows": 1}) for name in ("vector", "attention")]
    commands = (*[load] * (ev.ENGINE_QUEUE + 2), *others)
    design = Design(interface, {"linear": _LINEAR | {"n_l": 2, "ring_words": 64}}, {})
    machine = _run(Program(commands, 0, b"", 0, {}, {}, 0, _ENGINES), design, compiled=False)
    *_, vector, attention = machine.start
    assert (vector, attention) == (machine.start[1] + 3, machine.start[1] + 4)


@pytest.mark.parametrize("case", few_fast([_weights, _random_program], 1))
def test_machine_code_changes_no_cycle(case: Callable[[int], tuple[Program, Design]]) -> None:
    assert compiled_run() is not None, "otherwise this shows nothing"
    ended = 0
    for seed in range(100):
        program, design = case(seed)
        plain, fast = _run(program, design, compiled=False), _run(program, design)
        assert (plain.start, plain.stop, plain.rings) == (fast.start, fast.stop, fast.rings), seed
        ended += min(plain.stop) > 0
    assert ended > 40


@pytest.mark.rtl
def test_every_table_holds_all_that_goes_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is written behind the end of any."""
    table, run = _Layout._table, ev.run
    ends: list[int] = []
    memories: list[list[int]] = []

    def longer(self: _Layout, size: int) -> int:
        ends.append(table(self, size + 50) + size)
        return ends[-1] - size

    def kept(memory: list[int]) -> None:
        run(memory)
        memories.append(memory)

    monkeypatch.setattr(_Layout, "_table", longer)
    monkeypatch.setattr(ev, "run", kept)
    for program, design in (case(seed) for seed in range(40) for case in (_random_program, _weights)):
        ends.clear()
        _run(program, design, compiled=False)
        assert not any(any(memories[-1][end : end + 50]) for end in ends)


def test_random_programs_do_all_that_there_is() -> None:
    """Otherwise the tests here would show nothing: of some programs everything ends, of others not."""
    runs = [_run(*_random_program(seed)) for seed in range(60)]
    assert 10 < sum(min(run.stop) > 0 for run in runs) < 50
    assert all(run.start[0] > 0 for run in runs)


@pytest.mark.parametrize("case", few_fast([_weights, _random_program], 1))
def test_rings_that_suffice_change_no_cycle(case: Callable[[int], tuple[Program, Design]]) -> None:
    """Also in the run of one word less somebody waits for room, so the figures are not too large."""
    rng, kinds = np.random.default_rng(12), Counter[tuple[bool, bool]]()
    for seed in range(100):
        program, design = case(seed)
        rings = [int(rng.integers(1, 400)), int(rng.integers(1, 60))]
        for ring in range(2):
            rings[ring] = 1 << 20 if rng.random() < 0.5 else rings[ring]
        run = _run(program, _with_rings(design, *rings))
        assert all(need is None or need <= ring for need, ring in zip(run.rings, rings, strict=True))
        kinds[run.rings[0] is None, run.rings[1] is None] += 1
        for more in (0, 1, int(rng.integers(2, 1000))):
            enough = [ring if need is None else need + more for need, ring in zip(run.rings, rings, strict=True)]
            other = _run(program, _with_rings(design, *enough))
            assert (other.start, other.stop, other.rings) == (run.start, run.stop, run.rings), (seed, rings, enough)
        for ring, need in enumerate(run.rings):
            if need:
                short = [size if least is None else least for least, size in zip(run.rings, rings, strict=True)]
                short[ring] = need - 1
                assert _run(program, _with_rings(design, *short)).rings[ring] is None, (seed, short)
    assert len(kinds) >= 3, kinds


@pytest.mark.rtl
@pytest.mark.parametrize("case", [_weights, _random_program])
def test_what_suffices_until_a_norm_begins(case: Callable[[int], tuple[Program, Design]]) -> None:
    """The end of a linear command before that changes neither with the rings nor with how long norms take."""
    rng, shorter = np.random.default_rng(13), 0
    quick = replace(_FORMULAS, times={**_TIMES, "vector": lambda work: 1})
    for seed in range(100):
        program, design = case(seed)
        rings = [int(rng.integers(1, 400)), int(rng.integers(1, 60))]
        run = _run(program, _with_rings(design, *rings))
        begins = [at for at, c in zip(run.start, program.commands, strict=True) if c.engine == "vector" and at >= 0]
        for index, needs in run.early.items():
            assert run.stop[index] <= min(begins, default=run.stop[index])
            enough = [size if need is None else need for need, size in zip(needs, rings, strict=True)]
            other = Machine(program, _with_rings(design, *enough), quick, compiled=True)
            other.run()
            assert (other.start[index], other.stop[index]) == (run.start[index], run.stop[index]), (seed, index)
            shorter += needs != run.rings and enough != rings
    assert shorter > 20


def test_a_fetch_waits_for_room() -> None:
    """Two tiles of four words each, the second fetched while the first is in use: eight words, or four one by one."""
    fetch = {"table_words": 2, "weight_words": 8, "dram": 0}
    linear = {"rows": 40, "kw": 4, "ib": 4, "ob": 1, "flags": 1}
    commands = (Command("fetch", fetch), Command("linear", linear)) * 2
    program = Program(commands, 0, b"", 0, {}, {}, 0, _ENGINES)
    base = Design(board(), {"linear": _LINEAR | {"n_l": 1}})
    wide, exact, narrow = (_run(program, _with_rings(base, words, 16)) for words in (64, 8, 4))
    assert wide.rings == exact.rings == (8, 2)
    assert narrow.rings == (None, 2)
    assert wide.stop == exact.stop
    assert narrow.stop[1] == wide.stop[1]
    assert narrow.stop[2] > wide.stop[2]


def test_what_is_laid_out_for_one_bus_is_not_taken_for_another() -> None:
    loads = [Command("load", {"memory": 0, "address": 0, "words": 9, "dram": at}) for at in (0, 80, 368)]
    program = Program(tuple(loads), 0, b"", 0, {}, {}, 0, _ENGINES)
    designs = [Design(board(ports), {"linear": _LINEAR | {"n_l": 1, "ring_words": 64}}) for ports in (1, 4)]
    again = [_run(program, design).stop for design in designs + designs]
    assert again == [_run(replace(program), design).stop for design in designs + designs]
    assert again[0] != again[1]


def test_a_streamed_product_takes_the_same_cycles() -> None:
    linear = {"t_in": 8, "t_out": 32, "n_l": 8, "kw_max": 16, "ring_words": 1024, "table_words": 64, "tables": 1}
    design = Design(board(), {"linear": linear}, {"input": 8192, "output": 8192})
    program, said = compile_network(gemm(1024, 512, 512), design), formulas(design.engines)
    timings = [exact(program, design, said, compiled=compiled) for compiled in (False, True)]
    assert timings[0] == timings[1]


def test_more_tokens_or_ports_than_there_may_be() -> None:
    design = Design(board(), {"linear": _LINEAR | {"n_l": 1, "ring_words": 64}})
    many = Program(
        (Command("vector", {"rows": 1}, work={"rows": 1}, posts={"load": 16}),), 0, b"", 0, {}, {}, 0, _ENGINES
    )
    with pytest.raises(ValueError, match=r"16 tokens; legal: 0 to 15"):
        Machine(many, design, _FORMULAS)
