r"""What a mathematical answer says, read whole or not at all.

A strict reader of what final answers look like: numbers of every kind, formulas, tuples, sets, intervals, lists,
matrices, relations, quantities with units, words. It gives a tree (`Node`) in which every letter, digit and sign of the
text has its place; where one has none, it raises `Unread`, instead of passing over it as computer algebra systems do.
"""

from __future__ import annotations

import re
from fractions import Fraction

from ibpo.answers.formulas import RELATIONS, FormulaReader
from ibpo.answers.lexing import BASE, CONSTANTS, FUNCTIONS, LETTERS, MAX_BASED, SEPARATORS, Token, based, lex
from ibpo.answers.nodes import Node, Unread, has_variable, relation, spread, written
from ibpo.answers.text import CURRENCY, NUMBER_WORDS, PERCENT, SCALES, SENTENCE_WORDS, clean, unit_of

MAX_CHARACTERS, MAX_TOKENS = 4000, 600
ALLOWED = {*SEPARATORS, *PERCENT, "mod", "modulo", "base", "if", "for", "when", "no", "none", "times"}
DENYING = {word for word in SENTENCE_WORDS if len(word) > 1} - ALLOWED
"""Words with which an answer is a sentence, not a formula."""
CLOSING = {"(": ")]", "[": ")]", r"\lbrace": (r"\rbrace",), r"\langle": (r"\rangle",), r"\lfloor": (r"\rfloor",),
           r"\lceil": (r"\rceil",), "{": "}"}  # fmt: skip


class Reader(FormulaReader):
    """One answer, whole."""

    def __init__(self, text: str, *, loose: bool) -> None:
        """The tokens of the text; see `FormulaReader`."""
        super().__init__(lex(text), loose=loose)
        if len(self.tokens) > MAX_TOKENS:
            raise Unread("it is too long")
        plain = len(self.tokens) < 5 and all(token.kind in ("word", "text") for token in self.tokens)
        for token in self.tokens:
            if token.kind == "word" and token.text.lower() in DENYING and len(self.tokens) > 1 and not plain:
                raise Unread(f"the word {token.text!r}")
        self.at, self.loose = 0, loose

    def whole(self) -> Node:
        """The whole answer."""
        node = self.items(";", closing=())
        if self.at < len(self.tokens):
            raise Unread(f"{self.tokens[self.at].text!r} has no place")
        return node

    def items(self, separator: str, closing: tuple[str, ...]) -> Node:
        """Items between separators: a list, or the one item that there is."""
        semicolons = any(token.text == ";" and token.kind == "sign" for token in self.tokens)
        found: list[Node] = []
        if separator == ";" and semicolons and not closing:
            parts: list[list[Token]] = [[]]
            depth = 0
            for token in self.tokens:
                depth += (token.text in ("(", "[", r"\lbrace")) - (token.text in (")", "]", r"\rbrace"))
                if token.text == ";" and depth == 0 and token.kind == "sign":
                    parts.append([])
                else:
                    parts[-1].append(token)
            if len(parts) > 1:
                for tokens in parts:
                    self.tokens, self.at = tokens, 0
                    found.append(self.items(",", closing))
                    if self.at < len(self.tokens):
                        raise Unread("an item that goes on")
                return Node("list", tuple(found))
        joined: set[str] = set()
        while True:
            item = self.item()
            found.extend(item.parts if item.kind == "list" and item.name == "pm" else [item])
            start = self.at
            self.take(*((",", ";") if closing else (",",)))
            self.take(*SEPARATORS)
            if self.at == start:
                break
            joined.add(self.tokens[self.at - 1].text)
        word = joined.pop() if len(joined) == 1 else ""
        if (
            len(found) > 1
            and found[0].kind == "relation"
            and found[0].name == "!="
            and not any(map(has_variable, found[1:]))
        ):
            left = found[0].parts[0]  # x \ne 1, 3
            found[1:] = [Node("relation", (left, value), name="!=") for value in found[1:]]
            word = "and"
        return found[0] if len(found) == 1 else Node("list", tuple(found), name=word if word in SEPARATORS else "")

    def item(self) -> Node:
        """A relation, an assignment, a quantity, or words."""
        if self.take(r"\dots"):
            return Node("dots")
        self.take(r"\approx")
        sides, signs = [self.side()], []
        while self.peek() in RELATIONS:
            signs.append(RELATIONS[self.peek()])
            self.at += 1
            sides.append(self.side())
        if (self.peek() in ("(", ",") and "mod" in signs) or self.peek() == r"\mod" or self.peek(1) == r"\mod":
            return self._modulo(sides, signs)
        if not signs:  # within brackets both values belong to what the brackets hold: (1 \pm 2)/3
            return sides[0] if self.in_brackets else spread(sides[0])
        if "mod" in signs:
            raise Unread("a congruence without its modulus")
        return relation(sides, signs)

    def _modulo(self, sides: list[Node], signs: list[str]) -> Node:
        bracket = self.take("(")
        self.expect(r"\mod", "mod")
        brace = self.take("{", "(")
        modulus = self.sum()
        if brace:
            self.expect("}", ")")
        if bracket:
            self.expect(")")
        if set(signs) - {"mod", "="} or len(sides) > 2:
            raise Unread("a congruence in a chain")
        return Node("modulo", (sides[-1], modulus), name=written(sides[0]) if len(sides) > 1 else "")

    def side(self) -> Node:
        """Sets joined by unions, or one value with its unit."""
        node = self.value()
        while self.peek() in (r"\cup", r"\cap", r"\setminus", "U"):
            kind = {r"\cup": "union", "U": "union", r"\cap": "intersection", r"\setminus": "difference"}[self.peek()]
            self.at += 1
            node = Node(kind, (node, self.value()))
        return node

    def value(self) -> Node:
        """A sum, what follows it as unit or percent, and what follows that."""
        currency = ""
        negative = self.peek() in ("-",) and self.peek(1) in ("\\$", *CURRENCY)
        if negative:
            self.at += 1
        if self.peek() in ("\\$", *CURRENCY):
            currency = CURRENCY[self.peek()[-1]]
            self.at += 1
        elif self.peek() == "US" and self.peek(1) in ("$", "\\$"):
            self.at += 2
            currency = "dollar"
        if self.starts_words():
            return self.words()
        node = self.sum()
        if negative:
            node = Node("product", (Node("number", number=Fraction(-1)), node))
        if self.peek() == ":" and not self.in_set:
            parts = [node]
            while self.take(":"):
                parts.append(self.sum())
            node = Node("ratio", tuple(parts))
        return self.with_unit(node, currency)

    def with_unit(self, node: Node, currency: str) -> Node:
        """The value with what is behind it: percent, a scale such as million, a unit, a second part."""
        if self.take("\\$", *CURRENCY):
            currency = currency or CURRENCY[self.tokens[self.at - 1].text[-1]]
        if self.take("\\%", "%", *PERCENT) or (
            self.kind() == "text" and self.tokens[self.at].text.strip("\\ .") in PERCENT
        ):
            if self.kind() == "text" and self.tokens[self.at].text.strip("\\ .") in PERCENT:
                self.at += 1
            return Node("percent", (node,))
        if self.take("\\degree"):
            unit = self._unit_words()
            named = unit_of(f"degree{unit}") or ""
            return Node(
                "quantity", (node,), name=named if named in ("degree C", "degree F") else self._only("degree", unit)
            )
        words = self._unit_words().strip()
        if not words:
            return Node("quantity", (node,), name=currency) if currency else node
        first, _, rest = words.partition(" ")
        if first.lower().rstrip("s") in SCALES:
            scale = Node("number", number=Fraction(SCALES[first.lower().rstrip("s")]))
            node, words = Node("product", (node, scale)), rest
            if words.startswith("of "):
                words = words[3:]
        if words in PERCENT:
            return Node("percent", (node,))
        unit = unit_of(words) if words else ""
        if unit is None:
            raise Unread(f"{words!r} is not a unit")
        if currency and unit not in ("", currency):
            unit = f"{currency}{'' if unit[0] == '/' else ' '}{unit}"
        quantity = Node("quantity", (node,), name=unit or currency)
        if self.kind() == "number":
            if has_variable(node):  # She sold 72 clips
                raise Unread("a number behind words")
            second = self.with_unit(self.sum(), "")
            if second.kind not in ("quantity", "list"):
                raise Unread("a second number without unit")
            return Node("list", (quantity, *(second.parts if second.kind == "list" else (second,))), name="compound")
        return quantity

    def _unites(self) -> bool:
        """Whether a letter U between sets comes."""
        return self.peek() == "U" and self.peek(1) in ("(", "[", r"\lbrace")

    def _only(self, unit: str, words: str) -> str:
        if words.strip():
            raise Unread(f"{words!r} after a degree")
        return unit

    def _unit_words(self) -> str:
        """The text of the tokens up to the next separator that make up a unit."""
        words = ""
        while self.at < len(self.tokens):
            token = self.tokens[self.at]
            power = token.text in ("^",) and words
            if (
                token.kind == "text"
                or (token.kind in ("word", "unit_letter") and token.text not in SEPARATORS and not self._unites())
                or (
                    token.kind == "sign"
                    and token.text in "/*."
                    and words
                    and self.kind(1) in ("word", "text", "unit_letter")
                )
            ):
                words += f" {token.text}"
                self.at += 1
            elif token.text == r"\cdot" and words:
                words += " *"
                self.at += 1
            elif token.text == "/" and self.kind(1) in ("word", "text", "unit_letter"):
                words += " /"
                self.at += 1
            elif power:
                self.at += 1
                brace = self.take("{")
                minus = "-" if self.take("-") else ""
                if self.kind() != "number":
                    raise Unread("a power of a unit")
                words += f"^{minus}{self.tokens[self.at].text}"
                self.at += 1
                if brace:
                    self.expect("}")
            else:
                break
        return words

    def starts_words(self) -> bool:
        """Whether words are here that are no formula."""
        if self.kind() == "text":
            return True
        if self.kind() != "word" or len(word := self.peek()) < 2 or word in FUNCTIONS | CONSTANTS.keys() | LETTERS:
            return False
        if word.lower() in NUMBER_WORDS or len(word) > 3:
            return True
        return word.lower() in ("yes", "no", "odd", "may", "day", "two", "none")

    def words(self) -> Node:
        """Words alone, or a number in words: `four`, `Monday`, `October 30`."""
        said: list[str] = []
        while self.kind() in ("text", "word", "number", "unit_letter") and self.peek() not in SEPARATORS:
            said.append(self.tokens[self.at].text)
            self.at += 1
        text = " ".join(" ".join(said).split()).strip(" .,").lower()
        first, _, unit = text.partition(" ")
        if first in NUMBER_WORDS and unit_of(unit) is not None:
            number = Node("number", number=Fraction(NUMBER_WORDS[first]))
            if unit.rstrip("s") in SCALES:
                return Node("product", (number, Node("number", number=Fraction(SCALES[unit.rstrip("s")]))))
            return Node("quantity", (number,), name=unit_of(unit) or "") if unit else number
        words = text.split()
        digits = re.search(r"\d", text)
        if (any(word in SENTENCE_WORDS for word in words) and (digits or len(words) > 4)) or (
            digits and len(words) > 3
        ):
            raise Unread("a sentence")
        return Node("text", name=text)

    def bracket(self, opening: str) -> Node:
        """What is in brackets: one value, a tuple or interval, a set."""
        closing = CLOSING[opening]
        if opening == r"\lbrace" and self.take(r"\rbrace"):
            return Node("empty")
        outer, self.in_brackets = self.in_brackets, opening != r"\lbrace"
        self.in_set += opening == r"\lbrace"
        inner = self.items(",", tuple(closing))
        self.in_set -= opening == r"\lbrace"
        self.in_brackets = outer
        if opening == r"\lbrace" and self.take(r"\mid", "|", ":", r"\colon"):
            if inner.kind == "variable" or (
                inner.kind == "relation" and inner.name == "in" and inner.parts[1].kind == "reals"
            ):
                inner = self.items(",", tuple(closing))
                self.expect(r"\rbrace")
                if inner.kind == "list" and inner.name != "or" and all(part.kind == "relation" for part in inner.parts):
                    return Node("list", inner.parts, name="and")
                if inner.kind != "relation":
                    raise Unread("a set by a condition that is not read")
                return inner
            raise Unread("a set by a condition")
        end = self.peek()
        self.expect(*closing)
        if opening == r"\lbrace":
            return Node("set", inner.parts if inner.kind == "list" else (inner,))
        if opening in (r"\lfloor", r"\lceil"):
            return Node("function", (inner,), name="floor" if opening == r"\lfloor" else "ceil")
        if inner.kind == "list" and inner.name != "compound":
            if inner.name in SEPARATORS and opening == "(":
                raise Unread("words in a tuple")
            if opening == "{":
                return inner
            return Node("tuple", inner.parts, name="()" if opening == r"\langle" else opening + end)
        if (opening == "(" and end == "]") or (opening == "[" and end == ")"):
            raise Unread("brackets that do not match")
        if opening == r"\langle":
            return Node("tuple", (inner,), name="()")
        return inner

    def matrix(self) -> Node:
        """The rows of a matrix, or of cases, whose cells may be conditions."""
        kind = self.tokens[self.at].text
        self.at += 1
        if kind == "array":
            self.expect("{")
            while not self.take("}"):
                self.at += 1
                if self.at >= len(self.tokens):
                    raise Unread("an array that is not closed")
        elif kind not in ("matrix", "pmatrix", "bmatrix", "vmatrix", "Bmatrix", "smallmatrix", "cases"):
            raise Unread(f"a block of {kind}")
        rows: list[Node] = []
        cells: list[Node] = []
        while True:
            cells.append(self._cell(kind))
            if self.take("&"):
                continue
            rows.append(Node("list", tuple(cells)))
            cells = []
            self.take("\\\\", "\\cr")
            if self.kind() == "end":
                self.at += 1
                return Node(
                    "matrix",
                    tuple(rows),
                    name="cases" if kind == "cases" else "determinant" if kind == "vmatrix" else "",
                )

    def _cell(self, kind: str) -> Node:
        if kind != "cases":
            return self.sum()
        while self.kind() == "text" and self.tokens[self.at].text.strip(" ,") in ("if", "for", "when", "where"):
            self.at += 1
        self.take("if", "for")
        item = self.item()
        self.take(",", ".", ";")
        return item


def read(answer: str, *, loose: bool = False) -> Node:
    r"""What an answer says.

    Args:
        answer: As it was written.
        loose: Take a letter that may be a unit, `5 m`, for one, where the other answer has no letters at all.

    Raises:
        Unread: where a part of it is not understood.

    Example:
        >>> from ibpo.answers.nodes import exact
        >>> [str(exact(read(text))) for text in ("1,250.5", r"3\frac12", "0.1(6)", r"1.5 \times 10^3")]
        ['2501/2', '7/2', '1/6', '1500']
        >>> read("5 km/h").name, read("(1, 2]").name, read("0 < x < 1").name
        ('km/h', '(]', '< <')
    """
    if len(answer) > MAX_CHARACTERS:
        raise Unread("it is too long")
    text = clean(answer)
    if not text:
        raise Unread("it is empty")
    if len(text) < MAX_BASED and (found := BASE.fullmatch(text)) and (base := based(found)):
        return base
    try:
        return Reader(text, loose=loose).whole()
    except RecursionError:
        raise Unread("it is too deep") from None
