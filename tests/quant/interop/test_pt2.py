"""Torch programs: converted to ONNX, and refused before anything in them can run."""

import importlib.util
import io
import json
import pickle
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from codesign.errors import InputError, ToolError
from codesign.frontend.workload import from_proto
from codesign.quant.interop.pt2 import read_pt2
from codesign.quant.lower.lowering import lower

TENSOR = {"path_name": "weight_0", "is_param": True, "use_pickle": False, "tensor_meta": {}}
NODE = {"target": "torch.ops.aten.relu.default", "inputs": [], "metadata": {"stack_trace": "/home/me"}}
SPEC = json.dumps([1, {"type": "builtins.tuple", "context": "null", "children_spec": []}])


class _Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def _files() -> dict[str, Any]:
    """An archive that passes the check, though torch would find no program in it."""
    return {
        "archive_format": b"pt2",
        "data/weights/model_weights_config.json": {"config": {"w": dict(TENSOR)}},
        "data/weights/weight_0": b"\0" * 4,
        "data/sample_inputs/model.pt": b"",
        "models/model.json": {
            "graph_module": {"graph": {"nodes": [dict(NODE)]}, "signature": {"in_spec": SPEC}},
            "guards_code": ["print(1)"],
        },
    }


def _write(path: Path, files: dict[str, Any], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for key, value in files.items():
            archive.writestr(f"m/{key}", value if isinstance(value, bytes) else json.dumps(value))
    return path


def _node(files: dict[str, Any]) -> dict[str, Any]:
    node: dict[str, Any] = files["models/model.json"]["graph_module"]["graph"]["nodes"][0]
    return node


def _entry(files: dict[str, Any]) -> dict[str, Any]:
    entry: dict[str, Any] = files["data/weights/model_weights_config.json"]["config"]["w"]
    return entry


def _spec(files: dict[str, Any], **changes: Any) -> None:
    item = {"type": "builtins.tuple", "context": "null", "children_spec": [], **changes}
    files["models/model.json"]["graph_module"]["signature"]["in_spec"] = json.dumps([1, item])


BAD: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "pickled weights": (lambda f: _entry(f).update(use_pickle=True), "'w' is pickled"),
    "a custom object": (lambda f: _entry(f).update(path_name="custom_obj_0"), "'w' is pickled"),
    "a path outside": (lambda f: _entry(f).update(path_name="../../weight_0"), "'w' is pickled"),
    "old weights": (lambda f: f.update({"data/weights/model.pt": b""}), "holds 'data/weights/model.pt'"),
    "an older format": (lambda f: f.update({"serialized_state_dict.pt": b""}), "serialized_state_dict"),
    "compiled code": (lambda f: f.update({"data/aotinductor/model/a.so": b""}), "aotinductor"),
    "a call outside": (lambda f: _node(f).update(target="torch.os.system"), "calls 'torch.os.system'"),
    "an operator of others": (lambda f: _node(f).update(target="torch.ops.mine.run.default"), "torch.ops.mine"),
    "no operator": (lambda f: _node(f).update(target=None), "calls None"),
    "a function": (lambda f: _node(f).update(inputs=[{"arg": {"as_operator": "torch.os.system"}}]), "as_operator"),
    "an expression": (lambda f: _node(f).update(inputs=[{"expr_str": "__import__('os')"}]), "has the size"),
    "a huge power": (lambda f: _node(f).update(inputs=[{"expr_str": "9**9"}]), "has the size"),
    "a module to import": (lambda f: _spec(f, context=json.dumps({"__enum__": 1, "fqn": "os:x"})), "has inputs in"),
    "a named tuple": (lambda f: _spec(f, type="collections.namedtuple"), "namedtuple"),
    "no program": (lambda f: f.pop("models/model.json"), "models/model.json is missing"),
    "a list": (lambda f: f.update({"models/model.json": []}), "the program is list"),
    "no JSON": (lambda f: f.update({"models/model.json": b"{"}), "is no torch program"),
    "no weights": (lambda f: f.update({"data/weights/model_weights_config.json": {}}), "weights are not listed"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_what_could_run_code_is_refused(name: str, tmp_path: Path) -> None:
    change, message = BAD[name]
    files = _files()
    change(files)
    with pytest.raises(InputError) as caught:
        read_pt2(_write(tmp_path / "bad.pt2", files))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_that_are_no_archive_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.pt2").write_text("hello")
    for name, message in (("text.pt2", "no torch program"), ("none.pt2", "cannot read"), ("", "cannot read|bytes|no ")):
        with pytest.raises(InputError, match=message):
            read_pt2(tmp_path / name)
    with pytest.raises(InputError, match="compressed"):
        read_pt2(_write(tmp_path / "small.pt2", _files(), zipfile.ZIP_DEFLATED))


def test_without_torch_the_message_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        ToolError, match=r"good.pt2 needs torch and onnxscript; install: pip install 'codesign\[quant\]'"
    ):
        read_pt2(_write(tmp_path / "good.pt2", _files()))


# With torch -------------------------------------------------------------------------------


def _torch() -> Any:
    pytest.importorskip("onnxscript", reason="needs onnxscript: pip install codesign[quant]")
    return pytest.importorskip("torch", reason="needs torch: pip install codesign[quant]")


def _saved(path: Path, symbolic: bool) -> tuple[Any, Any]:
    """A small network with one attention head in a program file, and what it computes of a sample."""
    torch = _torch()

    class Net(torch.nn.Module):  # type: ignore[name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.qkv = torch.nn.LayerNorm(12), torch.nn.Linear(12, 36)
            self.embed, self.out, self.head = (torch.nn.Linear(n, m) for n, m in ((6, 12), (12, 12), (12, 3)))

        def forward(self, tokens: Any) -> Any:
            x = self.embed(tokens)
            q, k, v = self.qkv(self.norm(x)).unflatten(-1, (3, 1, 12)).permute(2, 0, 3, 1, 4)
            y = torch.nn.functional.scaled_dot_product_attention(q, k, v)
            return self.head(self.norm(x + self.out(y.squeeze(1))))

    torch.manual_seed(0)
    torch.set_num_threads(1)
    model, tokens = Net().eval(), torch.rand(2 if symbolic else 1, 5, 6)
    shapes = ({0: torch.export.Dim("batch")},) if symbolic else None
    torch.export.save(torch.export.export(model, (tokens,), dynamic_shapes=shapes), path)
    with torch.no_grad():
        return tokens[:1].numpy(), model(tokens[:1]).numpy()


@pytest.mark.quant
@pytest.mark.parametrize("symbolic", [False, True])
def test_a_program_becomes_a_model_of_the_same_function(symbolic: bool, tmp_path: Path) -> None:
    tokens, expected = _saved(tmp_path / "net.pt2", symbolic)
    workload = from_proto(onnx.load_model_from_string(read_pt2(tmp_path / "net.pt2")), "net")
    assert list(workload.inputs) == ["tokens"]
    assert any(node.name.startswith("qkv/") for node in workload.nodes)
    np.testing.assert_allclose(next(iter(workload.evaluate({"tokens": tokens}).values())), expected, 1e-4, 1e-5)
    lower(workload, calibration={"tokens": np.random.default_rng(0).random((8, 5, 6))})


@pytest.mark.quant
def test_nothing_in_an_archive_is_unpickled(tmp_path: Path) -> None:
    _saved(tmp_path / "net.pt2", symbolic=False)
    sprung = tmp_path / "sprung"
    with zipfile.ZipFile(tmp_path / "net.pt2") as old, zipfile.ZipFile(tmp_path / "trap.pt2", "w") as new:
        for info in old.infolist():
            trap = info.filename.endswith("sample_inputs/model.pt")
            new.writestr(info.filename, _pickled(_Trap(sprung)) if trap else old.read(info))
    read_pt2(tmp_path / "trap.pt2")
    assert not sprung.exists()
    with suppress(TypeError):  # its warning about what it unpickled has a broken format
        _torch().export.load(tmp_path / "trap.pt2")
    assert sprung.exists()  # torch's own reader does unpickle


def _pickled(value: object) -> bytes:
    buffer = io.BytesIO()
    _torch().save((value,), buffer, pickle_protocol=pickle.DEFAULT_PROTOCOL)
    return buffer.getvalue()
