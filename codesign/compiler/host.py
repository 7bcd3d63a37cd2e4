"""The host's part of a run: writes samples to DRAM as matrices, and reads matrices back as numbers.

The simulated accelerator and a real board's driver share it; it needs numpy alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from codesign.compiler.emission import DramMatrix
from codesign.compiler.program import Program
from codesign.ir.network import Ints, Network, input_golden

Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class Image:
    """A program as the host sees it: bytes and their addresses.

    Attributes:
        program: the addresses of the command list, and constants and matrices with theirs.
        commands: the bytes of the command list.
    """

    program: Program
    commands: bytes

    def __post_init__(self) -> None:
        program = self.program
        places = [*program.inputs.values(), *program.outputs.values()]
        ends = [program.list_at + len(self.commands), program.constants_at + len(program.constants)]
        ends += [place.address + place.size for place in places]
        if min((program.list_at, program.constants_at, *(place.address for place in places))) < 0:
            raise ValueError("an address below 0; legal: from 0")
        if max(ends) > program.dram_bytes:
            raise ValueError(f"a part ends at {max(ends)}; legal: at most dram_bytes, {program.dram_bytes}")


def image_of(program: Program) -> Image:
    """The host's view of a program."""
    return Image(program, program.encode())


def load(dram: Bytes, image: Image) -> None:
    """Writes a program's constants and command list into DRAM."""
    program = image.program
    for at, data in ((program.constants_at, program.constants), (program.list_at, image.commands)):
        dram[at : at + len(data)] = np.frombuffer(data, np.uint8)


def write_matrix(dram: Bytes, place: DramMatrix, matrix: NDArray[np.integer]) -> None:
    """Writes a matrix to its place; padding becomes zero.

    Raises:
        ValueError: a wrong shape, or values that do not fit the place's bits.

    >>> dram = np.zeros(8, np.uint8)
    >>> write_matrix(dram, DramMatrix("a", 0, 2, 3, 4, 8), np.array([[1, 2, 3], [4, 5, -1]]))
    >>> dram.tolist(), read_matrix(dram, DramMatrix("a", 0, 2, 3, 4, 8)).tolist()
    ([1, 2, 3, 0, 4, 5, 255, 0], [[1, 2, 3], [4, 5, -1]])
    """
    kind = _kind(place)
    limits = np.iinfo(kind)
    if matrix.shape != (place.rows, place.columns):
        raise ValueError(f"{place.name} has shape {matrix.shape}; legal: {(place.rows, place.columns)}")
    if int(matrix.min()) < limits.min or int(matrix.max()) > limits.max:
        raise ValueError(f"{place.name} from {matrix.min()} to {matrix.max()}; legal: {place.bits} bits")
    rows = np.zeros((place.rows, place.pitch // kind.itemsize), kind)
    rows[:, : place.columns] = matrix
    dram[place.address : place.address + place.size] = rows.view(np.uint8).ravel()


def read_matrix(dram: Bytes, place: DramMatrix) -> Ints:
    """The matrix at a place."""
    raw = np.ascontiguousarray(dram[place.address : place.address + place.size])
    return raw.view(_kind(place)).reshape(place.rows, -1)[:, : place.columns].astype(np.int64)


def _kind(place: DramMatrix) -> np.dtype[np.signedinteger]:
    return np.dtype("<i1" if place.bits == 8 else "<i2")


def matrices(network: Network, sample: Mapping[str, NDArray[np.generic]]) -> dict[str, Ints]:
    """The integer matrices of one sample, by tensor name.

    Args:
        network: its inputs define how samples become integers.
        sample: an array per model input, of the input's shape.

    Raises:
        InputError: wrong shape, or values that are not finite numbers.
    """
    return {
        item.target: input_golden(item, network.tensors[item.target].scale, np.asarray(sample[item.name]))
        for item in network.inputs
    }
