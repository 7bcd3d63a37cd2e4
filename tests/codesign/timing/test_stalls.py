from collections.abc import Iterator, Sequence
from itertools import pairwise

import pytest

from codesign.flow.build import Plan, plan
from codesign.target.board import Board
from codesign.target.commands import RELEASE, Command
from codesign.timing.cycles import Activity
from codesign.timing.stalls import DONE, HANDOVER, READING, WEIGHTS, busy, idle, shares, starved


@pytest.fixture(scope="module")
def vit() -> Plan:
    return plan("digits-vit", Board.load("zcu102"))


def gaps(activities: Sequence[Activity], total: int) -> Iterator[tuple[str, int, int]]:
    """Stretches without a command, found without the command list."""
    for engine in {activity.engine for activity in activities}:
        mine = sorted((a.start, a.stop) for a in activities if a.engine == engine)
        free = 0
        for (_, stop), (start, _) in pairwise([(0, 0), *mine, (total, total)]):
            free = max(free, stop)
            if start - free > HANDOVER:
                yield engine, free, start


def test_every_idle_stretch_has_a_reason(vit: Plan) -> None:
    found = idle(vit.program.commands, vit.timing.activities, vit.timing.total)
    assert sorted((w.engine, w.start, w.stop) for w in found) == sorted(gaps(vit.timing.activities, vit.timing.total))
    assert all(wait.reason for wait in found)
    assert {wait.cause for wait in found} <= {"load", "store", "fetch", "linear", "attention", "vector", READING, DONE}


def test_only_the_first_commands_wait_for_the_list(vit: Plan) -> None:
    found = idle(vit.program.commands, vit.timing.activities, vit.timing.total)
    assert {wait.start for wait in found if wait.cause == READING} == {0}
    assert {wait.stop for wait in found if wait.cause == DONE} == {vit.timing.total}


def test_the_engine_blamed_did_something_when_the_stretch_ended(vit: Plan) -> None:
    """A token comes one cycle after its command is done, a place in a queue one command a cycle later."""
    activities = vit.timing.activities
    for wait in idle(vit.program.commands, activities, vit.timing.total):
        if wait.cause in (READING, DONE):
            continue
        number = int(wait.reason.partition(" command ")[2].split(" ")[0])
        blamed = activities[number]
        assert blamed.engine == wait.cause
        if "needs" in wait.reason:
            assert blamed.stop + 1 == wait.stop
        else:
            assert blamed.start + 2 <= wait.stop <= blamed.start + 2 + len(activities)


def test_busy_and_idle_make_the_run(vit: Plan) -> None:
    total, work = vit.timing.total, busy(vit.timing.activities)
    for engine, counts in shares(idle(vit.program.commands, vit.timing.activities, total)).items():
        handovers = sum(activity.engine == engine for activity in vit.timing.activities) + 1
        assert total - handovers * HANDOVER <= work[engine] + sum(counts.values()) <= total


def test_the_newest_token_is_the_one_that_is_named() -> None:
    commands = [
        Command("load", {}, label="early", posts={"vector": 1}),
        Command("linear", {}, label="late", posts={"vector": 1}),
        Command("vector", {}, label="reader", waits={"load": 1, "linear": 1}),
    ]
    activities = [
        Activity("load", "early", 5, 20),
        Activity("linear", "late", 6, 90),
        Activity("vector", "reader", 91, 99),
    ]
    wait = next(w for w in idle(commands, activities, 101) if w.engine == "vector")
    assert wait[:4] == ("vector", 0, 91, "linear")
    assert wait.reason == "reader needs linear command 1 (late), done in cycle 90"


@pytest.mark.parametrize(("start", "cause"), [(57, "vector"), (58, READING)])
def test_a_full_queue_in_the_way_is_named(start: int, cause: str) -> None:
    """Eight vector commands wait in their queue, so that the tenth holds up the store behind it until cycle 57."""
    commands = [*(Command("vector", {}, label=f"v{i}") for i in range(10)), Command("store", {}, label="s")]
    times = [(4 + 50 * i, 53 + 50 * i) for i in range(10)]
    activities = [*(Activity("vector", f"v{i}", *at) for i, at in enumerate(times)), Activity("store", "s", start, 80)]
    wait = next(w for w in idle(commands, activities, 600) if w.engine == "store")
    assert wait[:4] == ("store", 0, start, cause)
    assert ("queue was full until it took command 1 (v1) in cycle 54" in wait.reason) == (cause == "vector")


def test_an_array_that_waits_for_weights_is_told_apart() -> None:
    slow = plan("gemm:1x512x512", Board.load("zcu102"), budget={"dsp": 200})
    found = starved(slow.program.commands, slow.timing.activities)
    assert {wait.cause for wait in found} == {WEIGHTS}
    linear = busy(slow.timing.activities)["linear"]
    assert 0.5 * linear < sum(wait.stop - wait.start for wait in found) <= linear


def test_weights_belong_to_the_commands_up_to_their_release() -> None:
    commands = [
        Command("fetch", {}, label="a"),
        Command("linear", {"flags": 0}),
        Command("linear", {"flags": RELEASE}),
        Command("fetch", {}, label="b"),
        Command("linear", {"flags": RELEASE}),
    ]
    activities = [
        Activity("fetch", "a", 0, 20), Activity("linear", "x", 10, 40), Activity("linear", "y", 30, 60),
        Activity("fetch", "b", 21, 75), Activity("linear", "z", 50, 90),
    ]  # fmt: skip
    assert [wait[:3] for wait in starved(commands, activities)] == [("linear", 10, 20), ("linear", 60, 75)]
