from dataclasses import replace

import numpy as np
import pytest

from codesign.compiler.emission import DramMatrix
from codesign.compiler.host import image_of, load, matrices, read_matrix, write_matrix
from codesign.compiler.program import compile_network
from codesign.errors import InputError
from codesign.frontend import zoo
from codesign.target.board import Board
from codesign.target.design import Design
from tests.codesign.bundle.test_serialize import ENGINES


@pytest.mark.parametrize("bits", [8, 16])
def test_a_matrix_is_taken_as_it_was_put(bits: int, rng: np.random.Generator) -> None:
    place = DramMatrix("a", 64, 5, 7, 32, bits)
    matrix = rng.integers(-(1 << (bits - 1)), 1 << (bits - 1), (5, 7))
    dram = np.full(512, 0xAA, np.uint8)
    write_matrix(dram, place, matrix)
    np.testing.assert_array_equal(read_matrix(dram, place), matrix)
    assert (dram[:64] == 0xAA).all()
    assert (dram[64 + place.size :] == 0xAA).all()


def test_padding_is_zero() -> None:
    dram = np.full(64, 0xAA, np.uint8)
    write_matrix(dram, DramMatrix("a", 0, 2, 3, 16, 8), np.ones((2, 3), np.int64))
    assert dram[:32].sum() == 6


@pytest.mark.parametrize("matrix", [np.zeros((3, 2), int), np.full((2, 3), 128), np.full((2, 3), -129)])
def test_what_does_not_fit_is_refused(matrix: np.ndarray) -> None:
    with pytest.raises(ValueError, match="legal"):
        write_matrix(np.zeros(64, np.uint8), DramMatrix("a", 0, 2, 3, 16, 8), matrix)


def test_a_program_is_loaded_where_it_belongs() -> None:
    design = Design(Board.load("zcu102"), ENGINES, {"input": 4096, "output": 4096})
    program = compile_network(zoo.gemm(3, 20, 7), design)
    image = image_of(program)
    dram = np.zeros(program.dram_bytes, np.uint8)
    load(dram, image)
    at = program.constants_at
    assert dram[at : at + len(program.constants)].tobytes() == program.constants
    assert dram[program.list_at : program.list_at + 64 * len(program.commands)].tobytes() == program.encode()
    with pytest.raises(ValueError, match="legal: at most dram_bytes"):
        image_of(replace(program, dram_bytes=program.dram_bytes // 2))
    with pytest.raises(ValueError, match="below 0"):
        image_of(replace(program, list_at=-64))


def test_samples_become_integers() -> None:
    network = zoo.gemm(2, 3, 4)
    sample = np.array([[1, -2, 300], [0.4, 0.6, -1e9]])
    found = matrices(network, {"a": sample})
    np.testing.assert_array_equal(found["a"], [[1, -2, 127], [0, 1, -128]])
    with pytest.raises(InputError, match="legal"):
        matrices(network, {"a": np.zeros((3, 2))})
