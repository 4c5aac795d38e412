"""What does an answer say? Texts of mathematical answers, read whole or not at all, and when two of them are equal."""

from ibpo.answers.groups import equal, representatives, understood
from ibpo.answers.text import clean, unwrapped

__all__ = ["clean", "equal", "representatives", "understood", "unwrapped"]
