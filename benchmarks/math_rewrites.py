r"""The mathematics judge on rewrites of benchmark golds: right answers missed, wrong answers accepted, by kind.

    python benchmarks/math_rewrites.py ../shared/data [--pairs-of-a-kind 40] [--show]

Each kind is a rule that writes golds of GSM8K and MATH (`benchmarks/{gsm8k,math}_train.jsonl.gz`, rows with `answer`)
in another way that means the same, or in one that means something else. The rules look at golds through patterns of
their own, never through the judge's reader. The kinds in `LATER` were written after the judge was finished, and are
counted apart. Beside the judge: math-verify with its defaults, the answers between dollar signs and in a box.
"""

# ruff: noqa: E501, RUF001  (a rule of rewriting is read as one row)
# fmt: off
from __future__ import annotations

import argparse
import gzip
import json
import logging
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

from ibpo.rewards import MathJudge

Rule = Callable[[str, random.Random], Iterator[tuple[str, str]]]
"""(gold, randomness) -> (predicted, gold) pairs; none where the rule does not fit."""

INTEGER = re.compile(r"-?\d{1,9}")
FRACTION = re.compile(r"(-?)\\[dt]?frac\{(\d+)\}\{(\d+)\}")
COMPLEX = re.compile(r"(-?\d+) ?([-+]) ?(\d*)i")
BASED = re.compile(r"(\d+)_\{?(\d+)\}?")
INTERVAL = re.compile(r"([\[(])(-?\d+|-\\infty), ?(-?\d+|\\infty)([\])])")
ROOT = re.compile(r"(\d*) ?\\sqrt\{?(\d+)\}?")
PI = re.compile(r"(\d+) ?\\pi")
POINT = re.compile(r"\((-?\d+), ?(-?\d+)\)")
LIST = re.compile(r"-?\d+(?:, ?-?\d+)+")
POLYNOMIAL = re.compile(r"(?:-?\d*[a-z](?:\^\{?\d\}?)?|-?\d+)(?: ?[-+] ?(?:\d*[a-z](?:\^\{?\d\}?)?|\d+))+")
WORD = re.compile(r"\\text\{([A-Za-z]{3,})\}")
DEGREES = re.compile(r"(\d+)\^\\circ")
PERCENTS = re.compile(r"(\d+) ?\\%")
SUPERSCRIPT = str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻")
GE = r"\ge"
FULLWIDTH = str.maketrans("0123456789", "０１２３４５６７８９")
VULGAR = {"1/2": "½", "1/4": "¼", "3/4": "¾", "1/3": "⅓", "2/3": "⅔", "1/8": "⅛", "5/8": "⅝", "4/5": "⅘", "1/6": "⅙"}


def grouped(number: int, sign: str) -> str:
    return f"{number:,}".replace(",", sign)


def repeating(value: Fraction) -> tuple[str, str, str] | None:
    """(whole, digits before the period, period) of a fraction whose period is short; None for other fractions."""
    rest, seen, digits = abs(value) % 1, dict[Fraction, int](), ""
    while rest and rest not in seen and len(digits) < 8:
        seen[rest] = len(digits)
        rest *= 10
        digits += str(int(rest))
        rest %= 1
    if not rest or rest not in seen:
        return None
    return ("-" if value < 0 else "") + str(int(abs(value))), digits[: seen[rest]], digits[seen[rest] :]


def as_fraction(gold: str) -> Fraction | None:
    if (found := FRACTION.fullmatch(gold)) is None or int(found[3]) == 0:
        return None
    return Fraction(int(found[1] + found[2]), int(found[3]))


# Written together with the judge: the same value.


def wrapped(gold: str, rng: random.Random) -> Iterator[tuple[str, str]]:
    box = r"\boxed " + gold if INTEGER.fullmatch(gold) and len(gold) == 1 else rf"\boxed {{{gold}}}"
    yield rng.choice([f"${gold}$", box, rf"\boxed{{{gold}}}", rf"\fbox{{{gold}}}", f"**{gold}**", f"{gold}.",
                      rf"\( {gold} \)", f"$$ {gold} $$", f"**${gold}$**"]), gold  # fmt: skip


def thousands(gold: str, rng: random.Random) -> Iterator[tuple[str, str]]:
    if INTEGER.fullmatch(gold) and int(gold) > 999:
        yield grouped(int(gold), rng.choice(["~", r"\ ", r"\,", "{,}", r",\!", " ", ","])), gold


def unit_in_words(gold: str, rng: random.Random) -> Iterator[tuple[str, str]]:
    if INTEGER.fullmatch(gold):
        unit = rng.choice(["dollars", "eggs", "m/s", "cm", r"\text{ cm}", "m", "km", r"\text{ hours}", "apples", "years old",
                           "miles per hour", r"\mathrm{~cm}^2", "square feet", "students", r"\text{ m/s}", "kg"])  # fmt: skip
        space = "" if unit[0] == chr(92) else " "
        yield f"{gold}{space}{unit}", gold


def currency(gold: str, rng: random.Random) -> Iterator[tuple[str, str]]:
    if INTEGER.fullmatch(gold):
        yield (rng.choice([rf"\${gold}", f"${gold}", f"€{gold}", f"{gold} €", f"£{gold}", f"{gold} euros", f"${gold}.00"]), gold)


def integer_spelled(gold: str, rng: random.Random) -> Iterator[tuple[str, str]]:
    if INTEGER.fullmatch(gold) and int(gold) > 9:
        n = int(gold)
        power = len(gold) - 1
        digits = f"{gold[0]}.{gold[1:]}"
        yield rng.choice([f"{n}.0", rf"{digits} \times 10^{{{power}}}", f"{digits}e{power}", f"{digits} × 10{str(power).translate(SUPERSCRIPT)}",
                          gold.translate(FULLWIDTH), f"{n}/1", rf"\frac{{{2 * n}}}{{2}}", f"x = {n}", rf"{digits}\cdot10^{power}",
                          f"{digits}E+{power}", f"0{n}", f"+{n}"]), gold  # fmt: skip


def fraction_spelled(gold: str, rng: random.Random) -> Iterator[tuple[str, str]]:
    if (value := as_fraction(gold)) is not None:
        a, b, sign = abs(value.numerator), value.denominator, "-" if value < 0 else ""
        ways = [f"{sign}{a}/{b}", rf"{sign}\dfrac{{{a}}}{{{b}}}", rf"{sign}\tfrac{{{a}}}{{{b}}}", rf"\frac{{{sign}{a}}}{{{b}}}",
                rf"{sign}\frac{{{3 * a}}}{{{3 * b}}}", f"{sign}{a} / {b}", f"{a}/{b}" if not sign else f"−{a}/{b}"]  # fmt: skip
        if f"{a}/{b}" in VULGAR and not sign:
            ways.append(VULGAR[f"{a}/{b}"])
        yield rng.choice(ways), gold


def mixed(gold: str, rng: random.Random) -> Iterator[tuple[str, str]]:
    if (value := as_fraction(gold)) is not None and abs(value) > 1 and value.denominator > 1:
        whole, rest = divmod(abs(value), 1)
        a, b, sign = rest.numerator, rest.denominator, "-" if value < 0 else ""
        ways = [f"{sign}{whole} {a}/{b}", rf"{sign}{whole}\frac{{{a}}}{{{b}}}", rf"{sign}{whole} \dfrac{{{a}}}{{{b}}}"]
        if f"{a}/{b}" in VULGAR:
            ways.append(f"{sign}{whole}{VULGAR[f'{a}/{b}']}")
        yield rng.choice(ways), gold


def decimal(gold: str, rng: random.Random) -> Iterator[tuple[str, str]]:
    if (value := as_fraction(gold)) is not None:
        if (found := repeating(value)) is not None:
            whole, before, period = found
            ways = [rf"{whole}.{before}\overline{{{period}}}", f"{whole}.{before}({period})", rf"{whole}.{before}\bar{{{period}}}"]
            if len(period) < 3:
                ways.append(f"{whole}.{before}{period * 4}...")
            yield rng.choice(ways), gold
        elif 10**6 % value.denominator == 0:
            yield f"{float(value):.6f}".rstrip("0"), gold


def complex_spelled(gold: str, rng: random.Random) -> Iterator[tuple[str, str]]:
    if found := COMPLEX.fullmatch(gold):
        a, sign, b = found.groups()
        one = b or "1"
        yield rng.choice([rf"{a}{sign}{one}\cdot i", rf"{a} {sign} {b}\mathrm{{i}}", f"{a} {sign} {b} i", f"{'-' if sign == '-' else ''}{b}i + {a}",
                          f"{a}{sign}{one}*i", rf"{a}{sign}{b}\text{{i}}", rf"{a}{sign}i\cdot {one}"]), gold  # fmt: skip


def based(gold: str, rng: random.Random) -> Iterator[tuple[str, str]]:
    if found := BASED.fullmatch(gold):
        digits, base = found.groups()
        yield (rng.choice([f"({digits})_{base}", f"{digits}_{{{base}}}", f"{digits} base {base}", f"({digits})_{{{base}}}", rf"{digits}_{{\text{{{base}}}}}"]), gold)


def as_inequality(gold: str, rng: random.Random) -> Iterator[tuple[str, str]]:
    if found := INTERVAL.fullmatch(gold):
        opening, low, high, closing = found.groups()
        below, above = r"\le" if opening == "[" else "<", r"\le" if closing == "]" else "<"
        if r"\infty" not in low + high and int(low) > int(high):
            return
        if low == r"-\infty" and high == r"\infty":
            return
        if low == r"-\infty":
            yield rng.choice([rf"x {above} {high}", rf"x\in(-\infty, {high}{closing}"]), gold
        elif high == r"\infty":
            yield (rng.choice([rf"{low} {below} x", rf"x > {low}" if below == "<" else rf"x \geq {low}", f"x ≥ {low}" if opening == "[" else f"x>{low}"]), gold)
        else:
            yield rng.choice([rf"{low} {below} x {above} {high}", rf"x \in {gold}"]), gold


def roots(gold: str, rng: random.Random) -> Iterator[tuple[str, str]]:
    if found := ROOT.fullmatch(gold):
        a, b = found.groups()
        yield rng.choice([f"{a}√{b}", f"{a}*sqrt({b})" if a else f"sqrt({b})", rf"{a}\sqrt {{{b}}}", rf"{a} \cdot \sqrt{{{b}}}" if a else rf"\sqrt[2]{{{b}}}",
                          rf"\sqrt{{{int(a or 1) ** 2 * int(b)}}}", rf"{a}\cdot {b}^{{1/2}}" if a else f"{b}^{{0.5}}", f"{a}√({b})", rf"{a}\sqrt({b})"]), gold  # fmt: skip


def pies(gold: str, rng: random.Random) -> Iterator[tuple[str, str]]:
    if found := PI.fullmatch(gold):
        a = found[1]
        yield (rng.choice([f"{a}*pi", f"{a}π", f"{a} pi", rf"\pi\cdot {a}", rf"{a}\cdot\pi", f"{a}·π", rf"{a} \times \pi"]), gold)


def points(gold: str, rng: random.Random) -> Iterator[tuple[str, str]]:
    if found := POINT.fullmatch(gold):
        a, b = found.groups()
        yield (rng.choice([f"({a},{b})", rf"\left({a},\, {b}\right)", f"(x, y) = ({a}, {b})", f"( {a} , {b} )", rf"({a}.0, \frac{{{2 * int(b)}}}{{2}})", rf"\langle {a}, {b} \rangle"]), gold)


def lists(gold: str, rng: random.Random) -> Iterator[tuple[str, str]]:
    if LIST.fullmatch(gold) and not re.fullmatch(r"-?\d{1,3}(,\d{3})+", gold):
        items = re.split(", ?", gold)
        rng.shuffle(items)
        yield rng.choice([", ".join(items), rf"{', '.join(items[:-1])} \text{{ and }} {items[-1]}", " or ".join(items),
                          rf"\{{{', '.join(items)}\}}", rf"x = {items[0]}, {', '.join(items[1:])}"]), gold  # fmt: skip


def polynomials(gold: str, rng: random.Random) -> Iterator[tuple[str, str]]:
    if POLYNOMIAL.fullmatch(gold) and "i" not in gold:
        terms = re.findall(r"[-+]?[^-+]+", gold.replace(" ", ""))
        rng.shuffle(terms)
        text = "".join(term if term[0] in "+-" or not i else f"+{term}" for i, term in enumerate(terms)).removeprefix("+")
        yield (rng.choice([text, f"({gold})", re.sub(r"(\d)([a-z])", r"\1*\2", gold), gold.replace("^", "**"), f"2({gold})/2"]), gold)


def words(gold: str, rng: random.Random) -> Iterator[tuple[str, str]]:
    if found := WORD.fullmatch(gold):
        yield rng.choice([found[1], rf"\textbf{{{found[1]}}}", f"{found[1].lower()}.", rf"\mathrm{{{found[1]}}}"]), gold


def degrees(gold: str, rng: random.Random) -> Iterator[tuple[str, str]]:
    if found := DEGREES.fullmatch(gold):
        yield (rng.choice([found[1], f"{found[1]}°", f"{found[1]} degrees", rf"{found[1]}^{{\circ}}", rf"{found[1]}\text{{ degrees}}"]), gold)


def percents(gold: str, rng: random.Random) -> Iterator[tuple[str, str]]:
    if found := PERCENTS.fullmatch(gold):
        yield (rng.choice([f"{found[1]}%", f"{found[1]} percent", rf"{found[1]}\text{{ percent}}", found[1], str(int(found[1]) / 100)]), gold)


# Written together with the judge: another value.


def several(gold: str, rng: random.Random) -> Iterator[tuple[str, str]]:
    if INTEGER.fullmatch(gold):
        other = int(gold) + rng.choice([1, 2, 10])
        yield rng.choice([rf"{other} \to {gold}", rf"{other} \sim {gold}", f"{other}&{gold}", rf"{gold}\text{{ is wrong}}", rf"\neg {gold}",
                          f"{other}={gold}", rf"{other} \text{{ or }} {gold}", f"{gold} or {other}", rf"{other} \Rightarrow {gold}", f"{other}; {gold}",
                          rf"{gold} \ne {gold}", rf"\text{{not }} {gold}", f"not {gold}", rf"{other} \approx {gold}" if abs(int(gold)) < 40 else rf"{other} \neq {gold}"]), gold  # fmt: skip


def roman(gold: str, rng: random.Random) -> Iterator[tuple[str, str]]:
    if found := COMPLEX.fullmatch(gold):
        a, sign, b = found.groups()
        total = int(a) + int(sign + (b or "1"))
        text = rng.choice([r"\mathrm{i}", r"\mathrm{e}"])
        yield str(total), rf"{a}{sign}{b}{text}"
        yield rf"{a}{sign}{int(b or 1) + 1}{text}", rf"{a}{sign}{b}{text}"


def bars(gold: str, rng: random.Random) -> Iterator[tuple[str, str]]:
    if (value := as_fraction(gold)) is not None and (found := repeating(value)) is not None:
        whole, before, period = found
        yield f"{whole}.{before}{period}", rf"{whole}.{before}\overline{{{period}}}"
        yield rf"{whole}.{before}\overline{{{int(period) + 1}}}", gold


def round_roots(gold: str, rng: random.Random) -> Iterator[tuple[str, str]]:
    if found := ROOT.fullmatch(gold):
        a, b = found.groups()
        yield rf"{a}\sqrt({int(b) + 1})", rf"{a}\sqrt({b})"
        yield rf"{a}\sqrt({b})+1", gold


def dots(gold: str, rng: random.Random) -> Iterator[tuple[str, str]]:
    if INTEGER.fullmatch(gold) and int(gold) > 9:
        n, sign = int(gold), rng.choice([r"\dots", r"\cdots", r"\ldots", "..."])
        join = rng.choice(["+", ", "])
        yield f"1{join}2{join}{sign}{join}{n + 1}", f"1{join}2{join}{sign}{join}{n}"


def two_units(gold: str, rng: random.Random) -> Iterator[tuple[str, str]]:
    if INTEGER.fullmatch(gold):
        a, b = rng.choice([("feet", "inches"), ("hours", "minutes"), ("dollars", "cents"), ("kg", "g")])
        yield rf"{gold}\text{{ {a} }} 4\text{{ {b}}}", rf"{gold}\text{{ {a} }} 3\text{{ {b}}}"
        yield f"{gold} {a} 4 {b}", f"{gold} {a} 3 {b}"
        yield rf"{gold}\text{{ m/s}}", rf"{gold}\text{{ m/min}}"


def modulus(gold: str, rng: random.Random) -> Iterator[tuple[str, str]]:
    if INTEGER.fullmatch(gold):
        yield rf"{gold} \pmod{{{rng.choice([3, 5, 9])}}}", rf"{gold} \pmod{{7}}"
        yield rf"x \equiv {int(gold) + 1} \pmod 7", rf"x \equiv {gold} \pmod 7"


def cases(gold: str, rng: random.Random) -> Iterator[tuple[str, str]]:
    if INTEGER.fullmatch(gold):
        text = r"\begin{cases} %s & x > 0 \\ %s & x \le 0 \end{cases}"
        yield text % (gold, int(gold) + 1), text % (gold, int(gold) + 2)
        yield gold, text % (gold, int(gold) + 2)


def tiny(gold: str, rng: random.Random) -> Iterator[tuple[str, str]]:
    if INTEGER.fullmatch(gold) and 20 < int(gold) < 200:
        n = int(gold)
        yield rng.choice([(rf"\frac{{1}}{{{n + 5}!}}", rf"\frac{{1}}{{{n}!}}"), (f"{n}.0000001", gold), (f"1/2^{{{n}}}", f"1/2^{{{n + 1}}}"),
                          (f"{n - 1}.99999999", gold), (f"e^{{-{n}}}", f"e^{{-{n + 1}}}"), (rf"10^{{-{n}}}", rf"10^{{-{n + 2}}}")])  # fmt: skip


def parts_of_percent(gold: str, rng: random.Random) -> Iterator[tuple[str, str]]:
    if INTEGER.fullmatch(gold) and 0 < int(gold) < 100:
        yield rng.choice([(rf"{gold}\frac12\%", rf"{gold}\%"), (rf"{int(gold) + 1}\%", rf"{gold}\%"), (rf"{gold}.5\%", rf"{gold}\%"), (f"{gold}00", rf"{gold}\%")])


def perturbed(gold: str, rng: random.Random) -> Iterator[tuple[str, str]]:
    places = list(re.finditer(r"\d+", gold))
    if places and len(gold) < 60:
        place = rng.choice(places)
        yield f"{gold[: place.start()]}{int(place[0]) + rng.choice([1, 2, 7])}{gold[place.end() :]}", gold


def part_only(gold: str, rng: random.Random) -> Iterator[tuple[str, str]]:
    if POLYNOMIAL.fullmatch(gold) or COMPLEX.fullmatch(gold) or POINT.fullmatch(gold) or LIST.fullmatch(gold):
        cut = re.split(r", ?| ?[-+] ?", gold.strip("()"))
        kept = [part for part in cut if part]
        if len(kept) > 1 and not re.fullmatch(r"-?\d{1,3}(,\d{3})+", gold):
            yield rng.choice(kept), gold


# Written after the judge: the same value.


def introduced(gold: str, rng: random.Random) -> Iterator[tuple[str, str]]:
    yield rng.choice([f"The answer is ${gold}$.", f"**Answer:** ${gold}$", f"Answer: {gold}", rf"\(\boxed{{{gold}}}\)", rf"$\fbox{{{gold}}}$",
                      f"`{gold}`", rf"\displaystyle {gold}", f"  {gold}  ", f"so the final answer is ${gold}$", rf"$\boxed{{{gold}}}$.",
                      rf"\mathbf{{{gold}}}", f"{{{gold}}}"]), gold  # fmt: skip


def number_and_unit(gold: str, rng: random.Random) -> Iterator[tuple[str, str]]:
    if INTEGER.fullmatch(gold):
        yield rng.choice([rf"{gold}\text{{ meters per second}}", rf"{gold}\,\mathrm{{km}}", f"{gold} ft^2", f"{gold} square meters", rf"\${gold} dollars",
                          f"${gold}$ apples", f"{gold} min", f"{gold} US dollars", rf"{gold} \text{{cm}}^3", f"{gold} m²", f"EUR {gold}", rf"US\${gold}",
                          f"{gold} liters", f"{gold}kg", f"{gold} toy cars", f"{gold} inches", rf"{gold}~\text{{mph}}", f"{gold} km/h", f"{gold} points.",
                          f"{gold} bottles of milk", f"{gold} people", f"{gold} cents", rf"{gold}\text{{ sq. cm}}"]), gold  # fmt: skip


def scientific(gold: str, rng: random.Random) -> Iterator[tuple[str, str]]:
    if INTEGER.fullmatch(gold) and int(gold) > 99:
        power = len(gold) - 2
        digits = f"{gold[:2]}.{gold[2:]}"
        yield rng.choice([f"{digits}E{power}", f"{digits}*10^{power}", f"{digits} x 10^{power}", rf"10^{{{power}}} \times {digits}", f"{gold}e0",
                          f"{digits} * 10**{power}", rf"{digits}\times 10^{power}", f"{digits}·10^{power}"]), gold  # fmt: skip


def spaced_thousands(gold: str, rng: random.Random) -> Iterator[tuple[str, str]]:
    if INTEGER.fullmatch(gold) and int(gold) > 999:
        text = grouped(int(gold), rng.choice(["\u00a0", "\u2009", "\u202f", r"\;", r"\:", "'", r"\, ", r", \!"]))
        yield rng.choice([text, f"${text}$", f"{text}.00"]), gold


def signs(gold: str, rng: random.Random) -> Iterator[tuple[str, str]]:
    if INTEGER.fullmatch(gold):
        minus = gold[0] == "-"
        digits = gold.removeprefix("-")
        yield rng.choice([f"({gold})", f"−{digits}" if minus else f"+{digits}", f"- {digits}" if minus else f"{digits}.", f"{gold}.000",
                          f"{{{gold}}}", f"[{gold}]", f"-(-{digits})" if not minus else f"-({digits})", f"{gold}e0", f"{digits}.0 \\cdot {'(-1)' if minus else '1'}"]), gold  # fmt: skip


def fraction_otherwise(gold: str, rng: random.Random) -> Iterator[tuple[str, str]]:
    if (value := as_fraction(gold)) is not None:
        a, b, sign = abs(value.numerator), value.denominator, "-" if value < 0 else ""
        ways = [f"{sign}{a}⁄{b}", f"{sign}{a} ÷ {b}", rf"\left({sign}\frac{{{a}}}{{{b}}}\right)", rf"{sign}\cfrac{{{a}}}{{{b}}}", rf"{sign}{a} \div {b}",
                rf"\frac{{{'' if sign else '-'}{a}}}{{-{b}}}", rf"x=\frac{{{sign}{a}}}{{{b}}}", f"({sign}{a})/({b})", rf"{sign}{{{a}}}/{{{b}}}"]  # fmt: skip
        if a < 10 and b < 10:
            ways.append(rf"{sign}\frac{a}{b}")
        yield rng.choice(ways), gold


def mixed_otherwise(gold: str, rng: random.Random) -> Iterator[tuple[str, str]]:
    if (value := as_fraction(gold)) is not None and abs(value) > 1 and value.denominator > 1:
        whole, rest = divmod(abs(value), 1)
        a, b, sign = rest.numerator, rest.denominator, "-" if value < 0 else ""
        yield rng.choice([rf"{sign}{whole}\ {a}/{b}", rf"{sign}{whole}~\frac{{{a}}}{{{b}}}", rf"{sign}{whole}\tfrac{{{a}}}{{{b}}}",
                          rf"{whole}+\frac{{{a}}}{{{b}}}" if not sign else rf"-{whole}-\frac{{{a}}}{{{b}}}", rf"{sign}{whole}\,\frac{{{a}}}{{{b}}}",
                          f"{sign}{whole} {a}⁄{b}"]), gold  # fmt: skip


def repeating_otherwise(gold: str, rng: random.Random) -> Iterator[tuple[str, str]]:
    if (value := as_fraction(gold)) is not None and (found := repeating(value)) is not None:
        whole, before, period = found
        dotted = rf"\dot{{{period}}}" if len(period) == 1 else rf"\dot{{{period[0]}}}{period[1:-1]}\dot{{{period[-1]}}}"
        barred = "".join(f"{digit}\u0305" for digit in period)
        yield rng.choice([f"{whole}.{before}{dotted}", f"{whole}.{before}{barred}", rf"${whole}.{before}\overline{{{period}}}$",
                          rf"{whole}.{before}{{\overline{{{period}}}}}"]), gold  # fmt: skip


def complex_otherwise(gold: str, rng: random.Random) -> Iterator[tuple[str, str]]:
    if found := COMPLEX.fullmatch(gold):
        a, sign, b = found.groups()
        one = b or "1"
        yield rng.choice([f"({a} {sign} {one}i)", rf"{a} {sign} i \cdot {one}", rf"{a}{sign}\mathrm i\,{b}" if not b else rf"{a} {sign} {b}\mathbf{{i}}",
                          rf"{a}{sign}{b}\,i", f"z = {gold}", f"{a} {sign} i{one}" if not b else f"{a}{sign}{b}·i", rf"{'-' if sign == '-' else ''}{one}\mathrm{{i}} + {a}",
                          rf"{a} {sign} {one} \times i"]), gold  # fmt: skip


def based_otherwise(gold: str, rng: random.Random) -> Iterator[tuple[str, str]]:
    if found := BASED.fullmatch(gold):
        digits, base = found.groups()
        small = "".join(chr(ord("₀") + int(d)) for d in base)
        yield rng.choice([f"{digits} (base {base})", f"{digits}{small}", f"({digits}){small}", f"${digits}_{{{base}}}$", rf"\left({digits}\right)_{{{base}}}", rf"{digits}_{{\mathrm{{{base}}}}}"]), gold  # fmt: skip


def interval_otherwise(gold: str, rng: random.Random) -> Iterator[tuple[str, str]]:
    if found := INTERVAL.fullmatch(gold):
        opening, low, high, closing = found.groups()
        below, above = r"\le" if opening == "[" else "<", r"\le" if closing == "]" else "<"
        if r"\infty" not in low + high and int(low) > int(high):
            return
        if r"\infty" not in low + high:
            yield rng.choice([rf"\{{x \mid {low} {below} x {above} {high}\}}", rf"\left{opening}{low},{high}\right{closing}", rf"{high} {'>' if above == '<' else GE} x {'>' if below == '<' else GE} {low}",
                              rf"x \in {opening}{low},\,{high}{closing}"]), gold  # fmt: skip
        elif r"\infty" not in low:
            yield (rng.choice([f"{opening}{low}, ∞)", rf"{opening}{low}, +\infty)", rf"\{{ x : x {'>' if opening == '(' else GE} {low} \}}", f"{opening}{low}, \\infty)", f"y > {low}" if opening == "(" else f"y >= {low}"]), gold)
        elif r"\infty" not in high:
            yield (rng.choice([f"(-∞, {high}{closing}", rf"{high} {'>' if closing == ')' else GE} t", rf"\left(-\infty,{high}\right{closing}"]), gold)


def unions(gold: str, rng: random.Random) -> Iterator[tuple[str, str]]:
    if found := re.fullmatch(r"\(-\\infty, ?(-?\d+)([)\]]) ?\\cup ?([\[(])(-?\d+), ?\\infty\)", gold):
        low, closing, opening, high = found.groups()
        below, above = ("<" if closing == ")" else r"\le"), (">" if opening == "(" else r"\ge")
        ways = [rf"x {below} {low} \text{{ or }} x {above} {high}", f"x {below} {low} or x {above} {high}",
                rf"{opening}{high},\infty) \cup (-\infty,{low}{closing}", f"(-∞,{low}{closing} ∪ {opening}{high},∞)"]  # fmt: skip
        if low == high and closing == ")" and opening == "(":
            ways += [rf"x \neq {low}", rf"\mathbb{{R}} \setminus \{{{low}\}}"]
        yield rng.choice(ways), gold


def roots_otherwise(gold: str, rng: random.Random) -> Iterator[tuple[str, str]]:
    if found := ROOT.fullmatch(gold):
        a, b = found.groups()
        one = a or "1"
        yield rng.choice([rf"\sqrt{{{b}}} \times {one}", rf"\frac{{{int(one) * int(b)}}}{{\sqrt{{{b}}}}}", f"{one}·√{b}", f"{one}*{b}**0.5", f"{a} sqrt {b}",
                          f"{one} * sqrt({b})", rf"\sqrt{{{b}}}\cdot{one}", f"{one}*{b}^(1/2)", rf"{a}\sqrt{{{b}}} \text{{ units}}", f"({one})(√{b})"]), gold  # fmt: skip


def pies_otherwise(gold: str, rng: random.Random) -> Iterator[tuple[str, str]]:
    if found := PI.fullmatch(gold):
        a = found[1]
        yield rng.choice([rf"\frac{{{2 * int(a)}\pi}}{{2}}", f"({a})π", f"π*{a}", rf"{a}\text{{ }}\pi", rf"{a}{{\pi}}", f"{a} π cm²", rf"{a} \pi \text{{ square inches}}", rf"\pi {a}" if False else rf"\pi({a})"]), gold  # fmt: skip


def points_otherwise(gold: str, rng: random.Random) -> Iterator[tuple[str, str]]:
    if found := POINT.fullmatch(gold):
        a, b = found.groups()
        yield (rng.choice([f"({a}; {b})", f"x = {a}, y = {b}", rf"\bigl({a}, {b}\bigr)", f"({a} ,{b}).", rf"(a,b)=\left({a},{b}\right)", rf"\boxed{{({a},{b})}}", f"（{a}, {b}）"]), gold)


def sets(gold: str, rng: random.Random) -> Iterator[tuple[str, str]]:
    if LIST.fullmatch(gold) and not re.fullmatch(r"-?\d{1,3}(,\d{3})+", gold):
        items = re.split(", ?", gold)
        turned = items[::-1]
        yield rng.choice(["; ".join(turned), rf"\left\{{{', '.join(turned)}\right\}}", r" \text{ or } ".join(f"x = {item}" for item in turned),
                          rf"x \in \{{{', '.join(items)}\}}", f"{', '.join(turned[:-1])}, and {turned[-1]}", r",\ ".join(turned),
                          rf"${'$ and $'.join(items)}$"]), gold  # fmt: skip


def polynomials_otherwise(gold: str, rng: random.Random) -> Iterator[tuple[str, str]]:
    if POLYNOMIAL.fullmatch(gold) and "i" not in gold:
        yield rng.choice([re.sub(r"\^\{?(\d)\}?", lambda m: m[1].translate(SUPERSCRIPT), gold), rf"\left({gold}\right)", f"-(-({gold}))",
                          re.sub(r"(\d)([a-z])", r"\1 \\cdot \2", gold), rf"\frac{{3({gold})}}{{3}}", gold.replace(" ", ""), f"0 + {gold}", f"y = {gold}" if "y" not in gold else gold + " "]), gold  # fmt: skip


def matrices(gold: str, rng: random.Random) -> Iterator[tuple[str, str]]:
    if gold.startswith(r"\begin{pmatrix}") and gold.count("begin") == 1 and "phantom" not in gold:
        columns = gold.split(r"\\\\")[0].count("&") + 1
        inner = gold.removeprefix(r"\begin{pmatrix}").removesuffix(r"\end{pmatrix}")
        yield (rng.choice([gold.replace("pmatrix", "bmatrix"), rf"\left[\begin{{array}}{{{'c' * columns}}}{inner}\end{{array}}\right]", gold.replace(" ", ""), f"${gold}$", rf"\boxed{{{gold}}}"]), gold)


def percents_otherwise(gold: str, rng: random.Random) -> Iterator[tuple[str, str]]:
    if found := PERCENTS.fullmatch(gold):
        n = int(found[1])
        yield (rng.choice([f"{n}.0%", rf"{n}\ \%", rf"\frac{{{n}}}{{100}}", f"{n} pct", rf"${n}\%$", f"{n}％", f"{n / 100:.3f}"]), gold)


# Written after the judge: another value.


def several_more(gold: str, rng: random.Random) -> Iterator[tuple[str, str]]:
    if INTEGER.fullmatch(gold):
        n = int(gold)
        m = n + rng.choice([1, 3, 10, 100])
        yield rng.choice([f"{n}, {m}", rf"{n} \implies {m}", rf"{m}, \text{{ not }} {n}", rf"{n} \vee {m}", rf"{n} \text{{ or maybe }} {m}", rf"{m} \mapsto {n}",
                          rf"\{{{n}, {m}\}}", rf"{n} \land {m}", f"{n}?", rf"{n} \text{{ (incorrect)}}", f"{n} vs {m}", rf"{m} \gets {n}", f"x={m}={n}", f"{m} / {n}",
                          rf"x \neq {n}", f"<{n}", rf"\ge {n}", f"{m} -> {n}", f"{n} and {m}", rf"{m} \mid {n}", rf"\text{{wrong: }} {n}", f"{n} is not right", f"{m}, no, {n}",
                          rf"{m} \quad {n}", f"{m} {n}", rf"\boxed{{{m}}}, \boxed{{{n}}}", f"between {n} and {m}", rf"{m}\text{{, }}{n}", rf"\lnot {n}", rf"{m}\%{n}"]), gold  # fmt: skip


def grown(gold: str, rng: random.Random) -> Iterator[tuple[str, str]]:
    if INTEGER.fullmatch(gold) and int(gold) > 1:
        yield rng.choice([f"{gold}x", f"{gold}n", f"{gold} + x", f"{gold}i", rf"{gold}\pi", rf"\sqrt{{{gold}}}", f"{gold}^2", f"{gold}!", f"{gold} million", f"{gold} dozen", rf"{gold} \times 10^3",
                          f"{gold}e2", f"1/{gold}", rf"\log {gold}", f"{gold}_9" if set(gold) <= set("012345678") else f"{gold}^3", f"{gold}ab", rf"{gold}\sqrt2", rf"{gold}\frac13", f"{gold}.5", f"{gold} + i",
                          f"{gold}\\pm1", f"-{gold}", f"{gold} half", f"{gold} thirds", rf"{gold}\sin x"]), gold  # fmt: skip
        yield (gold, rng.choice([f"{gold}x", f"{gold}\\pi", f"{gold}+x", f"{gold}i", f"{gold}\\sqrt{{3}}", f"{gold}a^2", f"{gold}m + n", rf"{gold} \pm \sqrt 2"]))


def other_units(gold: str, rng: random.Random) -> Iterator[tuple[str, str]]:
    if INTEGER.fullmatch(gold):
        a, b = rng.choice([(r"\text{ cm}^2", r"\text{ cm}^3"), (" km", r"\text{ m}"), (" hours", r"\text{ minutes}"), (" cents", r"\text{ dollars}"), (r"\text{ feet}", r"\text{ inches}"),
                           (" m/s", " km/h"), (r"\text{ square feet}", r"\text{ feet}"), (" days", r" \text{ weeks}"), (r"^\circ", r"\text{ cm}"), (" euros", r"\text{ dollars}"),
                           (r"\text{ p.m.}", r"\text{ a.m.}"), (r"\text{ m/s}", r"\text{ m/s}^2")])  # fmt: skip
        yield gold + a, gold + b


def bars_more(gold: str, rng: random.Random) -> Iterator[tuple[str, str]]:
    if (value := as_fraction(gold)) is not None and (found := repeating(value)) is not None:
        whole, before, period = found
        bar = rf"{whole}.{before}\overline{{{period}}}"
        yield (rng.choice([f"{whole}.{before}{period}", f"{whole}.{before}{period}{period[:1]}", f"{whole}.{before}{period}0", rf"{whole}.{before}0\overline{{{period}}}"]), rng.choice([bar, gold]))


def other_ends(gold: str, rng: random.Random) -> Iterator[tuple[str, str]]:
    if found := INTERVAL.fullmatch(gold):
        opening, low, high, closing = found.groups()
        if r"\infty" not in low:
            turned = "(" if opening == "[" else "["
            yield (
                rng.choice([f"{turned}{low}, {high}{closing}", f"{opening}{int(low) - 1}, {high}{closing}", f"x {'>' if opening == '[' else GE} {low}", rf"{gold} \cup ({int(low) - 9}, {int(low) - 8})", low, rf"x < {low}"]),
                gold,
            )
        elif r"\infty" not in high:
            yield (rng.choice([rf"(-\infty, {high}{')' if closing == ']' else ']'}", f"x > {high}", high, rf"x \ne {high}"]), gold)


def turned(gold: str, rng: random.Random) -> Iterator[tuple[str, str]]:
    if (found := POINT.fullmatch(gold)) and found[1] != found[2]:
        a, b = found.groups()
        yield (rng.choice([f"({b}, {a})", f"({a}, {b}, 0)", f"[{a}, {b}]", rf"\{{{a}, {b}\}}", f"({a}, -{b})" if b[0] != "-" and b != "0" else f"({a}1, {b})", f"{a}", f"{a}{b}", f"x={b}, y={a}"]), gold)


def other_matrices(gold: str, rng: random.Random) -> Iterator[tuple[str, str]]:
    if gold.startswith(r"\begin{pmatrix}") and gold.count("begin") == 1:
        inner = gold.removeprefix(r"\begin{pmatrix}").removesuffix(r"\end{pmatrix}")
        rows = [[cell.strip() for cell in row.split("&")] for row in inner.split(r"\\\\")]
        across = [list(column) for column in zip(*rows, strict=False)]
        if across != rows:
            yield r"\begin{pmatrix}" + r" \\\\ ".join(" & ".join(row) for row in across) + r"\end{pmatrix}", gold
        yield gold.replace("pmatrix", "vmatrix"), gold


def other_letters(gold: str, rng: random.Random) -> Iterator[tuple[str, str]]:
    if INTEGER.fullmatch(gold):
        n = int(gold)
        text = rng.choice([r"\mathrm{e}", r"\mathrm{i}", r"\text{i}", r"\text{e}", r"\operatorname{e}"])
        yield rng.choice([(f"{n + 1}", f"{n}+{text}"), (f"{n}", f"{n}{text}"), (f"{n}-{text}", f"{n}+{text}"), (f"{n}+2{text}", f"{n}+{text}"), (rf"{n}+\frac{{1}}{{{text}}}", rf"{n}-\frac{{1}}{{{text}}}"),
                          (f"{n}", f"{n}+{text}"), (f"{n + 2}", rf"{n}+2{text}")])  # fmt: skip


def other_roots(gold: str, rng: random.Random) -> Iterator[tuple[str, str]]:
    if (found := ROOT.fullmatch(gold)) and int(found[2]) > 1:
        a, b = found.groups()
        yield (
            rng.choice([rf"\sqrt({b}+1)", rf"{a}\sqrt[3]{{{b}}}", b, rf"{a or 1}{b}", rf"{int(a or 1) + 1}√{b}", rf"\sqrt({a or 2}\cdot {b}+1)", rf"{a}\sqrt({b}", f"{a or 1}+√{b}", rf"{a}\sqrt{{{b}}}i", rf"-{a}\sqrt{{{b}}}"]),
            gold,
        )


def dots_more(gold: str, rng: random.Random) -> Iterator[tuple[str, str]]:
    if INTEGER.fullmatch(gold) and 9 < int(gold) < 10**6:
        n, dot = int(gold), rng.choice([r"\dots", r"\cdots", r"\ldots", "...", "…"])
        yield rng.choice([(f"1, 3, 5, {dot}, {n}", f"1, 2, 3, {dot}, {n}"), (gold, f"1+2+{dot}+{n}"), (f"1, 2, {dot}, {n}", f"1, 2, {n}"), (f"{gold}{dot}", gold), (f"1+2+{dot}+{n}", f"1+4+{dot}+{n}"),
                          (f"{n}+{dot}+2+1", f"{n}+{dot}+3+1"), (rf"1\cdot 2{dot} {n}", rf"1\cdot 3{dot} {n}"), (rf"\{{1, 2, {dot}, {n}\}}", rf"\{{1, 2, {dot}, {n + 1}\}}"), (f"0.{n}{dot}", f"0.{n}")])  # fmt: skip


def modulus_more(gold: str, rng: random.Random) -> Iterator[tuple[str, str]]:
    if INTEGER.fullmatch(gold) and int(gold) > 0:
        yield rng.choice([(f"x-{gold}", f"|x-{gold}|"), (f"x+{gold}", rf"\lvert x+{gold} \rvert"), (gold, rf"{gold} \bmod 7"), (rf"x \equiv {gold} \pmod{{8}}", rf"x \equiv {gold} \pmod{{7}}"),
                          (f"|x|+{gold}", f"x+{gold}"), (f"{gold} mod 5", f"{gold} mod 7"), (rf"{int(gold) + 1} \pmod {{11}}", rf"{gold} \pmod {{11}}"), (f"|{gold}x|", f"{gold}x")])  # fmt: skip


def cases_more(gold: str, rng: random.Random) -> Iterator[tuple[str, str]]:
    if INTEGER.fullmatch(gold):
        text = r"f(x) = \begin{cases} %sx & \text{if } x %s 0, \\ 1 & \text{otherwise} \end{cases}"
        yield rng.choice([(text % (gold, ">"), text % (gold, "<")), (text % (int(gold) + 1, ">"), text % (gold, ">")), (f"{gold}x", text % (gold, ">"))])


def untrue(gold: str, rng: random.Random) -> Iterator[tuple[str, str]]:
    if INTEGER.fullmatch(gold):
        n = int(gold)
        yield (rng.choice([f"{n + 1} = {n}", f"{n} = {n + 1}", f"{n + 1}=0+{n}", f"{n} = {n + 1} = {n}", f"x = {n} = {n + 2}", rf"{n}\cdot 2 = {n}" if n else "1=0", f"1 + {n} = {n}", rf"x = {n + 1}, x = {n}"]), gold)


def tiny_more(gold: str, rng: random.Random) -> Iterator[tuple[str, str]]:
    if INTEGER.fullmatch(gold) and 1 < int(gold) < 400:
        n = int(gold)
        yield rng.choice([(f"{n}.000000001", gold), (rf"\frac{{{n}00000001}}{{100000000}}", gold), (rf"\frac{{{n}}}{{10^{{12}}}}", "0"), (f"{n ** 0.5 + 3e-8:.9f}", rf"\sqrt{{{n}}}"),
                          (rf"\frac{{1}}{{2^{{{n + 50}}}}}", rf"\frac{{1}}{{2^{{{n + 51}}}}}"), (f"0.0000000{n}", f"0.0000000{n + 1}"), (f"{n}e-9", f"{n + 1}e-9"), (rf"{n}\times 10^{{-20}}", rf"{n}\times 10^{{-21}}"),
                          (rf"{n}+10^{{-15}}", gold), (f"{1 / (n + 0.1):.6f}", rf"\frac{{10}}{{{10 * n + 1}}}" if n > 3 else "0")])  # fmt: skip


def percents_more(gold: str, rng: random.Random) -> Iterator[tuple[str, str]]:
    if found := re.fullmatch(r"(\d\d?)", gold):
        n = int(found[1])
        yield rng.choice(
            [(rf"0.{n}\%", rf"{n}\%"), (f"{n}.25%", rf"{n}\%"), (rf"{n}\frac{{1}}{{3}}\%", rf"{n}\%"), (rf"-{n}\%", rf"{n}\%"), (f"{n}‰", rf"{n}\%"), (rf"{n}\% \text{{ of }} 50", rf"{n}\%"), (f"{n / 1000}", rf"{n}\%")]
        )


def other_polynomials(gold: str, rng: random.Random) -> Iterator[tuple[str, str]]:
    if POLYNOMIAL.fullmatch(gold):
        sign = rng.choice([m.start() for m in re.finditer(r"[-+]", gold[1:])]) + 1
        flipped = gold[:sign] + ("-" if gold[sign] == "+" else "+") + gold[sign + 1 :]
        letter = re.search(r"[a-z]", gold)
        yield (rng.choice([flipped, gold[:sign].strip(), f"{gold} + 1", f"({gold})^2", f"{gold} = 0", gold.replace(letter[0], "w") if letter else flipped]), gold)


def other_words(gold: str, rng: random.Random) -> Iterator[tuple[str, str]]:
    if found := WORD.fullmatch(gold):
        yield (rng.choice(["Wednesdays", "neither of them", f"not {found[1]}", f"{found[1]} or none", f"{found[1][:-1]}", "12"]), gold)


SAME: tuple[Rule, ...] = (wrapped, thousands, unit_in_words, currency, integer_spelled, fraction_spelled, mixed, decimal, complex_spelled, based,
                          as_inequality, roots, pies, points, lists, polynomials, words, degrees, percents)  # fmt: skip
OTHER: tuple[Rule, ...] = (several, roman, bars, round_roots, dots, two_units, modulus, cases, tiny, parts_of_percent, perturbed, part_only)
LATER_SAME: tuple[Rule, ...] = (introduced, number_and_unit, scientific, spaced_thousands, signs, fraction_otherwise, mixed_otherwise, repeating_otherwise, complex_otherwise, based_otherwise,
                                interval_otherwise, unions, roots_otherwise, pies_otherwise, points_otherwise, sets, polynomials_otherwise, matrices, percents_otherwise)  # fmt: skip
LATER_OTHER: tuple[Rule, ...] = (several_more, grown, other_units, bars_more, other_ends, turned, other_matrices, other_letters, other_roots, dots_more, modulus_more, cases_more, untrue,
                                 tiny_more, percents_more, other_polynomials, other_words)  # fmt: skip


def golds_of(data: Path) -> list[str]:
    golds: list[str] = []
    for name in ("gsm8k", "math"):
        with gzip.open(data / "benchmarks" / f"{name}_train.jsonl.gz", "rt", encoding="utf-8") as file:
            rows = sorted({json.loads(line)["answer"].strip() for line in file})
        golds += [gold for gold in rows if gold]
    return golds


def make(rules: tuple[Rule, ...], golds: list[str], num_pairs: int) -> dict[str, list[tuple[str, str]]]:
    made: dict[str, list[tuple[str, str]]] = {}
    for rule in rules:
        rng = random.Random(rule.__name__)
        found: dict[tuple[str, str], None] = {}
        for gold in rng.sample(golds, len(golds)):
            found |= dict.fromkeys(pair for pair in rule(gold, rng) if pair[0] != pair[1])
            if len(found) >= num_pairs:
                break
        made[rule.__name__] = list(found)[:num_pairs]
    return made


def math_verify_says(pairs: list[tuple[str, str]], wrap: str) -> list[bool]:
    from math_verify import parse, verify

    return [bool(verify(parse(wrap % gold), parse(wrap % predicted))) for predicted, gold in pairs]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("--pairs-of-a-kind", type=int, default=60)
    parser.add_argument("--show", action="store_true", help="print what the judge gets wrong")
    parser.add_argument("--alone", action="store_true", help="the judge without math-verify beside it")
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    golds = golds_of(options.data)
    judge = MathJudge(num_workers=2)
    for title, rules, label in (("equivalent", SAME, True), ("other value", OTHER, False), ("equivalent, written after the judge", LATER_SAME, True),
                                ("other value, written after the judge", LATER_OTHER, False)):  # fmt: skip
        totals: Counter[str] = Counter()
        print(f"{title}: wrong verdicts of judge, math-verify in $...$, in \\boxed{{}}")
        for name, pairs in make(rules, golds, options.pairs_of_a_kind).items():
            verdicts = {"judge": [j.reward == 1.0 for j in judge.compare(list(pairs))]}
            if not options.alone:
                verdicts |= {wrap: math_verify_says(pairs, wrap) for wrap in ("$%s$", r"\boxed{%s}")}
            wrong = {who: sum(said != label for said in found) for who, found in verdicts.items()}
            totals.update(wrong | {"pairs": len(pairs)})
            print(f"  {name} ({len(pairs)}): {', '.join(map(str, wrong.values()))}", flush=True)
            if options.show:
                for (predicted, gold), said in zip(pairs, verdicts["judge"], strict=True):
                    if said != label:
                        print(f"      {predicted!r} for {gold!r}")
        shares = ", ".join(f"{who} {count} ({100 * count / totals['pairs']:.2f} %)" for who, count in totals.items() if who != "pairs")
        print(f"  all {totals['pairs']} pairs: {shares}" if totals else "  none")
    judge.close()


if __name__ == "__main__":
    main()
