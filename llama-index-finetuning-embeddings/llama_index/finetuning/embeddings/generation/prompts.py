"""The prompts, and how options change them."""

import re
import string
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

from llama_index.core.prompts import PromptTemplate

from llama_index.finetuning.embeddings.errors import ConfigurationError

_FRAME = """\
Below is one text out of a large collection.

---------------------
{{context_str}}
---------------------

{task}

Use only what this text says and cover different parts of it. Whoever reads a line does not see \
the text: name the people, companies, products, places and dates that it is about, and never \
speak of "the text", "the context" or "the passage". Do not copy sentences.
Write one per line, without numbers, headings, answers or any other words.
"""

DEFAULT_QA_GENERATE_PROMPT_TMPL = _FRAME.format(
    task="You set an exam. Write {num_questions_per_chunk} different questions that this text "
    "answers."
)

QA_PROMPTS = {
    "exam": DEFAULT_QA_GENERATE_PROMPT_TMPL,
    "search-query": _FRAME.format(
        task="You look for this text without knowing it. Write {num_questions_per_chunk} different "
        "queries that a person would type into a search box and that this text answers: short, "
        "in everyday words, some of them no whole sentence."
    ),
    "keyword": _FRAME.format(
        task="You look for this text without knowing it. Write {num_questions_per_chunk} different "
        "keyword queries of two to six words for which this text is the best result: no "
        "sentences and no question marks."
    ),
}

_PLACEHOLDERS = {"context_str", "num_questions_per_chunk"}
# LlamaIndex leaves a variable that it has no value for where it is.
_VARIABLE = re.compile(r"(?<!\{)\{([^\W\d][\w.]*)\}(?!\})")
_ANSWERS = "\nAfter each one, write its answer on a line of its own that starts with 'Answer:'.\n"
_LANGUAGE = "\nWrite in this language: {language}.\n"


def build_templates(
    templates: str | PromptTemplate | Sequence[str | PromptTemplate],
    *,
    style: str | None,
    language: str | None,
    answers: bool,
) -> tuple[str, ...]:
    """Check the prompt templates and add what the options ask for.

    Args:
        templates: One template, as text or LlamaIndex's, or several that are mixed.
        style: A key of ``QA_PROMPTS`` that replaces the default template.
        language: The language to write in, as the prompt should name it.
        answers: Whether to ask for an answer to each question.

    Raises:
        ConfigurationError: A template or the style can't be used.
    """
    if isinstance(templates, PromptTemplate):
        templates = [templates]
    if not isinstance(templates, str | Sequence):
        raise ConfigurationError(
            "'qa_generate_prompt_tmpl' must be a template, or several as a list (got "
            f"{type(templates).__name__})."
        )
    several = [templates] if isinstance(templates, str) else templates
    chosen = tuple(_text_of(one) if isinstance(one, PromptTemplate) else one for one in several)
    if style is not None:
        if not isinstance(style, str) or style not in QA_PROMPTS:
            raise ConfigurationError(f"'style' must be in {tuple(QA_PROMPTS)} (got {style!r}).")
        if chosen != (DEFAULT_QA_GENERATE_PROMPT_TMPL,):
            raise ConfigurationError(
                "'style' chooses a prompt, and so does 'qa_generate_prompt_tmpl': give one of "
                f"them (got style={style!r} and a template; QA_PROMPTS holds those of the styles)."
            )
        chosen = (QA_PROMPTS[style],)
    if not chosen:
        raise ConfigurationError("'qa_generate_prompt_tmpl' must hold a template (got none).")
    for template in chosen:
        _check(template)
    if language is not None and not (isinstance(language, str) and language.strip()):
        raise ConfigurationError(f"'language' must name a language (got {language!r}).")
    extra = _ANSWERS if answers else ""
    if language is not None:
        extra += _LANGUAGE.format(language=language.replace("{", "{{").replace("}", "}}"))
    return tuple(template + extra for template in chosen)


def _text_of(template: PromptTemplate) -> str:
    """Return a template's text: what it has filled in is in it, and its variables by our names."""
    if template.function_mappings:
        raise ConfigurationError(
            "'qa_generate_prompt_tmpl' must be a template without 'function_mappings' (got "
            f"{list(template.function_mappings)}). Give the text."
        )
    mapped = (template.template_var_mappings or {}).values()
    fields = set(_VARIABLE.findall(template.template))
    if not _PLACEHOLDERS.union(mapped, template.kwargs).issuperset(fields):
        _refuse_fields(fields, "Give a template with other braces as a text.")
    marks: dict[str, Any] = {name: f"\0{name}\0" for name in sorted(_PLACEHOLDERS)}
    text = template.format(**marks).replace("{", "{{").replace("}", "}}")
    for name, mark in marks.items():
        text = text.replace(mark, f"{{{name}}}")
    return text


def _check(template: str) -> None:
    try:
        fields = {name for _, name, _, _ in string.Formatter().parse(template) if name is not None}
        if fields <= _PLACEHOLDERS:
            # What a format or a conversion makes of them comes out here.
            template.format(context_str="text", num_questions_per_chunk=1)
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise ConfigurationError(
            f"'qa_generate_prompt_tmpl' is no template ({error}; got {template!r}). Write braces "
            "that are part of the text twice."
        ) from error
    if "context_str" not in fields or not fields <= _PLACEHOLDERS:
        _refuse_fields(fields, "Write braces that are part of the text twice.")


def _refuse_fields(fields: Iterable[str], remedy: str) -> NoReturn:
    raise ConfigurationError(
        "'qa_generate_prompt_tmpl' must have the placeholder {context_str}, may have "
        "{num_questions_per_chunk}, and no other "
        f"(got {sorted(fields)}). {remedy}"
    )
