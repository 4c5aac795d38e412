"""What does an answer say? Texts of mathematical answers, read whole or not at all, and when two of them are equal."""

from ibpo.answers.groups import equal, representatives, same_words, understood
from ibpo.answers.text import EMPHASIS, clean, unmarked, unwrapped

__all__ = ["EMPHASIS", "clean", "equal", "representatives", "same_words", "understood", "unmarked", "unwrapped"]
