r"""Formulas: sums, products, powers, functions, numbers and names, read to the last sign."""

from __future__ import annotations

from abc import ABC, abstractmethod
from fractions import Fraction

from ibpo.answers.lexing import CONSTANTS, FUNCTIONS, LETTERS, SEPARATORS, SINGLE_UNITS, Cursor, Token, letter
from ibpo.answers.nodes import ZERO, Node, Unread, exact, has_variable, negated, times
from ibpo.answers.text import PERCENT, SCALES, UNITS

RELATIONS = {"=": "=", "<": "<", ">": ">", r"\le": "<=", r"\ge": ">=", r"\ne": "!=", r"\approx": "~", r"\in": "in",
             r"\equiv": "mod"}  # fmt: skip
OPAQUE = frozenset("fghFGHW")
"""Letters that are functions where a bracket follows them at once: f(2)."""

FACTORS = (r"\frac", r"\sqrt", r"\cbrt", r"\binom", r"\lfloor", r"\lceil", r"\overline", r"\bar", r"\triangle",
           r"\angle", r"\vec")  # fmt: skip
"""Commands that begin a factor."""


class FormulaReader(Cursor, ABC):
    """A recursive descent over formulas; what is in brackets may be more, and is read by `Reader`."""

    def __init__(self, tokens: list[Token], *, loose: bool) -> None:
        """`loose`: single letters and short words after a number and a space are units."""
        super().__init__(tokens)
        self.loose = loose
        self.in_bars = self.in_set = self.inside_function = 0
        self.in_brackets = False

    @abstractmethod
    def items(self, separator: str, closing: tuple[str, ...]) -> Node:
        """Items between separators."""

    @abstractmethod
    def bracket(self, opening: str) -> Node:
        """What is in brackets."""

    @abstractmethod
    def matrix(self) -> Node:
        """A matrix or cases."""

    def sum(self) -> Node:
        """Terms with + and -, and with plus-minus."""
        terms: list[Node] = []
        negative = False
        if self.take("-"):
            negative = True
        elif self.peek() in (r"\pm", r"\mp"):
            terms.append(ZERO)
        else:
            self.take("+")
        if not terms:
            terms.append(negated(self.product()) if negative else self.product())
        while True:
            if self.take("+"):
                terms.append(self._signed())
            elif self.take("-"):
                terms.append(negated(self._signed()))
            elif self.peek() in (r"\pm", r"\mp"):
                sign = self.peek()[1:]
                self.at += 1
                terms.append(Node("plus_minus", (self.product(),), name=sign))
            else:
                return terms[0] if len(terms) == 1 else Node("sum", tuple(terms))

    def _signed(self) -> Node:
        """A term, whose own sign may follow an operator: 2 + -3."""
        return negated(self.product()) if self.take("-") else self.product()

    def product(self, *, argument: bool = False) -> Node:
        """Factors; `argument`: of a function without brackets, where a sign of multiplication or a function ends it."""
        node = self.postfixed()
        while True:
            if not argument and self.take(r"\times", r"\cdot", "*"):
                node = times(node, self._factor())
            elif not argument and self.peek() == "/" and not self._unit_next(1):
                self.at += 1
                node = Node("quotient", (node, self._factor()))
            elif not argument and self.take(r"\div"):
                node = Node("quotient", (node, self._factor()))
            elif self.starts_factor(node, argument):
                node = times(node, self.postfixed())
            else:
                return node

    def _factor(self) -> Node:
        negative = self.take("-")
        self.take("+")
        node = self.postfixed()
        return negated(node) if negative else node

    def _unit_next(self, ahead: int) -> bool:
        """Whether the token `ahead` begins a unit, for the slash in `5 m/s`."""
        kind, word = self.kind(ahead), self.peek(ahead)
        return kind in ("text", "unit_letter") or (kind == "word" and len(word) > 1 and is_unit(word))

    def starts_factor(self, before: Node, argument: bool) -> bool:
        """Whether a factor follows without a sign."""
        kind, word = self.kind(), self.peek()
        if kind == "word":
            token = self.tokens[self.at]
            if word in SEPARATORS or word in PERCENT or word == "U" or word in ("mod", "base"):
                return False
            if word in FUNCTIONS:
                return not argument and (word != "min" or self.peek(1) in ("(", "{", "_"))
            if word in CONSTANTS or word in LETTERS:
                return True
            after_number = before.kind == "number" or (
                before.kind in ("product", "quotient", "sum") and not has_variable(before)
            )
            if len(word) == 1:
                return not (self.loose and after_number and token.spaced and word in SINGLE_UNITS)
            if is_unit(word) and after_number:
                return False
            if token.spaced and len(word) > 3:
                return False
            if token.spaced and self.loose and after_number:
                return False
            return len(word) < 6
        if kind == "command":
            if word[1:] in FUNCTIONS:
                return not argument
            return word[1:] in CONSTANTS or word[1:] in LETTERS or word in FACTORS
        if kind == "begin":
            return True
        if kind == "number":
            last = before.parts[-1] if before.kind == "product" else before
            closed = last.kind == "power" and self.tokens[self.at - 1].text == "}"  # 2^{5}3^{2}
            return closed or (last.kind == "function" and last.name == "factorial")  # 3!7!
        return word in ("(", "[", "{") or (word == "|" and self._bar_opens(before))

    def _bar_opens(self, before: Node) -> bool:
        if self.in_set and before.kind == "variable":  # {x | x > 5}
            return False
        return self.kind(1) in ("number", "word", "command") and not self.in_bars

    def postfixed(self) -> Node:
        """A factor with its powers, factorials and degree sign."""
        return self._raised(self.atom())

    def _raised(self, node: Node) -> Node:
        while True:
            if self.take("^"):
                node = Node("power", (node, self.exponent()))
            elif self.peek() == "!" and self.peek(1) != "=":
                self.at += 1
                node = Node("function", (node,), name="factorial")
            elif self.peek() == r"\degree" and self.inside_function:
                self.at += 1
                node = Node(
                    "quotient",
                    (Node("product", (node, Node("constant", name="pi"))), Node("number", number=Fraction(180))),
                )
            else:
                return node

    def exponent(self) -> Node:
        """What is behind a power sign."""
        if self.take("{"):
            node = self.sum()
            self.expect("}")
            return node
        if self.take("-"):
            return negated(self.exponent())
        if self.kind() == "word" and len(word := self.peek()) > 1 and word not in CONSTANTS and word not in FUNCTIONS:
            return self._first_letter(word)  # LaTeX raises one letter: x^ab is x^a b
        return self.atom()

    def _first_letter(self, word: str) -> Node:
        """The first letter of the word that comes; the others are left."""
        self.tokens[self.at] = Token("word", word[1:], False)
        return letter(word[0])

    def braced(self) -> Node:
        r"""An argument of \frac or \sqrt: in braces, or one digit, letter or command."""
        if self.take("{"):
            node = self.sum()
            self.expect("}")
            return node
        if self.kind() == "number" and (text := self.tokens[self.at].text).isdigit() and len(text) > 1:
            token = self.tokens[self.at]
            self.tokens[self.at] = Token("number", text[1:], False, Fraction(int(text[1:])))
            return Node("number", number=Fraction(int(token.text[0])))
        if self.kind() == "number":
            self.at += 1
            token = self.tokens[self.at - 1]
            return Node("number", number=token.number, places=token.places)
        if self.kind() == "word" and len(word := self.peek()) > 1 and word not in CONSTANTS:
            return self._first_letter(word)
        return self.atom()

    def atom(self) -> Node:
        """A number, name, function, or anything in brackets."""
        if self.at >= len(self.tokens):
            raise Unread("it ends too early")
        token = self.tokens[self.at]
        if token.kind == "number":
            return self._number()
        if token.kind == "begin":
            return self.matrix()
        if token.kind in ("text", "end"):
            raise Unread(f"{token.text!r} in a formula")
        self.at += 1
        if token.kind in ("word", "unit_letter"):
            return self._word(token)
        if token.kind == "command":
            return self._command(token.text)
        if token.text in ("(", "[", "{"):
            return self.bracket(token.text)
        if token.text == "|":
            self.in_bars += 1
            inner = self.sum()
            self.expect("|")
            self.in_bars -= 1
            return Node("function", (inner,), name="abs")
        raise Unread(f"{token.text!r} has no place")

    def _number(self) -> Node:
        token = self.tokens[self.at]
        self.at += 1
        node = Node("number", number=token.number, places=token.places)
        if token.places >= 0 or token.number.denominator != 1:
            if self.kind() == "number":
                raise Unread("a number behind a number")
            return node
        part = self._proper_fraction()
        if part is not None:
            return Node("number", number=token.number + part)
        if self.kind() == "number" and not token.text.startswith("0"):
            raise Unread("a number behind a number")
        return node

    def _proper_fraction(self) -> Fraction | None:
        r"""The fraction of a mixed number: 3 1/2, 3\frac{1}{2}."""
        start = self.at
        tokens, over, under = self.tokens, None, None
        if self.take(r"\frac"):
            try:
                ours, theirs = self.braced(), self.braced()
            except Unread:
                self.at = start
                return None
            if ours.kind == theirs.kind == "number" and ours.places == theirs.places == -1:
                over, under = ours.number, theirs.number
        elif self.kind() == "number" and tokens[start].spaced and self.peek(1) == "/" and self.kind(2) == "number":
            over, under = tokens[start].number, tokens[start + 2].number
            self.at += 3
        if over is not None and under and over.denominator == under.denominator == 1:
            return over / under
        self.at = start
        return None

    def _word(self, token: Token) -> Node:
        word = token.text
        if word in FUNCTIONS:
            return self._function(word)
        if word in CONSTANTS:
            return Node("constant", name=CONSTANTS[word])
        if word in LETTERS:
            return letter(word)
        mark = ""
        if word in OPAQUE and self.peek() in ("^", "'"):
            coming = "".join(token.text for token in self.tokens[self.at : self.at + 6])
            mark = next(
                (mark for mark in ("^{-1}", "'", "''") if coming.startswith(f"{mark}(")), ""
            )  # f^{-1}(x), f'(x)
            self.at += len(mark)
        if (
            len(word) == 1
            and self.peek() == "("
            and not self.tokens[self.at].spaced
            and (word in OPAQUE or self._names_a_value() or (word.isupper() and self._holds_several()))
        ):
            self.at += 1
            inner = self.items(",", (")",))
            self.expect(")")
            if inner.kind == "list" and word.isupper():  # a point: P(1, 2)
                return Node("tuple", inner.parts, name="()")
            return Node("function", (inner,), name=f"{word}{mark}()")
        if len(word) == 1 or len(word) < 6:
            names = [letter(character) for character in word]
            names[-1] = self._subscripted(names[-1], word[-1])
            if len(names) > 1:  # a power belongs to the last letter: ab^2
                names[-1] = self._raised(names[-1])
            node = names[0]
            for name in names[1:]:
                node = Node("product", (node, name))
            return node
        raise Unread(f"the word {word!r} in a formula")

    def _holds_several(self) -> bool:
        """Whether a bracket with a comma of its own comes."""
        depth = 0
        for token in self.tokens[self.at :]:
            depth += (token.text in ("(", "[", "{")) - (token.text in (")", "]", "}"))
            if depth == 0 or (depth == 1 and token.text == ","):
                return depth == 1
        return False

    def _names_a_value(self) -> bool:
        """Whether `(x)` and a relation follow: a letter before them is a function."""
        return self.peek(2) == ")" and self.kind(1) in ("word", "number") and self.peek(3) in RELATIONS

    def _subscripted(self, node: Node, name: str) -> Node:
        if self.peek() == "'":
            while self.take("'"):
                name += "'"
            node = Node("variable", name=name)
        if not self.take("_"):
            return node
        if self.take("{"):
            depth, subscript = 1, ""
            while self.at < len(self.tokens):
                token = self.tokens[self.at]
                self.at += 1
                depth += (token.text == "{") - (token.text == "}")
                if depth == 0:
                    return Node("variable", name=f"{name}_{subscript}")
                subscript += token.text
            raise Unread("a subscript that is not closed")
        if self.at >= len(self.tokens):
            raise Unread("a subscript that is missing")
        self.at += 1
        return Node("variable", name=f"{name}_{self.tokens[self.at - 1].text}")

    def _command(self, command: str) -> Node:
        name = command[1:]
        if name in ("frac", "binom"):
            over, under = self.braced(), self.braced()
            return Node("quotient", (over, under)) if name == "frac" else Node("function", (over, under), name="binom")
        if name in FUNCTIONS:
            return self._function(name)
        if name in CONSTANTS:
            return Node("constant", name=CONSTANTS[name])
        if name in LETTERS:
            return self._subscripted(letter(name), name)
        if name == "R":
            if self.take("^"):
                raise Unread("a space of vectors")
            return Node("reals")
        if name == "emptyset":
            return Node("empty")
        if command in (r"\lbrace", r"\langle", r"\lfloor", r"\lceil"):
            return self.bracket(command)
        if name in ("overline", "vec", "triangle", "angle", "bar", "hat", "widehat", "overrightarrow"):
            return self._decorated(name)
        raise Unread(f"{command} is not read")

    def _decorated(self, name: str) -> Node:
        r"""A name with a mark: \overline{AB}, \angle ABC."""
        brace = self.take("{")
        if self.kind() != "word":
            raise Unread(f"\\{name} over no name")
        word = self.peek()
        self.at += 1
        if brace:
            self.expect("}")
        return self._subscripted(Node("variable", name=f"{name} {word}"), f"{name} {word}")

    def _function(self, name: str) -> Node:
        if name in ("sqrt", "cbrt"):
            index: Node = Node("number", number=Fraction(3)) if name == "cbrt" else Node("number", number=Fraction(2))
            if self.peek() == "[":
                self.at += 1
                index = self.sum()
                self.expect("]")
            inner = self.braced_root()
            return Node("function", (inner, index), name="root")
        base: Node | None = None
        power: Node | None = None
        while self.peek() in ("_", "^"):
            if self.take("_"):
                base = self.braced()
            else:
                self.at += 1
                power = self.exponent()
        self.inside_function += 1
        many = name in ("max", "min", "gcd", "lcm", "binom")
        if self.peek() in ("(", "[") or (many and self.peek() == r"\lbrace"):
            self.at += 1
            inner = self.items(",", (")", "]", r"\rbrace"))
            self.expect(")", "]", r"\rbrace")
            if inner.kind == "list" and not many:
                if name != "log" or len(inner.parts) != 2:
                    raise Unread(f"several arguments of {name}")
                base, inner = inner.parts[1], inner.parts[0]
        elif self.take("{"):
            inner = self.sum()
            self.expect("}")
        elif many:
            raise Unread(f"{name} without brackets")
        else:
            inner = self.product(argument=True)
        self.inside_function -= 1
        parts = inner.parts if many and inner.kind == "list" else (inner,)
        if name == "binom" and len(parts) != 2:
            raise Unread("a binomial coefficient of other than two numbers")
        node = Node("function", (*parts, *((base,) if base else ())), name=name)
        if power is None:
            return node
        if power.kind == "product" and exact(power) == -1:  # sin^{-1} is the arc, as on calculators
            if not name.startswith(("sin", "cos", "tan")):
                raise Unread("an inverse function")
            return Node("function", (inner,), name=f"arc{name}")
        return Node("power", (node, power))

    def braced_root(self) -> Node:
        """What is under a root: in braces or brackets, or one number or letter."""
        if self.peek() == "{":
            return self.braced()
        if self.kind() == "number":
            token = self.tokens[self.at]
            self.at += 1
            return Node("number", number=token.number, places=token.places)
        if self.kind() == "word" and len(word := self.peek()) > 1 and word not in CONSTANTS:
            return self.braced()
        return self.atom()


def is_unit(word: str) -> bool:
    """Whether a word begins a unit."""
    return word in UNITS or (
        len(word) > 2
        and (
            word.lower() in UNITS
            or word.lower().removesuffix("s") in UNITS
            or word.lower() in ("per", "square", "cubic", "sq", "cu", *SCALES)
        )
    )
