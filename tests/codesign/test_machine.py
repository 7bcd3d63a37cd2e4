"""Leaving out what is known to happen again never changes a cycle."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from codesign.board import Board
from codesign.command import Command
from codesign.design import Design
from codesign.hw.accelerator import engine_times
from codesign.machine import Machine
from codesign.models import gemm
from codesign.offchip import BURST_BYTES, Told
from codesign.program import Program, compile_network
from codesign.shortcuts import Shortcuts
from codesign.systolic import EngineTimes
from tests.accelerators import board, chain, fitting

_TIMES = EngineTimes(lambda fields: 7 * fields["rows"] + 3, lambda fields: 5 * fields["rows"] + 40, 15, 13)
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
        body.append(Command("load", transfer(3 * int(rng.random() < 0.1))))
        body += [Command("fetch", fetch)] * release + [Command("linear", linear)]
        body += [Command("store", transfer(0))] * int(rng.integers(2)) + [Command("vector", {"rows": rows})] * int(
            rng.integers(2)
        )
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
        commands += [replace(c, waits=wait, posts=post) for c, wait, post in zip(body, waits, posts, strict=True)]
        if rng.random() < 0.05:
            commands.append(body[0])
    return Program(tuple(commands), int(rng.integers(16)) * BURST_BYTES, b"", 0, {}, {}, 0), design


def _alike(program: Program, design: Design, seed: int) -> tuple[Machine, Machine]:
    """A run with shortcuts and one without, found to take the same cycles."""
    short, plain = (Machine(program, design, _TIMES, shortcuts=shortcuts) for shortcuts in (True, False))
    short.run()
    plain.run()
    assert short.start == plain.start, seed
    assert short.stop == plain.stop, seed
    return short, plain


@pytest.mark.parametrize("first", range(0, 60, 10))
def test_shortcuts_change_no_cycle(first: int) -> None:
    for seed in range(first, first + 10):
        program, design = _random_program(seed)
        _alike(program, design, seed)


def test_random_programs_take_all_shortcuts() -> None:
    """Otherwise the test above would show nothing."""
    programs = [_random_program(seed) for seed in range(60)]
    machines = [Machine(program, design, _TIMES) for program, design in programs]
    for machine in machines:
        machine.run()
    assert sum(machine.skipped > 0 for machine in machines) > 5
    assert sum(min(machine.stop) > 0 for machine in machines) > 30


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


def test_streams_of_weights_change_no_cycle(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = {"_glide": 0, "_flow": 0}

    def counted(name: str) -> Callable[[Shortcuts, int], list[Told]]:
        inner = getattr(Shortcuts, name)

        def outer(self: Shortcuts, limit: int) -> list[Told]:
            told: list[Told] = inner(self, limit)
            taken[name] += bool(told)
            return told

        return outer

    for name in taken:
        monkeypatch.setattr(Shortcuts, name, counted(name))
    for seed in range(60):
        program, design = _weights(seed)
        short, plain = _alike(program, design, seed)
        assert short.offchip.arrivals == plain.offchip.arrivals, seed
    assert min(taken.values()) > 20, taken


def test_a_streamed_product_is_mostly_skipped() -> None:
    linear = {"t_in": 8, "t_out": 32, "n_l": 8, "kw_max": 16, "ring_words": 1024, "table_words": 64, "tables": 1}
    design = Design(board(), {"linear": linear}, {"input": 8192, "output": 8192})
    program = compile_network(gemm(1024, 512, 512), design)
    short, plain = (Machine(program, design, engine_times(design), shortcuts=shortcuts) for shortcuts in (True, False))
    short.run()
    plain.run()
    assert (short.start, short.stop) == (plain.start, plain.stop)
    assert short.skipped > max(plain.stop) / 2
