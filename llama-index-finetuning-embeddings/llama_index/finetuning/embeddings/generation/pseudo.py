"""Queries without an LLM: what a text itself holds that could stand for a query."""

import logging
import re
import uuid
from collections.abc import Sequence
from typing import Literal

from llama_index.core.schema import BaseNode

from llama_index.finetuning.embeddings.dataset import EmbeddingQAFinetuneDataset
from llama_index.finetuning.embeddings.errors import ConfigurationError, GenerationError
from llama_index.finetuning.embeddings.generation.journal import encodable
from llama_index.finetuning.embeddings.generation.options import texts_of

logger = logging.getLogger(__name__)

_METHODS = ("auto", "title", "first_sentence")
_NAMESPACE = uuid.UUID("5b1d6a52-54b7-5c37-a6b5-0f3d1d0f7a44")
_TITLE_KEYS = ("title", "document_title", "section", "heading", "header")
_HEADING = re.compile(
    r"\A\s*#{1,6}\s+(?P<title>\S(?:[^\n]*?\S)?)(?:[ ]+#+)?[ ]*\n+(?P<body>.*)\Z", re.DOTALL
)
# As in reStructuredText, with or without the line above; front matter is none.
_UNDERLINED = re.compile(
    r"\A\s*(?!(?:---|\+\+\+)[ ]*\n\w[\w-]*(?::\s|[ ]?=))"
    r"(?:([=\-~^*#\"+])\1{2,}[ ]*\n(?=[^\n]+\n\1{3}))?[ ]*(?P<title>[^\n]*\S)[ ]*\n"
    r"(?(1)\1{3,}|(?:={3,}|-{3,}))\s*\n(?P<body>.*)\Z",
    re.DOTALL,
)
# What a line begins with tells its kind, so that each is gone through once.
_FRONT_MATTER = re.compile(
    r"\A\s*---[ ]*\n(?P<fields>\n*(?=\w)(?:(?:\w[\w-]*:(?=\s)|[ \t]|-(?!--[ ]*\n))[^\n]*\n|\n)+)"
    r"---[ ]*\n(?P<body>.*)\Z",
    re.DOTALL,
)
# Without one of these it may be a part of the text between two rules.
_KNOWN_FIELD = re.compile(
    r"^(?:[Tt]itle|subtitle|authors?|date|layout|tags|categor(?:y|ies)|description|summary|slug|"
    r"permalink|draft|keywords|lang|aliases|weight|sidebar_\w+|published|updated|lastmod):",
    re.M,
)
_TITLE_FIELD = re.compile(
    r"^title:[ ]*(?![\"']{1,2}[ ]*$|[>|])([\"']?)(?P<title>\S.*?)\1[ ]*$", re.I | re.M
)
_TITLE_LINE = re.compile(
    r"\A\s*(?P<title>[^\n]{0,119}[^\s.!?:;,\u3002\uff1f\uff01])[ ]*\n[ ]*\n(?P<body>.*)\Z",
    re.DOTALL,
)
_WORD = re.compile(r"[^\W\d_]")
_ENUMERATED = re.compile(r"\A\(?\w{1,4}\)\s+(?=\w)")
_SENTENCE = re.compile(
    r"""\A(?P<title>.{4,400}?(?:(?<=.{12})(?:
        (?<!\b[A-Z]) (?<!\b(?:Mr|Dr|Ms|St|vs|No|al|cf)) (?<!\b(?:Mrs|Inc|Ltd|Fig|etc|e\.g|i\.e))
        (?<!\bapprox) [.!?]["'\u201d)]*(?=\s) | [\u0964\u061f\u06d4]
    ) | [\u3002\uff01\uff1f]))\s*(?P<body>.*)\Z""",
    re.DOTALL | re.VERBOSE,
)


def pseudo_query_pairs(
    nodes: Sequence[BaseNode], method: Literal["auto", "title", "first_sentence"] = "auto"
) -> EmbeddingQAFinetuneDataset:
    """Make a dataset from what texts hold, at no cost: a start, where no LLM can be paid for.

    A part of the text stands for the query and the rest is the document. The part leaves the
    document, since a model that only matches copied strings learns nothing (the inverse cloze
    task of Lee et al. 2019, https://arxiv.org/abs/1906.00300). Nodes in which no such part is
    found are documents without a query. Equal queries become one with several documents.

    Questions by an LLM are closer to what people ask: see ``generate_qa_embedding_pairs``.

    Args:
        nodes: The nodes; those without a text are skipped.
        method: ``"title"``: a title in the metadata, or a heading above the text, to the body.
            ``"first_sentence"``: the first sentence to the rest. ``"auto"``: the title where
            there is one, else the first sentence.

    Raises:
        ConfigurationError: An argument can't be used.
        GenerationError: No text has such a part.
    """
    if method not in _METHODS:
        raise ConfigurationError(f"'method' must be in {_METHODS} (got {method!r}).")
    if not isinstance(nodes, BaseNode):
        nodes = list(nodes)  # they may come from a generator
    texts, _ = texts_of(nodes)
    metadata = {node.node_id: node.metadata for node in nodes}
    corpus: dict[str, str] = {}
    found: dict[str, list[str]] = {}
    for node_id, text in texts.items():
        split = None
        title, body = _without_front_matter(_plain_lines(text))
        if method != "first_sentence":
            split = (title, body) if title and body else _by_title(body, metadata[node_id])
        if split is None and method != "title":
            split = _split(body, _SENTENCE)
        query, corpus[node_id] = split or ("", text)
        if query:
            found.setdefault(query, []).append(node_id)
    if not found:
        raise GenerationError(
            f"None of {len(texts):,} texts has a query in it (method {method!r}). Use another "
            "method, or generate_qa_embedding_pairs with an LLM."
        )
    logger.info("%d queries out of %d texts by method %r", len(found), len(texts), method)
    ids = {query: str(uuid.uuid5(_NAMESPACE, query)) for query in found}
    return EmbeddingQAFinetuneDataset(
        queries={ids[query]: query for query in found},
        corpus=corpus,
        relevant_docs={ids[query]: node_ids for query, node_ids in found.items()},
    )


def _plain_lines(text: str) -> str:
    return text.lstrip("\ufeff").replace("\r\n", "\n").replace("\r", "\n")


def _without_front_matter(text: str) -> tuple[str, str]:
    """Return the title in the YAML before a text, and the text without that YAML and title."""
    match = _FRONT_MATTER.match(text)
    if match is None or not _KNOWN_FIELD.search(match["fields"]):
        return "", text
    field = _TITLE_FIELD.search(match["fields"])
    title, body = " ".join(field["title"].split()) if field else "", match["body"].strip()
    heading = _split(body, _HEADING)
    return title, heading[1] if heading and heading[0] == title else body


def _by_title(text: str, metadata: dict[str, object]) -> tuple[str, str] | None:
    split = _split(text, _HEADING) or _split(text, _UNDERLINED)
    if split is not None:
        return split
    split = _split(text, _TITLE_LINE)
    if split is not None and not _ends_code(split[0]):
        return split
    named = {key.lower(): value for key, value in metadata.items()}
    title = next((named[key] for key in _TITLE_KEYS if isinstance(named.get(key), str)), None)
    if title is None or not str(title).strip():
        return None
    title = encodable(" ".join(str(title).split()))
    # Not where the title is the start of a longer word.
    body = re.sub(rf"\A{re.escape(title)}(?!\w)", "", text.strip()).strip()
    return (title, body) if body else None


def _ends_code(line: str) -> bool:
    """Tell whether a line closes what a line before it opened, such as "msg)"."""
    unnumbered = _ENUMERATED.sub("", line)
    return not _WORD.search(line) or unnumbered.count(")") > unnumbered.count("(")


def _split(text: str, pattern: re.Pattern[str]) -> tuple[str, str] | None:
    match = pattern.match(text.strip())
    if match is None or not match["body"].strip():
        return None
    return " ".join(match["title"].split()), match["body"].strip()
