"""What a run was asked to do, checked before anything is paid for."""

import hashlib
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any

from llama_index.core.llms.llm import LLM
from llama_index.core.schema import BaseNode, MetadataMode

from llama_index.finetuning.embeddings.errors import ConfigurationError, shown
from llama_index.finetuning.embeddings.files import check_writable
from llama_index.finetuning.embeddings.generation.filters import QuestionFilter
from llama_index.finetuning.embeddings.generation.journal import Key, digest, encodable, journal_of
from llama_index.finetuning.embeddings.validation import check_integer, is_encodable

logger = logging.getLogger(__name__)

_NO_NAME = "unknown"  # what an LLM's metadata say by default


@dataclass(frozen=True)
class Options:
    """The options of one run; the arguments of ``generate_qa_embedding_pairs``."""

    templates: tuple[str, ...]
    num_questions: int
    retry_limit: int
    on_failure: str
    save_every: int
    output_path: Path
    verbose: bool
    num_workers: int
    retry_wait: float
    filters: Sequence[QuestionFilter]
    answers_path: Path | None
    sample_size: int | None
    seed: int

    def __post_init__(self) -> None:
        at_least_one = {
            "num_questions_per_chunk": self.num_questions,
            "retry_limit": self.retry_limit,
            "save_every": self.save_every,
            "num_workers": self.num_workers,
            "sample_size": 1 if self.sample_size is None else self.sample_size,
        }
        for name, value in at_least_one.items():
            check_integer(name, value, minimum=1)
        check_integer("seed", self.seed, minimum=0)
        if self.on_failure not in ("continue", "fail"):
            raise ConfigurationError(
                f"'on_failure' must be in ('continue', 'fail') (got {self.on_failure!r})."
            )
        if not isinstance(self.retry_wait, Real) or not 0 <= self.retry_wait < math.inf:
            raise ConfigurationError(
                f"'retry_wait' must be a number of seconds from 0 (got {self.retry_wait!r})."
            )
        if not isinstance(self.filters, Sequence) or not all(map(callable, self.filters)):
            raise ConfigurationError(
                "'filters' must be a list of functions of a question and its text that return True "
                f"to drop the question (got {self.filters!r}); [] drops none."
            )
        for name, path in (("output_path", self.output_path), ("answers_path", self.answers_path)):
            if path is not None and path.is_dir():
                raise ConfigurationError(f"'{name}' must be a file (got the folder {str(path)!r}).")
        if self.answers_path is not None:
            check_writable(self.answers_path, name="answers_path", folder=False)
            taken = {self.output_path.resolve(), self.journal_path.resolve()}
            if self.answers_path.resolve() in taken:
                raise ConfigurationError(
                    "'answers_path' must be a file of its own (got "
                    f"{str(self.answers_path)!r}, where the questions go)."
                )

    @property
    def journal_path(self) -> Path:
        """The journal's place, beside the dataset."""
        return journal_of(self.output_path)

    def template_for(self, text: str) -> str:
        """Return a text's prompt: the same in every run, whatever its node is called."""
        return self.templates[_rank(self.seed, "prompt", text) % len(self.templates)]

    def key_for(self, node_id: str, text: str, model: str) -> Key:
        """Return what an answer for a node is filed under."""
        prompt = self.template_for(text).format(
            context_str="{context_str}", num_questions_per_chunk=self.num_questions
        )
        return Key(node_id, digest(text), digest(prompt), model)

    def sample(self, texts: Mapping[str, str]) -> list[str]:
        """Choose the nodes to ask about by their texts; a larger sample holds the smaller one."""
        if self.sample_size is None:
            return list(texts)
        ranked = sorted(texts, key=lambda node_id: _rank(self.seed, "node", texts[node_id]))
        chosen = set(ranked[: self.sample_size])
        return [node_id for node_id in texts if node_id in chosen]


def texts_of(nodes: Sequence[BaseNode]) -> tuple[dict[str, str], list[str]]:
    """Return the texts by node id, and the ids of the nodes that have none.

    Raises:
        ConfigurationError: Something is no node, or no node has a text.
    """
    one = isinstance(nodes, BaseNode)
    several = not one and isinstance(nodes, Iterable)
    given: list[Any] = list(nodes) if several else [nodes]  # they may come from a generator
    wrong = [node for node in given if not (several and isinstance(node, BaseNode))]
    if wrong:
        found = shown(sorted({type(node).__name__ for node in wrong}))
        raise ConfigurationError(
            f"'nodes' must be a list of LlamaIndex nodes (got {'some' if several else 'one'} "
            f"{found}). "
            "Make nodes of texts with TextNode(text=...)."
        )
    strange = [node.node_id for node in given if not is_encodable(node.node_id)]
    if strange:
        raise ConfigurationError(
            f"'nodes' must have ids that a file can hold; {len(strange):,} hold half of a "
            f"surrogate pair: {shown(strange)}. Give these nodes other ids."
        )
    texts: dict[str, str] = {}
    replaced: list[str] = []
    for node in given:
        text = encodable(node.get_content(metadata_mode=MetadataMode.NONE))
        if texts.setdefault(node.node_id, text) != text:
            replaced.append(node.node_id)
            texts[node.node_id] = text
    if replaced:
        logger.warning(
            "%d nodes have the id of another node and replace it: %s",
            len(replaced),
            shown(replaced),
        )
    empty = [node_id for node_id, text in texts.items() if not text.strip()]
    if len(empty) == len(texts):
        raise ConfigurationError(
            f"'nodes' must hold at least one node with a text (got {len(texts):,} nodes, "
            f"{len(empty):,} of them empty)."
        )
    if empty:
        logger.warning("%d nodes have no text and are skipped: %s", len(empty), shown(empty))
    return {node_id: text for node_id, text in texts.items() if text.strip()}, empty


def model_name(llm: LLM) -> str:
    """Return the name that tells one model's answers from another's.

    Raises:
        ConfigurationError: It is no LLM.
    """
    if isinstance(llm, type):
        raise ConfigurationError(
            f"'llm' must be a LlamaIndex LLM (got the class {llm.__name__}). Write "
            f"{llm.__name__}(...)."
        )
    if not callable(getattr(llm, "complete", None)) or not hasattr(llm, "class_name"):
        raise ConfigurationError(
            f"'llm' must be a LlamaIndex LLM (got {type(llm).__name__}); for questions without "
            "one use pseudo_query_pairs."
        )
    try:
        name = llm.metadata.model_name
    except Exception:
        # Some integrations look up the context size there and fail for a model they don't know.
        name = getattr(llm, "model", _NO_NAME)
    if name in ("", _NO_NAME):
        # The class names of LLMs that people write themselves are all the same.
        name = type(llm).__qualname__
    return f"{llm.class_name()}/{name}"


def _rank(seed: int, purpose: str, text: str) -> int:
    data = f"{seed}\x1f{purpose}\x1f{text}".encode()
    return int.from_bytes(hashlib.sha256(data).digest()[:8], "big")
