r"""Questions in answers that have a machine's shape: JSON or nearly JSON, tags, tables."""

import contextlib
import csv
import itertools
import json
import re
from typing import NamedTuple

from llama_index.finetuning.embeddings.generation.questions import (
    ASKING_WORD,
    ASKS,
    MARKS,
    Question,
    is_answer_word,
    is_question_word,
)
from llama_index.finetuning.embeddings.generation.refusals import offers

# A bracket that opens a line or follows a colon, "=" or a backtick on one, and holds a string, a
# key or another bracket.
_OPENING = re.compile(
    r"(?:(?P<start>^[ \t]*(?:\w+\s*=)?\s*)|[:=`][^\S\n]*)(?=[\[{]\s*[\"'\u201c\[{\w])", re.M
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
# "What does this print:", "1. Explain the list below."
_ASKING_LINE = re.compile(rf"[\W\d]*{ASKING_WORD}", re.IGNORECASE)
_REMARK_KEY = re.compile(
    r"errors?|messages?|status|reason(?:ing)?|notes?|details?|explanation|type|category|topic|"
    r"difficulty|level|language|(?:\w+_)?id|no|number|code|success|valid|thoughts?|document|"
    r"source|model",
    re.IGNORECASE,
)
_COLON = re.compile(r"\s*:")
# A backslash, with what makes it an escape. Models forget to double those of LaTeX, patterns and
# paths: no text has a backspace or a form feed, and "\theta" is no tab before "heta".
_BACKSLASH = re.compile(
    r"""\\(?:(
        ["\\/] | u[0-9a-fA-F]{4} | r(?![a-zA-Z])
      | t(?!(?:heta|imes|ext(?:bf|it|rm|tt)?|anh?|au|o|op|frac|ilde|herefore|riangle)(?![a-zA-Z]))
      | n(?!(?:abla|eq|otin|leq|geq|exists)(?![a-zA-Z])|(?:e|eg|i|ot|u)[$_^{}()=\\])
    ))?""",
    re.VERBOSE,
)
# Of several parts, or one that can't be a line break and the word behind it: "Vitamin C:\nWhat".
_PART = r"\\(?![\\\"/]|[nr]\\n|[nrt][A-Z\d])"
_PATH = re.compile(
    rf"(?<!\w)[C-Ec-e]:(?:(?:{_PART}[\w.-]+){{2,}}|{_PART}(?:[\w-]+\.\w|(?![nr]))[\w.-]+)"
)
_DIGITS = "0123456789"
_LONGEST_LINE = 1000  # characters of one that announces JSON
_TAG = re.compile(
    r"<(?P<end>/?)(?P<name>(?:question|query|q|li|item|text|answer)(?:[_-]?\d+)?)\b[^<>]*>",
    re.IGNORECASE,
)
# "1. <question>"
_TAGGED_LINE = re.compile(r"[^\w<]*(?:\d{1,3}[^\w<]*)?<")
_INTRODUCED = re.compile(
    r"\W*(?:sure|certainly|of course|okay|absolutely|"
    r"here(?:['\u2019]s| are| is)|below (?:are|is))\b[^<?\n]{0,200}[:!][^\w<]*<",
    re.IGNORECASE,
)
_LAST = re.compile(r"\s*(?:<|$)")
_LAST_OF_QUESTION = re.compile(r"[^\w<(]*(?:\([^()]*\)[^\w<()]*)?(?:<|$)")
# With the remark behind it. Not past the next such tag: each is looked at once.
_TAGGED_QUESTION = re.compile(
    r"(<((?:question|query|q)[_-]?\d*)(?: [^<>]*)?>((?:(?!</?(?:question|query|q)[\d_-]*[ >]).)*)"
    r"</\2>)([^<\n]*)",
    re.IGNORECASE,
)
_RULE_CELL = re.compile(r":?-{2,}:?")


class _String(NamedTuple):
    text: str
    is_key: bool
    home: int  # where the object begins that it is in; a list is part of the object around it


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
    every: list[_String] = []
    alone: list[_String] = []  # those of brackets that have their lines for themselves
    between = ""
    position = 0
    while (opening := _OPENING.search(response, position)) is not None:
        between += response[position : opening.start()]
        strings, position = _value(response, opening.end())
        every += strings
        pairs = _pairs(strings)
        rest = response[position : _line_end(response, position)]
        # Inside a sentence a bracket is more likely a piece of code that a question speaks of, and
        # so it is below a line that asks.
        if any(ASKS.search(pair.text) for pair in pairs):
            if opening["start"] is not None or "?" not in rest:
                found += pairs
        elif opening["start"] is not None and not _asks_last(between):
            found += pairs
            alone += [] if _NOT_JSON.search(rest) else strings
    between += response[position:]
    whole = _NOT_JSON.search(_FENCE.sub("", between)) is None
    if not whole:
        asked = any(ASKS.search(line) and not offers(line) for line in between.splitlines())
        return found or ([] if asked else _under_any_key(alone)), False
    told = any(not string.is_key for string in every)
    return (found or _under_any_key(every), True) if told else (found, False)


def _asks_last(text: str) -> bool:
    """Tell whether the last line of a text asks."""
    line = _FENCE.sub("", text[-_LONGEST_LINE:]).rstrip().rpartition("\n")[2]
    return ASKS.search(line) is not None or _ASKING_LINE.match(line) is not None


def _line_end(text: str, position: int) -> int:
    end = text.find("\n", position)
    return len(text) if end < 0 else end


def _value(response: str, start: int) -> tuple[list[_String], int]:
    """Return the strings of one bracketed value, and its end."""
    strings: list[_String] = []
    homes: list[int] = []  # of the brackets that are open
    for token in _TOKEN.finditer(response, start):
        if token["bracket"]:
            if token["bracket"] in "]}":
                homes.pop()
            else:
                listed = token["bracket"] == "[" and homes
                homes.append(homes[-1] if listed else token.start())
            if not homes:
                return strings, token.end()
        elif (token.lastgroup or "").startswith("cut"):
            break
        elif token["bare"]:
            strings.append(_String(token["bare"], True, homes[-1]))
        else:
            is_key = _COLON.match(response, token.end()) is not None
            strings.append(_String(_unescaped(token), is_key, homes[-1]))
    return strings, len(response)


def _unescaped(token: re.Match[str]) -> str:
    if token["double"] is not None:
        text = _PATH.sub(lambda path: path[0].replace("\\", r"\\"), token["double"])
        text = _BACKSLASH.sub(lambda found: found[0] if found[1] else r"\\", text)
        return str(json.loads(f'"{text}"', strict=False))
    if token["single"] is not None:
        return token["single"].replace("\\'", "'")
    return token["curly"]


def _pairs(strings: list[_String]) -> list[Question]:
    found: list[Question] = []
    # By object: the places of its questions in those found, and its answers, each with the number
    # in its key.
    asked: dict[int, list[tuple[str, int]]] = {}
    answers: dict[int, list[tuple[str, str]]] = {}
    key: str | None = None
    number = ""
    for text, is_key, home in strings:
        if is_key:
            key = text
            number = key[len(key.rstrip(_DIGITS)) :]
        elif key is None or is_question_word(key):
            asked.setdefault(home, []).append((number, len(found)))
            found.append(Question(text))
        elif ASKS.search(key):
            found.append(Question(key, text))
        elif is_answer_word(key):
            answers.setdefault(home, []).append((number, text))
    for home, given in answers.items():
        for place, answer in _matched(asked.get(home, []), given):
            found[place] = Question(found[place].text, answer)
    # Without a key that speaks of questions, what asks is one.
    return found or [
        Question(one.text) for one in strings if not one.is_key and ASKS.search(one.text)
    ]


def _matched(asked: list[tuple[str, int]], answers: list[tuple[str, str]]) -> list[tuple[int, str]]:
    """Return the answer to each question of one object, where it is clear which it is."""
    if all(number for number, _ in [*asked, *answers]):
        by_number = dict(reversed(answers))  # of several with one number the first
        return [(place, by_number[number]) for number, place in asked if number in by_number]
    if len(asked) not in (1, len(answers)):
        return []
    return [(place, answer) for (_, place), (_, answer) in zip(asked, answers, strict=False)]


def _under_any_key(strings: list[_String]) -> list[Question]:
    """Return the strings under the key that has most, whatever its name; all where none has two.

    Keys of remarks are passed over.
    """
    found: dict[str, list[Question]] = {}
    key = ""
    for text, is_key, _ in strings:
        if is_key:
            key = text
        elif not _REMARK_KEY.fullmatch(key):
            found.setdefault(key, []).append(Question(text))
    most = max(found.values(), key=len, default=[])
    return most if len(most) > 1 else [one for few in found.values() for one in few]


def _from_tags(response: str) -> list[Question]:
    """Return what stands in tags, of those that are the answer's own and not a question's matter.

    Their line begins with a tag, and at the end of it or before a tag they are closed; a question
    in a tag of its own may stand behind other words.
    """
    response = "".join(_broken(line) for line in response.splitlines(keepends=True))
    found: list[Question] = []
    position = 0
    opened: dict[str, int] = {}
    for line in response.splitlines(keepends=True):
        tagged = _begins_with_tag(line)
        for tag in _TAG.finditer(line):
            name = tag["name"].lower()
            if not tag["end"]:
                if tagged:
                    opened[name] = position + tag.end()
            elif name in opened and (_LAST_OF_QUESTION if name[0] == "q" else _LAST).match(
                line, tag.end()
            ):
                content = response[opened[name] : position + tag.start()]
                opened.clear()  # what is still open is a container, or spoken of
                if not name.startswith("answer"):
                    found.append(Question(content))
                elif found:
                    found[-1] = Question(found[-1].text, content.strip())
        position += len(line)
    return found


def _begins_with_tag(line: str) -> bool:
    """Tell whether a line begins with a tag, perhaps behind "Here they are:" or "Sure!"."""
    return _TAGGED_LINE.match(line) is not None or _INTRODUCED.match(line) is not None


def _broken(line: str) -> str:
    """Return a line with breaks around what asks in tags, unless what is around that asks too."""
    pairs = [pair for pair in _TAGGED_QUESTION.finditer(line) if ASKS.search(pair[3])]
    around = _TAGGED_QUESTION.sub(r"\4", line) if pairs else line
    if not pairs or any(mark in around for mark in MARKS):
        return line
    return _TAGGED_QUESTION.sub(r"\n\1\n", line)


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def _is_rule(cells: list[str]) -> bool:
    return all(_RULE_CELL.fullmatch(cell) for cell in cells if cell)


def _unframed(lines: list[str]) -> list[list[str]]:
    """Return the rows of a Markdown table without outer bars, or of a CSV table.

    Where a line around it asks, it is something that the questions speak of.
    """
    for i, line in enumerate(lines[:-1]):
        if "|" in line and "|" in lines[i + 1] and _is_rule(_cells(lines[i + 1])):
            table = list(itertools.takewhile(lambda one: "|" in one, lines[i:]))
            rows = [_cells(one) for one in table]
        elif _is_header(names := line.replace('"', "").split(",")):
            table = list(itertools.takewhile(lambda one: one and not _FENCE.match(one), lines[i:]))
            rows = _separated_by_commas(table, names)
        else:
            continue
        around = [*lines[:i], *lines[i + len(table) :]]
        asked = any(
            (ASKS.search(one) and not offers(one)) or _ASKING_LINE.match(one) for one in around
        )
        return [] if asked else rows
    return []


def _is_header(names: list[str]) -> bool:
    """Tell whether names are of questions and answers, and nothing else."""
    words = [name.strip() for name in names]
    return len(words) > 1 and all(
        not word.isdigit() and (is_question_word(word) or is_answer_word(word)) for word in words
    )


def _separated_by_commas(table: list[str], names: list[str]) -> list[list[str]]:
    with contextlib.suppress(csv.Error):
        rows = list(csv.reader(table, skipinitialspace=True))
        return rows if all(_fits(row, names) for row in rows) else []
    return []


def _fits(row: list[str], names: list[str]) -> bool:
    """Tell whether a row has its cells and only questions ask: a comma may part a sentence."""
    return len(row) == len(names) and not any(
        ASKS.search(cell) and not is_question_word(name.strip())
        for cell, name in zip(row, names, strict=True)
    )


def _from_table(response: str) -> list[Question]:
    lines = [line.strip() for line in response.splitlines()]
    framed = [_cells(line) for line in lines if line.startswith("|") and line.endswith("|")]
    rows = framed or _unframed(lines)
    if len(rows) < 2:
        return []
    header, *body = rows
    body = [row for row in body if not _is_rule(row)]
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
