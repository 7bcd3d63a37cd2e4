"""A design is plain numbers."""

import json

from codesign.target.board import Board
from codesign.target.design import Design

_LINEAR = {"t_in": 8, "t_out": 16, "n_l": 4}


def test_widths_come_from_the_board() -> None:
    design = Design(Board.load("zcu102"), {"linear": _LINEAR})
    assert design.word_bytes == 64
    assert design.multipliers == 512


def test_a_design_is_json() -> None:
    design = Design(Board.load("zcu102"), {"linear": _LINEAR}, {"input": 4096}, 8)
    assert json.loads(json.dumps(design.to_json())) == {
        "board": "zcu102",
        "engines": {"linear": _LINEAR},
        "memories": {"input": 4096},
        "row_group": 8,
    }
