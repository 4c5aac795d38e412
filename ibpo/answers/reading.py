r"""What a mathematical answer says, read whole or not at all.

A strict reader of what final answers look like: numbers of every kind, formulas, tuples, sets, intervals, lists,
matrices, relations, quantities with units, words. It gives a tree (`Node`) in which every letter, digit and sign of the
text has its place; where one has none, it raises `Unread`, instead of passing over it as computer algebra systems do.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

from ibpo.answers.text import (
    CURRENCY,
    NUMBER_WORDS,
    PERCENT,
    SCALES,
    SENTENCE_WORDS,
    UNITS,
    clean,
    closing_brace,
    unit_of,
)

MAX_DIGITS = 1000
MAX_TOKENS = 600
MAX_BASED = 100
"""Characters of a number with its base."""
MAX_BITS = 8000
"""Of a number that is computed exactly."""


class Unread(ValueError):
    """A part of an answer that the reader does not understand."""


@dataclass(frozen=True, slots=True)
class Node:
    """One part of an answer.

    Kinds: number, constant (pi, e, i, infinity), variable, sum, product, quotient, power, function, plus_minus; tuple,
    set, list, matrix, union, intersection, difference, reals, empty; relation (`name` has the signs between the parts),
    assignment (name, value), quantity (`name` has the unit), percent, ratio, modulo, in_base, text, dots.
    """

    kind: str
    parts: tuple[Node, ...] = ()
    name: str = ""
    number: Fraction = Fraction(0)
    places: int = -1
    """Digits after the point of a number that was written as a decimal; -1 for others, -2 for a decimal that repeats."""


ZERO, ONE = Node("number"), Node("number", number=Fraction(1))
FUNCTIONS = frozenset(
    "sin cos tan cot sec csc arcsin arccos arctan asin acos atan arccot sinh cosh tanh log ln lg exp sqrt cbrt abs "
    "floor ceil max min gcd lcm binom".split()
)
CONSTANTS = {"pi": "pi", "e": "e", "i": "i", "infty": "infinity", "infinity": "infinity", "inf": "infinity", "oo": "infinity"}
LETTERS = frozenset(
    "alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta lambda mu nu xi rho sigma tau phi varphi chi psi "
    "omega Delta Omega Gamma Phi Psi Sigma Theta Lambda ell hbar".split()
)
RELATIONS = {"=": "=", "<": "<", ">": ">", r"\le": "<=", r"\ge": ">=", r"\ne": "!=", r"\approx": "~", r"\in": "in",
             r"\equiv": "mod"}  # fmt: skip
OPAQUE = frozenset("fghFGHW")
"""Letters that are functions where a bracket follows them at once: f(2)."""
SINGLE_UNITS = frozenset("mshgLlNJWVK")

TOKEN = re.compile(
    r"(?P<number>\d+\.\d+|\d+\.(?!\d)|\.\d+|\d+)"
    r"|\\(?:text|mbox|textnormal|textrm|textbf|textit|mathrm|operatorname|mathbf|mathit|rm|hbox|textsf|mathsf)(?P<roman>\s*\{|(?![A-Za-z]))"
    r"|\\begin\{(?P<begin>[a-z]+\*?)\}|\\end\{(?P<end>[a-z]+\*?)\}"
    r"|(?P<command>\\[A-Za-z]+|\\.)|(?P<word>[A-Za-z]+(?:\.[A-Za-z]\.)?)|(?P<space>\s+)|(?P<sign>.)", re.S)
GROUPED = re.compile(r"\d{1,3}(?:,\d{3})+(?![\d,]|\.\d*,)")
EXPONENT = re.compile(r"[eE]([-+]?\d{1,4})(?![A-Za-z\d.])")
REPEATING = re.compile(
    r"\s*(?:\\(?:overline|bar)\s*\{\s*(\d+)\s*\}|\\(?:overline|bar)\s*(\d)|\((\d+)\)(?=\s*$|\s*[,)\]%])"
    r"|((?:\d*\\dot\s*\{?\d\}?)+)|\\dots(?![A-Za-z]))")  # fmt: skip
BASE = re.compile(
    r"(-?)\(?(?:\\(?:text|mathrm)\{([0-9A-Za-z]+)\}|([0-9A-Z]+|[0-9]+[0-9A-Za-z]*))\)?\s*"
    r"(?:_\s*\{?\s*(?:\\(?:text|mathrm)\s*\{)?\s*(\d+|[a-z]+)\s*\}?\}?|,?\s*\(?\s*(?:in )?base[ -]\{?(\w+)\}?\s*\)?)")
BASES = {**NUMBER_WORDS}
MULTIPLE = re.compile(r"[()A-Z0-9, ]*[A-Z0-9][()A-Z0-9, ]*|[A-Za-z]")
SEPARATORS = ("or", "and")
DENYING = {word for word in SENTENCE_WORDS if len(word) > 1} - {*SEPARATORS, *PERCENT, "mod", "modulo", "base", "if", "for", "when", "no", "none"}
"""Words with which an answer is a sentence, not a formula."""
CLOSING = {"(": ")]", "[": ")]", r"\lbrace": (r"\rbrace",), r"\langle": (r"\rangle",), r"\lfloor": (r"\rfloor",),
           r"\lceil": (r"\rceil",), "{": "}"}  # fmt: skip


@dataclass(slots=True)
class Token:
    kind: str
    text: str
    spaced: bool
    number: Fraction = Fraction(0)
    places: int = -1


def lex(text: str) -> list[Token]:
    """The tokens of a clean answer; thousands and repeating decimals are one number.

    Raises:
        Unread: for a sign that no answer has.
    """
    tokens: list[Token] = []
    at, depth, spaced = 0, 0, False
    while at < len(text):
        if depth == 0 and (grouped := GROUPED.match(text, at)) and not text[at - 1 : at].isdigit():
            # A group of thousands does not begin with 0: 0,111 has a decimal comma.
            whole = grouped[0].replace(",", "." if grouped[0].startswith("0,") and grouped[0].count(",") == 1 else "")
            rest = re.compile(r"\.\d+").match(text, grouped.end())
            decimals = rest[0] if rest else ""
            places = len((whole + decimals).partition(".")[2]) or -1
            tokens.append(Token("number", whole + decimals, spaced, Fraction(whole + decimals), places))
            at, spaced = grouped.end() + len(decimals), False
            continue
        found = TOKEN.match(text, at)
        assert found is not None  # the last branch takes any character
        kind = found.lastgroup or ""
        at = found.end()
        if kind == "space":
            spaced = True
            continue
        piece = found[kind] if kind != "roman" else ""
        if kind == "number":
            token, at = _number(text, found[0], at)
            token.spaced = spaced
            tokens.append(token)
        elif kind == "roman":
            at = _roman(text, at, found[0], spaced, tokens)
        else:
            depth += (piece in ("(", "[", r"\lbrace", "{")) - (piece in (")", "]", r"\rbrace", "}"))
            tokens.append(Token(kind, piece, spaced))
        spaced = False
    return tokens


def _number(text: str, literal: str, at: int) -> tuple[Token, int]:
    if len(literal) > MAX_DIGITS:
        raise Unread("a number of too many digits")
    whole, point, decimals = literal.partition(".")
    if point and not decimals and at < len(text) and not text[at:].lstrip().startswith(("\\", "(")):
        at -= 1  # a full stop, not a decimal point
        point = ""
    if point and (repeating := REPEATING.match(text, at)):
        block = repeating[1] or repeating[2] or repeating[3]
        if repeating[4]:
            marked = re.sub(r"\\dot\s*\{?(\d)\}?", r"<\1>", repeating[4])
            lead, _, rest = marked.partition("<")
            decimals += lead
            block = re.sub(r"\D", "", rest)
            if marked.count("<") > 2:
                raise Unread("dots over more than two digits")
        elif not block:
            tail = re.fullmatch(r"(\d*?)(?:(\d)\2{2,}|(\d{2,6})\3+)", decimals) or re.fullmatch(r"()(?:(\d)\2+|(?!)())", decimals)
            if tail is None:
                raise Unread("a decimal that goes on")
            decimals, block = tail[1], tail[2] or tail[3]
        value = Fraction(int(whole or 0)) + Fraction(int(decimals or 0), 10 ** len(decimals))
        value += Fraction(int(block), (10 ** len(block) - 1) * 10 ** len(decimals))
        return Token("number", literal, False, value, -2), repeating.end()
    if point and not decimals:
        at -= 1
        point = ""
    value = Fraction(f"{whole or 0}.{decimals or 0}")
    places = len(decimals) if point else -1
    if exponent := EXPONENT.match(text, at):
        power = int(exponent[1])
        places = places if places < 0 else max(places - power, 0)
        return Token("number", literal + exponent[0], False, value * Fraction(10) ** power, places), exponent.end()
    return Token("number", literal, False, value, places), at


def _roman(text: str, at: int, opening: str, spaced: bool, tokens: list[Token]) -> int:
    r"""Read what stands in \text{...}; a single name, or letters and digits alone, are read as they are."""
    if not opening.endswith("{"):
        return at
    end = closing_brace(text[at - 1 :])
    if end < 0:
        raise Unread("a brace that is not closed")
    inner, at = text[at : at - 1 + end].strip(" ~"), at + end
    content = re.sub(r"\s+", " ", inner.replace("\\ ", " ").replace("~", " "))
    if content.strip(" ,;.") in SEPARATORS:
        tokens.append(Token("sign", ",", spaced))
        tokens[-1].text = content.strip(" ,;.")
        tokens[-1].kind = "word"
    elif MULTIPLE.fullmatch(content) or content in FUNCTIONS - {"min"} or content in CONSTANTS or content[0:1].isdigit() or content in PERCENT[:1] or content == "\\%":
        inside = lex(content)
        if inside and len(content) == 1 and content in SINGLE_UNITS:
            inside[0].kind = "unit_letter"
        if inside:
            inside[0].spaced = spaced
        tokens.extend(inside)
    elif content:
        tokens.append(Token("text", content, spaced))
    return at


class Reader:
    """A recursive descent over the tokens of one answer."""

    def __init__(self, text: str, *, loose: bool) -> None:
        """`loose`: single letters and short words after a number and a space are units."""
        self.tokens = lex(text)
        if len(self.tokens) > MAX_TOKENS:
            raise Unread("it is too long")
        plain = len(self.tokens) < 5 and all(token.kind in ("word", "text") for token in self.tokens)
        for token in self.tokens:
            if token.kind == "word" and token.text.lower() in DENYING and len(self.tokens) > 1 and not plain:
                raise Unread(f"the word {token.text!r}")
        self.at, self.loose = 0, loose

    def peek(self, ahead: int = 0) -> str:
        """The text of a token that is coming; empty at the end. Texts in roman letters are no sign."""
        i = self.at + ahead
        return self.tokens[i].text if i < len(self.tokens) and self.tokens[i].kind not in ("text", "number") else ""

    def kind(self, ahead: int = 0) -> str:
        i = self.at + ahead
        return self.tokens[i].kind if i < len(self.tokens) else ""

    def take(self, *texts: str) -> bool:
        """Whether the next token is one of these; then it is read."""
        if self.at < len(self.tokens) and self.peek() in texts and self.peek():
            self.at += 1
            return True
        return False

    def expect(self, *texts: str) -> None:
        """Read one of these tokens.

        Raises:
            Unread: where another stands there.
        """
        if not self.take(*texts):
            raise Unread(f"{self.peek() or 'the end'!r} where {texts[0]!r} should be")

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
        if self.peek() in ("(", ",") and "mod" in signs or self.peek() == r"\mod" or self.peek(1) == r"\mod":
            return self._modulo(sides, signs)
        if not signs:
            return _spread(sides[0])
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
        if self.peek() == ":":
            parts = [node]
            while self.take(":"):
                parts.append(self.sum())
            node = Node("ratio", tuple(parts))
        return self.with_unit(node, currency)

    def with_unit(self, node: Node, currency: str) -> Node:
        """The value with what stands behind it: percent, a scale such as million, a unit, a second part."""
        if self.take("\\$", *CURRENCY):
            currency = currency or CURRENCY[self.tokens[self.at - 1].text[-1]]
        if self.take("\\%", "%", *PERCENT) or (self.kind() == "text" and self.tokens[self.at].text.strip("\\ .") in PERCENT):
            if self.kind() == "text" and self.tokens[self.at].text.strip("\\ .") in PERCENT:
                self.at += 1
            return Node("percent", (node,))
        if self.take("\\degree"):
            unit = self._unit_words()
            return Node("quantity", (node,), name="degree" + unit if unit in (" C", " F") else self._only("degree", unit))
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
            raise Unread(f"{words!r} is no unit")
        if currency and unit not in ("", currency):
            unit = f"{currency} {unit}"
        quantity = Node("quantity", (node,), name=unit or currency)
        if self.kind() == "number":
            second = self.with_unit(self.sum(), "")
            if second.kind not in ("quantity", "list"):
                raise Unread("a second number without unit")
            return Node("list", (quantity, *(second.parts if second.kind == "list" else (second,))), name="compound")
        return quantity

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
            if token.kind == "text" or (token.kind in ("word", "unit_letter") and token.text not in SEPARATORS):
                words += f" {token.text}"
                self.at += 1
            elif token.kind == "sign" and token.text in "/*." and words and self.kind(1) in ("word", "text", "unit_letter"):
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
        """Whether words stand here that are no formula."""
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
        if any(word in SENTENCE_WORDS for word in words) and (digits or len(words) > 4) or digits and len(words) > 3:
            raise Unread("a sentence")
        return Node("text", name=text)

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
            terms.append(_negated(self.product()) if negative else self.product())
        while True:
            if self.take("+"):
                terms.append(self._signed())
            elif self.take("-"):
                terms.append(_negated(self._signed()))
            elif self.peek() in (r"\pm", r"\mp"):
                sign = self.peek()[1:]
                self.at += 1
                terms.append(Node("plus_minus", (self.product(),), name=sign))
            else:
                return terms[0] if len(terms) == 1 else Node("sum", tuple(terms))

    def _signed(self) -> Node:
        """A term, whose own sign may follow an operator: 2 + -3."""
        return _negated(self.product()) if self.take("-") else self.product()

    def product(self, *, argument: bool = False) -> Node:
        """Factors; `argument`: of a function without brackets, where a sign of multiplication or a function ends it."""
        node = self.postfixed()
        while True:
            if not argument and self.take(r"\times", r"\cdot", "*"):
                node = _times(node, self._factor())
            elif not argument and self.peek() == "/" and not self._unit_next(1):
                self.at += 1
                node = Node("quotient", (node, self._factor()))
            elif not argument and self.take(r"\div"):
                node = Node("quotient", (node, self._factor()))
            elif self.starts_factor(node, argument):
                node = _times(node, self.postfixed())
            else:
                return node

    def _factor(self) -> Node:
        negative = self.take("-")
        self.take("+")
        node = self.postfixed()
        return _negated(node) if negative else node

    def _unit_next(self, ahead: int) -> bool:
        """Whether the token `ahead` begins a unit, for the slash in `5 m/s`."""
        kind, word = self.kind(ahead), self.peek(ahead)
        return kind in ("text", "unit_letter") or (kind == "word" and len(word) > 1 and _is_unit(word))

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
            after_number = before.kind == "number" or (before.kind in ("product", "quotient", "sum") and not has_variable(before))
            if len(word) == 1:
                return not (self.loose and after_number and token.spaced and word in SINGLE_UNITS)
            if _is_unit(word) and after_number:
                return False
            if token.spaced and len(word) > 3:
                return False
            if token.spaced and self.loose and after_number:
                return False
            return len(word) < 6
        if kind == "command":
            if word[1:] in FUNCTIONS:
                return not argument
            return word[1:] in CONSTANTS or word[1:] in LETTERS or word in (
                r"\frac", r"\triangle", r"\angle", r"\vec", r"\sqrt", r"\cbrt", r"\binom", r"\lfloor", r"\lceil", r"\operatorname", r"\overline", r"\bar")  # fmt: skip
        if kind == "begin":
            return True
        if kind == "number":
            return False
        return word in ("(", "[", "{") or (word == "|" and before.kind != "in bars" and self._bar_opens())

    def _bar_opens(self) -> bool:
        return self.kind(1) in ("number", "word", "command") and not self._in_bars

    _in_bars = 0

    def postfixed(self) -> Node:
        """A factor with its powers, factorials and degree sign."""
        node = self.atom()
        while True:
            if self.take("^"):
                node = Node("power", (node, self.exponent()))
            elif self.peek() == "!" and self.peek(1) != "=":
                self.at += 1
                node = Node("function", (node,), name="factorial")
            elif self.peek() == r"\degree" and self._inside_function:
                self.at += 1
                node = Node("quotient", (Node("product", (node, Node("constant", name="pi"))), Node("number", number=Fraction(180))))
            else:
                return node

    _inside_function = 0

    def exponent(self) -> Node:
        """What stands behind a power sign."""
        if self.take("{"):
            node = self.sum()
            self.expect("}")
            return node
        if self.take("-"):
            return _negated(self.exponent())
        return self.atom()

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
            self.tokens[self.at] = Token("word", word[1:], False)
            return letter(word[0])
        return self.atom()

    def atom(self) -> Node:
        """A number, name, function, or anything in brackets."""
        if self.at >= len(self.tokens):
            raise Unread("it ends too early")
        token = self.tokens[self.at]
        if token.kind == "number":
            return self._number()
        if token.kind == "begin":
            return self._matrix()
        if token.kind in ("text", "end"):
            raise Unread(f"{token.text!r} in a formula")
        self.at += 1
        if token.kind in ("word", "unit_letter"):
            return self._word(token)
        if token.kind == "command":
            return self._command(token.text)
        if token.text in ("(", "[", "{"):
            return self._bracket(token.text)
        if token.text == "|":
            self._in_bars += 1
            inner = self.sum()
            self.expect("|")
            self._in_bars -= 1
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
        if len(word) == 1 and self.peek() == "(" and not self.tokens[self.at].spaced and (word in OPAQUE or self._names_a_value()):
            self.at += 1
            inner = self.items(",", (")",))
            self.expect(")")
            return Node("function", (inner,), name=f"{word}()")
        if len(word) == 1 or len(word) < 6:
            names = [letter(character) for character in word]
            names[-1] = self._subscripted(names[-1], word[-1])
            node = names[0]
            for name in names[1:]:
                node = Node("product", (node, name))
            return node
        raise Unread(f"the word {word!r} in a formula")

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
            return self._bracket(command)
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
        self._inside_function += 1
        many = name in ("max", "min", "gcd", "lcm", "binom")
        if self.peek() in ("(", "["):
            self.at += 1
            inner = self.items(",", (")", "]"))
            self.expect(")", "]")
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
        self._inside_function -= 1
        parts = inner.parts if many and inner.kind == "list" else (inner,)
        node = Node("function", (*parts, *((base,) if base else ())), name=name)
        if power is None:
            return node
        if power.kind == "product" and exact(power) == -1:  # sin^{-1} is the arc, as on calculators
            if not name.startswith(("sin", "cos", "tan")):
                raise Unread("an inverse function")
            return Node("function", (inner,), name=f"arc{name}")
        return Node("power", (node, power))

    def braced_root(self) -> Node:
        """What stands under a root: in braces or brackets, or one number or letter."""
        if self.peek() == "{":
            return self.braced()
        if self.kind() == "number":
            token = self.tokens[self.at]
            self.at += 1
            return Node("number", number=token.number, places=token.places)
        if self.kind() == "word" and len(word := self.peek()) > 1 and word not in CONSTANTS:
            return self.braced()
        return self.atom()

    def _bracket(self, opening: str) -> Node:
        """What stands in brackets: one value, a tuple or interval, a set."""
        closing = CLOSING[opening]
        if opening == r"\lbrace" and self.take(r"\rbrace"):
            return Node("empty")
        inner = self.items(",", tuple(closing))
        if opening == r"\lbrace" and self.take(r"\mid", "|", ":", r"\colon"):
            if inner.kind == "variable" or (inner.kind == "relation" and inner.name == "in" and inner.parts[1].kind == "reals"):
                inner = self.items(",", tuple(closing))
                self.expect(r"\rbrace")
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
        if opening == "(" and end == "]" or opening == "[" and end == ")":
            raise Unread("brackets that do not match")
        if opening == r"\langle":
            return Node("tuple", (inner,), name="()")
        return inner

    def _matrix(self) -> Node:
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
                return Node("matrix", tuple(rows), name="cases" if kind == "cases" else "determinant" if kind == "vmatrix" else "")

    def _cell(self, kind: str) -> Node:
        if kind != "cases":
            return self.sum()
        while self.kind() == "text" and self.tokens[self.at].text.strip(" ,") in ("if", "for", "when", "where"):
            self.at += 1
        self.take("if", "for")
        item = self.item()
        self.take(",", ".", ";")
        return item


def _is_unit(word: str) -> bool:
    return word in UNITS or (len(word) > 2 and (word.lower() in UNITS or word.lower().removesuffix("s") in UNITS or word.lower() in ("per", "square", "cubic", "sq", "cu", *SCALES)))


def letter(name: str) -> Node:
    """A variable, or the constant that its letter stands for."""
    return Node("constant", name=CONSTANTS[name]) if name in CONSTANTS else Node("variable", name=name)


def _negated(node: Node) -> Node:
    if node.kind == "number":
        return Node("number", number=-node.number, places=node.places)
    return Node("product", (Node("number", number=Fraction(-1)), node))


def _times(node: Node, factor: Node) -> Node:
    """A product with one more factor: one long product is not nested, so that no answer makes it deep."""
    return Node("product", (*(node.parts if node.kind == "product" else (node,)), factor))


def has_variable(node: Node) -> bool:
    """Whether a variable stands anywhere in it."""
    return node.kind == "variable" or node.name.endswith("()") and node.kind == "function" or any(map(has_variable, node.parts))


def has_plus_minus(node: Node) -> bool:
    """Whether it stands for two values."""
    return node.kind == "plus_minus" or any(map(has_plus_minus, node.parts))


def _spread(node: Node) -> Node:
    """Both values of what has a plus-minus sign, as two items."""
    if not has_plus_minus(node):
        return node
    return Node("list", (_resolved(node, 1), _resolved(node, -1)), name="pm")


def _resolved(node: Node, sign: int) -> Node:
    if node.kind == "plus_minus":
        inner = _resolved(node.parts[0], sign)
        return inner if (sign > 0) == (node.name == "pm") else _negated(inner)
    return Node(node.kind, tuple(_resolved(part, sign) for part in node.parts), node.name, node.number, node.places)


def is_name(node: Node) -> bool:
    """Whether a side of an equation only names what the other side is: x, f(x), AB, (p, q), |AB|, S:T, W_1."""
    if node.kind == "variable":
        return True
    if node.kind == "product":
        return all(part.kind == "variable" and part.name.isupper() or part.kind == "product" and is_name(part) for part in node.parts)
    if node.kind == "function":
        return node.name.endswith("()") or node.name == "abs" and is_name(node.parts[0])
    if node.kind in ("tuple", "ratio", "list", "quotient"):
        return all(map(is_name, node.parts))
    return node.kind == "text"


def relation(sides: list[Node], signs: list[str]) -> Node:
    """Sides with the signs between them; equations that name a value are assignments."""
    if any(side.kind == "text" for side in (sides if set(signs) - {"=", "~"} else sides[1:-1])):
        raise Unread("words in a relation")
    if set(signs) <= {"=", "~"}:
        if signs == ["="] and is_name(sides[1]) and not is_name(sides[0]):
            sides = sides[::-1]
        named = is_name(sides[0])
        values = sides[1:] if named else sides
        if named and len(values) == 1 and not (has_variable(values[0]) and shares(sides[0], values[0])):
            value = _spread(values[0])
            return Node("assignment", (sides[0], value))
        if len(values) > 1 and not any(map(has_variable, values)):
            chain = Node("chain", tuple(values), name=" ".join(signs[1:] if named else signs))
            return Node("assignment", (sides[0], chain)) if named else chain
        if named and len(values) > 1:
            return Node("assignment", (sides[0], Node("chain", tuple(values), name=" ".join(signs[1:]))))
        if len(sides) == 2 and signs == ["="]:
            return Node("relation", tuple(sides), name="=")
        raise Unread("a chain of equations")
    return Node("relation", tuple(sides), name=" ".join(signs))


def shares(name: Node, value: Node) -> bool:
    """Whether a variable of the name stands in the value too; the argument of a function may."""
    if name.kind == "function":
        return False
    return bool(variables(name) & variables(value))


def variables(node: Node) -> set[str]:
    """The names of all variables."""
    found = {node.name} if node.kind == "variable" else set[str]()
    return found.union(*(variables(part) for part in node.parts))


def exact(node: Node) -> Fraction | None:
    """The exact value of a rational expression; None where it is none, or a number of too many digits."""
    if node.kind == "number":
        return node.number
    if node.kind not in ("sum", "product", "quotient", "power", "function", "percent") or (
        node.kind == "function" and node.name not in ("factorial", "abs", "binom", "floor", "ceil", "max", "min")
    ):
        return None
    values = [exact(part) for part in node.parts]
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return None
    result = COMPUTE[node.name if node.kind == "function" else node.kind](known)
    if result is None or max(result.numerator.bit_length(), result.denominator.bit_length()) > MAX_BITS:
        return None
    return result


def _power(values: list[Fraction]) -> Fraction | None:
    base, power = values
    if power.denominator != 1 or (base == 0 and power <= 0):
        return None
    size = max(base.numerator.bit_length(), base.denominator.bit_length())
    return base ** int(power) if size * abs(int(power)) <= MAX_BITS else None


def _factorial(values: list[Fraction]) -> Fraction | None:
    n = values[0]
    if n.denominator != 1 or not 0 <= n <= 700:
        return None
    product = 1
    for factor in range(2, int(n) + 1):
        product *= factor
    return Fraction(product)


def _binomial(values: list[Fraction]) -> Fraction | None:
    import math

    n, k = values
    return Fraction(math.comb(int(n), int(k))) if n.denominator == k.denominator == 1 and 0 <= k <= n <= 1000 else None


def _product(values: list[Fraction]) -> Fraction:
    product = Fraction(1)
    for value in values:
        product *= value
    return product


COMPUTE: dict[str, Callable[[list[Fraction]], Fraction | None]] = {
    "sum": lambda values: sum(values, Fraction(0)),
    "product": _product,
    "quotient": lambda values: values[0] / values[1] if values[1] else None,
    "power": _power,
    "percent": lambda values: values[0] / 100,
    "factorial": _factorial,
    "binom": _binomial,
    "abs": lambda values: abs(values[0]),
    "floor": lambda values: Fraction(values[0].__floor__()),
    "ceil": lambda values: Fraction(values[0].__ceil__()),
    "max": lambda values: max(values),
    "min": lambda values: min(values),
}


def written(node: Node) -> str:
    """A text that is the same for nodes that are read the same; numbers by their value."""
    value = exact(node)
    if value is not None and node.kind != "percent":
        return str(value)
    parts = ",".join(written(part) for part in node.parts)
    return f"{node.kind}:{node.name}({parts or (node.number if node.kind == 'in_base' else '')})"


def read(answer: str, *, loose: bool = False) -> Node:
    r"""What an answer says.

    Args:
        answer: As it was written.
        loose: Take a letter that may be a unit, `5 m`, for one, where the other answer has no letters at all.

    Raises:
        Unread: where a part of it is not understood.

    Example:
        >>> exact(read("1,250.5")), exact(read(r"3\frac12")), exact(read("0.1(6)")), exact(read("1.5 \\times 10^3"))
        (Fraction(2501, 2), Fraction(7, 2), Fraction(1, 6), Fraction(1500, 1))
        >>> read("5 m/s").name, read("(1, 2]").name, read("0 < x < 1").name
        ('m/s', '(]', '< <')
    """
    text = clean(answer)
    if not text:
        raise Unread("it is empty")
    if len(text) < MAX_BASED and (found := BASE.fullmatch(text)) and (base := _base(found)):
        return base
    try:
        return Reader(text, loose=loose).whole()
    except RecursionError:
        raise Unread("it is too deep") from None


def _base(found: re.Match[str]) -> Node | None:
    digits = (found[2] or found[3]).upper()
    base = found[4] or found[5]
    number = int(base) if base.isdigit() else NUMBER_WORDS.get(base, 0)
    if not 2 <= number <= 36 or any(int(digit, 36) >= number for digit in digits) or (digits.isalpha() and found[3]):
        return None
    return Node("in_base", name=f"{found[1]}{digits.lstrip('0') or '0'}", number=Fraction(number))
