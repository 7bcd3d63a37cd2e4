"""Cycle-by-cycle protocol check of an engine running a list of commands; independent of the simulator."""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from codesign.errors import CheckError
from codesign.hw.emit.stimulus import Address, Trial, Word
from codesign.numerics.fixed_point import wrap_bits


@dataclass(frozen=True, slots=True)
class CycleTrace:
    """Outputs of an engine in one cycle, with all signals settled.

    Attributes:
        accepted: a command is accepted at the end of the cycle.
        done, error, busy: port values.
        write: address and data of a write, if any.
    """

    accepted: bool = False
    done: bool = False
    error: bool = False
    busy: bool = False
    write: tuple[Address, int] | None = None


class Referee:
    """Checks an engine against the common protocol and the bits and cycles of its trials.

    Rules: every legal command ends with one ``done`` pulse, in order and after its last write; every illegal
    one with one ``error`` pulse, in its acceptance cycle or before the next acceptance, and without a
    write; there are no other pulses or writes; ``busy`` is high from the cycle after the acceptance of a
    command until the last one has ended.

    Args:
        lane_bits: bits from one element of a written word to the next; None for the width of an element.
        exact: whether cycles must equal the formula; otherwise it is a lower bound.
    """

    def __init__(self, lane_bits: int | None, *, exact: bool = True) -> None:
        self.trials: list[Trial] = []
        self.cycle = 0
        self.cycles: dict[int, int] = {}
        self._lane_bits, self._exact = lane_bits, exact
        self._accepted: list[int] = []
        self._open: deque[int] = deque()
        self._left: dict[Address, Word] = {}
        self._writer: int | None = None

    def expect(self, trials: Iterable[Trial]) -> None:
        """Adds trials in the order in which their commands will be accepted."""
        self.trials.extend(trials)

    @property
    def finished(self) -> bool:
        """Whether every command has been accepted and has ended."""
        return len(self._accepted) == len(self.trials) and not self._open

    def look(self, seen: CycleTrace) -> None:
        """Checks one cycle.

        Raises:
            CheckError: a rule is broken; the message has command, element, expected and actual value.
        """
        if seen.busy != bool(self._open):
            raise self._fault(f"busy is {int(seen.busy)} while {len(self._open)} commands run")
        if seen.accepted:
            self._accept()
        if seen.error:
            self._refused()
        if seen.done:
            self._done()
        if seen.write is not None:
            self._write(*seen.write)
        self.cycle += 1

    def overdue(self, limit: int) -> None:
        """Raises CheckError if the cycle limit has passed and commands are unfinished."""
        if self.cycle >= limit and not self.finished:
            index = self._open[0] if self._open else len(self._accepted)
            what = "has neither ended nor been refused" if self._open else "is not accepted"
            raise self._fault(f"{what} after {limit} cycles", index)

    def _accept(self) -> None:
        index = len(self._accepted)
        if index == len(self.trials):
            raise self._fault("a command too many is accepted")
        self._accepted.append(self.cycle)
        self._open.append(index)

    def _refused(self) -> None:
        if not self._open:
            raise self._fault("error without a command")
        index = self._open.pop()
        if self.trials[index].expected is not None:
            raise self._fault("error, expected done: the command is legal", index)

    def _done(self) -> None:
        if not self._open:
            raise self._fault("done without a command")
        index = self._open.popleft()
        trial, took = self.trials[index], self.cycle - self._accepted[index]
        if trial.expected is None:
            raise self._fault("done, expected error: the command is illegal", index)
        self._begin(index)
        for address, word in self._left.items():
            raise self._fault(f"{_element(word, 0)}: expected {word.values[0]} at {address}, got no write", index)
        self._writer = None
        if took != trial.cycles if self._exact else took < trial.cycles:
            raise self._fault(f"expected {'' if self._exact else 'at least '}{trial.cycles} cycles, got {took}", index)
        self.cycles[index] = took

    def _begin(self, index: int) -> None:
        """Starts tracking the words that a command has to write, unless it is tracked already."""
        if self._writer != index:
            self._writer, self._left = index, dict(self.trials[index].expected or {})

    def _write(self, address: Address, data: int) -> None:
        if not self._open:
            raise self._fault(f"write to {address} without a command")
        index = self._open[0]
        self._begin(index)
        word = self._left.pop(address, None)
        if word is None:
            raise self._fault(f"write to {address}, which is not the command's or is written already", index)
        bits = self.trials[index].bits
        lane = bits if self._lane_bits is None else self._lane_bits
        got = wrap_bits([data >> lane * at & (1 << bits) - 1 for at in range(len(word.values))], bits)
        for at in np.flatnonzero(got != word.values):
            raise self._fault(f"{_element(word, int(at))}: expected {word.values[at]}, got {got[at]}", index)

    def _fault(self, what: str, index: int | None = None) -> CheckError:
        if index is None:
            return CheckError(f"cycle {self.cycle}: {what}")
        fields = self.trials[index].fields if index < len(self.trials) else {}
        operands = " ".join(f"{name}={value}" for name, value in fields.items())
        return CheckError(f"cycle {self.cycle}, command {index}: {what}; operands {operands}")


def _element(word: Word, at: int) -> str:
    return f"element [{word.row}, {word.column + at}]"
