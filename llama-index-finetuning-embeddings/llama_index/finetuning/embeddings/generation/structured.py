r"""Questions in answers that have a machine's shape: JSON or nearly JSON, tags, tables."""

import json
import re

from llama_index.finetuning.embeddings.generation.questions import (
    ASKS,
    Question,
    is_answer_word,
    is_question_word,
)

# A bracket that opens a line or follows a colon, "=" or a backtick, and holds a string, a key or
# another bracket.
_OPENING = re.compile(
    r"(?:(?P<start>^[ \t]*(?:\w+\s*=)?)|[:=`])\s*(?=[\[{]\s*[\"'\u201c\[{\w])", re.M
)
# A string without its last quote reaches to the end: the answer was cut off inside it. What opens
# a string or a word is looked for where neither can have begun before, so that a long answer is
# gone through once.
_TOKEN = re.compile(
    r"""
      (?P<bracket>[\[\]{}])
    | "(?P<double>(?:[^"\\]|\\.)*)(?:"|(?P<cut_double>\\?\Z))
    | (?<!\w)'(?P<single>(?:[^'\\]|\\.|'(?=\w))*)(?:'|(?P<cut_single>\\?\Z))
    | \u201c(?P<curly>[^\u201d]*)(?:\u201d|(?P<cut_curly>\Z))
    | (?<!\w)(?P<bare>[A-Za-z_]\w*)(?=\s*:)
    """,
    re.VERBOSE | re.DOTALL,
)
_FENCE = re.compile(r"```\w*")
_NOT_JSON = re.compile(r"[^\s,;]")
_REMARK_KEY = re.compile(
    r"errors?|messages?|status|reason(?:ing)?|notes?|details?|explanation|type|category|topic|"
    r"difficulty|level|language|(?:\w+_)?id|no|number|code|success|valid|thoughts?|document|"
    r"source|model",
    re.IGNORECASE,
)
_COLON = re.compile(r"\s*:")
_TAG = re.compile(
    r"<(?P<end>/?)(?P<name>(?:question|query|q|li|item|text|answer)(?:[_-]?\d+)?)\b[^<>]*>",
    re.IGNORECASE,
)
_RULE_CELL = re.compile(r":?-{2,}:?")


def parse_structured(response: str) -> list[Question] | None:
    """Return the questions of JSON, tags or a table; None if the answer has no such shape."""
    found, whole = _from_json(response)
    return found or _from_tags(response) or _from_table(response) or ([] if whole else None)


def _from_json(response: str) -> tuple[list[Question], bool]:
    """Return the questions, and whether the answer is nothing but JSON.

    Read are JSON, JSON Lines, Python literals, and any of them cut off or with stray commas.

    One reading of the tokens serves them all: a strict parser would lose a whole answer, paid
    for, over its last comma.
    """
    found: list[Question] = []
    every: list[tuple[str, bool]] = []
    between = ""
    position = 0
    while (opening := _OPENING.search(response, position)) is not None:
        between += response[position : opening.start()]
        strings, position = _value(response, opening.end())
        every += strings
        pairs = _pairs(strings)
        # Inside a sentence a bracket is more likely a piece of code that a question speaks of.
        if opening["start"] is not None or (
            any(ASKS.search(pair.text) for pair in pairs)
            and "?" not in response[position : _line_end(response, position)]
        ):
            found += pairs
    between += response[position:]
    told = any(not is_key for _, is_key in every)
    if not told or _NOT_JSON.search(_FENCE.sub("", between)) is not None:
        return found, False
    return found or _under_any_key(every), True


def _line_end(text: str, position: int) -> int:
    end = text.find("\n", position)
    return len(text) if end < 0 else end


def _value(response: str, start: int) -> tuple[list[tuple[str, bool]], int]:
    """Return the strings of one bracketed value, each with whether it is a key, and its end."""
    strings: list[tuple[str, bool]] = []
    depth = 0
    for token in _TOKEN.finditer(response, start):
        if token["bracket"]:
            depth += 1 if token["bracket"] in "[{" else -1
            if depth <= 0:
                return strings, token.end()
        elif (token.lastgroup or "").startswith("cut"):
            break
        elif token["bare"]:
            strings.append((token["bare"], True))
        else:
            strings.append((_unescaped(token), _COLON.match(response, token.end()) is not None))
    return strings, len(response)


def _unescaped(token: re.Match[str]) -> str:
    if token["double"] is not None:
        try:
            return str(json.loads(f'"{token["double"]}"', strict=False))
        except ValueError:
            return token["double"].replace('\\"', '"')
    if token["single"] is not None:
        return token["single"].replace("\\'", "'")
    return token["curly"]


def _pairs(strings: list[tuple[str, bool]]) -> list[Question]:
    found: list[Question] = []
    key: str | None = None
    for text, is_key in strings:
        if is_key:
            key = text
        elif key is None or is_question_word(key):
            found.append(Question(text))
        elif ASKS.search(key):
            found.append(Question(key, text))
        elif found and found[-1].answer is None and is_answer_word(key):
            found[-1] = Question(found[-1].text, text)
    # Without a key that speaks of questions, what asks is one.
    return found or [Question(text) for text, is_key in strings if not is_key and ASKS.search(text)]


def _under_any_key(strings: list[tuple[str, bool]]) -> list[Question]:
    """Return the strings under the key that has most, whatever its name; all where none has two.

    Keys of remarks are passed over.
    """
    found: dict[str, list[Question]] = {}
    key = ""
    for text, is_key in strings:
        if is_key:
            key = text
        elif not _REMARK_KEY.fullmatch(key):
            found.setdefault(key, []).append(Question(text))
    most = max(found.values(), key=len, default=[])
    return most if len(most) > 1 else [one for few in found.values() for one in few]


def _from_tags(response: str) -> list[Question]:
    found: list[Question] = []
    position = 0
    for tag, end in _pairs_of_tags(response):
        if tag.start() < position:
            continue
        content = response[tag.end() : end.start()]
        if not tag["name"].lower().startswith("answer"):
            # A tag around other tags is a container, not a question.
            if response.find("<", tag.end()) < end.start():
                continue
            found.append(Question(content))
        elif found:
            found[-1] = Question(found[-1].text, content.strip())
        position = end.end()
    return found


def _pairs_of_tags(response: str) -> list[tuple[re.Match[str], re.Match[str]]]:
    """Return each opening tag that has a closing one behind it, with the next such one."""
    pairs: list[tuple[re.Match[str], re.Match[str]]] = []
    ends: dict[str, re.Match[str]] = {}
    for tag in reversed(list(_TAG.finditer(response))):
        name = tag["name"].lower()
        if tag["end"]:
            ends[name] = tag
        elif name in ends:
            pairs.append((tag, ends[name]))
    return pairs[::-1]


def _from_table(response: str) -> list[Question]:
    rows = [
        [cell.strip() for cell in line.strip().strip("|").split("|")]
        for line in response.splitlines()
        if line.strip().startswith("|") and line.strip().endswith("|")
    ]
    if len(rows) < 2:
        return []
    header, *body = rows
    body = [row for row in body if not all(_RULE_CELL.fullmatch(cell) for cell in row if cell)]
    columns = [i for i, name in enumerate(header) if is_question_word(name.strip("* "))]
    answers = [i for i, name in enumerate(header) if is_answer_word(name.strip("* "))]
    if not columns:
        return []
    column = columns[-1]
    return [
        Question(row[column], row[answers[0]] if answers and answers[0] < len(row) else None)
        for row in body
        if column < len(row) and row[column]
    ]
