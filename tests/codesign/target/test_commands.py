"""The command format and the tokens that order a list."""

import numpy as np
import pytest

from codesign.target.commands import Command, Span, ordered
from codesign.target.engines import (
    COMMAND_BYTES,
    HEADER_BITS,
    MOST_ENGINES,
    OPERAND_BITS,
    engine_names,
    fields_of,
    kernels,
)

ENGINES = engine_names(["linear", "attention", "vector"])


def test_operands_of_every_engine_fit() -> None:
    assert all(sum(fields_of(engine).values()) <= OPERAND_BITS for engine in engine_names(kernels()))


def test_encoding_places_fields_in_order() -> None:
    command = Command(
        "store", {"memory": 1, "address": 2, "words": 3, "dram": 1 << 39}, waits={"linear": 2}, posts={"load": 1}
    )
    value = int.from_bytes(command.encode(ENGINES), "little")
    assert len(command.encode(ENGINES)) == COMMAND_BYTES
    assert value & 0xFFFFFFFF == ENGINES.index("store")
    assert value >> 32 & (1 << 64) - 1 == 2 << 4 * ENGINES.index("linear")
    assert value >> 96 & (1 << 64) - 1 == 1 << 4 * ENGINES.index("load")
    assert value >> HEADER_BITS == 1 | 2 << 8 | 3 << 32 | 1 << (56 + 39)


def test_the_last_of_as_many_engines_as_there_may_be_has_tokens_of_its_own() -> None:
    engines = engine_names(["linear", "attention", *(f"attention_{n}" for n in range(2, 13))])
    assert len(engines) == MOST_ENGINES
    last = engines[-1]
    command = Command(last, {"rows": 7}, waits={last: 15, "load": 1}, posts={last: 3})
    value = int.from_bytes(command.encode(engines), "little")
    assert value & 0xFF == MOST_ENGINES - 1
    assert value >> 32 & (1 << 64) - 1 == 15 << 60 | 1
    assert value >> 96 & (1 << 64) - 1 == 3 << 60
    assert value >> HEADER_BITS == 7


def test_negative_limits_are_stored_as_two_s_complement() -> None:
    low = int.from_bytes(Command("linear", {"low": -128}).encode(ENGINES), "little")
    at = HEADER_BITS + sum(bits for name, bits in fields_of("linear").items() if name not in ("low", "high", "addend"))
    assert low >> at & 0xFFFF == 0xFF80


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"words": 1 << 24}, "words is 16777216; legal: 24 bits"),
        ({"size": 1}, "no operand size"),
        ({"dram": 1 << 40}, "40 bits"),
    ],
)
def test_what_does_not_fit_is_refused(fields: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Command("load", fields).encode(ENGINES)


def test_too_many_tokens_are_refused() -> None:
    with pytest.raises(ValueError, match="16 tokens; legal: 0 to 15"):
        Command("load", {}, waits={"load": 16}).encode(ENGINES)


def _span(start: int, stop: int, memory: str = "m") -> tuple[Span, ...]:
    return (Span(memory, start, stop),)


def test_a_reader_waits_for_its_writer_and_a_writer_for_the_reader() -> None:
    load = Command("load", {}, writes=_span(0, 8))
    use = Command("linear", {}, reads=_span(4, 6))
    again = Command("load", {}, writes=_span(5, 9))
    first, second, third = ordered([load, use, again])
    assert first.posts == {"linear": 1}
    assert second.waits == {"load": 1}
    assert second.posts == {"load": 1}
    assert third.waits == {"linear": 1}


def test_neighbours_do_not_wait() -> None:
    commands = ordered([Command("load", {}, writes=_span(0, 8)), Command("linear", {}, reads=_span(8, 9))])
    assert not any(command.waits for command in commands)


def test_the_linear_engine_waits_for_itself_and_no_other_engine_does() -> None:
    for engine, waits in (("linear", {"linear": 1}), ("vector", {})):
        commands = ordered([Command(engine, {}, writes=_span(0, 1)), Command(engine, {}, reads=_span(0, 1))])
        assert commands[1].waits == waits


def _runs(commands: list[Command], rng: np.random.Generator) -> list[int]:
    """One random execution that obeys queues and tokens: the order in which commands are done."""
    queues = {engine: [i for i, c in enumerate(commands) if c.engine == engine] for engine in ENGINES}
    tokens = dict.fromkeys(((p, c) for p in ENGINES for c in ENGINES), 0)
    done = []
    while any(queues.values()):
        ready = [
            queue[0]
            for engine, queue in queues.items()
            if queue and all(tokens[p, engine] >= n for p, n in commands[queue[0]].waits.items())
        ]
        index = int(rng.choice(ready))
        command = commands[index]
        queues[command.engine].pop(0)
        for producer, count in command.waits.items():
            tokens[producer, command.engine] -= count
        for consumer, count in command.posts.items():
            tokens[command.engine, consumer] += count
        done.append(index)
    return done


@pytest.mark.parametrize("case", range(20))
def test_every_legal_execution_keeps_all_clashes_in_order(case: int) -> None:
    rng = np.random.default_rng(case)
    commands = []
    for _ in range(60):
        spans = [Span("ab"[rng.integers(2)], int(s), int(s + rng.integers(1, 6))) for s in rng.integers(0, 20, 2)]
        commands.append(Command(ENGINES[rng.integers(len(ENGINES))], {}, reads=(spans[0],), writes=(spans[1],)))
    listed = ordered(commands)
    place = {index: rank for rank, index in enumerate(_runs(listed, rng))}
    for later, me in enumerate(commands):
        for earlier in range(later):
            other = commands[earlier]
            clash = any(
                a.memory == b.memory and a.start < b.stop and b.start < a.stop
                for a, b in [
                    (me.reads[0], other.writes[0]),
                    (me.writes[0], other.reads[0]),
                    (me.writes[0], other.writes[0]),
                ]
            )
            assert not clash or place[earlier] < place[later]


def _clash(me: Command, other: Command) -> bool:
    """Whether one of two commands writes bytes that the other reads or writes."""
    pairs = [(a, b) for a in me.writes for b in (*other.reads, *other.writes)]
    pairs += [(a, b) for a in me.reads for b in other.writes]
    return any(a.memory == b.memory and a.start < b.stop and b.start < a.stop for a, b in pairs)


@pytest.mark.parametrize("case", range(20))
def test_a_command_takes_tokens_of_the_newest_clash_of_each_engine_and_of_no_other(case: int) -> None:
    """Compared with looking at every pair; bytes come again, so that what was known of them goes stale."""
    rng = np.random.default_rng(case)
    drawn = [Span("ab"[rng.integers(2)], int(s), int(s + rng.integers(6))) for s in rng.integers(0, 20, 12)]
    commands = []
    for _ in range(80):
        first, second, *third = (drawn[i] for i in rng.integers(len(drawn), size=rng.integers(2, 4)))
        commands.append(Command(ENGINES[rng.integers(len(ENGINES))], {}, (first, *third), (second,)))
    newest: dict[tuple[str, str], int] = {}
    waits: list[dict[str, int]] = [{} for _ in commands]
    posts: list[dict[str, int]] = [{} for _ in commands]
    for later, me in enumerate(commands):
        for engine in ENGINES:
            found = [i for i in range(later) if commands[i].engine == engine and _clash(me, commands[i])]
            mine = engine == me.engine != "linear"
            if found and not mine and found[-1] > newest.get((engine, me.engine), -1):
                newest[engine, me.engine] = found[-1]
                waits[later][engine] = posts[found[-1]][me.engine] = 1
    listed = ordered(commands)
    assert [command.waits for command in listed] == waits
    assert [command.posts for command in listed] == posts
    assert [command[:5] for command in listed] == [command[:5] for command in commands]
