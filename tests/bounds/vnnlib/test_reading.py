"""What a text says, in both versions: inequalities, strictness, disjunctions, boxes, deep and long texts."""

import gzip
import time
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.halfspace import generator
from oracles.vnnlib_formulas import assertions, holds, in_version_2, stated
from torch import Tensor

import bounds
from bounds import Property, read_vnnlib

TEXTS = {
    "one row": "(<= Y_0 Y_1)",
    "two rows": "(and (<= Y_0 Y_1) (<= Y_0 Y_2))",
    "or": "(or (<= Y_0 Y_1) (<= Y_0 Y_2) (and (>= Y_0 0.5) (< Y_1 0.25)))",
    "three ors": "(and (or (<= Y_2 Y_0) (<= Y_2 Y_1)) (or (<= Y_1 Y_0) (<= Y_1 Y_2)) (or (> Y_0 0) (< Y_2 0)))",
    "or in or": "(or (<= Y_0 -0.5) (and (or (> Y_1 0.5) (> Y_2 0.5)) (or (<= Y_0 0) (>= Y_0 0.5))))",
    "inputs in or": "(or (and (<= X_0 0.5) (>= X_1 0) (<= Y_0 0)) (and (>= X_0 -0.5) (>= Y_0 0)))",
    "inputs alone": "(<= (+ X_0 X_1) 0.5)",
    "mixed": "(<= (- Y_0 X_0) (* 2 X_1))",
    "not": "(not (or (<= Y_0 0) (and (< Y_1 0.5) (>= Y_2 0))))",
    "implies": "(=> (<= X_0 0) (<= Y_0 0) (<= Y_1 0))",
    "chain": "(<= -0.5 Y_0 Y_1 0.5)",
    "not chain": "(not (<= -0.5 Y_0 Y_1 0.5))",
    "equal": "(= Y_0 Y_1)",
    "equal of 2.0": "(== Y_0 0.5)",
    "unequal": "(not (= Y_0 Y_1))",
    "unequal of 2.0": "(!= Y_0 0.5)",
    "strict": "(and (< Y_0 Y_1) (> X_0 0))",
    "terms": "(<= (+ (* 2 Y_0 0.5) (- Y_1) (- 3 Y_2 0.5 (* -1 X_0)) (/ X_1 4)) (- (* (+ 1 1) Y_1) 1e-1 -.5E0 +1.))",
    "both sides": "(>= (+ Y_0 X_0 1) (+ X_0 Y_1 1))",
    "always": "(or (<= 0 1) (<= Y_0 0))",
    "never": "(or (< Y_0 Y_0) false)",
    "contradiction": "(and (<= Y_0 Y_1) (> Y_0 Y_1))",
    "outside": "(>= X_0 2)",
}


def points(count: int, inputs: int, outputs: int) -> tuple[Tensor, Tensor]:
    """Points on a coarse grid, so that ties are frequent; some lie outside of the box."""
    draw = generator(1)
    sides = [torch.randint(-5, 6, (count, entries), generator=draw).double() / 4 for entries in (inputs, outputs)]
    return sides[0], sides[1]


def agree(found: Property, text: str, x: Tensor, y: Tensor) -> None:
    assert found.is_unsafe(x, y).tolist() == holds(assertions(text), x, y, exact=True).tolist()


# ------------------------------------------------------------------------------------------------------- assertions


@pytest.mark.parametrize("name", TEXTS)
def test_a_text_says_what_its_formulas_say(name: str):
    text = stated(2, 3, TEXTS[name])
    x, y = points(600, 2, 3)
    found = read_vnnlib(text)
    agree(found, text, x, y)
    agree(read_vnnlib(in_version_2(text, 2, 3)), text, x, y)
    agree(read_vnnlib(found.to_vnnlib()), text, x, y)


@pytest.mark.slow
def test_texts_hold_for_some_points_and_fail_for_others():
    """Else agreement would say nothing."""
    x, y = points(600, 2, 3)
    shares = {name: holds(assertions(stated(2, 3, text)), x, y, exact=True).mean() for name, text in TEXTS.items()}
    assert {name for name, share in shares.items() if share == 0} == {"never", "contradiction", "outside"}
    assert max(shares.values()) < 0.8


comparisons = st.builds(
    "({} {} {})".format,
    st.sampled_from(["<=", ">=", "<", ">", "="]),
    st.sampled_from(["X_0", "X_1", "Y_0", "Y_1", "(+ Y_0 Y_1)", "(- X_0)", "(* -3 Y_1)", "(- Y_0 X_1 1)"]),
    st.sampled_from(["X_0", "Y_1", "0", "-0.5", "0.25", "(* 2 (- Y_1 X_0))", "(+ Y_0 1)", "1/4"]),
)
formulas = st.recursive(
    comparisons,
    lambda inner: st.one_of(
        st.builds("(not {})".format, inner),
        st.builds("({} {} {})".format, st.sampled_from(["and", "or", "=>"]), inner, inner),
        st.builds("({} {} {} {})".format, st.sampled_from(["and", "or"]), inner, inner, inner),
    ),
    max_leaves=10,
)


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(st.lists(formulas, min_size=1, max_size=3))
def test_nested_formulas_say_what_they_say(drawn: list[str]):
    text = stated(2, 2, *drawn)
    x, y = points(60, 2, 2)
    found = read_vnnlib(text)
    agree(found, text.replace("1/4", "0.25"), x, y)
    again = read_vnnlib(found.to_vnnlib())
    assert again.to_vnnlib() == found.to_vnnlib()
    agree(again, text.replace("1/4", "0.25"), x, y)


def test_every_clause_of_an_or_counts():
    """Published readers took the first alone."""
    found = read_vnnlib(stated(1, 3, "(or (and (<= Y_0 -1)) (and (<= Y_1 -1)) (and (<= Y_2 -1)))"))
    y = torch.eye(3, dtype=torch.float64) * -2
    assert found.is_unsafe(torch.zeros(3, 1), y).tolist() == [True, True, True]
    assert len(found.boxes[0].cases) == 3


def test_ties_are_unsafe_unless_strict():
    x, y = torch.tensor([[0.5]]), torch.tensor([[0.1, 0.1]])
    assert read_vnnlib(stated(1, 2, "(<= Y_0 Y_1)")).is_unsafe(x, y).all()
    assert not read_vnnlib(stated(1, 2, "(< Y_0 Y_1)")).is_unsafe(x, y).any()
    assert read_vnnlib(stated(1, 2, "(<= X_0 0.5)")).is_unsafe(x, y).all()
    assert not read_vnnlib(stated(1, 2, "(< X_0 0.5)")).is_unsafe(x, y).any()


def test_no_rounding_decides_a_tie():
    """Sums in float64 lose the 1 in the first row, make a 4 of the 3 in the second, and overflow in the last."""
    found = read_vnnlib(stated(1, 4, "(<= (+ Y_0 Y_1 Y_2 Y_3) 0)"))
    y = [[1e16, 1.0, -1e16, 0], [1e16, 3.0, -1e16, -3.5], [1e16, -1e16, 0, 0], [1.7e308, 1.7e308, -1.7e308, -1.0]]
    unsafe = found.is_unsafe(torch.zeros(4, 1), torch.tensor(y, dtype=torch.float64))
    assert unsafe.tolist() == [False, True, True, False]


def test_a_tolerance_shifts_every_side():
    found = read_vnnlib(stated(1, 2, "(<= Y_0 Y_1)", "(>= X_0 0)"))
    x, y = torch.tensor([[0.0], [-0.1], [0.0], [1.1]]).double(), torch.tensor([[1.0, 0.9], [0, 0], [1.0, 0.8], [0, 0]])
    assert not found.is_unsafe(x, y.double()).any()
    assert found.is_unsafe(x, y.double(), tolerance=0.125).tolist() == [True, True, False, True]


def test_what_is_no_number_is_never_unsafe():
    found = read_vnnlib(stated(1, 2, "(or (<= Y_0 1) (>= Y_0 0))"))
    y = torch.tensor([[torch.nan, 0], [torch.inf, 0], [0, -torch.inf], [0, 0]])
    assert found.is_unsafe(torch.zeros(4, 1), y).tolist() == [False, False, False, True]
    assert not found.is_unsafe(torch.full((1, 1), torch.nan), torch.zeros(1, 2)).any()


# ------------------------------------------------------------------------------------------------------ normal form


def test_combinations_with_one_box_share_it():
    box = "(and (<= X_0 0.5) (<= Y_{0} 0))"
    found = read_vnnlib(stated(1, 2, f"(or {box.format(0)} {box.format(1)} (and (>= X_0 0.5) (<= Y_0 0)))"))
    assert [(float(each.lower), float(each.upper), len(each.cases)) for each in found.boxes] == [
        (-1, 0.5, 2),
        (0.5, 1, 1),
    ]


def test_a_side_that_is_strict_in_some_case_needs_no_box_of_its_own():
    (box,) = read_vnnlib(stated(1, 1, "(or (and (< X_0 1) (<= Y_0 0)) (>= Y_0 1))")).boxes
    assert [case.strict.tolist() for case in box.cases] == [[True, False], [False]]


def test_contradictions_are_dropped_before_they_multiply():
    """Of 2^40 combinations two are possible."""
    ors = [f"(or (<= Y_0 {-i}) (>= Y_0 {i}))" for i in range(1, 41)]
    (box,) = read_vnnlib(stated(1, 1, *ors)).boxes
    assert [case.offsets.tolist() for case in box.cases] == [[-40.0], [-40.0]]


def test_a_property_without_a_case_has_no_box():
    for text in ("false", "(< Y_0 Y_0)", "(and (<= Y_0 0) (> Y_0 0))", "(>= X_0 2)", "(or (>= X_0 2) (<= X_0 -2))"):
        found = read_vnnlib(stated(1, 1, text))
        assert found.boxes == ()
        assert not found.is_unsafe(torch.zeros(1, 1), torch.zeros(1, 1)).any()
        assert read_vnnlib(found.to_vnnlib()).boxes == ()


def test_rows_are_the_smallest_integers():
    """So that decimal coefficients are exact, and the tightest of several rows is left."""
    (box,) = read_vnnlib(stated(1, 2, "(<= (+ (* 0.1 Y_0) (* 0.3 Y_1)) 0.7)", "(<= (* 2 Y_0) (- 16 (* 6 Y_1)))")).boxes
    (case,) = box.cases
    assert case.on_outputs.tolist() == [[1.0, 3.0]]
    assert case.offsets.tolist() == [7.0]
    assert not case.rounded


def test_coefficients_that_are_no_float64_numbers_are_named():
    (box,) = read_vnnlib(stated(1, 2, "(<= (+ (* 0.1234567890123456789 Y_0) Y_1) 0)")).boxes
    assert box.cases[0].rounded
    assert box.cases[0].on_outputs.abs().max() < 10


def test_both_readings_of_decimals():
    """0.1 lies below its float64 number, 0.3 above."""
    text = stated(1, 1, "(<= 0.1 X_0 0.3)", "(<= Y_0 0.3)")
    (box,) = read_vnnlib(text).boxes
    assert (float(box.lower), float(box.upper)) == (0.1, 0.3)
    assert float(box.outer_lower) < 0.1
    assert float(box.outer_upper) > 0.3
    assert float(box.cases[0].offsets) == 0.3 < float(box.cases[0].offsets_above)
    single = box.box(dtype=torch.float32)
    assert single.lower.shape == (1, 1)
    assert single.lower.double() < 0.1
    assert single.upper.double() > 0.3
    _, offset = box.cases[0].specification(torch.float32)
    assert offset.double() > 0.3
    exact = read_vnnlib(stated(1, 1, "(<= 0.5 X_0 0.75)")).boxes[0]
    assert torch.equal(exact.lower, exact.outer_lower)
    assert torch.equal(exact.upper, exact.outer_upper)


@pytest.mark.slow
def test_boxes_and_cases_are_ready_for_bounds():
    model = torch.nn.Linear(2, 3)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, 0], [0, 1], [1, 1]]))
        model.bias.copy_(torch.tensor([0.0, 0, 3]))
    found = read_vnnlib(stated(2, 3, "(or (<= Y_2 Y_0) (and (<= Y_2 Y_1) (>= X_0 Y_0)))"))
    (box,) = found.boxes
    unsafe = [case.specification(torch.float32) for case in box.cases]
    margins = bounds.specification_bounds(model, box.box(dtype=torch.float32), unsafe, "crown")
    torch.testing.assert_close(margins, torch.tensor([[2.0, 2.0]]), atol=1e-4, rtol=0)
    (free,) = read_vnnlib(stated(2, 3, "(<= X_0 Y_0)")).boxes
    assert [part.tolist() for part in free.cases[0].specification()] == [[[0.0, 0.0, 0.0]], [0.0]]


# --------------------------------------------------------------------------------------------------- how it is written


def test_paths_and_compressed_files(tmp_path: Path):
    text = stated(2, 2, "(<= Y_0 Y_1)")
    plain, packed = tmp_path / "a.vnnlib", tmp_path / "a.vnnlib.gz"
    plain.write_text("\ufeff" + text.replace("\n", "\r\n"), encoding="utf-8")
    packed.write_bytes(gzip.compress(text.encode()))
    expected = read_vnnlib(text).to_vnnlib()
    for source in (plain, str(plain), packed, str(packed), f"  {text}", f"; a comment\n{text}"):
        assert read_vnnlib(source).to_vnnlib() == expected


def test_ways_to_write_the_same():
    text = "(set-logic QF_LRA) (declare-fun Y_0 () Real) (declare-const X_1 Real) ; (assert nonsense)\n"
    text += "(declare-const X_0 Real)\n(assert\n (<= 0\n X_1 1)) (assert (and (>= 1 X_0) (>= X_0 0)))"
    text += "(assert (>= Y_0 (/ 1 4))) (check-sat) (get-model) (exit)"
    assert read_vnnlib(text).to_vnnlib() == read_vnnlib(stated(2, 1, "(>= Y_0 0.25)", box=(0, 1))).to_vnnlib()


def test_tensors_of_version_2():
    text = """(vnnlib-version <2.1>)
    (declare-network net
        (declare-input image float32 [1, 2,3])  ; blanks may stand anywhere
        (declare-input scale Real [])
        (declare-hidden H Real [4] "relu;1")
        (declare-output Y float32 [2, 2])
        (declare-output Z float64 []))
    (assert (and (<= -1 scale) (<= scale 1)))"""
    text += "".join(f"(assert (<= 0 image[0,{i},{j}] {3 * i + j + 1}))" for i in range(2) for j in range(3))
    found = read_vnnlib(f"{text}(assert (or (<= Y[1,0] Z) (>= image [0,1,0] Y [0,1])))")
    assert [(each.name, each.element_type, each.shape) for each in found.inputs] == [
        ("image", "float32", (1, 2, 3)),
        ("scale", "Real", ()),
    ]
    assert (found.num_inputs, found.num_outputs) == (7, 5)
    (box,) = found.boxes
    assert box.upper.tolist() == [1, 2, 3, 4, 5, 6, 1]
    first, second = box.cases
    assert first.on_outputs.tolist() == [[0, 0, 1, 0, -1]]
    assert (second.on_inputs.tolist(), second.on_outputs.tolist()) == ([[0, 0, 0, -1, 0, 0, 0]], [[0, 1, 0, 0, 0]])


@pytest.mark.slow
@pytest.mark.parametrize(
    "text",
    [
        stated(1, 1, "(and (<= Y_0 1) " * 5_000 + "true" + ")" * 5_000),
        stated(1, 1, "(not " * 20_000 + "(<= Y_0 1)" + ")" * 20_000),
        stated(1, 1, "(<= " + "(+ Y_0 " * 10_000 + "1" + ")" * 10_000 + " 10001)"),
        stated(1, 1, "(<= (+ " + "(* 0.5 Y_0) " * 20_000 + ") 10000)"),
    ],
    ids=["and", "not", "sum", "long sum"],
)
def test_deep_and_long_texts_are_read(text: str):
    (box,) = read_vnnlib(text).boxes
    assert box.cases[0].offsets.tolist() == [1.0]


@pytest.mark.slow
def test_a_file_of_an_image_is_read_at_once():
    """0.12 s on a quiet core; three times that would be noticed."""
    sides = [f"(and (<= X_{i} 0.{i + 10}) (>= X_{i} -0.{i + 10}))" for i in range(3072)]
    text = stated(3072, 10, *sides, "(or " + " ".join(f"(and (<= Y_8 Y_{i}))" for i in range(8)) + ")", box=None)
    seconds = []
    for _ in range(3):
        start = time.process_time()
        read_vnnlib(text)
        seconds.append(time.process_time() - start)
    assert min(seconds) < 0.4
