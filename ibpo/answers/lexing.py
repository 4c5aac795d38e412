r"""The tokens of an answer, and a cursor over them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from ibpo.answers.nodes import Node, Unread
from ibpo.answers.text import CURRENCY, NUMBER_WORDS, PERCENT, closing_brace

MAX_DIGITS = 1000
MAX_BASED = 100
"""Characters of a number with its base."""
FUNCTION_NAMES = """
sin cos tan cot sec csc arcsin arccos arctan asin acos atan arccot sinh cosh tanh log ln lg exp sqrt cbrt abs floor ceil
max min gcd lcm binom
"""
FUNCTIONS = frozenset(FUNCTION_NAMES.split())
INFINITY = "infinity"
CONSTANTS = {"pi": "pi", "uppi": "pi", "e": "e", "i": "i"} | dict.fromkeys(("infty", "infinity", "inf", "oo"), INFINITY)
LETTER_NAMES = """
alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta lambda mu nu xi rho sigma tau phi varphi chi psi omega
Delta Omega Gamma Phi Psi Sigma Theta Lambda ell hbar
"""
LETTERS = frozenset(LETTER_NAMES.split())
SINGLE_UNITS = frozenset("mshgLlNJWVKMA")
ROMAN = "text|mbox|textnormal|textrm|textbf|textit|mathrm|operatorname|mathbf|mathit|rm|hbox|textsf|mathsf"
TOKEN = re.compile(
    r"(?P<number>\d+\.\d+|\d+\.(?!\d)|\.\d+|\d+)"
    rf"|\\(?:{ROMAN})(?P<roman>\s*\{{|(?![A-Za-z]))"
    r"|\\begin\{(?P<begin>[a-z]+\*?)\}|\\end\{(?P<end>[a-z]+\*?)\}"
    r"|(?P<command>\\[A-Za-z]+|\\.)|(?P<word>[A-Za-z]+(?:\.[A-Za-z]\.)?)|(?P<space>\s+)|(?P<sign>.)",
    re.S,
)
GROUPED = re.compile(r"\d{1,3}(?:,\d{3})+(?![\d,]|\.\d*,)")
EXPONENT = re.compile(r"[eE]([-+]?\d{1,4})(?![A-Za-z\d.])")
REPEATING = re.compile(
    r"\s*(?:\\(?:overline|bar)\s*\{\s*(\d+)\s*\}|\\(?:overline|bar)\s*(\d)|\((\d+)\)(?=\s*$|\s*[,)\]%])"
    r"|((?:\d*\\dot\s*\{?\d\}?)+)|\\dots(?![A-Za-z]))")  # fmt: skip
BASE = re.compile(
    r"(?:[A-Za-z]\s*=\s*)?"
    r"\(?(-?)\(?(?:\\(?:text(?:bf|rm)?|mathrm|overline)\{([0-9A-Za-z]+)\}|\{?([0-9A-Z]+|[0-9]+[0-9A-Za-z]*)\}?)\)?\s*"
    r"(?:_\s*\{?\s*(?:\\(?:text|mathrm)\s*\{)?\s*\(?(\d+|[a-z]+)\)?\s*\}?\}?"
    r"|,?\s*\(?\s*(?:\\text\{\s*)?\(?(?:in )?base[ -]?\s*\}?\s*\{?(\w+)\)?\}?\s*\)?)\)?"
)
MULTIPLE = re.compile(r"(?:[()A-Z0-9, ]| and )*[A-Z0-9](?:[()A-Z0-9, ]| and )*|[A-Za-z]")
SEPARATORS = ("or", "and")
TRAILING = re.compile(r"(.*[a-z]) (or|and)$")
"""Words in roman letters that end by a separator: `2\\text{ hours and }30\\text{ minutes}`."""


@dataclass(slots=True)
class Token:
    """A piece of an answer: number, word, unit_letter, text, command, begin, end or sign."""

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
        grouped = GROUPED.match(text, at) if not text[at - 1 : at].isdigit() else None
        if grouped and (depth == 0 or ",0" in grouped[0]):  # no item of a tuple begins with 0
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
            tail = re.fullmatch(r"(\d*?)(?:(\d)\2{2,}|(\d{2,6})\3+)", decimals) or re.fullmatch(
                r"()(?:(\d)\2+|(?!)())", decimals
            )
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
    r"""Read what is in \text{...}; a single name, or letters and digits alone, are read as they are."""
    if not opening.endswith("{"):
        return at
    end = closing_brace(text[at - 1 :])
    if end < 0:
        raise Unread("a brace that is not closed")
    apart, inner, at = text[at : at + 1] in (" ", "~"), text[at : at - 1 + end].strip(" ~"), at + end
    content = re.sub(r"\s+", " ", inner.replace("\\ ", " ").replace("~", " "))
    if (found := TRAILING.match(content)) is not None:
        tokens.extend((Token("text", found[1], spaced), Token("word", found[2], True)))
    elif content.strip(" ,;.") in SEPARATORS:
        tokens.append(Token("word", content.strip(" ,;."), spaced))
    elif content in (",", ";"):
        tokens.append(Token("sign", content, spaced))
    elif (
        MULTIPLE.fullmatch(content)
        or content in FUNCTIONS - {"min"}
        or content in CONSTANTS
        or content.lstrip("-+")[:1].isdigit()
        or content in PERCENT[:1]
        or content == "\\%"
        or content.lstrip("-\\")[:1] in CURRENCY
    ):
        inside = lex(content)
        measured = bool(tokens) and content.isupper() and (apart or tokens[-1].kind == "number")
        if inside and len(content) == 1 and (content in SINGLE_UNITS or measured):
            inside[0].kind = "unit_letter"
        if inside:
            inside[0].spaced = spaced
        tokens.extend(inside)
    elif content:
        tokens.append(Token("text", content, spaced))
    return at


def letter(name: str) -> Node:
    """A variable, or the constant that its letter stands for."""
    return Node("constant", name=CONSTANTS[name]) if name in CONSTANTS else Node("variable", name=name)


def based(found: re.Match[str]) -> Node | None:
    """The number that names its base; None where its digits do not fit the base."""
    digits = (found[2] or found[3]).upper()
    base = found[4] or found[5]
    number = int(base) if base.isdigit() else NUMBER_WORDS.get(base, 0)
    if not 2 <= number <= 36 or any(int(digit, 36) >= number for digit in digits) or (digits.isalpha() and found[3]):
        return None
    return Node("in_base", name=f"{found[1]}{digits.lstrip('0') or '0'}", number=Fraction(number))


class Cursor:
    """A place among the tokens of one answer."""

    def __init__(self, tokens: list[Token]) -> None:
        """At the first of the tokens."""
        self.tokens, self.at = tokens, 0

    def peek(self, ahead: int = 0) -> str:
        """The text of a token that is coming; empty at the end. Texts in roman letters are no sign."""
        i = self.at + ahead
        return self.tokens[i].text if i < len(self.tokens) and self.tokens[i].kind not in ("text", "number") else ""

    def kind(self, ahead: int = 0) -> str:
        """The kind of a token that is coming; empty at the end."""
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
            Unread: where another is there.
        """
        if not self.take(*texts):
            raise Unread(f"{self.peek() or 'the end'!r} where {texts[0]!r} should be")
