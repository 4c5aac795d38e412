r"""Answers as they are written: one spelling for what is written in several ways, and the words of units.

Tables and substitutions only. What an answer means is read in `ibpo.answers.reading`.
"""

# ruff: noqa: RUF001, RUF002  (answers are written with such characters)
from __future__ import annotations

import re
import unicodedata

CHARACTERS = {
    "∴": r"\therefore ", "⇒": r"\Rightarrow ",
    "−": "-", "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "∙": r"\cdot ", "÷": "/", "⁄": "/", "∕": "/",
    "√": r"\sqrt ", "∛": r"\cbrt ", "π": r"\pi ", "∞": r"\infty ", "≤": r"\le ", "⩽": r"\le ", "≥": r"\ge ",
    "⩾": r"\ge ", "≠": r"\ne ", "≈": r"\approx ", "±": r"\pm ", "∓": r"\mp ", "∪": r"\cup ", "∩": r"\cap ",
    "∈": r"\in ", "∅": r"\emptyset ", "ℝ": r"\R ", "°": r"^\circ ", "º": r"^\circ ", "…": r"\dots ", "≡": r"\equiv ",
    "→": r"\to ", "∖": r"\setminus ", "¢": r"\text{cents}", "’": "'", "′": "'", "“": '"', "”": '"',
    "⟨": r"\langle ", "⟩": r"\rangle ", "⌊": r"\lfloor ", "⌋": r"\rfloor ", "⌈": r"\lceil ", "⌉": r"\rceil ",
"¬": r"\neg ", "∼": r"\sim ", "∠": r"\angle ", "△": r"\triangle ", "∑": r"\sum ", "∏": r"\prod ", "∫": r"\int ",
"\u00a0": " ", "\u2009": " ", "\u202f": " ", "\u200b": "", "、": ",", "，": ", ",
}  # fmt: skip
SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ", "0123456789+-n")
SUBSCRIPTS = str.maketrans("₀₁₂₃₄₅₆₇₈₉", "0123456789")
GREEK = dict(zip("αβγδεθλμρσφωΔΩ", ("alpha", "beta", "gamma", "delta", "epsilon", "theta", "lambda", "mu", "rho",
                                    "sigma", "phi", "omega", "Delta", "Omega"), strict=True))  # fmt: skip

MONTHS = ("january", "february", "march", "april", "may", "june", "july", "august", "september", "october", "november",
          "december")  # fmt: skip
_MONTH = f"((?i:{'|'.join(MONTHS)}))"

ESCAPED_TWICE = re.compile(r"(?<!\\)\\\\(?=(?:[dt]?frac|left|right|sqrt|le|ge|text|pi|cup|infty|boxed)(?![a-z]))")
SPELLINGS = tuple((needle, re.compile(pattern), spelling) for needle, pattern, spelling in (
    ("color", r"\\(?:text)?color\s*(?:\[\w+\])?\s*\{[\w!]+\}\s*(?:\{((?:[^{}]|\{[^{}]*\})*)\})?", lambda m: m[1] or ""),
    ("{}", r"\{\}", ""),
    ("frac", r"\\(?:s|nice|[dtc])frac(?![A-Za-z])", r"\\frac"),
    ("/", r"\^\s*\{?(\d+)\}?\s*(?:\\!)?\s*/\s*(?:\\!)?\s*_\s*\{?(\d+)\}?", r"\\frac{\1}{\2}"),
    (r"\root", r"\\root\s*\{?(\w+)\}?\s*\\of(?![A-Za-z])", r"\\sqrt[\1]"),
    ("", r"^(?:\\text\s*\{)?(\d+)\s*\^?\s*\{?\s*(?:\\(?:text|mathrm|textsuperscript)\s*\{)?(?:st|nd|rd|th)\s*\}{0,3}$",
     r"\\text{th \1}"),  # an ordinal is not a number
    (r"\angle", r"(?<![A-Za-z])m\s*(?=\\angle)", ""),
    (" ", r"^(?:an?|the)\s+(?=[A-Za-z]{4,}$)", ""),
    (r"\choose", r"\{\s*([^{}]+?)\s*\\choose\s*([^{}]+?)\s*\}|^([^{}]+?)\s*\\choose(?![A-Za-z])\s*([^{}]+)$",
     lambda m: rf"\binom{{{m[1] or m[3]}}}{{{m[2] or m[4]}}}"),
    (r"\over", r"\{\s*([^{}]+?)\s*\\over(?![A-Za-z])\s*([^{}]+?)\s*\}|^([^{}]+?)\s*\\over(?![A-Za-z])\s*([^{}]+)$",
     lambda m: rf"\frac{{{m[1] or m[3]}}}{{{m[2] or m[4]}}}"),
    ("binom", r"\\[dt]binom(?![A-Za-z])", r"\\binom"),
    ("1", r"\\(sin|cos|tan)\s*\^\s*\{\s*-\s*1\s*\}", r"\\arc\1"),
    ("i", r"(?<=[-+ ])i\s*(\d+(?:\.\d+)?)$", r"\1i"),
    ("math", r"\\[ij]math(?![A-Za-z])", "i"),
    ("j", r"^(-?[\d.]+\s*[-+]\s*[\d.]*)\s*\*?\s*j$", r"\1i"),
    ("base", r"_\s*\{\s*\\text\s*\{\s*base[ ~-]*\}?\s*(\d+)\s*\}?\s*\}", r"_{\1}"),
    (":", r":\s*=", "="), ("{:}", r"(?:\\math(?:bin|rel|punct))?\{:\}", ":"), (r"\colon", r"\\colon(?![A-Za-z])", ":"),
    ("{.}", r"(?<=\d)\{\.\}(?=\d)", "."), (r"\textdollar", r"\\textdollar(?![A-Za-z])", "$"),
    ("to", r"^(\d+)\s*(?:\\text\s*\{\s*to\s*\}|to)\s*(\d+)$", r"\1:\2"),
    ("-", r"^([xyz]{1,2})\s*(?:\\text\s*\{)?\s*-\s*(ax[ie]s|intercepts?|coordinates?|plane)\}?$", r"\\text{\1-\2}"),
    ("mod", r"(?:\\text\s*\{\s*)?\(\s*(?:\\(?:text|mathrm|operatorname)\s*\{\s*mod|\\?b?mod)(?![A-Za-z])"
     r"(?:[\s~{}]|\\[ ,;:!])*(\w+)\s*\}?\s*(?:\)\s*\}?|\\text\s*\{\s*\)\s*\})", r"\\mod \1"),
    ("mod", r"(?<=\d)\s+mod(?:ulo)?\s+(?=\d)", r" \\mod "),
    ("o", r"\^\s*\{\s*\\(?:text|mathrm)\s*\{\s*o\s*\}\s*\}", r"\\degree "),
    ("]", r"\\\\\s*\[-?[\d.]+\s*[a-z]{2}\]", lambda _: r"\\"),
    (r"\frac", r"\\frac\s*\{\s*\\(?:text|mathrm)\s*\{([^{}]*)\}\s*\}\s*"
     r"\{\s*\\(?:text|mathrm)\s*\{([^{}]*)\}\s*((?:\^\{?\d\}?)?)\s*\}", r"\\text{\1/\2}\3"),
    ("", r"^\(?([A-J])[).:]$", r"\1"),
    (r"\text", r"^\\text(?:bf)?\s*\{\s*(?:[Oo]ption|[Cc]hoice)\s*\}?\s*\(?([A-J])\)?\s*\}?$", r"\1"),
    (" ", r"\b(sq|cu)\.?\s+(?=(?:ft|in|yd|mi|m|cm|km|mm|units?)\b)", lambda m: ABBREVIATED[m[1]]),
    ("\\", r"\\(?:left|right|[bB]igg?[lrm]?|displaystyle|textstyle|(?:no)?limits)(?![A-Za-z])\s*\.?", ""),
    ("P", r"^(?:\\(?:Pr|math(?:bb|rm|bf)\s*\{\s*Pr?\s*\})|Pr?)\s*\([^()=<>|\\]*[=<>|\\][^()]*\)\s*=(?!=)\s*", ""),
    # what the probability is of
    (r"\phantom", r"\\phantom\s*(?:\{[^{}]*\}|\\[A-Za-z]+|.)", ""),
    ("\\", r"\\(?:leq(?:slant|q)?|lt|geq(?:slant|q)?|gt|neq|dots[bcimo]?|ldots|cdots|[bp]?mod|pod)(?![A-Za-z])",
     lambda m: CANONICAL[m[0][1:]]),
    ("**", r"\*\*", "^"),
    ("10", r"(?<=\d)\s*[xX]\s*(?=10\s*\^)", r"\\times "),
    ("\\", r"\{\s*(\\(?:overline|bar)\s*\{\d+\})\s*\}", r"\1"),
    (".", r"(?<![\d.])\.(?=\s*(?:\\overline|\\bar|\\dot(?!s)|\())", "0."),
    (".m", r"\b([ap])\.m$", r"\1.m."),
    (" ", r"\b(?:EUR|euros?)\s+(?=\d)", "€"), ("US", r"\b(?:USD|US)\s*\\?\$?\s*(?=\d)", "$"),
    ("=", r"<=|=<(?!=)", r"\\le "), (">=", r">=", r"\\ge "), ("!=", r"!=", r"\\ne "), ("<>", r"<>", r"\\ne "),
    ("~=", r"~=", r"\\approx "), ("\\", r"\\(?:simeq|cong|doteq)", r"\\approx "),
    ("...", r"\.\.\.+", r"\\dots "),
    ("or", r"(?<=[\d)])or(?=[A-Z(\d\\])", " or "), ("and", r"(?<=[\d)])and(?=[A-Z(\d\\])", " and "),
    ("R", r"\\(?:mathbb|mathbf|Bbb)\s*\{?\s*R\s*\}?", r"\\R "),
    ("real", r"^(?:\\text\s*\{\s*)?(?:[Tt]he set of )?[Aa]ll real numbers\s*\}?$", r"\\R "),
    (r"\varnothing", r"\\varnothing", r"\\emptyset "), (r"\O", r"\\O(?![A-Za-z])", r"\\emptyset "),
    (r"\backslash", r"\\backslash", r"\\setminus "),
    ("\\", r"\^\s*\{?\s*\\(?:circ|degree)\s*\}?|\\degree(?![A-Za-z])", r"\\degree "),
    ("vert", r"\\(?:lvert|rvert|vert)(?![A-Za-z])", "|"),
    (r"\pounds", r"\\pounds(?![A-Za-z])", "£"), (r"\euro", r"\\euro(?![A-Za-z])(?:\{\})?", "€"),
    (r"\{", r"\\\{", r"\\lbrace "), (r"\}", r"\\\}", r"\\rbrace "),
    (r"\R", r"\\R\s*-\s*(?=\\lbrace)", r"\\R \\setminus "),
    ("olution", r"^(?:\\text\s*\{\s*)?(?:[Tt]here (?:is|are) )?[Nn]o solutions?(?: exists?)?\s*\}?$", r"\\emptyset "),
    (" of ", r"^(\d+\s*/\s*\d+|\\frac\s*\{?\d+\}?\s*\{?\d+\}?) of (?:an?|the|his|her|its|their) (?=[a-z]+$)",
     r"\1 "),  # what it is a part of is its unit
    ('"', r'^(?:(\d+)\s*\'\s*)?(\d[\d./ ]*)"$', lambda m: f"{m[1]} feet " * bool(m[1]) + f"{m[2]} inches"),
    ("", rf"^(\d{{1,2}})(?:st|nd|rd|th)?\s+(?:of\s+)?{_MONTH}(?:,?\s+(\d{{4}}))?$",
     lambda m: f"{m[2]} {m[1]}, {m[3]}" if m[3] else f"{m[1]} {m[2]}"),
    ("", rf"^{_MONTH}\s+(\d{{1,2}})(?:st|nd|rd|th)?(?:,?\s+(\d{{4}}))?$",
     lambda m: f"{m[1]} {m[2]}" + (f", {m[3]}" if m[3] else "")),
))  # fmt: skip
"""What a text that matches has in it (looked for first: most have not), the pattern, and its one spelling."""
ABBREVIATED = {"sq": "square ", "cu": "cubic "}
CANONICAL = {
    **dict.fromkeys(("leq", "leqslant", "leqq"), r"\le"), "lt": "<", "gt": ">", "neq": r"\ne",
    **dict.fromkeys(("geq", "geqslant", "geqq"), r"\ge"),
    **dict.fromkeys(("dots", "dotsb", "dotsc", "dotsi", "dotsm", "dotso", "ldots", "cdots"), r"\dots"),
    **dict.fromkeys(("bmod", "pmod", "pod", "mod"), r"\mod"),
}  # fmt: skip

OUTWARD = re.compile(r"([\[\]])([^\[\]]+,[^\[\]]+)([\[\]])")
"""Intervals with ends that are left out marked by brackets turned outward: `]1, 2[`."""
THOUSANDS = re.compile(
    r"(?<![\d.,])\d{1,3}"
    r"(?:\s?(?:\{,\}|(?:\\!\s?)?,\s?\\!|\\!\s?,|\\[,;: ]|\\thinspace|~|(?<=\d)'|(?<=\d) )\s?\d{3})+(?!\d|\s*/)"
)
"""Groups of three digits set apart by anything but a plain comma, which may also part the items of a list."""
SPACES = re.compile(r"\\(?:[,;:!> ]|q?quad|thinspace|hspace\{[^{}]*\})|(?<!\\)~|\s+")
MATRIX_SPACES = re.compile(r"\\(?:[,;:!>]|q?quad|thinspace)|(?<!\\)~|\s+")
DONE = re.compile(
    r"^\\(?:therefore|Rightarrow|implies)(?![A-Za-z])\s*|\s*[\u2713\u2714\u2705]\ufe0f?$"
    r"|(?:(?<=[^.])\.)?\s*I hope (?:it|this) is correct\.?$"
    r"|(?<=[$)\]}]),?\s+as (?:required|desired|claimed|needed|expected|stated|asked|wanted|was to be shown)\.?$"
)
"""Around an answer: "hence" in front of it, and behind it a tick, or the sentence that Minerva's prompt has."""
SAID_LAST = ("correct", "correct.", "ed", "ed.", "shown", "shown.")
TAGGED = re.compile(r"<(b|strong|i|em|u|span|mark)>(.*)</\1>", re.DOTALL)
LEADING = re.compile(
    r"\#{4}\s+|(?:so|thus|hence|therefore),?\s+(?=[\d\\$(\[.+-]|[a-z]\s*=)|(?:option|choice)\s+(?=\(?[A-J]\)?\.?$)"
    r"|(?:(?:so|thus|hence|therefore),?\s+)?(?:the\s+)?(?P<bold>\*\*)?\s*(?:final\s+|correct\s+|required\s+)?"
    r"(?:answer|result|value|solution|total|sum)(?(bold)(?:\s*:?\s*\*\*\s*[:=]?(?:\s*is)?\s+)|(?:\s+is|\s*[:=])\s*:?\s*)",
    re.IGNORECASE,
)
"""What may be before an answer and says nothing: "The answer is"."""
IN_ROMAN = re.compile(r"\\(?:text|mathrm|textbf)\s*\{([A-Za-z :=]+)\}\s*")


def clean(answer: str) -> str:
    r"""Rewrite an answer in one spelling: plain characters, one name for each command, nothing around the answer.

    Example:
        >>> clean(r"**１\,２４８**."), clean("$3½$"), clean(r"\boxed 5"), clean("−5 m²")
        ('1248', '3 \\frac{1}{2}', '5', '-5 m^{2}')
    """
    text = answer.strip()
    if not text.isascii():
        text = to_ascii(text)
    text = ESCAPED_TWICE.sub(r"\\", text)
    before = None
    while before != text:
        before = text
        text = unwrapped(text)
    sign = ""
    if negative := NEGATIVE.match(text):
        sign, text = "-", text[negative.end() :]
    if found := IN_WORDS.match(text):
        text = in_digits(found) + text[found.end() :]
    elif (found := PHRASE.match(text)) and (number := in_number(found[1])) is not None:
        text = str(number) + text[found.end() :].removeprefix("}" if found[0].startswith("\\") else "")
    elif sign and (found := re.match(r"[A-Za-z]+", text)):
        text = f"{NUMBER_WORDS.get(found[0].lower(), found[0])}{text[found.end() :]}"
    text = sign + text
    if found := OUTWARD.fullmatch(text):
        text = f"{'(' if found[1] == ']' else '['}{found[2]}{')' if found[3] == '[' else ']'}"
    text = THOUSANDS.sub(lambda m: re.sub(r"\D", "", m[0]), text)
    for needle, pattern, spelling in SPELLINGS:
        if needle in text:
            text = pattern.sub(spelling, text)
    return (MATRIX_SPACES if "\\begin" in text else SPACES).sub(" ", text).strip()


def to_ascii(text: str) -> str:
    r"""Signs and letters of Unicode as LaTeX and ASCII.

    Example:
        >>> to_ascii("2√3·x²"), to_ascii("½")
        ('2\\sqrt 3\\cdot x^{2}', ' \\frac{1}{2}')
    """
    text = re.sub("([⁰¹²³⁴⁵⁶⁷⁸⁹]+)√", lambda m: f"\\sqrt[{m[1].translate(SUPERSCRIPTS)}]", text)
    text = re.sub("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ]+", lambda m: f"^{{{m[0].translate(SUPERSCRIPTS)}}}", text)
    text = re.sub("[₀₁₂₃₄₅₆₇₈₉]+", lambda m: f"_{{{m[0].translate(SUBSCRIPTS)}}}", text)
    text = re.sub("(?:\\d\u0305)+", lambda m: f"\\overline{{{m[0].replace(chr(0x305), '')}}}", text)
    text = re.sub(r"(^|[(\[{,=]\s*)–(?=\s*[\d.\\])", r"\1-", text)  # a dash is a minus only where no range can be meant
    plain: list[str] = []
    for character in text:
        if character.isascii():
            plain.append(character)
        elif character in CHARACTERS:
            plain.append(CHARACTERS[character])
        elif character in GREEK:
            plain.append(f"\\{GREEK[character]} ")
        else:
            over, slash, under = unicodedata.normalize("NFKC", character).partition("⁄")
            plain.append(f" \\frac{{{over}}}{{{under}}}" if slash and under else over)
    return "".join(plain)


PAIRS = (
    ("$$", "$$"),
    ("$", "$"),
    (r"\(", r"\)"),
    (r"\[", r"\]"),
    ("**", "**"),
    ("__", "__"),
    ("`", "`"),
    ('"', '"'),
    ("'", "'"),
    ("*", "*"),
    ("_", "_"),
)


def unwrapped(text: str) -> str:
    """Remove one layer around an answer: delimiters of formulas, boxes, emphasis, a full stop."""
    text = text.strip()
    if not text.isascii() or text[:1] == "\\" or text.endswith(SAID_LAST):
        text = DONE.sub("", text)
    if found := TAGGED.fullmatch(text):
        return found[2]
    if len(text) > 4 and text.startswith("~~") and text.endswith("~~"):  # struck out in Markdown
        return rf"\cancel{{{text[2:-2]}}}"
    if text[:2] in (r"\t", r"\m") and (found := IN_ROMAN.match(text)) and LEADING.fullmatch(f"{found[1].strip()} "):
        text = text[found.end() :]
    text = LEADING.sub("", text, count=1) if LEADING.match(text) else text
    if text.startswith("=") and not text.startswith(("==", "=>", "=<")):
        text = text[1:].lstrip()
    while text[-1:] in (".", ",", ";", "\\") and not text.endswith(("...", r"\,", r"\;", "\\\\")):
        text = text[:-1].rstrip()
    for opening, closing in PAIRS:
        inner = text[len(opening) : -len(closing)]
        around = len(text) > len(opening + closing) and text.startswith(opening) and text.endswith(closing)
        if around and opening not in inner.replace("\\$", "") and not (opening == "$" and inner.endswith("\\")):
            return inner
    for command in ("\\boxed", "\\fbox", "\\framebox", "\\displaystyle", "\\ensuremath", "\\mathbf", "\\bm", "\\textbf",
                    "\\boldsymbol", "\\pmb", "\\mathsf", "\\mathit", "\\textit", "\\bf",
                    "\\emph", "\\underline"):  # fmt: skip
        if text.startswith(command) and not text[len(command) : len(command) + 1].isalpha():
            rest = text[len(command) :].strip()
            if rest.startswith("{"):
                return rest[1:-1] if closing_brace(rest) == len(rest) - 1 else text
            return rest if command in ("\\displaystyle", "\\bf") or len(rest.split()) == 1 else text
    return text


FORMULA_MARKS = re.compile(r"(?<!\\)\$\$?|(?<!\\)\\[()\[\]]")
FORMULA_AMONG_WORDS = re.compile(r"(?<![\\$])\$(?=[^\s$])(?:[^$\\]|\\.)*(?<!\s)\$(?![\d$])")
"""A formula between dollar signs that are no currency: none of `$5, $6` closes one."""
EMPHASIS = re.compile(r"(?<![\w)\]}*])\*\*(?=[^\s*])([^*]+)(?<!\s)\*\*(?![\w(\[{*])")
"""A part of a text that Markdown sets in bold: its signs are not powers."""


def unmarked(answer: str) -> str:
    r"""Remove the delimiters of formulas and boxes, and bold print, anywhere in a text; formulas stay separate words.

    Example:
        >>> unmarked(r"$\boxed{28}$ percent"), unmarked(r"\boxed{1}, \boxed{2}")
        ('  28   percent', ' 1 ,  2 ')
    """
    text = EMPHASIS.sub(r"\1", ESCAPED_TWICE.sub(r"\\", answer))
    while (found := BOXED.search(text)) and (end := closing_brace(text[found.end() - 1 :])) >= 0:
        inside = text[found.end() : found.end() - 1 + end]
        text = f"{text[: found.start()]} {inside} {text[found.end() + end :]}"
    return FORMULA_MARKS.sub(" ", text)


BOXED = re.compile(r"\\(?:boxed|fbox)\s*\{")


def closing_brace(text: str) -> int:
    """Where the brace that opens a text is closed; -1 where it is not. Braces behind one backslash are signs."""
    depth = 0
    for position, character in enumerate(text):
        if character in "{}" and text[position - 1 : position] == "\\" and text[position - 2 : position] != "\\\\":
            continue
        depth += (character == "{") - (character == "}")
        if depth == 0:
            return position
    return -1


UNITS = {
    word: unit
    for unit, words in {
        "m": "m meter metre", "cm": "cm centimeter centimetre", "mm": "mm millimeter millimetre",
        "km": "km kilometer kilometre", "in": "in inch inches", "ft": "ft foot feet", "yd": "yd yard", "mi": "mi mile",
        "s": "s sec second", "min": "min minute", "h": "h hr hour", "day": "day", "week": "week wk",
        "month": "month", "year": "year yr", "g": "g gram", "kg": "kg kilogram kilo", "mg": "mg milligram",
        "lb": "lb lbs pound", "oz": "oz ounce", "ton": "ton tonne", "L": "L l liter litre",
        "mL": "mL ml milliliter millilitre", "gal": "gal gallon", "dollar": "dollar usd buck", "cent": "cent",
        "euro": "euro eur", "yen": "yen", "yuan": "yuan", "degree": "degree deg", "radian": "radian rad",
        "mi/h": "mph", "km/h": "kph kmh", "": "unit units", "acre": "acre", "p.m.": "pm PM p.m. P.M.",
        "a.m.": "am AM a.m. A.M.",
        "N": "N newton", "J": "J joule", "W": "W watt", "V": "V volt", "Hz": "Hz hertz", "Pa": "Pa pascal",
        "K": "K kelvin", "kB": "kb", "MB": "mb", "GB": "gb", "person": "person people", "child": "child children",
        "man": "man men",
    }.items()
    for word in words.split()
}  # fmt: skip
"""Every spelling of a unit in the singular -> the unit."""
CURRENCY = {"$": "dollar", "€": "euro", "£": "pound sterling", "¥": "yen", "₹": "rupee", "₩": "won", "₽": "ruble"}
TEMPERATURES = {"celsius": "C", "centigrade": "C", "fahrenheit": "F"}
PERCENT = ("%", "percent", "percents", "pct", "percentage", "per cent")
SCALES = {"dozen": 12, "hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
NUMBERS = """
zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen
nineteen twenty
"""
NUMBER_WORDS = {word: number for number, word in enumerate(NUMBERS.split())}
TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
PARTS = {"half": 2, "halves": 2, "third": 3, "quarter": 4, "fourth": 4, "fifth": 5, "sixth": 6, "seventh": 7,
         "eighth": 8, "ninth": 9, "tenth": 10}  # fmt: skip
IN_WORDS = re.compile(
    rf"({'|'.join(TENS)})(?:[- ]({'|'.join(NUMBERS.split()[1:10])}))?(?=\s|$)"
    rf"|({'|'.join(NUMBERS.split())})[- ]({'|'.join(PARTS)})s?$"
    rf"|(?:an?[- ]|(?=half))({'|'.join(PARTS)})$",
    re.IGNORECASE,
)
"""A number above twenty, and a fraction, at the beginning of an answer: `forty-two`, `two thirds`."""


def in_digits(found: re.Match[str]) -> str:
    """A number that is written in words.

    Example:
        >>> IN_WORDS.sub(in_digits, "forty-two"), IN_WORDS.sub(in_digits, "two thirds")
        ('42', '2/3')
    """
    tens, units, over, under, one = (part.lower() if part else "" for part in found.groups())
    if one:
        return f"1/{PARTS[one]}"
    if tens:
        return str(10 * (TENS.index(tens) + 2) + NUMBER_WORDS.get(units, 0))
    return f"{NUMBER_WORDS[over]}/{PARTS[under]}"


NEGATIVE = re.compile(
    rf"(?:negative|minus)\s+(?=[\d.\\]|(?:{'|'.join([*TENS, *NUMBERS.split()])})(?:[- ]|$)"
    rf"|(?:half|an?[- ](?:{'|'.join(PARTS)}))$)",
    re.IGNORECASE,
)
WORDS_OF_NUMBERS = {**NUMBER_WORDS, **{word: 10 * (i + 2) for i, word in enumerate(TENS)}}
PHRASE = re.compile(
    rf"(?:\\text\s*\{{\s*)?((?:{'|'.join(WORDS_OF_NUMBERS)})"
    rf"(?:(?:[- ]|,? and |, )(?:{'|'.join(WORDS_OF_NUMBERS)}|hundred|thousand|million))+)(?=\s|\}}|$)",
    re.IGNORECASE,
)
"""A number of several words at the beginning of an answer: `one hundred and one`."""


def in_number(phrase: str) -> int | None:
    """The number that words name; None where they are several numbers.

    Example:
        >>> in_number("two thousand three hundred and forty-five"), in_number("two three")
        (2345, None)
    """
    total, group, smallest, scale = 0, 0, 1000, 10**9
    for word in re.split(r"[-, ]+(?:and )?", phrase.lower()):
        if word in ("thousand", "million"):
            if not group or SCALES[word] >= scale:
                return None
            total, group, smallest, scale = total + group * SCALES[word], 0, 1000, SCALES[word]
        elif word == "hundred":
            if not 0 < group < 10:
                return None
            group, smallest = 100 * group, 100
        else:
            number = WORDS_OF_NUMBERS[word]
            if number >= smallest or number == 0:
                return None
            group, smallest = group + number, 10 if number >= 20 and number % 10 == 0 else 1
    return total + group


SENTENCES = """
not no none nor neither never is isn isnt are aren arent was wasn were be being been wrong false incorrect untrue or
and but minus plus times than more less fewer most least over under about approximately roughly nearly almost half
halves third thirds quarter quarters fourth fourths fifth fifths tenth tenths hundredth hundredths thousandths percent
root mod modulo base if when for where with without either both to from through between until except unless instead
equals equal divided multiplied negative positive maybe perhaps possibly cannot can undefined impossible does do did
don doesn doesnt dont answer actually wait approx the that this these we find get have has therefore thus so hence it
its will would should must think because since solution there then which how what many much rather only after before
now
"""
SENTENCE_WORDS = frozenset(SENTENCES.split())
"""Words that change or deny what is before them, or ask for more than a name: with them, words are not a unit."""


def unit_of(words: str) -> str | None:
    """The unit that words name, in one spelling; None where they say something else.

    Example:
        >>> unit_of("square feet"), unit_of("m / s"), unit_of("miles per hour"), unit_of("eggs"), unit_of("is wrong")
        ('ft^2', 'm/s', 'mi/h', 'egg', None)
    """
    words = words.replace("{", "").replace("}", "")
    if words.strip().lower() == "times":  # behind a number nothing is multiplied: how often
        return "time"
    pieces = re.findall(r"[apAP]\.[mM]\.|[A-Za-z]+|\^\s*-?\d+|[/*]|\S", words)
    spelled: list[str] = []
    power = ""
    for piece in pieces:
        word = piece.lower()
        if word in SENTENCE_WORDS:
            return None
        if word in ("square", "sq", "cubic", "cu"):
            power = "^2" if word[0] == "s" else "^3"
        elif word in ("squared", "cubed"):
            if not spelled:  # of the number itself
                return None
            spelled.append("^2" if word == "squared" else "^3")
        elif piece in CURRENCY:
            spelled.append(CURRENCY[piece])
        elif word in ("per", "/", "a", "an", "each") and (word in ("per", "/") or not spelled):
            spelled.append("/" if word in ("per", "/") else "")
        elif piece[0] == "^":
            spelled.append("^" + piece[1:].strip())
        elif word in TEMPERATURES or (piece in ("C", "F") and spelled == ["degree"]):
            spelled = [*(spelled if spelled != ["degree"] else []), f"degree {TEMPERATURES.get(word, piece)}"]
        elif piece[0].isalpha():
            spelled.append(_singular(piece) + power)
            power = ""
        elif piece not in (".", "*"):
            return None
    unit = re.sub(r" ?([/^]) ?", r"\1", " ".join(filter(None, spelled)))
    return re.sub(r" (\w+)\^-(\d)", lambda m: f"/{m[1]}" + (f"^{m[2]}" if m[2] != "1" else ""), unit)


def _singular(word: str) -> str:
    for form in (word, word.lower(), word.lower().removesuffix("s"), word.lower().removesuffix("es")):
        if form in UNITS:
            return UNITS[form]
    lower = word.lower()
    if lower.endswith("ies") and len(lower) > 4:
        return lower[:-3] + "y"
    if lower.endswith(("xes", "ches", "shes", "sses", "zzes")):
        return lower[:-2]
    return lower.removesuffix("s") if len(lower) > 3 and not lower.endswith("ss") else lower


def same_unit(ours: str, theirs: str) -> bool:
    """Whether two units agree: either is left out, they are the same, or one names the same things more closely.

    Example:
        >>> (
        ...     same_unit("cm", ""),
        ...     same_unit("cm^2", "cm^3"),
        ...     same_unit("right triangle", "triangle"),
        ...     same_unit("m/s", "m"),
        ... )
        (True, False, True, False)
    """
    if not ours or not theirs or ours == theirs:
        return True
    if {ours, theirs} == {"lb", CURRENCY["£"]}:  # both are pounds
        return True
    shorter, longer = sorted((ours, theirs), key=len)
    if shorter in (*CURRENCY.values(), "cent") and longer.startswith(f"{shorter}/"):  # what a price is for
        return True
    if set("/^") & set(ours + theirs):
        return False
    a, b = ours.split(), theirs.split()
    known = [{word for word in words if word in UNITS.values()} for words in (a, b)]
    return known[0] == known[1] and (set(a) <= set(b) or set(b) <= set(a))
