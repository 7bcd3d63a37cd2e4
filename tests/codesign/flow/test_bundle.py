from pathlib import Path

import numpy as np
import pytest

import codesign
from codesign.errors import InputError
from codesign.flow.bundle import Bundle, Fidelity


def test_a_bundle_shows_the_smallest_cosines(mlp: Path) -> None:
    images, _ = codesign.heldout("digits-mlp")
    found = codesign.open(mlp).fidelity(images["image"][:3])
    assert found.samples == 3
    assert len(found.cosines) == 3
    assert found.cosines[found.worst] == min(found.cosines.values())


def test_fidelity_is_drawn_as_what_is_missing_from_one() -> None:
    found = Fidelity({"first": 0.75, "second": 1.0, "third": 0.9}, 1)
    assert found.worst == "first"
    assert "first: 0.25" in found._repr_svg_()
    assert "second:" not in found._repr_svg_()


def test_a_product_has_no_fidelity(built: Path) -> None:
    with pytest.raises(InputError, match="no model file with quantizers"):
        codesign.open(built).fidelity(np.zeros((1, 5, 30)))


def test_a_bundle_verifies_like_the_command(built: Path) -> None:
    bundle = codesign.open(built)
    assert isinstance(bundle, Bundle)
    with pytest.raises(InputError, match="--images 0; legal: at least 1"):
        bundle.verify(images=0)
    with pytest.raises(InputError, match="--synth 'all'; legal: none, engines, top"):
        bundle.verify(synth="all")
    with pytest.raises(InputError, match=r"--kernel 'router'; legal: linear, the kernels of"):
        bundle.verify(kernel="router")
