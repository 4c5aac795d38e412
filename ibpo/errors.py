"""The one base class of the errors that a user of `ibpo` can fix."""


class IbpoError(ValueError):
    """Bad input, said in one line: where it is, what is wrong, and how to fix it.

    The commands print it without a traceback and exit with code 2. It is a `ValueError`, so callers of the library need
    not know it.
    """


def one_line(text: str, most: int = 1000) -> str:
    r"""A message as one line: its lines are joined, what cannot be printed is escaped, and much is cut in the middle.

    Names and values in a message come from files and options, which may hold line breaks, control characters, or
    thousands of digits.

    Example:
        >>> one_line("cannot be read: no header\nis it whole?\n"), one_line("9" * 5000, 20)
        ('cannot be read: no header; is it whole?', '9999999999 ... 99999')
    """
    shown = printable("; ".join(part.strip() for part in text.splitlines() if part.strip()))
    return shown if len(shown) <= most else f"{shown[: most // 2]} ... {shown[-(most // 4) :]}"


def printable(text: str) -> str:
    r"""A text with what cannot be printed, line breaks among it, written out.

    Example:
        >>> print(printable("two\nlines"))
        two\nlines
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
