r"""What one question looks like: its marks, its labels, and the words around it."""

import re
from typing import NamedTuple


class Question(NamedTuple):
    """A question out of an LLM's answer, with its answer where one was given."""

    text: str
    answer: str | None = None


# The question marks of Latin, CJK, Arabic, Armenian and Ethiopic script; a Greek one ends a line.
MARKS = "?\uff1f\u061f\u055e\u1367"
ASKS = re.compile(rf"[{MARKS}]|[\u037e;][\"'\u00bb\u201d)*]*$")

_QUESTION_WORDS = (
    "questions?|ques|query|queries|search quer(?:y|ies)|q|"
    "frage|pregunta|domanda|pergunta|vraag|pytanie|"
    "\u0432\u043e\u043f\u0440\u043e\u0441|\u95ee\u9898|\u554f\u984c|\u8cea\u554f|\u8d28\u95ee|"
    "\u95ee|\u554f|\uc9c8\ubb38|\u0633[\u0624\u0648]\u0627\u0644|"
    # Turkish, Indonesian, Vietnamese, Nordic, Czech, Romanian, Hungarian, Ukrainian, Greek, Hindi,
    # Arabic, Hebrew and Thai.
    "soru|c\u00e2u|pertanyaan|c\u00e2u h\u1ecfi|fr\u00e5ga|sp\u00f8rgsm\u00e5l|"
    "sp\u00f8rsm\u00e5l|kysymys|ot\u00e1zka|\u00eentrebarea|k\u00e9rd\u00e9s|"
    "\u043f\u0438\u0442\u0430\u043d\u043d\u044f|"
    "\u03b5\u03c1\u03ce\u03c4\u03b7\u03c3\u03b7|\u092a\u094d\u0930\u0936\u094d\u0928|"
    "\u0627\u0644\u0633\u0624\u0627\u0644|\u05e9\u05d0\u05dc\u05d4|"
    "\u0e04\u0e33\u0e16\u0e32\u0e21(?:\u0e17\u0e35\u0e48)?"
)
_ANSWER_WORDS = (
    "(?:expected |correct |sample |model |reference |short |suggested )?answers?(?: key)?|ans|"
    "response|solution|antwort|r\u00e9ponse|respuesta|risposta|resposta|antwoord|odpowied\u017a|"
    "\u043e\u0442\u0432\u0435\u0442|\u7b54\u6848|\u56de\u7b54|\u7b54|\ub2f5\ubcc0|\ub2f5|"
    "\u0627\u0644\u0625\u062c\u0627\u0628\u0629|\u067e\u0627\u0633\u062e|"
    "cevap|jawaban|tr\u1ea3 l\u1eddi|svar|vastaus|odpov\u011b\u010f|"
    "r\u0103spuns(?:ul)?|v\u00e1lasz|"
    "\u0432\u0456\u0434\u043f\u043e\u0432\u0456\u0434\u044c|"
    "\u03b1\u03c0\u03ac\u03bd\u03c4\u03b7\u03c3\u03b7|\u0909\u0924\u094d\u0924\u0930|"
    "\u05ea\u05e9\u05d5\u05d1\u05d4|"
    "\u0e04\u0e33\u0e15\u0e2d\u0e1a(?:\u0e17\u0e35\u0e48)?"
)
_NOTE_WORDS = (
    "explanation|rationale|reason(?:ing)?|difficulty(?: level)?|type|category|topic|level|source|"
    "context|notes?|hint|references?|points|marks|keywords?|options|choices|focus|skill|purpose|"
    "tags?|relevance|bloom'?s?(?: level| taxonomy)?|cognitive level|learning objective|objective|"
    "evidence|quote|page"
)
_KINDS = (
    "multiple[- ]choice|short[- ]answer|true[ /]or[ /]false|true/false|essay|open[- ]ended|"
    "factual|inferential|analytical|conceptual|comprehension|application|analysis|evaluation|"
    "recall|inference|critical thinking|easy|medium|hard|basic|intermediate|advanced"
)
ASKING_WORD = r"(?:what|how|why|which|who|when|where|explain|describe)\b"
_SEPARATOR = (
    r"(?:\s*[:.)\]\uff1a\u3001\uff0e\u3011]+|\s+[-\u2013\u2014](?=\s)"
    rf"|(?<=\d)\s+(?={ASKING_WORD}))"
)

# "Question 1:", "Q2.", "Question 1 of 2 (easy) -", with the rest of the line behind it.
QUESTION_LABEL = re.compile(
    r"\u3010?(?:(?:first|second|third|fourth|fifth|final)\s*:|"
    r"(?:(?:first|second|third|fourth|fifth|final) )?"
    rf"(?:{_QUESTION_WORDS}|keywords?(?=\s*\d))\.?\s*"
    r"(?:#|\u2116|no?\.|n[\u00ba\u00b0]|nr\.?|s\u1ed1)?\s*"
    r"(?:\d+(?:\s*(?:of|/)\s*\d+)?|[ivx]+|one|two|three|four|five)?\s*(?:\([^)]*\)\s*)?"
    rf"(?:{_SEPARATOR}|$))\s*",
    re.IGNORECASE,
)
# "Answer:", "A1:", "(Answer: ...)", "Answer - "; "A4 - sizes" and "solution - how" are queries.
ANSWER_LABEL = re.compile(
    rf"[(\[]?(?:(?:{_ANSWER_WORDS}|a)\s*\d*\s*(?:\([^)]*\)\s*)?[:\uff1a]"
    rf"|(?!solution|response)(?:{_ANSWER_WORDS})\s*\d*\s[-\u2013\u2014]\s)\s*",
    re.IGNORECASE,
)
# Below a question: "A1 - ", "Solution - ".
ANSWER_DASH = re.compile(
    rf"(?:(?:{_ANSWER_WORDS})\s*\d*|a\s?\d+)\s[-\u2013\u2014]\s+", re.IGNORECASE
)
NOTE_LABEL = re.compile(
    rf"[(\[]?(?:(?:{_NOTE_WORDS})\s*(?:\([^)]*\)\s*)?[:\uff1a]"
    # Without a mark behind it "source of the nile" is a query.
    rf"|(?:{_NOTE_WORDS}|{_ANSWER_WORDS})"
    r"(?: (?:of|for) [\w ]{1,60}[:\uff1a*_](?=[:\uff1a*_ ]*$))?[:\uff1a*_ ]*$"
    r"|answers?(?: key)? (?:of|for) [\w ]{1,60}$)",
    re.IGNORECASE,
)

# Keys and names of columns, their words parted by blanks.
_QUESTION_KEY = re.compile(
    rf"\d+|(?:{_QUESTION_WORDS}|text|keywords?) ?(?:text|string|list)? ?\d*"
    r"|(?:generated|search|exam|quiz|user) (?:question|query)"
    r"|(?:search|keyword|query|user) (?:term|phrase)s?"
    # "number of questions" is a count, and "key terms" stand beside a question.
    r"|(?!n |no |num|total|count)(?:\w+ ){1,3}(?:questions|queries)(?: list)?",
    re.IGNORECASE,
)
_ANSWER_KEY = re.compile(rf"(?:{_ANSWER_WORDS}|a) ?(?:text)? ?\d*", re.IGNORECASE)
_KEY_BREAK = re.compile(r"(?<=[a-z])(?=[A-Z])|[\s_-]+")

# "Multiple choice: ", "(Easy) ", "[Inference]" before a capital letter.
_KIND_LABEL = re.compile(
    rf"(?:(?i:(?:{_KINDS})(?: question)?)\s*(?:[:\uff1a]|\s[-\u2013\u2014]\s)|"
    r"[(\[](?:[^\W\d][\w/-]*)(?: [\w/-]+){0,3}[)\]]:?)\s*"
    r"(?=[\"'\u201c\u00bf]?[A-Z\u00bf\u00c0-\u00dd])"
)
# Around one word alone underscores are code: "__init__".
_UNDERSCORES = r"__(?!\w+__(?!\w))"
_BOLD_LABEL = re.compile(
    rf"(?:\*\*|{_UNDERSCORES})(?:[^*_?]{{1,60}}?[:\uff1a]\s*(?:\*\*|__)"
    r"|[^*_?]{1,60}(?:\*\*|__)\s*[:\uff1a])\s*(?=\S)"
)
# Not past the next mark: each is looked at once, however many were never closed. Between letters
# or digits "**" is a power.
_BOLD = re.compile(
    rf"(?<![A-Za-z0-9_])(\*\*\*|\*\*|___|{_UNDERSCORES})(?=\S)((?:(?!\1).)+)(?<=\S)\1"
    r"(?![A-Za-z0-9_])"
)
_QUOTES = {'"': '"', "'": "'", "`": "`", "*": "*", "_": "_", "\u201c": "\u201d", "\u00ab": "\u00bb"}
_QUOTES |= {"\u201e": "\u201c", "\u2018": "\u2019", "\u300c": "\u300d", "\u300e": "\u300f"}
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_STRAY = re.compile(rf"(?<=[{MARKS}])\s*[;,.|]+$")
# What stands behind a question mark and is no part of the question.
_AFTER_MARK = re.compile(
    rf"""(?<=[{MARKS}])(?P<close>["'\u201d*_]*)\s*
    (?: [(\[-]*\s*(?:{_ANSWER_WORDS.replace(" ", "[ ]")}|a)\s*[:\uff1a]\s*(?P<answer>.*)
      | [(\[-]*\s*(?:{_NOTE_WORDS.replace(" ", "[ ]")})\s*[:\uff1a].*
      | (?:this|the)\s(?:question|answer|correct[ ]answer)\b.*
      | [-\u2013\u2014]+\s.*
      | [(\[][^()\[\]]*[)\]]\W{{0,9}}
    )$""",
    re.IGNORECASE | re.DOTALL | re.VERBOSE,
)


def is_question_word(word: str) -> bool:
    """Tell whether a JSON key or a column's name announces a question."""
    return _QUESTION_KEY.fullmatch(_parted(word)) is not None


def is_answer_word(word: str) -> bool:
    """Tell whether a JSON key or a column's name announces an answer."""
    return _ANSWER_KEY.fullmatch(_parted(word)) is not None


def _parted(key: str) -> str:
    """Part the words of a key such as "searchQueries" or "search_queries"."""
    return _KEY_BREAK.sub(" ", key.strip())


def without_emphasis(text: str) -> str:
    """Remove Markdown's bold, which answers put around anything."""
    return _BOLD.sub(r"\2", text)


def tidy(question: Question) -> Question:
    """Return the question alone: no emphasis, quotes, kind, points, remark or inline answer."""
    text = _spaced(question.text)
    label = _BOLD_LABEL.match(text)
    if label is not None and ASKS.search(text, label.end()):
        text = text[label.end() :]
    text = without_emphasis(text)
    answer = question.answer
    tail = _AFTER_MARK.search(text)
    if tail is not None:
        if tail["answer"]:
            answer = answer or tail["answer"].rstrip(")] ")
        text = text[: tail.start()] + tail["close"]
    text = _unquoted(text)
    kind = _KIND_LABEL.match(text)
    if kind is not None and ASKS.search(text, kind.end()):
        text = text[kind.end() :]
    text = _unquoted(text)
    return Question(text, _spaced(answer or "") or None)


def _spaced(text: str) -> str:
    return " ".join(_CONTROL.sub(" ", text).split())


def _unquoted(text: str) -> str:
    text = _STRAY.sub("", text.strip())
    while len(text) > 1:
        if text[-1] in ",;" and text[-2] in "\"'\u201d`":
            text = text[:-1]
        closing = _QUOTES.get(text[0])
        if closing is None or text[-1] != closing or closing in text[1:-1]:
            break
        text = text[1:-1].strip()
    return text
