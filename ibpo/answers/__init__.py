"""What does an answer say? Texts of mathematical answers, read whole or not at all, and when two of them are equal."""

from ibpo.answers.equality import Contradiction, same
from ibpo.answers.reading import Node, Unread, exact, has_variable, read, written
from ibpo.answers.text import clean, unmarked

__all__ = ["Contradiction", "Node", "Unread", "clean", "exact", "has_variable", "read", "same", "unmarked", "written"]
