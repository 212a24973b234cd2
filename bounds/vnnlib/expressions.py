"""S-expressions: a text becomes nested lists of words, each list with the line on which it begins."""

import re
from collections.abc import Iterator

from bounds.errors import InvalidProperty

# A parenthesis, a comment, a string, a word with an index or a shape such as X[0,1], or a character that fits nowhere.
TOKEN = re.compile(r'[()]|;.*|"[^"]*"|[^\s();"\[\]]+(?:[ \t]*\[[^\[\]();"]*\])?|\S')
LONGEST_QUOTE = 60


class Form(list["Form | str"]):
    """A list between parentheses.

    Attributes:
        line: where it begins, counted from 1.
    """

    __slots__ = ("line",)

    def __init__(self, line: int) -> None:
        self.line = line

    @property
    def head(self) -> str:
        """The first word, or nothing."""
        return self[0] if self and isinstance(self[0], str) else ""

    def refusal(self, message: str) -> InvalidProperty:
        """The error that says where this stands, what is wrong, and what stands there."""
        return InvalidProperty(f"line {self.line}: {message}, in {quoted(self)}")


def quoted(form: "Form | str") -> str:
    """The text of a list or word, shortened to a part of a line."""
    words: list[str] = []
    length = 0
    waiting: list[Form | str] = [form]
    while waiting and length <= LONGEST_QUOTE:
        item = waiting.pop()
        if isinstance(item, Form):
            waiting += [")", *reversed(item[:LONGEST_QUOTE]), "("]
            continue
        words.append(item)
        length += len(item) + 1
    text = " ".join(words).replace("( ", "(").replace(" )", ")")
    return text if len(text) <= LONGEST_QUOTE else f"{text[:LONGEST_QUOTE]}..."


def parsed(text: str) -> list[Form]:
    """The lists of a text, in their order.

    Raises:
        InvalidProperty: parentheses that do not match, words outside of any, characters that fit nowhere.
    """
    found: list[Form] = []
    open_forms: list[Form] = []
    form: Form | None = None
    for line, token in _tokens(text):
        if token == "(":
            form = Form(line)
            open_forms.append(form)
        elif form is None:
            raise InvalidProperty(f"line {line}: {quoted(token)} stands outside of parentheses: remove it, or add '('")
        elif token == ")":
            closed = open_forms.pop()
            form = open_forms[-1] if open_forms else None
            (found if form is None else form).append(closed)
        else:
            form.append(token)
    if form is not None:
        first = open_forms[0]
        raise first.refusal("a '(' is never closed: add ')'")
    return found


def _tokens(text: str) -> Iterator[tuple[int, str]]:
    """Parentheses and words with their lines; the blanks before an index are left out."""
    find = TOKEN.findall
    for line, content in enumerate(text.replace("\r\n", "\n").replace("\r", "\n").split("\n"), 1):
        for token in find(content):
            first = token[0]
            if first == ";":
                continue
            if token in ('"', "[", "]") or not token.isprintable():
                raise InvalidProperty(f"line {line}: {token!r} fits nowhere: write names, numbers and parentheses")
            yield line, "".join(token.split()) if token[-1] == "]" else token
