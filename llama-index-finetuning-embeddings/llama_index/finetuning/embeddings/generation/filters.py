"""Filters that drop questions which would teach an embedding model the wrong thing."""

import re
from collections.abc import Callable

from llama_index.finetuning.embeddings.generation.questions import ASKS

QuestionFilter = Callable[[str, str], bool]
"""Takes a question and the text it was made from; True drops the question."""

_WORDS = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|\w+")
_COPIED_WORDS = 6

_THING = r"(?:text|passage|excerpt|snippet|chunk|paragraph|document|article|section|context)"
_THAT = r"(?:the|this|that)"
_GIVEN = r"(?:given|provided|above|following|preceding|previous|aforementioned|supplied)"
_SAYS = (
    r"(?:say|state|mention|describe|discuss|explain|suggest|indicate|provide|contain|give|cover|"
    r"refer|imply|list|define|present|claim|report|note)"
)
_REFERENCES = re.compile(
    "|".join(
        (
            rf"\b(?:the|this|these|that) {_GIVEN} (?:{_THING}|information|data|content)s?\b",
            rf"\b{_GIVEN} context\b|\bcontext (?:information|{_GIVEN})\b",
            rf"\b(?:the|this|that) (?:{_THING}|information) {_GIVEN}\b",
            rf"\b(?:according to|based on|as per|per|from|using) {_THAT} {_THING}\b(?! of\b)",
            rf"\bin {_THAT} (?:text|passage|excerpt|snippet|context)\b(?! of\b)",
            rf"\bthe context of {_THAT} {_THING}\b|\binformation (?:provided|given)\s*(?:[,.?]|$)",
            r"\b(?:mentioned|described|discussed|stated|listed|presented|outlined|provided|given)"
            rf" (?:in|by) {_THAT} {_THING}\b(?! of\b)",
            rf"\b(?:do|does|did|is|are|was) {_THAT} (?:{_THING}|author) {_SAYS}",
            rf"\b(?:the|this) (?:text|passage|excerpt|snippet|paragraph|context) {_SAYS}",
            r"\b(?:the|this) context\b(?! of\b| in which\b)",
            r"\b(?:the|this) (?:passage|excerpt|snippet)(?=\s*[?.,;:'\"]|$)",
            r"\b(?:im|laut|aus dem) (?:obigen |gegebenen |vorliegenden )?(?:text|abschnitt)\b",
            r"\bim (?:obigen|gegebenen) kontext\b",
            r"\b(?:selon|d'apr\u00e8s|dans) (?:le|ce) (?:texte|passage|contexte|document)\b(?! d)",
            r"\b(?:seg\u00fan|en) (?:el|este) (?:texto|pasaje|contexto|documento)\b(?! d)",
            r"\u4e0a\u4e0b\u6587|\u4e0a\u6587|\u4e0a\u8ff0|\u6587\u4e2d|\u672c\u6587",
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

    A copy teaches a model to match strings. It is a run of at least six words of the text, or a
    question that stands in the text word for word; a few keywords out of the text are no copy.
    """
    words = _WORDS.findall(question.casefold())
    if f" {' '.join(words)} " not in f" {' '.join(_WORDS.findall(text.casefold()))} ":
        return False
    if len(words) >= _COPIED_WORDS:
        return True
    return ASKS.search(question) is not None and question.casefold() in text.casefold()


DEFAULT_FILTERS: tuple[QuestionFilter, ...] = (copies_text, mentions_context)
