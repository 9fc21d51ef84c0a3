"""Reading and writing a dataset file entry by entry, so that its text is never in memory whole."""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, NoReturn

_CHUNK = 1 << 22
_SPACE = re.compile(r"[ \t\n\r]+")
_BEHIND = frozenset(",:]} \t\n\r")  # what can stand behind a value


def read_json(path: str | os.PathLike[str]) -> Any:
    """Read a JSON file; if its top is an object of objects, entry by entry.

    ``json.load`` holds the file's bytes, its text and the objects at once, and the text takes
    four bytes per character if there is one emoji in it. Here the objects are all that grows.

    Raises:
        UnicodeDecodeError: The file is not UTF-8.
        ValueError: It holds no whole JSON.
        RecursionError: It is nested too deeply.
        OSError: It can't be read.
    """
    with Path(path).open(encoding="utf-8-sig") as stream:
        reader = _Reader(stream)
        data = reader.object(depth=2) if reader.peek() == "{" else reader.value()
        reader.end()
        return data


def write_entries(stream: IO[str], fields: Mapping[str, Any]) -> None:
    """Write an object of objects with one line per entry, in text without escapes."""
    encode = json.JSONEncoder(ensure_ascii=False).encode
    opening = "{"
    for name, value in fields.items():
        stream.write(f"{opening}\n    {encode(name)}: ")
        opening = ","
        if not isinstance(value, Mapping):
            stream.write(encode(value))
            continue
        separator = "{"
        for key, entry in value.items():
            stream.write(f"{separator}\n        {encode(key)}: {encode(entry)}")
            separator = ","
        stream.write("\n    }" if value else "{}")
    stream.write("\n}\n" if fields else "{}\n")


class _Reader:
    """A window over a stream of JSON text, from which values are taken one after the other."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._decode = json.JSONDecoder().raw_decode
        self._window = ""
        self._at = 0
        self._passed = 0
        self._chunk = _CHUNK
        self._fresh = False  # whether the window grew since entries were last taken at once

    def object(self, *, depth: int) -> dict[str, Any]:
        """Take an object; down to ``depth`` objects deep, entry by entry."""
        members: dict[str, Any] = {}
        self._take("{")
        if self.peek() == "}":
            self._take("}")
            return members
        while True:
            if self.peek() != '"':
                self._fail("Expecting property name enclosed in double quotes")
            name = self.value()
            self._take(":")
            nested = depth > 1 and self.peek() == "{"
            members[name] = self.object(depth=depth - 1) if nested else self.value()
            if self._take(",}") == "}":
                return members
            if self._fresh and depth == 1:
                members |= self._lines()

    def value(self) -> Any:
        """Take the next value whole."""
        self.peek()
        while True:
            try:
                value, end = self._decode(self._window, self._at)
            except json.JSONDecodeError as error:
                if not self._fill():
                    self._at = error.pos
                    self._fail(error.msg)
            else:
                # What the window's end cuts may be the first digits of a number.
                if self._window[end : end + 1] in _BEHIND or not self._fill():
                    self._at, self._chunk = end, _CHUNK
                    return value

    def _lines(self) -> dict[str, Any]:
        """Take the entries up to the window's last line end at once, if they are whole: fast."""
        self._fresh = False
        cut = max(self._window.rfind(",\n", self._at), self._at)
        try:
            # A text holds no line end as such, so a cut can only be between or within entries.
            entries: dict[str, Any] = json.loads(f"{{{self._window[self._at : cut]}}}")
        except json.JSONDecodeError:
            return {}
        self._at = cut + 1 if entries else self._at
        return entries

    def peek(self) -> str:
        """Skip white space and return the next character, or nothing at the end."""
        while True:
            found = _SPACE.match(self._window, self._at)
            self._at = found.end() if found else self._at
            if self._at < len(self._window):
                return self._window[self._at]
            if not self._fill():
                return ""

    def end(self) -> None:
        """Make sure that nothing follows."""
        if self.peek():
            self._fail("Extra data")

    def _take(self, expected: str) -> str:
        character = self.peek()
        if not character or character not in expected:
            self._fail(f"Expecting {' or '.join(map(repr, expected))}")
        self._at += 1
        return character

    def _fill(self) -> bool:
        more = self._stream.read(self._chunk)
        if more:
            # Twice as much each time for one value: a long one is not copied over and over.
            self._chunk *= 2
            self._passed += self._at
            self._window, self._at = self._window[self._at :] + more, 0
            self._fresh = True
        return bool(more)

    def _fail(self, message: str) -> NoReturn:
        raise ValueError(f"{message} (character {self._passed + self._at:,})")
