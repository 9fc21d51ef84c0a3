r"""Questions in answers of plain lines: numbered, lettered, bulleted, labelled, or bare."""

import re
from collections import Counter
from dataclasses import dataclass, field, replace
from enum import IntEnum

from llama_index.finetuning.embeddings.generation.questions import (
    ANSWER_DASH,
    ANSWER_LABEL,
    ASKING_WORD,
    ASKS,
    MARKS,
    NOTE_LABEL,
    QUESTION_LABEL,
    Question,
    is_answer_word,
    without_emphasis,
)
from llama_index.finetuning.embeddings.generation.refusals import begs, offers


class Kind(IntEnum):
    """How a line is marked; of two kinds that ask as much the lower one holds the questions."""

    LABEL = 0
    NUMBER = 1
    ROMAN = 2
    BULLET = 3
    LETTER = 4
    PLAIN = 5
    ANSWER = 6
    NOTE = 7


@dataclass
class _Line:
    kind: Kind
    indent: int
    text: str
    label: str = ""  # of an answer, without its number
    number: str = ""
    mark: str = ""  # the number before its text
    pieces: list[str] = field(default_factory=list)  # the lines that were joined to its text
    answers: list["_Line"] = field(default_factory=list)  # those that stand with a question

    @property
    def asks(self) -> bool:
        return ASKS.search(self.text) is not None


_MARKERS = {
    Kind.NUMBER: re.compile(
        r"(?:[#(\[\uff08]|no\.?\s)?\s*(?:\d{1,3}(?:\.\d{1,2})?"
        r"(?:\\?[.)\]:\u3001\uff0e\uff09\uff1a]+(?!\d)|\s*[-\u2013\u2014./](?=\s)"
        rf"|\s+(?={ASKING_WORD}))"
        r"|[\u4e00\u4e8c\u4e09\u56db\u4e94\u516d\u4e03\u516b\u4e5d\u5341]{1,3}[\u3001\uff0e.]"
        r"|\d\ufe0f?\u20e3|[\u2460-\u2473\u2776-\u277f]|\U0001f51f)\s*(?=\S|$)",
        re.IGNORECASE,
    ),
    Kind.ROMAN: re.compile(r"\(?(?:i{1,3}|iv|vi{0,3}|ix|x)[.)]\s+", re.IGNORECASE),
    Kind.BULLET: re.compile(
        r"(?:[*+~](?=\s)|\\item\b|[-=]>(?=\s)|[-\u2010-\u2015](?=\s|\[|[^\W\d])"
        r"|[\u2022\u00b7\u2023\u2043\u25aa\u25ab\u25a0\u25a1\u25cf\u25cb\u25e6\u2219\u27a2\u27a4"
        r"\u2192\u25ba\u25b8\u30fb\uff65\u25c6\u2605\u2756\u2794\u2713\u2714\u2705\u2753\u2754"
        r"\U0001f449\U0001f539\U0001f538]\ufe0f?)"
        r"\s*(?:\[[ xX]?\]\s*)?"
    ),
    Kind.LETTER: re.compile(r"\(?[a-z][.)]\s+", re.IGNORECASE),
}
_NUMBERS = {Kind.NUMBER: _MARKERS[Kind.NUMBER]}
# A list with these marks has these two first.
_STARTS = {
    Kind.ROMAN: [re.compile(rf"^[^\w\n]*{one}[.)]\s", re.M | re.I) for one in ("i", "ii")],
    Kind.LETTER: [re.compile(rf"^[^\w\n]*{one}[.)]\s", re.M | re.I) for one in ("a", "b")],
}
# "#1 song 2020" and "#define in c" are queries.
_HEADING = re.compile(r"#(?:\s+|#+\s*)")
_RULE = re.compile(r"[\s*_=~#`.|+-]*")
_EMPHASIS = re.compile(r"\*\*|__|\*(?=\w[^*]*\*)|_(?=[^\W_][^_]*_(?!\w))")
_FENCE = re.compile(r"\s*(?:```|~~~)")
_INLINE = re.compile(
    rf"(?<=[{MARKS}:\uff1a])([\"'\u201d*)]*)(?:[^\S\n]+|(?<=\uff1f))"
    r"(?=(?:\*\*)?(?:\(?\d{1,2}[.)\u3001]\s*[^\W\d]|(?:Q|Question )\d{1,2}\s*[:.)]"
    r"|[\u2022\u25cf]\s))"
)
_SENTENCES = re.compile(
    r"(?<=[?\u061f])[\"\u201d]?\s+(?=\S)(?!(?:yes or no|true or false)\s*[?.])"
    r"|(?<=\uff1f)\s*(?=\S)",
    re.IGNORECASE,
)
_QUOTED = re.compile(rf"[\"\u201c]([^\"\u201c\u201d]*[{MARKS}])[\"\u201d]")
_OPENERS = re.compile(
    r"(?:(?:sure|certainly|of course|okay|ok|absolutely|great(?=[.!:,])|no problem|gladly)\b"
    r"[^.!:?]*[.!:,]\s*"
    r"|(?:here(?: are| is|'s|\u2019s)|below (?:are|is)|the following (?:are|is)"
    r"|(?:the|my|one) questions? (?:is|are|would be))\b[^:?]*:\s*)+",
    re.IGNORECASE,
)
_TASKS = (
    "explain|describe|discuss|compare|contrast|define|identify|outline|summari[sz]e|analy[sz]e|"
    "evaluate|calculate|compute|illustrate|justify|assess|determine|differentiate|distinguish|"
    "elaborate|examine|interpret|critique|trace|estimate"
)
_IMPERATIVES = f"{_TASKS}|list|name|state|give|provide|tell|find|show|suggest|argue|mention"
# What models say around their questions, and what they offer to do next.
_TALK = re.compile(
    r"(?:sure|certainly|of course|okay|absolutely|here (?:are|is)|here['\u2019]s|"
    r"below (?:are|is)|based on (?:the|this|your)|let me know|feel free|hope|good luck|"
    rf"please(?!,? (?:{_TASKS}))|"
    r"if you|as an ai|unfortunately|(?:i['\u2019]m )?sorry|thanks?(?: you)?|end of|"
    r"no (?:answer|further|more|questions?)|assistant|great(?=[.!:,]| question)|"
    r"i(?:['\u2019](?:ve|m|d|ll)| apologi[sz]e| have| hope| am| can| could| will| was| do| cannot)|"
    r"(?:these|those|the (?:above|following)|all|both) (?:\w+ )?(?:questions?|queries)|"
    r"there (?:is|are) (?:no|not)\b.*\b(?:information|context|text|content|questions?)|"
    r"(?:as |since |because )?(?:the|this) (?:given |provided |above )?"
    r"(?:text|context|passage|document|excerpt|content|information))\b"
    r"|(?:\w+[\s-]){0,4}(?:questions?|queries|keywords|quiz|exam(?:ination)?|answers?|"
    r"questionnaire)\W*$",
    re.IGNORECASE,
)
# "slow sql queries" is none.
_HEADLINE = re.compile(
    r"(?:\w+ ){0,3}(?i:questions|queries)\W+|(?:[A-Z]\w* )?(?:[Qq]uestions|[Qq]ueries)"
)
_ASKS_IN_WORDS = re.compile(
    rf"(?:^|[,.;]\s+)(?:{_IMPERATIVES})\b|^(?:how|what|why|which|who|whom|whose|when|where|"
    r"(?:in|to|at|for|by|from) (?:what|which|whom)|true or false)\b",
    re.IGNORECASE,
)
_NUMBER = re.compile(r"\d{1,3}")
_NO_LETTERS = re.compile(r"[\W\d_]+")
_TASK = re.compile(rf"(?:{_TASKS})\b", re.IGNORECASE)
_LONGEST_QUERY = 4  # words; of more a line of keywords seldom is
_LONGEST_BEGUN = 1000  # characters; nothing that long is the start of a question
_SHORTEST_SENTENCE = 4  # words; fewer are a topic
_ENDED = re.compile(rf"[.!:;{MARKS}\u3002\uff01\uff1a][\"'\u201d)\]*_\u00bb]*$")


def parse_lines(response: str, limit: int) -> list[Question]:
    """Return the questions among the lines of an answer.

    Each line is marked in some way (a number, a bullet, a label such as "Q1:", nothing). The way
    whose lines ask the most is that of the questions; what is marked otherwise is their options,
    answers, topics and remarks.

    Args:
        response: The answer.
        limit: How many questions were asked for. Only where lines are more than that, some of
            them may be remarks without saying so; a single line with several sentences that ask
            is cut up only while fewer were found.
    """
    lines = _classified(_INLINE.sub(r"\1\n", response), limit)
    surplus = sum(line.kind is Kind.PLAIN for line in lines) > limit
    lines = [line for line in lines if line.text and not _is_talk(line, surplus=surplus)]
    if not lines:
        return []
    if len(lines) <= limit:
        _restore_ordinal(lines)
    counts = Counter(line.kind for line in lines if line.asks)
    chosen = min((line.kind for line in lines), key=lambda kind: (-counts[kind], kind))
    items = [line for line in lines if line.kind is chosen]
    asking = counts[chosen] > 0
    if chosen is Kind.PLAIN:
        items = _plain_questions(items, asking=asking, mixed=len(items) <= limit)
        if len(items) < limit:  # perhaps all stand on one line
            items = [part for line in items for part in _sentences(line)]
    elif asking:
        outer = min(line.indent for line in items) + 1
        # A deeper point that asks nothing explains the one above it; where only deeper ones ask,
        # those above are topics. One that ends in a colon announces those below.
        topics = not any(
            line.asks or (_ended(line.text) and _ASKS_IN_WORDS.match(line.text))
            for line in items
            if line.indent <= outer
        )
        items = [line for line in items if line.asks or (line.indent <= outer and not topics)]
        items = [line for line in items if line.asks or not line.text.endswith((":", "\uff1a"))]
    return [
        Question(line.text, answer) for line, answer in zip(items, _answers(items), strict=True)
    ]


def _restore_ordinal(lines: list[_Line]) -> None:
    """Make a plain line of the only one with a number, where it is no list: "2. Weltkrieg"."""
    numbered = [line for line in lines if line.kind is Kind.NUMBER]
    plain = [line for line in lines if line.kind is Kind.PLAIN]
    if len(numbered) != 1 or len(plain) != len(lines) - 1:
        return
    (line,) = numbered
    place = lines.index(line) + 1
    if place > 1 and line.asks and _NUMBER.findall(line.mark) == [str(place)]:
        line.kind = Kind.PLAIN  # the prompt ended in "1."
        return
    if (line.asks and any(other.asks for other in plain)) or (
        plain and not line.asks and _NUMBER.findall(line.mark) not in ([], ["1"])
    ):
        line.kind = Kind.PLAIN
        if not _ASKS_IN_WORDS.match(line.text):
            line.text = line.mark + line.text


def _answers(items: list[_Line]) -> list[str | None]:
    """Return each question's own answer: that below it, or its one in a key below them all."""
    given = [[answer for answer in line.answers if answer.text] for line in items]
    if given and not any(given[:-1]):
        key = given[-1]
        if len(key) == len(items) and len({answer.label for answer in key}) == 1:
            if all(answer.number for answer in key):
                key.sort(key=lambda answer: int(answer.number))
            return [answer.text for answer in key]
        earlier = {str(number) for number in range(1, len(items))}
        if any(answer.kind is not Kind.ANSWER or answer.number in earlier for answer in key):
            return [None] * len(items)
    return [_last(answers) for answers in given]


def _last(answers: list[_Line]) -> str | None:
    """Return the last of a question's answers, if only that one has its label."""
    alike = [answer for answer in answers if answer.label == answers[-1].label]
    return alike[0].text if len(alike) == 1 else None


def _classified(response: str, limit: int) -> list[_Line]:
    lines: list[_Line] = []
    joined = False  # the line before was text, so this one may be its rest
    aside = False  # below "Answers:", "Explanation:" and the like, until something asks again
    listing = False  # below an answer that ends in a colon: its parts
    answering = False  # the line before was an answer, or the rest of one
    markers = _markers_in(response)
    raws = response.splitlines()
    ahead = _answers_stand_ahead(raws, markers)
    waiting: list[_Line] = []  # the answer that stands ahead of its question
    heading = _Line(Kind.NOTE, 0, "")  # the last answer or note, or the label of those below
    for raw in raws:
        if _RULE.fullmatch(raw) or _FENCE.match(raw):
            joined = False
            continue
        below = bool(lines) and lines[-1].asks and not lines[-1].answers
        line = _marked(raw, markers, has_question=bool(lines) or ahead, below=below)
        if ahead and line.kind is Kind.ANSWER:
            waiting = [line]
            joined = False
        elif line.kind in (Kind.ANSWER, Kind.NOTE):
            aside = not line.text and bool(lines)
            colon = line.text.endswith((":", "\uff1a"))
            listing = line.kind is Kind.ANSWER and colon and bool(lines)
            heading = line
            if line.kind is Kind.ANSWER and lines:
                lines[-1].answers.append(line)
            joined = False
            answering = bool(lines and lines[-1].answers and lines[-1].answers[-1].text)
        elif lines and not lines[-1].text and line.text:
            # A label or number on a line of its own waited for this text.
            lines[-1].text = line.text
            lines[-1].indent = -1  # what follows is the rest of it, however little it is indented
            joined = True
        elif (listing and _is_part(line, of=lines[-1])) or (
            answering and _goes_on(line, of=lines[-1])
        ):
            answer = lines[-1].answers[-1]
            answer.text = f"{answer.text} {line.text}"
        elif aside and not line.asks and not _reopens(line):
            if heading.label.endswith(("answers", "key")):
                if not _is_talk(line, surplus=False):
                    lines[-1].answers.append(line)
            elif line.kind is Kind.PLAIN:
                heading.text = heading.text or line.text
        elif joined and lines and _continues(lines[-1], line):
            lines[-1].pieces = [*(lines[-1].pieces or [lines[-1].text]), line.text]
            lines[-1].text += " " + line.text
        else:
            if line.asks or line.kind is Kind.LABEL:
                line.answers, waiting = waiting, []
            lines.append(line)
            joined, aside, listing, answering = True, False, False, False
    parted = [part for line in lines for part in _parted(line)]
    # More lines than were asked for, where one alone begins to ask: a question on several lines.
    whole = len(lines) <= limit < len(parted) and all(_is_one(line) for line in lines)
    return lines if whole else parted


def _answers_stand_ahead(raws: list[str], markers: dict[Kind, re.Pattern[str]]) -> bool:
    """Tell whether each answer stands above its question: answer, question, answer, question."""
    turns: list[Kind] = []
    for raw in raws:
        line = _marked(raw, markers, has_question=True)
        turn = Kind.LABEL if line.asks else line.kind
        if turn in (Kind.ANSWER, Kind.LABEL) and turn not in turns[-1:]:
            turns.append(turn)
            if turns[0] is Kind.LABEL:
                return False
    return len(turns) > 2 and turns[-1] is Kind.LABEL


def _goes_on(line: _Line, *, of: _Line) -> bool:
    """Tell whether a line goes on with an answer, below a question that is marked in some way.

    Where questions are plain lines, or have no question mark, it may be the next one.
    """
    if of.kind is Kind.PLAIN or not of.asks or not of.answers:
        return False
    if line.asks or _ASKS_IN_WORDS.search(line.text) is not None:
        return False
    if line.kind is Kind.BULLET:
        return of.kind is not Kind.BULLET
    ended = _ended(of.answers[-1].text)
    return line.kind is Kind.PLAIN and line.text[:1].islower() and not ended


def _is_part(line: _Line, *, of: _Line) -> bool:
    """Tell whether a line is a part of the answer that was announced, and no further question."""
    if any(mark in line.text for mark in MARKS) or line.kind is Kind.LABEL:
        return False
    apart = line.indent > of.indent or line.kind is not of.kind
    # Marked as the question is, it is a part only where questions have a question mark.
    alike = of.asks and _ASKS_IN_WORDS.search(line.text) is None
    return (apart or alike) and not _is_talk(line, surplus=False)


def _is_talk(line: _Line, *, surplus: bool) -> bool:
    if line.kind is not Kind.PLAIN:
        return False
    if line.asks:
        return begs(line.text)
    if _TALK.match(line.text) is None:
        return False
    # "great barrier reef bleaching" is a query; talk has an end, or is one line too many.
    return _ended(line.text) or (surplus and not line.text[:1].islower())


def _reopens(line: _Line) -> bool:
    return line.kind is Kind.LABEL or (
        line.kind is not Kind.PLAIN and _ASKS_IN_WORDS.search(line.text) is not None
    )


def _markers_in(response: str) -> dict[Kind, re.Pattern[str]]:
    """Return the markers to look for; "M. tuberculosis" is the second of no lettered list."""
    absent = {
        kind for kind, starts in _STARTS.items() if not all(p.search(response) for p in starts)
    }
    return {kind: marker for kind, marker in _MARKERS.items() if kind not in absent}


def _marked(
    raw: str, markers: dict[Kind, re.Pattern[str]], *, has_question: bool, below: bool = False
) -> _Line:
    """Take a line's marks off and say what they were.

    Args:
        raw: The line.
        markers: The markers to look for.
        has_question: Whether there is a question that it can answer.
        below: Whether that one is the line before.
    """
    expanded = raw.expandtabs(4)
    indent = len(expanded) - len(expanded.lstrip())
    text = raw.strip().lstrip("> ").strip()
    heading = _HEADING.match(text)
    if heading:
        text = re.sub(r"\s+#+$", "", text[heading.end() :])
    kind, mark = Kind.PLAIN, ""
    for _ in range(3):  # marks can be nested: "- 1. Question: ..."
        bare = without_emphasis(text).lstrip("*_ ") if _EMPHASIS.match(text) else text
        if has_question and (answer := ANSWER_LABEL.match(bare)):
            return _answer(answer, indent)
        if below and not ASKS.search(bare) and (answer := ANSWER_DASH.match(bare)):
            return _answer(answer, indent)
        if note := NOTE_LABEL.match(bare):
            line = _answer(note, indent)
            if not (has_question and is_answer_word(line.label)):
                line.kind = Kind.NOTE
            return line
        if _HEADLINE.fullmatch(bare):
            return _Line(Kind.NOTE, indent, raw)
        if label := QUESTION_LABEL.match(bare):
            return _Line(Kind.LABEL, indent, bare[label.end() :].lstrip("*_ ").strip())
        found = next(((k, m) for k, p in markers.items() if (m := p.match(bare))), None)
        if found is None:
            break
        kind = min(kind, found[0])
        text, mark = bare[found[1].end() :], found[1][0]
    if kind is Kind.PLAIN:
        opener = _OPENERS.match(text)
        text = text[opener.end() :] if opener else text
        if not text or offers(text) or (heading and not ASKS.search(text)):
            return _Line(Kind.NOTE, indent, raw)
    return _Line(kind, indent, text.strip(), mark=mark)


def _answer(label: re.Match[str], indent: int) -> _Line:
    """Return the answer behind a label such as "Answer 1:"."""
    words, number = _NO_LETTERS.sub(" ", label[0]).strip().lower(), _NUMBER.search(label[0])
    text = label.string[label.end() :].strip(")]*_ ")
    return _Line(Kind.ANSWER, indent, text, words, number[0] if number else "")


def _continues(previous: _Line, line: _Line) -> bool:
    """Tell whether a line is the rest of the sentence that the line before it began."""
    if line.kind is not Kind.PLAIN or len(previous.text) > _LONGEST_BEGUN:
        return False
    if _ended(previous.text):
        # A whole sentence whose question stands below, deeper than the number before both.
        return (
            previous.kind is not Kind.PLAIN
            and previous.text.endswith((".", "!"))
            and len(previous.text.split()) >= _SHORTEST_SENTENCE
            and not previous.asks
            and line.asks
            and line.indent > previous.indent
        )
    if line.text[:1].islower() and previous.kind is not Kind.PLAIN:
        return True
    begun = _ASKS_IN_WORDS.search(previous.text) is not None
    ends = line.asks and _ASKS_IN_WORDS.match(line.text) is None
    if line.text[:1].islower():
        comma = previous.text.endswith(",") and line.asks
        return previous.text[:1].isupper() and (begun or ends or comma)
    return begun and ends


def _is_one(line: _Line) -> bool:
    """Tell whether the lines that were joined are a long task rather than queries."""
    return (
        line.text[:1].isupper()
        and _TASK.match(line.text) is not None
        and not any(_ASKS_IN_WORDS.match(piece) for piece in line.pieces[1:])
        and max(len(piece.split()) for piece in line.pieces) > _LONGEST_QUERY
    )


def _parted(line: _Line) -> list[_Line]:
    """Part plain lines that were joined and come to no end: they are queries, not a sentence."""
    if line.kind is not Kind.PLAIN or not line.pieces or _ended(line.text):
        return [line]
    *others, last = line.pieces
    parts = [_Line(line.kind, line.indent, text) for text in others]
    return [*parts, replace(line, text=last)]


def _ended(text: str) -> bool:
    return _ENDED.search(text[-20:]) is not None


def _plain_questions(lines: list[_Line], *, asking: bool, mixed: bool) -> list[_Line]:
    found: list[_Line] = []
    asked = False
    for line in lines:
        text = line.text
        asks = line.asks or _ASKS_IN_WORDS.search(text) is not None
        asked = asked or asks
        if asking:
            # Words here, a question there, and no line too many: queries, unless the words begin
            # as an answer to the question before would.
            query = mixed and not _ended(text) and not (asked and text[:1].isupper())
        else:
            # Lines are keywords or statements, as the prompt may have wanted.
            query = not text.endswith((":", "\uff1a"))
        if asks or query:
            found.append(line)
    return found


def unmarked(text: str) -> str:
    """Return a line without the number or label before it."""
    line = _marked(text, _NUMBERS, has_question=False)
    return line.text if line.kind in (Kind.LABEL, Kind.NUMBER) else text


def _sentences(line: _Line) -> list[_Line]:
    parts = _QUOTED.findall(line.text) or [one.strip() for one in _SENTENCES.split(line.text)]
    asking = [part for part in parts if ASKS.search(part)]
    if len(asking) < 2:
        return [line]
    return [_Line(line.kind, line.indent, part) for part in asking]
