"""Files of others: each is read and answers like onnxruntime, or is refused by the name of an operator."""

from pathlib import Path

import pytest
from oracles.onnx_models import agrees

import bounds
from bounds import UnsupportedLayer

FOLDER = Path(__file__).parents[4] / "shared" / "data" / "verification"
FILES = sorted(FOLDER.rglob("*.onnx"))
REFUSED = {"dropout_training_mode_true.onnx": r"operator Dropout .* draws random numbers"}
LARGE = {
    "cifar_base_kw.onnx",
    "model-german-traffic-sign-fast.onnx",
    "cnn_max_mninst2.onnx",
    "traffic-classifier64.onnx",
}


def rows() -> list:
    if not FILES:
        return [pytest.param(None, marks=pytest.mark.skip(reason="no reference data in ../shared/data"))]
    return [pytest.param(file, id=str(file.relative_to(FOLDER))) for file in FILES]


@pytest.mark.slow
@pytest.mark.parametrize("file", rows())
def test_a_published_file_answers_like_onnxruntime(file: Path):
    if file.name in REFUSED:
        with pytest.raises(UnsupportedLayer, match=REFUSED[file.name]):
            bounds.from_onnx(file)
        return
    agrees(str(file), low=0.0, high=1.0, bounded=file.name not in LARGE)


def test_most_published_files_are_read():
    if not FILES:
        pytest.skip("no reference data in ../shared/data")
    read = 0
    for file in FILES:
        try:
            bounds.from_onnx(file)
            read += 1
        except UnsupportedLayer:
            assert file.name in REFUSED
    assert read == len(FILES) - 1
