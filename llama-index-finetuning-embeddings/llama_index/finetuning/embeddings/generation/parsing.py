"""From an LLM's answer to the questions in it."""

import re
import unicodedata

from llama_index.finetuning.embeddings.generation.lines import parse_lines, unmarked
from llama_index.finetuning.embeddings.generation.questions import MARKS, Question, tidy
from llama_index.finetuning.embeddings.generation.refusals import refuses, says_nothing
from llama_index.finetuning.embeddings.generation.structured import parse_structured

# A question may speak of such tags: a thought begins a line, and ends at the start of one or right
# behind the last word of one.
_THOUGHT = re.compile(
    r"^[^\S\n]*(?:<((?:seed:)?think|thinking|thought|reasoning|reflection|scratchpad|analysis)>"
    r".*?(?:</\1>|\Z)|(?-i:\[THINK\].*?(?:\[/THINK\]|\Z))"
    r"|\u25c1think\u25b7.*?(?:\u25c1/think\u25b7|\Z))",
    re.DOTALL | re.I | re.M,
)
_CLOSED = r"(?:</(?:(?:seed:)?think|thinking|thought|reasoning)>|\[/THINK\]|\u25c1/think\u25b7)"
_THOUGHT_END = re.compile(
    rf"\A.*(?:^[^\S\n]*{_CLOSED}|(?<=[\w.!?)]){_CLOSED}(?=[^\S\n]*$))", re.DOTALL | re.I | re.M
)
_CHANNEL = re.compile(r"\A.*<\|channel\|>final<\|message\|>", re.DOTALL)
# Long runs of blanks say nothing, and patterns would go through them again and again.
_WIDE = re.compile(r"[^\S\n]{9,}")
_EMPTY_LINES = re.compile(r"\n\s*\n")
_MARK = r"(?:<\|[^|<>\n]*\|>|</?s>|\[/?INST\]|<(?:start|end)_of_turn>)"
_SPECIAL = re.compile(rf"^[^\S\n]*(?:{_MARK}[^\S\n]*){{1,9}}|(?:{_MARK}[^\S\n]*){{1,9}}$", re.M)
# No width, or a turn of the direction of writing.
_INVISIBLE = re.compile(r"[\u200b\u200e\u200f\u202a-\u202e\u2060\u2066-\u2069\ufeff]")
_ESCAPED_BREAK = re.compile(r"\\n(?=\s*(?:\d{1,2}[.)]|[-*]\s|Q))")
# Between blanks a question speaks of the tag.
_BREAK = re.compile(
    rf"(?:^|(?<=[\w{MARKS}.!:;,)*\u3002\u201d])|(?<=[{MARKS}.!] )|(?<=[{MARKS}.!][\"'_]))"
    r"(?:<br\s*/?>\s*){1,9}|(?:<br\s*/?>\s*){1,9}$",
    re.I | re.M,
)
_EMPHASIS = "(b|strong|em|i|p|span|u)>"
_EMPHASIS_TAG = re.compile(f"<(/?){_EMPHASIS}", re.I)
_TAGS_ALONE = re.compile(rf"^[^\S\n]*(?:</?{_EMPHASIS}[^\S\n]*)+$", re.I | re.M)
# Behind a number or bullet.
_TAGGED = rf"^([^\w<\n]*(?:\w{{1,3}}[.):][^\w<\n]*)?)<{_EMPHASIS}"
_TAGGED_LINE = re.compile(
    rf"{_TAGGED}(.*)</\2>(?=[^\w<\n(]*(?:\([^()<\n]*\)[^\w<\n]*)?$)", re.I | re.M
)
_TAGGED_LABEL = re.compile(
    rf"{_TAGGED}([^<>\n]{{1,60}}(?:[:.)\uff1a]|(?=</\2>\s*[:\uff1a])))</\2>", re.I | re.M
)
# A few words, which a question about HTML would show its tags on.
_TAGGED_WORDS = re.compile(
    rf"<{_EMPHASIS}(?!(?:text|words?|content|hello|foo|bar)<)"
    r"(?!(?:[^\s<>]+ ){3}[^<>]{0,200}</(?:p|span)>)"  # which would be a paragraph of a page
    r"([^\s<>]+(?: [^\s<>]+){0,11})</\1>",
    re.I,
)
_OF_HTML = re.compile(r"`|\b(?:html5?|tags?|elements?|markup|css|browsers?|render\w*)\b", re.I)
_PARAGRAPH = re.compile(r"</p>\s*(?=<p>)", re.I)
_SIGNS = {"Sm", "Sc"}  # of mathematics and money
_VOWEL_SIGNS = {"Mn", "Mc"}
# Between numbers, or names of one letter.
_OPERATOR = re.compile(r"(?:(?<=\d )|(?<=\W\w ))[-/*%](?= (?:\d|\w\W))")
# "Answer:" is none where it is said again below, of the next question.
_ROLE = re.compile(
    r"\A\s*(?:assistant|ai|output|result|(response|answer)(?![^?\n]*\n[\s\S]*^[^\w\n]*\1\b))"
    r"\s*(?::|\n)\s*",
    re.I | re.M,
)


def parse_questions(response: str, limit: int) -> list[Question]:
    """Return the questions of an answer in their order, each once, however many there are.

    Known shapes: numbered, lettered and bulleted lists, labels ("Q1:", "Frage 2:"), JSON and
    nearly JSON, tags, tables and bare lines. What a model says before, between and behind its
    questions, options, answers, headings and thoughts are no questions.

    Args:
        response: The answer as the LLM gave it.
        limit: How many questions were asked for.
    """
    text = _plain(response)
    structured = parse_structured(text)
    found = (
        parse_lines(text, limit)
        if structured is None
        else [question for one in structured for question in _inside(one)]
    )
    unique: dict[str, Question] = {}
    for question in map(tidy, found):
        key = question_key(question.text)
        told = any(character.isalnum() for character in question.text)
        if told and not says_nothing(key) and not refuses(question.text):
            unique.setdefault(key, question)
    return list(unique.values())


def _inside(structured: Question) -> list[Question]:
    """Return what a string of JSON, a tag or a cell holds, which can have marks of its own."""
    text = _without_emphasis_tags(structured.text).strip()
    if "\n" in text:
        return parse_lines(text, limit=1)
    return [Question(unmarked(text), structured.answer)]


def question_key(text: str) -> str:
    """Return what two questions share that differ in case, punctuation or spaces only.

    "3 - 4" and "3 / 4" do not, nor "x > 0" and "x < 0", nor words with other vowel signs.
    """
    folded = unicodedata.normalize("NFKC", f" {text} ").casefold()
    operators = {match.start() for match in _OPERATOR.finditer(folded)}
    return " ".join(
        "".join(
            c
            if c.isalnum() or c in "+#" or unicodedata.category(c) in _VOWEL_SIGNS
            else f" {c} "
            if i in operators or unicodedata.category(c) in _SIGNS
            else " "
            for i, c in enumerate(folded)
        ).split()
    )


def _plain(response: str) -> str:
    text = _INVISIBLE.sub("", response.replace("\u00a0", " ").replace("\r\n", "\n"))
    text = _SPECIAL.sub("", _CHANNEL.sub("", text))
    text = _THOUGHT_END.sub("", _THOUGHT.sub("", text))
    text = _BREAK.sub("\n", _without_emphasis_tags(text))
    text = _EMPTY_LINES.sub("\n\n", _WIDE.sub(" " * 8, text))
    if "\n" not in text.strip():
        text = _ESCAPED_BREAK.sub("\n", text)
    return _ROLE.sub("", text, count=1)


def _without_emphasis_tags(text: str) -> str:
    """Drop tags around whole lines, labels and a few words; a question may speak of others."""
    text = _TAGGED_LINE.sub(_without_pairs, _TAGS_ALONE.sub("", text))
    text = _TAGGED_LABEL.sub(r"\1**\3**", text)
    return "\n".join(map(_without_tagged_words, text.split("\n")))


def _without_tagged_words(line: str) -> str:
    pairs = {(tag.lower(), words) for tag, words in _TAGGED_WORDS.findall(line)}
    # The same words in other tags are compared.
    if len({words for _, words in pairs}) < len(pairs) or _OF_HTML.search(line):
        return line
    return _TAGGED_WORDS.sub(r"\2", line)


def _without_pairs(line: re.Match[str]) -> str:
    seen = {(tag[1], tag[2].lower()) for tag in _EMPHASIS_TAG.finditer(line[3])}
    whole = {name for end, name in seen if not end and ("/", name) in seen}
    paragraphs = _PARAGRAPH.sub("\n", line[3])
    return line[1] + _EMPHASIS_TAG.sub(
        lambda tag: "" if tag[2].lower() in whole else tag[0], paragraphs
    )
