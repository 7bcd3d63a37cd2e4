import numpy as np
import pytest

from codesign.hw.attention import AttentionKernel
from codesign.hw.attention.stimulus import illegal, legal
from codesign.hw.emit.rig import DEPTH
from codesign.ir.network import MASKS
from codesign.numerics.nonlinear import mask_interval

KERNEL = AttentionKernel(t_a=4, n_a=2, max_keys=16, db_max=3)


def refusal(fields: dict[str, int], kernel: AttentionKernel) -> str:
    """The first rule that a command breaks, as the kernel's limits say; empty if it is legal."""
    row = fields["heads"] * fields["db"]
    sizes = {"q": fields["rows"], "k": fields["keys"], "v": fields["keys"], "o": fields["rows"]}
    limits = {
        "rows": (1, 0xFFFF), "keys": (1, kernel.max_keys), "heads": (1, 255), "db": (1, kernel.db_max),
        "mask": (0, len(MASKS) - 1), "score_multiplier": (0, (1 << 17) - 1), "score_shift": (0, 63),
        "out_multiplier": (1 << 16, (1 << 17) - 1), "out_shift": (0, kernel.max_out_shift),
    }  # fmt: skip
    limits |= {f"{name}_base": (0, DEPTH - size * row) for name, size in sizes.items()}
    for name, (low, high) in limits.items():
        if not low <= fields[name] <= high:
            return name
    if MASKS[fields["mask"]] == "sliding" and fields["window"] == 0:
        return "window"
    try:
        mask_interval(MASKS[fields["mask"]], fields["query_offset"] + fields["rows"], fields["keys"], fields["window"])
    except ValueError:
        return "a row without keys"
    return ""


def test_a_legal_command_breaks_no_rule(rng: np.random.Generator) -> None:
    for slot in range(40):
        assert refusal(dict(legal(rng, KERNEL, slot % 2).fields), KERNEL) == ""


def test_an_illegal_command_breaks_a_rule_and_all_rules_are_broken(rng: np.random.Generator) -> None:
    found = [refusal(dict(illegal(rng, KERNEL, slot % 2).fields), KERNEL) for slot in range(300)]
    assert "" not in found
    assert {*found} >= {
        "rows", "keys", "heads", "db", "mask", "score_multiplier", "score_shift", "out_multiplier", "out_shift",
        "q_base", "k_base", "v_base", "o_base", "window", "a row without keys",
    }  # fmt: skip


@pytest.mark.parametrize("wrong", [{"keys": 17}, {"out_shift": KERNEL.max_out_shift + 1}, {"mask": 3}])
def test_the_rules_see_a_value_just_too_large(wrong: dict[str, int], rng: np.random.Generator) -> None:
    assert refusal({**legal(rng, KERNEL, 0).fields, **wrong}, KERNEL) in wrong
