"""Filters that drop questions which would teach an embedding model the wrong thing."""

import re
import unicodedata
from collections.abc import Callable

from llama_index.finetuning.embeddings.generation.questions import ASKS

QuestionFilter = Callable[[str, str], bool]
"""Takes a question and the text it was made from; True drops the question."""

# Scripts without spaces: Thai, Lao, Burmese, Khmer, kana and Chinese characters.
_UNSPACED = r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff"
_WORDS = re.compile(rf"[{_UNSPACED}]|[^\s{_UNSPACED}]+")
_BETWEEN_WORDS = re.compile(r"[\u2013\u2014/()\[\]{}\u2026]|\.{2,}|--+")
_IS_UNSPACED = re.compile(rf"[{_UNSPACED}]")
_COPIED_WORDS = 6
_CHARACTERS_PER_WORD = 3

_THING = r"(?:text|passage|excerpt|snippet|chunk|paragraph|document|article|section|context)"
_TOLD = r"(?:text|passage|excerpt|snippet|context)"
_THAT = r"(?:the|this|that)"
_GIVEN = r"(?:given|provided|above|following|preceding|previous|aforementioned|supplied)"
_HERE = r"(?:above|provided|given)\b(?! (?:by|the|an?|each|every)\b)"
# Where a clause ends behind such a word, it is the text that was read; a document object model, the
# text editor and the context in Go are the subject itself.
_END = rf"(?=\s*(?:[?.,;:!)]|$)|\s+(?:{_HERE}|(?:about|regarding|concerning)\b))"
_SPEAK = (
    r"(?:say|argue|state|mention|describe|discuss|explain|suggest|imply|claim|report|reveal|tell|"
    r"highlight|convey|address|express|emphasi[sz]e|outline)"
)
_HOLD = r"(?:show|indicate|provide|contain|give|cover|refer to|list|define|present|note)"
_REFERENCES = re.compile(
    "|".join(
        (
            rf"\b(?:the|this|these|that) {_GIVEN} (?:{_THING}|information|data|content)s?\b",
            rf"\b{_THAT} {_THING} {_HERE}",
            rf"\b{_GIVEN} context{_END}|\b(?:the|{_GIVEN}) context information{_END}",
            r"\binformation (?:provided|given)\s*(?:[,.?]|$)",
            r"\b(?:according to|based on|from|using) the information\s*[,?.]",
            rf"\b(?:according to|based on|as per|per|in the context of) {_THAT} {_THING}"
            rf"(?:{_END}|(?= (?:what|who|which|how|why|when|where)\b))",
            rf"\b(?:given|within|in) {_THAT} {_TOLD}{_END}",
            rf"^\W*(?:given|within|from|using) {_THAT} {_THING}\s*,",
            r"\b(?:mentioned|described|discussed|stated|listed|presented|outlined|provided|given|"
            rf"implied|inferred|concluded) (?:in|by|from) {_THAT} {_THING}"
            rf"(?:{_END}| (?:as|by|for|in|on|to|and|or|that|under|which)\b)",
            r"\b(?:learn(?:ed|t)?|gathered|gleaned|deduced|drawn|understood|evidence|examples?)"
            rf" from {_THAT} {_THING}{_END}",
            rf"\bused in {_THAT} {_TOLD} (?:as|for|to)\b",
            rf"\b(?:do|does|did) {_THAT} (?:{_THING}|author) {_SPEAK}\b",
            rf"\b(?:is|was) {_THAT} (?:author|passage|excerpt) \w+ing\b",
            rf"\b(?:do|does|did) {_THAT} (?:text|passage|excerpt|snippet|author) {_HOLD}\b",
            rf"\b(?:do|does|did) {_THAT} {_THING} {_HOLD}{_END}",
            rf"\b(?:do|does|did) {_THAT} (?:article|document|paragraph) (?:provide|give|present)\b",
            # A section of a law provides for something.
            rf"\b(?:do|does|did) {_THAT} document (?:provide|give|list) (?:for|to)\b",
            rf"\b(?:the|this) (?:text|passage|excerpt|snippet|paragraph|context) {_SPEAK}e?[sd]\b",
            rf"\bwhat (?:do|does|did) {_THAT} (?:table|chart|graph|figure|diagram)"
            rf" (?:{_SPEAK}|{_HOLD})",
            r"\b(?:is|was) (?:the|this) (?:text|passage|excerpt|document) (?:\w+ )?about\W*$",
            r"\b(?:focus|idea|message|point|purpose|subject|theme|topic) of (?:the|this) "
            rf"{_THING}{_END}",
            r"^\W*(?:describe|explain|summari[sz]e|use) (?:the|this) (?:context|text|passage)"
            rf"(?:{_END}| (?:in your|to)\b)",
            r"\b(?:the|this) (?:passage|excerpt|snippet)(?=\s*[?.,;:'\"]|$)",
            r"\b(?:im|laut|aus dem) (?:obigen |gegebenen |vorliegenden )?(?:text|abschnitt)\b(?!-)",
            r"\bim (?:obigen|gegebenen) kontext\b(?!-)",
            r"\b(?:selon|d'apr\u00e8s|dans) (?:le|ce) (?:texte|passage|contexte|document)\b(?! d)",
            r"\b(?:seg\u00fan|en) (?:el|este) (?:texto|pasaje|contexto|documento)\b(?! d)",
            # Chinese and Japanese, where the same characters end other words: Japanese literature,
            # uploading a file, "in Chinese".
            r"(?:\u6839\u636e|\u6309\u7167|\u57fa\u4e8e|\u7ed3\u5408)(?:\u6240?(?:\u63d0\u4f9b|\u7ed9\u5b9a|\u7ed9\u51fa)\u7684)?"
            r"\u4e0a\u4e0b\u6587"
            r"|\u4e0a\u4e0b\u6587(?:\u4e2d|\u6240|\u63d0|\u63cf|\u8bf4|\u8bb2|\u4ecb)|\u4e0a\u8ff0"
            r"|(?<![\u7f51\u7dda\u7ebf])\u4e0a\u6587(?!\u4ef6)"
            r"|(?<![\u4e2d\u82f1\u65e5\u6cd5\u5fb7\u4fc4\u97e9\u97d3])\u6587\u4e2d"
            r"|(?<!\u65e5)\u672c\u6587",
        )
    ),
    re.IGNORECASE,
)


def mentions_context(question: str, text: str) -> bool:
    """Tell whether a question speaks of "the context" or "the passage above".

    Nobody who searches can mean a text that they have not seen. "In the context of overfitting"
    and other words about a subject stay.
    """
    return _REFERENCES.search(question) is not None


def copies_text(question: str, text: str) -> bool:
    """Tell whether a question is nothing but a copied piece of the text.

    A copy teaches a model to match strings. It is a run of at least six words of the text, where
    three characters of a script without spaces count as one, or a question that stands in the
    text word for word; a few keywords out of the text are no copy.
    """
    words = _words(question)
    if f" {' '.join(words)} " not in f" {' '.join(_words(text))} ":
        return False
    n_characters = sum(_IS_UNSPACED.match(word) is not None for word in words)
    if len(words) - n_characters + n_characters / _CHARACTERS_PER_WORD >= _COPIED_WORDS:
        return True
    return ASKS.search(question) is not None and question.casefold() in text.casefold()


def _words(text: str) -> list[str]:
    """Return the words without the marks around them; a character of an unspaced script is one."""
    plain = _BETWEEN_WORDS.sub(" ", text.casefold().replace("\u2019", "'"))
    return [word for piece in _WORDS.findall(plain) if (word := _bare(piece))]


def _bare(word: str) -> str:
    marks = "".join({mark for mark in word if unicodedata.category(mark)[0] in "PS"})
    return word.strip(marks)


DEFAULT_FILTERS: tuple[QuestionFilter, ...] = (copies_text, mentions_context)
