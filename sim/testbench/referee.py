"""Judges what an engine does with a list of commands, cycle by cycle; knows nothing of the simulator."""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from codesign.errors import CheckError
from codesign.hw.emit.stimulus import Address, Trial, Word
from codesign.numerics.fixed_point import wrap_bits


@dataclass(frozen=True, slots=True)
class CycleTrace:
    """What an engine shows in a cycle, all signals settled.

    Attributes:
        accepted: a command is handed over at the end of the cycle.
        done, error, busy: as at the ports.
        write: address and data of a write, if there is one.
    """

    accepted: bool = False
    done: bool = False
    error: bool = False
    busy: bool = False
    write: tuple[Address, int] | None = None


class Referee:
    """Holds an engine to the protocol that all engines share, and to the bits and cycles of its trials.

    The rules: every legal command ends with one ``done`` pulse, in order and after its last write;
    every illegal one with one ``error`` pulse, in the cycle of its acceptance or before the next is
    accepted, and without a write; no other pulses and no other writes; ``busy`` from the cycle after
    the acceptance of a command to its last one.

    Args:
        lane_bits: distance of two elements in a word that is written; None for the bits of an element.
        exact: whether commands take the cycles of their formula; at least so many if not.
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
        """Adds trials, in the order in which their commands will be accepted."""
        self.trials.extend(trials)

    @property
    def finished(self) -> bool:
        """Every command has been accepted and has ended."""
        return len(self._accepted) == len(self.trials) and not self._open

    def look(self, seen: CycleTrace) -> None:
        """Judges one cycle.

        Raises:
            CheckError: a rule is broken; names the command, the element, what was expected and what was seen.
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
        """Raises a CheckError if nothing more happens: the limit of cycles has passed."""
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
        """The words that a command has left to write, all of them if it has not begun."""
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
