"""Texts that cannot be read or represented: one line that says where, what stands there, and what would be right."""

import gzip
import random
import re
from pathlib import Path

import pytest
import torch
from oracles.vnnlib_formulas import in_version_2, stated

from bounds import BoundsError, InvalidInput, InvalidProperty, Property, read_vnnlib
from bounds.vnnlib import source

NETWORK = "(vnnlib-version <2.0>)\n(declare-network f\n(declare-input X Real [1,2])\n(declare-output Y Real [])"
BOX = "(assert (and (<= 0 X[0,0] 1) (<= 0 X[0,1] 1)))"


def one(formula: str) -> str:
    """Lines 1 to 3 declare and bound; the formula stands on line 4."""
    return stated(1, 1, formula)


TEXTS = {
    "empty": ("", "no declaration and no assertion"),
    "comment alone": ("; nothing", "no declaration and no assertion"),
    "not closed": (one("(<= Y_0 1"), r"line 4: a '\(' is never closed: add '\)', in \(assert \(<= Y_0 1\)\)"),
    "closed too often": (one("(<= Y_0 1))"), r"line 4: '?\) stands outside of parentheses"),
    "word outside": (one("true") + "Y_0", "line 5: Y_0 stands outside of parentheses"),
    "bracket outside": (one("(<= Y_0 [1)"), r"line 4: '\[' fits nowhere"),
    "open string": (one('(<= Y_0 "1)'), "line 4: '\"' fits nowhere"),
    "control character": (one("(<= Y_0 \x00)"), r"line 4: '\\x00' fits nowhere"),
    "undeclared": (one("(<= Y_1 1)"), r"line 4: Y_1 is neither a number nor a declared variable, in \(<= Y_1 1\)"),
    "leading zero": (one("(<= Y_00 1)"), "line 4: Y_00 is neither a number nor a declared variable"),
    "not a number": (one("(<= Y_0 nan)"), "line 4: nan is neither a number nor"),
    "infinity": (one("(<= Y_0 -inf)"), "line 4: -inf is neither a number nor"),
    "two points": (one("(<= Y_0 1.2.3)"), "line 4: 1.2.3 is neither a number nor"),
    "exponent alone": (one("(<= Y_0 1e)"), "line 4: 1e is neither a number nor"),
    "other digits": (one("(<= Y_0 \u0661)"), "line 4: \u0661 is neither a number nor"),
    "huge exponent": (one("(<= Y_0 1e999999999)"), "line 4: a number has an exponent beyond 400"),
    "many digits": (one(f"(<= Y_0 0.{'1' * 2000})"), "line 4: a number has more than 1000 digits"),
    "beyond float64": (one("(<= Y_0 1e399)"), "line 4: a number is beyond the largest of float64"),
    "product beyond float64": (one("(<= Y_0 (* 1e300 1e300))"), "a number beyond the largest of float64"),
    "divided by zero": (one("(<= Y_0 (/ 1 0))"), "line 4: the divisor must be a number other than 0"),
    "ratio with zero": (one("(<= Y_0 1/0)"), "line 4: a number is divided by 0"),
    "divided by a variable": (one("(<= (/ 1 Y_0) 1)"), "line 4: the divisor must be a number other than 0"),
    "product": (one("(<= (* Y_0 X_0) 1)"), r"line 4: a product of variables is not linear.*\(\* Y_0 X_0\)"),
    "other arithmetic": (one("(<= (max Y_0 1) 1)"), r"line 4: expected a number, a variable or one of \+, -, \*, /"),
    "no operands": (one("(<= (+) 1)"), "line 4: expected a number, a variable or one of"),
    "formula in arithmetic": (one("(= (<= Y_0 1) true)"), "line 4: expected a number, a variable or one of"),
    "one side": (one("(<= Y_0)"), "line 4: '<=' compares at least two terms"),
    "three unequal": (one("(!= Y_0 1 2)"), "line 4: '!=' compares two terms"),
    "unknown connective": (one("(xor (<= Y_0 1) true)"), "line 4: expected a comparison, and, or, not or =>"),
    "nothing in or": (one("(or)"), "line 4: 'or' takes at least one formula"),
    "empty list": (one("(and ())"), "line 4: expected a comparison, and, or, not or =>"),
    "two in not": (one("(not true true)"), "line 4: 'not' takes one formula"),
    "variable as formula": (one("(and Y_0)"), "line 4: expected a comparison, and, or, not, true or false, got 'Y_0'"),
    "two in assert": (one("true true"), "line 4: 'assert' takes one formula"),
    "unknown command": (one("true") + "(push 1)", "line 5: the command 'push' is not known"),
    "list as command": ("((assert true))", "line 1: the command '' is not known"),
    "declared twice": (one("true") + "(declare-const X_0 Real)", "line 5: X_0 is declared a second time"),
    "gap": (one("true") + "(declare-const X_2 Real)", "line 5: X_2 is declared, but X_1 is not"),
    "other name": (one("true") + "(declare-const H_0 Real)", "line 5: 'H_0' is no input or output"),
    "other sort": (one("true") + "(declare-const X_1 Int)", r"line 5: expected \(declare-const X_0 Real\)"),
    "function": (one("true") + "(declare-fun X_1 (Real) Real)", "line 5: expected"),
    "no name": (one("true") + "(declare-const)", "line 5: expected"),
    "no output": (stated(1, 0, "true"), "no output is declared"),
    "no input": (stated(0, 1, "true"), "no input is declared"),
    "no upper bound": (stated(2, 1, "(<= 0 X_0 1)", "(<= 0 X_1)", box=None), "X_1 has no upper bound: add"),
    "no lower bound": (
        one("true").replace("-1 X_0", "X_0"),
        r"X_0 has no lower bound: add \(assert \(>= X_0 number\)\)",
    ),
    "unbounded case": (stated(1, 1, "(or (<= 0 X_0 1) (<= 0 X_0))", box=None), "X_0 has no upper bound"),
    "too many cases": (
        stated(1, 40, f"(or false (and {' '.join(f'(or (<= Y_{i} 0) (>= Y_{i} 1))' for i in range(40))}))"),
        "line 43: this makes more than 262144 cases",
    ),
    "version": (f"(vnnlib-version <3.0>) {one('true')}", "line 1: this version is not known"),
    "no version": (f"(vnnlib-version) {one('true')}", "line 1: this version is not known"),
    "both versions": (f"(declare-const X_0 Real) {NETWORK})", "line 1: declare-const is of version 1.0"),
    "several networks": (f"{NETWORK})\n(declare-network g (equal-to f))", "line 5: several networks"),
    "relation of networks": (f"{NETWORK} (isomorphic-to g))", "line 4: expected declare-input or declare-output"),
    "hidden node": (
        f"{NETWORK})\n{BOX}(assert (<= H[0] 1))".replace(
            "(declare-output", '(declare-hidden H Real [1] "h") (declare-output'
        ),
        "line 5: H is a hidden node",
    ),
    "initializer": (
        f"{NETWORK.replace('[1,2]', '[1,2] initialized')})",
        "line 3: an input with the value of an initializer",
    ),
    "one name twice": (f"{NETWORK} (declare-output X Real []))", "line 4: X is declared a second time"),
    "word in network": (f"{NETWORK} Y)", "line 2: expected declarations of inputs and outputs in a network, got Y"),
    "name of network": ("(declare-network (f))", "line 1: expected .declare-network name"),
    "no shape": (f"{NETWORK} (declare-output Z Real))", r"line 4: expected \(declare-output name type \[sizes\]\)"),
    "negative size": (f"{NETWORK} (declare-output Z Real [-1]))", r"line 4: expected \(declare-output name type"),
    "text entries": (
        f"{NETWORK} (declare-output Z string [1]))",
        "line 4: entries of type string cannot be represented",
    ),
    "too large": (f"{NETWORK} (declare-output Z Real [9999,9999]))", "more than the 16777216 that can be held"),
    "index beyond": (
        f"{NETWORK})\n{BOX}(assert (<= X[0,2] 1))",
        r"line 5: X\[0,2\] is no entry of X, which has the shape \[1,2\]",
    ),
    "too few indices": (f"{NETWORK})\n{BOX}(assert (<= X[0] 1))", r"line 5: X\[0\] is no entry of X"),
    "index of a scalar": (f"{NETWORK})\n{BOX}(assert (<= Y[0] 1))", r"line 5: Y\[0\] is no entry of Y"),
    "no index": (f"{NETWORK})\n{BOX}(assert (<= X 1))", "line 5: X is no entry of X"),
    "negative index": (f"{NETWORK})\n{BOX}(assert (<= X[0,-1] 1))", "line 5: X.* is no entry of X"),
    "unbounded tensor": (
        f"{NETWORK})\n(assert (<= 0 X[0,0] 1))",
        r"X\[0,1\] has no lower bound|X\[0,1\] has no upper bound",
    ),
}


@pytest.mark.parametrize("name", TEXTS)
def test_what_cannot_be_read_is_refused_in_one_line(name: str):
    text, message = TEXTS[name]
    with pytest.raises(InvalidProperty, match=message) as caught:
        read_vnnlib(text)
    said = str(caught.value)
    assert said.startswith("the text: ")
    assert "\n" not in said
    assert len(said) < 260


@pytest.mark.slow
def test_more_combinations_than_can_be_held_are_refused():
    ors = [f"(or (<= Y_{i} 0) (>= Y_{i} 1))" for i in range(40)]
    with pytest.raises(InvalidProperty, match=r"line [56][0-9]: this makes more than 262144 cases.*in \(assert \(or"):
        read_vnnlib(stated(1, 40, *ors))


def test_the_error_belongs_to_the_family():
    assert issubclass(InvalidProperty, InvalidInput)
    assert issubclass(InvalidProperty, ValueError)
    assert issubclass(InvalidProperty, BoundsError)


def test_files_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    packed = gzip.compress(one("(<= Y_0 1)").encode())
    contents = {
        "junk.vnnlib": (bytes(range(128, 256)), "junk.vnnlib is no text \\(byte 0 is 0x80\\)"),
        "cut.vnnlib.gz": (packed[:-12], "cut.vnnlib.gz is a damaged gzip file"),
        "flipped.vnnlib.gz": (packed[:20] + b"\xff\xff\xff\xff" + packed[24:], "flipped.vnnlib.gz is a damaged gzip"),
        "behind.vnnlib.gz": (packed + b"junk", "behind.vnnlib.gz is a damaged gzip file"),
        "empty.vnnlib": (b"", "empty.vnnlib: no declaration and no assertion"),
        "wrong.vnnlib": (one("(<= Y_7 1)").encode(), "wrong.vnnlib: line 4: Y_7 is neither"),
    }
    for name, (content, message) in contents.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InvalidProperty, match=f"^{message}") as caught:
            read_vnnlib(tmp_path / name)
        assert "\n" not in str(caught.value)
    for path, reason in ((tmp_path, "Is a directory"), (tmp_path / "none.vnnlib", "No such file or directory")):
        with pytest.raises(InvalidProperty, match=rf"cannot be read \({reason}\): pass the path of a .vnnlib"):
            read_vnnlib(path)
    with pytest.raises(InvalidProperty, match="cannot be read"):
        read_vnnlib("a\0b")
    with pytest.raises(InvalidProperty, match="must be a path or a text, got int"):
        read_vnnlib(3)
    monkeypatch.setattr(source, "MOST_BYTES", 10_000)
    (tmp_path / "bomb.vnnlib.gz").write_bytes(gzip.compress(b" " * 10**6))
    with pytest.raises(InvalidProperty, match=r"bomb\.vnnlib\.gz holds more than 10000 bytes"):
        read_vnnlib(tmp_path / "bomb.vnnlib.gz")


def test_points_and_boxes_of_other_shapes_are_refused():
    found = read_vnnlib(stated(2, 3, "(<= Y_0 Y_1)"))
    x, y = torch.zeros(4, 2), torch.zeros(4, 3)
    for arguments, message in (
        ((x[:, :1], y), r"x must have shape \(N, \*\) with 2 entries a row, got \(4, 1\)"),
        ((x, y[0]), r"y must have shape \(N, \*\) with 3 entries a row, got \(3,\)"),
        ((x[:1], y), "x and y must have as many rows, got 1 and 4"),
        ((x, y, -1.0), "tolerance must be a finite number of at least 0"),
        ((x.tolist(), y), "x must be a torch tensor"),
    ):
        with pytest.raises(InvalidInput, match=message):
            found.is_unsafe(*arguments)
    with pytest.raises(InvalidInput, match=r"shape must be \(1, \*D\) with 2 entries, got \(3, 1\)"):
        found.boxes[0].box((3, 1))
    fine = read_vnnlib(stated(1, 2, "(<= (* 16777217 Y_0) Y_1)")).boxes[0].cases[0]
    with pytest.raises(InvalidInput, match=r"a coefficient of the case is no number of torch\.float32"):
        fine.specification(torch.float32)
    wide = read_vnnlib(stated(1, 1, "true", box=(-1e300, 1e300)))
    with pytest.raises(InvalidInput, match=r"sides beyond the largest torch\.float32"):
        wide.boxes[0].box(dtype=torch.float32)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"x": torch.zeros(2, 3)}, r"x must be one input, of shape \(1, \*D\), got \(2, 3\)"),
        ({"x": torch.full((1, 3), 2.0)}, "x must lie in the declared range"),
        ({"epsilon": -1.0}, "epsilon must be a finite number of at least 0"),
        ({"label": 4}, "label must be a class from 0 to 3, got 4"),
        ({"label": 1.0}, "label must be an integer"),
        ({"num_classes": 1}, "num_classes must be an integer of at least 2"),
    ],
)
def test_robustness_of_what_is_no_input_is_refused(options: dict[str, object], message: str):
    usual = {"x": torch.zeros(1, 3), "label": 0, "epsilon": 0.1, "num_classes": 4}
    with pytest.raises(InvalidInput, match=message):
        Property.of_robustness(**usual | options)


def test_damaged_texts_are_read_or_refused_and_nothing_else():
    formula = "(or (and (<= Y_0 Y_1) (< (+ (* 2 Y_0) (- Y_1) 1e-3) (/ 3 4))) (not (=> (= X_0 0.5) (!= Y_1 1/3))))"
    words = [
        *'()[]1-*/<";',
        "X_0",
        "X[0]",
        "or",
        "not",
        "assert",
        "Real",
        "1e400",
        "[0,0]",
        "()",
        "-0",
        "!=",
        "\n",
        "X_99",
    ]
    sources = [stated(1, 2, formula), in_version_2(stated(1, 2, formula), 1, 2)]
    draw = random.Random(0)
    said = []
    for _ in range(300):
        parts = re.findall(r"\s+|[()]|[^\s()]+", draw.choice(sources))
        for _ in range(draw.randint(1, 2)):
            place = draw.randrange(len(parts))
            parts[place : place + draw.randint(0, 1)] = draw.choices(words, k=draw.randint(0, 1))
        try:
            read_vnnlib("".join(parts))
        except InvalidProperty as error:
            said.append(str(error))
    assert 100 < len(said) < 300
    assert "\n" not in "".join(said)
