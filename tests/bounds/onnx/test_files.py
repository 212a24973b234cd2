"""Contents that a file may have, and messages about files that cannot be used."""

import builtins
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from oracles.onnx_models import Case, agrees, made, node, onnx

import bounds
from bounds import InvalidModel, UnsupportedLayer

LINEAR = [node("MatMul", "x w", "h"), node("Add", "h b", "y")]
WEIGHTS = {"w": np.arange(6.0).reshape(3, 2), "b": np.array([1.0, -1.0])}


def linear(**changed: Any) -> Any:
    return made(LINEAR, {"x": (1, 3)}, WEIGHTS | changed)


def test_a_path_its_bytes_and_a_model_give_one_network(tmp_path: Path):
    model = linear()
    (tmp_path / "net.onnx").write_bytes(model.SerializeToString())
    x = torch.rand(2, 3)
    given = (model, model.SerializeToString(), tmp_path / "net.onnx", str(tmp_path / "net.onnx"))
    found = [bounds.from_onnx(source).module()(x) for source in given]
    torch.testing.assert_close(found[0], x @ torch.arange(6.0).view(3, 2) + torch.tensor([1.0, -1.0]))
    assert all(torch.equal(found[0], other) for other in found[1:])


def test_a_product_and_a_constant_are_one_affine_layer():
    for model in (linear(), made([node("MatMul", "x w", "h"), node("Add", "b h", "y")], {"x": ("N", 3)}, WEIGHTS)):
        nodes = bounds.from_onnx(model).bind(torch.rand(2, 3))
        assert [each.operation for each in nodes.values()] == ["input", "aten.linear.default", "aten.clone.default"]


def test_weights_may_have_any_name():
    """Also those that Python, or a module, has other uses for."""
    names = ["x.y", "x_y", "x/y", "lambda", "forward", "7"]
    nodes = [node("Add", "given " + names[0], "h0")]
    nodes += [node("Mul", f"h{i} {name}", f"h{i + 1}") for i, name in enumerate(names[1:])]
    constants = {name: np.array([float(i), 1.0]) for i, name in enumerate(names, start=2)}
    model = made(nodes, {"given": (1, 2)}, constants, outputs=(f"h{len(names) - 1}",))
    agrees(model)
    assert len(bounds.from_onnx(model).module().state_dict()) == len(names)


def resized(entries: int, factor: float) -> Any:
    """A network that picks entries whose places end with rounding: onnxruntime computes 7.0 entries of 10."""
    factors = np.array([1, 1, factor], dtype=np.float32)
    return Case("Resize", (1, 1, entries), (None, factors), 13, {"mode": "nearest"}).model()


def test_nodes_may_stand_in_any_order():
    agrees(made([LINEAR[1], LINEAR[0]], {"x": (1, 3)}, WEIGHTS))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            made([node("NonZero", "x", "y")], {"x": (1, 3)}),
            r"^operator NonZero \(node 'y', opset 17, tried\) has no counter",
        ),
        (
            made([node("Relu", "x", "y", name="r", slope=2.0)], {"x": (1, 3)}),
            r"^operator Relu \(node 'r', opset 17, tried\) has the attribute 'slope', which is not known$",
        ),
        (
            made([node("Relu", "x", "y", domain="own")], {"x": (1, 3)}),
            r"^operator own\.Relu \(node 'y'.* no counterpart",
        ),
        (Case("MaxPool", (1, 1, 4, 4), attributes={"kernel_shape": [2, 2]}, outputs=2).model(), "second output"),
        (
            Case("BatchNormalization", (1, 2), tuple(np.ones((4, 2))), attributes={"training_mode": 1}).model(),
            "statistics",
        ),
        (Case("Dropout", (1, 2), (np.float32(0.5), np.array(True))).model(), "draws random numbers"),
        (made([node("Gather", "w i", "y")], {"i": (1, 3)}, {"w": np.ones(4)}), "indices that depends on the input"),
        (Case("AveragePool", (1, 1, 6, 6), (), 19, {"kernel_shape": [2, 2], "dilations": [2, 2]}).model(), "dilations"),
        (resized(10, 0.7), "makes 6 or 7 entries of 10, as runtimes round: give sizes"),
        (resized(7, 0.7), "resizes 7 entries to 4, of which some are others as runtimes round: use 2 or 1/2"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_has_no_counterpart_is_named_in_one_line(model: Any, message: str):
    with pytest.raises(UnsupportedLayer, match=message) as caught:
        bounds.from_onnx(model)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (linear(w=np.array([[np.nan] * 2] * 3)), r"its weight 'w' is not finite"),
        (linear(b=np.array([np.inf, 0.0])), r"its weight 'b' is not finite"),
        (linear(w=np.ones((4, 2))), r"operator MatMul \(node 'h'.*does not accept inputs of shape \(1, 3\), \(4, 2\)"),
        (made(LINEAR, {"x": (1, 3)}, {"w": np.ones((3, 2))}), r"operator Add .* takes 'b', which nothing makes"),
        (made(LINEAR, {"x": (1, 3)}, WEIGHTS, outputs=("z",)), "nothing makes its output 'z'"),
        (made(LINEAR, {"x": (1, 3)}, WEIGHTS, opset=4), "uses opset 4"),
        (made(LINEAR, {"x": ("N", "T", 3)}, WEIGHTS), r"its input 'x' leaves a dimension open .*\('\?', '\?', 3\)"),
        (made([node("Relu", "h", "y"), node("Neg", "y", "h")], {"x": (1, 3)}), "depends on its own outputs"),
        (made(LINEAR, {}, WEIGHTS | {"x": np.ones((1, 3))}), "has no input"),
        (b"", "holds no network"),
        (b"not a model", "is damaged"),
    ],
)
def test_a_file_that_cannot_be_used_is_one_clear_error(model: Any, message: str):
    with pytest.raises(InvalidModel, match=message) as caught:
        bounds.from_onnx(model)
    assert "\n" not in str(caught.value)


def test_no_truncated_file_is_read():
    """Or it ends in an error of ours, wherever it was cut."""
    whole = linear().SerializeToString()
    for end in range(0, len(whole) - 1, 3):
        with pytest.raises(InvalidModel):
            bounds.from_onnx(whole[:end])


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(InvalidModel, match=r"ONNX file .*absent\.onnx cannot be read: No such file"):
        bounds.from_onnx(tmp_path / "absent.onnx")


def external(tmp_path: Path, **entries: str) -> Path:
    """A model whose weight is stored in another file."""
    model = linear()
    weight = model.graph.initializer[0]
    (tmp_path / "weights.bin").write_bytes(b"\0" * 4 + weight.raw_data)
    weight.ClearField("raw_data")
    weight.data_location = onnx.TensorProto.EXTERNAL
    for key, value in ({"location": "weights.bin", "offset": "4", "length": "24"} | entries).items():
        weight.external_data.add(key=key, value=value)
    folder = tmp_path / "net.onnx"
    folder.write_bytes(model.SerializeToString())
    return folder


def test_weights_of_another_file_in_the_folder_are_read(tmp_path: Path):
    x = torch.rand(2, 3)
    torch.testing.assert_close(bounds.from_onnx(external(tmp_path)).module()(x), bounds.from_onnx(linear()).module()(x))


@pytest.mark.parametrize(
    "entries",
    [
        {"location": "../weights.bin"},
        {"location": "/etc/hostname", "offset": "0"},
        {"location": "absent.bin"},
        {"location": "link.bin"},
        {"offset": "8"},
        {"offset": "-1"},
        {"offset": "some"},
        {"length": "20"},
    ],
)
def test_no_other_file_and_no_other_bytes_are_read(tmp_path: Path, entries: dict[str, str]):
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "weights.bin").write_bytes(b"\0" * 64)
    (folder / "link.bin").symlink_to(tmp_path / "weights.bin")
    path = external(folder, **entries)
    with pytest.raises(InvalidModel, match="the tensor 'w'"):
        bounds.from_onnx(path)
    with pytest.raises(InvalidModel, match="pass the path of the model"):
        bounds.from_onnx(path.read_bytes())


def test_without_the_package_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch):
    real = builtins.__import__

    def absent(name: str, *rest: Any) -> Any:
        if name.split(".")[0] == "onnx":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(InvalidModel, match=r'pip install "certify-bounds\[onnx\]"'):
        bounds.from_onnx(b"")


def test_the_mutant_that_ignores_ceil_mode_is_seen():
    """The last window of 3 over 4 entries in steps of 2 counts with ``ceil_mode`` alone."""
    options = {"kernel_shape": [3], "strides": [2]}
    sizes = []
    for ceil in (0, 1):
        model = Case("MaxPool", (1, 1, 4), attributes={**options, "ceil_mode": ceil}).model()
        agrees(model)
        sizes.append(bounds.from_onnx(model).outputs[0].shape)
    assert sizes == [(1, 1, 1), (1, 1, 2)]
