from collections.abc import Sequence

import numpy as np
import pytest

from codesign.errors import CheckError
from codesign.hw.emit.stimulus import Trial, Word, cut, pack
from codesign.sim.testbench.referee import CycleTrace, Referee

ROW = np.array([[5, -6, 7, 100, -128]])
RESULT = {(0, 8 + at): word for _, at, word in cut(ROW, 2, 5)}
WRITES = [((0, 8), 0xFA05), ((0, 9), 0x6407), ((0, 10), 0x5580)]
LEGAL = Trial({"rows": 1}, cycles=6, expected=RESULT)
ILLEGAL = LEGAL.illegal({"rows": 0})
ACCEPT, IDLE, WORK = CycleTrace(accepted=True), CycleTrace(), CycleTrace(busy=True)
DONE, REFUSED = CycleTrace(done=True, busy=True), CycleTrace(error=True, busy=True)
WRITING = [CycleTrace(busy=True, write=write) for write in WRITES]
COMMAND = [ACCEPT, WORK, WORK, *WRITING, DONE]


def judge(trials: Sequence[Trial], cycles: Sequence[CycleTrace], exact: bool = True) -> Referee:
    referee = Referee(8, exact=exact)
    referee.expect(trials)
    for seen in cycles:
        referee.look(seen)
    return referee


class TestRight:
    def test_one_after_the_other(self) -> None:
        referee = judge([LEGAL, ILLEGAL, LEGAL], [*COMMAND, IDLE, ACCEPT, WORK, REFUSED, *COMMAND, IDLE])
        assert referee.finished
        assert referee.cycles == {0: 6, 2: 6}
        referee.overdue(1)

    def test_commands_in_flight_and_a_refusal_at_once_beside_a_done(self) -> None:
        refused = CycleTrace(accepted=True, error=True, busy=True)
        ends = CycleTrace(accepted=True, error=True, done=True, busy=True)
        cycles = [ACCEPT, refused, CycleTrace(accepted=True, busy=True), *WRITING, DONE, *WRITING, ends, IDLE]
        referee = judge([LEGAL, ILLEGAL, LEGAL, ILLEGAL], cycles, exact=False)
        assert referee.finished
        assert referee.cycles == {0: 6, 2: 8}

    def test_the_next_command_writes_in_the_cycle_of_done(self) -> None:
        both = CycleTrace(done=True, busy=True, write=WRITES[0])
        cycles = [ACCEPT, CycleTrace(accepted=True, busy=True), WORK, *WRITING, both, *WRITING[1:], DONE]
        assert judge([LEGAL, LEGAL], cycles, exact=False).finished


class TestWrong:
    @pytest.mark.parametrize(
        ("cycles", "why"),
        [
            ([DONE], "cycle 0: busy is 1 while 0 commands run"),
            ([CycleTrace(done=True)], "cycle 0: done without a command"),
            ([CycleTrace(error=True)], "cycle 0: error without a command"),
            ([ACCEPT, IDLE], "cycle 1: busy is 0 while 1 commands run"),
            ([*COMMAND, CycleTrace(done=True)], "cycle 7: done without a command"),
            ([*COMMAND[:-1], CycleTrace(done=True, error=True, busy=True)], "command 0: error, expected done"),
            ([ACCEPT, REFUSED], "cycle 1, command 0: error, expected done: the command is legal; operands rows=1"),
            ([*COMMAND, ACCEPT], "a command too many is accepted"),
            ([*COMMAND[:-1], WORK, DONE], r"cycle 7, command 0: expected 6 cycles, got 7"),
            ([ACCEPT, WORK, *WRITING, DONE], r"expected 6 cycles, got 5"),
            ([*COMMAND[:5], WORK, DONE], r"element \[0, 4\]: expected -128 at \(0, 10\), got no write"),
            ([ACCEPT, WRITING[0], WRITING[0]], r"write to \(0, 8\), which is not the command's or is written already"),
            ([ACCEPT, CycleTrace(busy=True, write=((1, 8), 0))], r"write to \(1, 8\), which is not the command's"),
            ([CycleTrace(write=((0, 3), 0))], r"cycle 0: write to \(0, 3\) without a command"),
            (
                [ACCEPT, WRITING[0], CycleTrace(busy=True, write=((0, 9), 0x6507))],
                r"cycle 2, command 0: element \[0, 3\]: expected 100, got 101; operands rows=1",
            ),
        ],
    )
    def test_each_rule(self, cycles: list[CycleTrace], why: str) -> None:
        with pytest.raises(CheckError, match=why):
            judge([LEGAL], cycles)

    def test_an_illegal_command(self) -> None:
        with pytest.raises(
            CheckError, match="command 0: done, expected error: the command is illegal; operands rows=0"
        ):
            judge([ILLEGAL], [ACCEPT, DONE])
        with pytest.raises(CheckError, match=r"command 0: write to \(0, 8\), which is not"):
            judge([ILLEGAL], [ACCEPT, WRITING[0]])

    def test_commands_that_never_end(self) -> None:
        with pytest.raises(CheckError, match="command 0: has neither ended nor been refused after 2 cycles"):
            judge([LEGAL], [ACCEPT, WORK]).overdue(2)
        with pytest.raises(CheckError, match="command 1: is not accepted after 8 cycles"):
            judge([LEGAL, LEGAL], [*COMMAND, IDLE]).overdue(8)

    def test_faster_than_possible(self) -> None:
        with pytest.raises(CheckError, match="expected at least 6 cycles, got 5"):
            judge([LEGAL], [ACCEPT, WORK, *WRITING, DONE], exact=False)


def test_cut_pads_every_part() -> None:
    words = list(cut(np.arange(12).reshape(2, 6), 2, 3))
    assert [(row, at) for row, at, _ in words] == [(row, at) for row in range(2) for at in range(4)]
    values = [(word.row, word.column, word.values.tolist()) for _, _, word in words[:4]]
    assert values == [(0, 0, [0, 1]), (0, 2, [2]), (0, 3, [3, 4]), (0, 5, [5])]


def test_pack_is_little_endian_two_s_complement() -> None:
    assert pack(np.array([[1, -2], [-128, 127]]), 8) == [0xFE01, 0x7F80]
    assert Word(0, 0, ROW[0]).values[1] == -6
