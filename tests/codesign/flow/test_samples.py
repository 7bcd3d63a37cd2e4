from pathlib import Path

import numpy as np
import pytest

from codesign.errors import InputError
from codesign.flow.samples import load_arrays, random_samples, samples_of
from codesign.frontend import zoo

NETWORK = zoo.gemm(2, 3, 4)


def test_npy_and_npz(tmp_path: Path) -> None:
    array = np.arange(6.0).reshape(2, 3)
    np.save(tmp_path / "x.npy", array)
    np.savez(tmp_path / "x.npz", a=array)
    np.testing.assert_array_equal(load_arrays(tmp_path / "x.npy")[""], array)
    np.testing.assert_array_equal(load_arrays(tmp_path / "x.npz")["a"], array)


@pytest.mark.parametrize("shape", [(5, 2, 3), (5, 1, 2, 3), (2, 3)])
def test_samples_come_first(shape: tuple[int, ...]) -> None:
    array = np.arange(float(np.prod(shape))).reshape(shape)
    found = samples_of(NETWORK, {"": array})
    assert len(found) == (1 if shape == (2, 3) else 5)
    np.testing.assert_array_equal(found[-1]["a"], array.reshape(-1, 2, 3)[-1])


@pytest.mark.parametrize(
    "arrays",
    [
        {"a": np.zeros((5, 3, 2))},
        {"a": np.zeros(6)},
        {"a": np.zeros((0, 2, 3))},
        {"a": np.full((1, 2, 3), np.nan)},
        {"a": np.zeros((1, 2, 3), complex)},
        {"b": np.zeros((1, 2, 3))},
        {"a": np.zeros((1, 2, 3)), "b": np.zeros((1, 2, 3))},
        {},
    ],
    ids=["shape", "flat", "none", "nan", "complex", "name", "two", "empty"],
)
def test_what_does_not_fit_is_refused(arrays: dict[str, np.ndarray]) -> None:
    with pytest.raises(InputError, match="legal"):
        samples_of(NETWORK, arrays)


def test_files_that_are_none_are_refused(tmp_path: Path) -> None:
    (tmp_path / "garbage.npy").write_bytes(b"garbage")
    (tmp_path / "empty.npy").write_bytes(b"")
    (tmp_path / "short.npz").write_bytes(b"PK\x03\x04")
    np.save(tmp_path / "text.npy", np.array(["a"]))
    np.save(tmp_path / "pickle.npy", np.array([{}], dtype=object), allow_pickle=True)
    for name in ("garbage.npy", "empty.npy", "short.npz", "text.npy", "pickle.npy", "missing.npy", "."):
        with pytest.raises(InputError):
            load_arrays(tmp_path / name)


def test_random_samples_use_the_whole_range_and_repeat() -> None:
    found = random_samples(zoo.gemm(64, 64, 1), 3, 7)
    again = random_samples(zoo.gemm(64, 64, 1), 3, 7)
    for one, other in zip(found, again, strict=True):
        np.testing.assert_array_equal(one["a"], other["a"])
    assert found[0]["a"].min() == -128
    assert found[0]["a"].max() == 127
    assert (found[0]["a"] != found[1]["a"]).any()
