"""Text to token numbers: the tokenizer of uncased BERT, from its `vocab.txt` alone."""

import re
import unicodedata
from functools import cache
from pathlib import Path

LONGEST_WORD = 100
_ASCII_PUNCTUATION = frozenset("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~")
_IDEOGRAPHS = re.compile("([\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0002fa1f])")


class WordPiece:
    """Lower case, no accents, punctuation apart, then the longest pieces from the left.

    Args:
        vocabulary: a file with one piece a line; its line is its number.
    """

    def __init__(self, vocabulary: Path) -> None:
        lines = vocabulary.read_text(encoding="utf8").splitlines()
        self._numbers = {piece: number for number, piece in enumerate(lines)}
        self._first, self._last = self._numbers["[CLS]"], self._numbers["[SEP]"]
        self._unknown = self._numbers["[UNK]"]
        self._pieces = cache(self._split)

    def encode(self, text: str, longest: int) -> list[int]:
        """[CLS], at most `longest` - 2 pieces, [SEP]."""
        pieces = [piece for word in _words(text) for piece in self._pieces(word)]
        return [self._first, *pieces[: longest - 2], self._last]

    def _split(self, word: str) -> tuple[int, ...]:
        found: list[int] = []
        start = 0
        while start < len(word):
            prefix = "##" if start else ""
            ends = range(len(word), start, -1)
            end = next((end for end in ends if prefix + word[start:end] in self._numbers), start)
            if end == start or len(word) > LONGEST_WORD:
                return (self._unknown,)
            found.append(self._numbers[prefix + word[start:end]])
            start = end
        return tuple(found)


def _words(text: str) -> list[str]:
    plain = unicodedata.normalize("NFD", _IDEOGRAPHS.sub(r" \1 ", text).lower())
    return "".join(_spaced(character) for character in plain).split()


@cache
def _spaced(character: str) -> str:
    """A character as words are made of it: nothing, itself, or with spaces around."""
    category = unicodedata.category(character)
    if category == "Mn" or character == "\ufffd":
        return ""
    if character.isspace():
        return " "
    if category.startswith("C"):
        return ""
    if character in _ASCII_PUNCTUATION or category.startswith("P"):
        return f" {character} "
    return character
