"""The one base class of the errors that a user of `ibpo` can fix."""


class IbpoError(ValueError):
    """Bad input, said in one line: where it is, what is wrong, and how to fix it.

    The commands print it without a traceback and exit with code 2. It is a `ValueError`, so callers of the library need
    not know it.
    """
