"""Properties as text of VNN-LIB 1.0."""

from collections.abc import Iterator

from bounds.vnnlib.records import UnsafeBox, UnsafeCase


def written(boxes: tuple[UnsafeBox, ...], inputs: int, outputs: int) -> str:
    """The text that states these boxes; every number is the shortest that float64 rounds back to it."""
    lines = [f"(declare-const X_{i} Real)" for i in range(inputs)]
    lines += [f"(declare-const Y_{i} Real)" for i in range(outputs)]
    common: list[str] = []
    if len(boxes) == 1:
        common = list(_sides_of(boxes[0]))
        cases = [list(_rows(case)) for case in boxes[0].cases]
    else:
        cases = [[*_sides_of(box), *_rows(case)] for box in boxes for case in box.cases]
    if len(cases) == 1:
        common += cases[0]
    lines += [f"(assert {row})" for row in common]
    if not cases:
        lines.append("(assert false)")
    elif len(cases) > 1:
        lines += ["(assert (or", *(f"    (and {' '.join(rows or ['true'])})" for rows in cases), "))"]
    return "\n".join([*lines, ""])


def _sides_of(box: UnsafeBox) -> Iterator[str]:
    for i, (lower, upper) in enumerate(zip(box.lower.tolist(), box.upper.tolist(), strict=True)):
        yield f"(>= X_{i} {lower!r})"
        yield f"(<= X_{i} {upper!r})"


def _rows(case: UnsafeCase) -> Iterator[str]:
    """The inequalities of a case."""
    sides = (("X", case.on_inputs), ("Y", case.on_outputs))
    for row, (offset, strict) in enumerate(zip(case.offsets.tolist(), case.strict.tolist(), strict=True)):
        terms = []
        for letter, coefficients in sides:
            for i in coefficients[row].nonzero()[:, 0].tolist():
                terms.append((float(coefficients[row, i]), f"{letter}_{i}"))
        yield _row(terms, offset, "<" if strict else "<=")


def _row(terms: list[tuple[float, str]], offset: float, sign: str) -> str:
    """One inequality, as short as may be."""
    factors = sorted(value for value, _ in terms)
    if offset == 0 and factors == [-1.0, 1.0]:
        larger, smaller = (name for _, name in sorted(terms))
        return f"({sign} {smaller} {larger})"
    if factors == [-1.0]:
        return f"({sign.replace('<', '>')} {terms[0][1]} {0.0 - offset!r})"
    products = [name if value == 1 else f"(* {value!r} {name})" for value, name in terms]
    left = products[0] if len(products) == 1 else f"(+ {' '.join(products)})"
    return f"({sign} {left} {offset!r})"
