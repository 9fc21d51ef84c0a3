"""From a folder of files to nodes, and from a name to an LLM."""

import codecs
import importlib
import logging
import os
import re
from collections import Counter
from pathlib import Path, PurePosixPath
from typing import Any

from llama_index.core import SimpleDirectoryReader
from llama_index.core.llms.llm import LLM
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.schema import BaseNode, Document

from llama_index.finetuning.embeddings.errors import (
    ConfigurationError,
    MissingExtraError,
    shown,
)
from llama_index.finetuning.embeddings.generation.journal import encodable, journal_of
from llama_index.finetuning.embeddings.generation.older import is_set_aside
from llama_index.finetuning.embeddings.redaction import safe_message
from llama_index.finetuning.embeddings.validation import is_encodable

logger = logging.getLogger(__name__)

_SPEC = re.compile(r"(?P<provider>[A-Za-z][\w-]*):(?P<model>.+)")
_ANY_SERVER = "openai_like"
# Bytes that are not UTF-8 are kept apart, not dropped as the reader would.
_ENCODING: dict[str, Any] = {"encoding": "utf-8-sig", "errors": "surrogateescape"}
_UTF_16 = tuple(
    mark.decode("utf-8", "surrogateescape") for mark in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
)
_HALF_PAIR = re.compile("[\ud800-\udc7f\udd00-\udfff]")
_BINARY = re.compile(r"\A%PDF-|\0")


def read_nodes(
    documents: str, *, chunk_size: int, chunk_overlap: int, output: str | None = None
) -> list[BaseNode]:
    """Read a file, or all files of a folder and those below it, and cut them into nodes.

    A node's id is the file's path below the folder and the node's number in it, the same in
    every run: the answers of a generation that was broken off are found by it.

    Args:
        documents: The file or folder.
        chunk_size: Tokens of a node.
        chunk_overlap: Tokens that a node repeats of the one before it.
        output: Where the dataset goes; it and what stands beside it are no documents.

    Raises:
        ConfigurationError: There are no files, or the sizes do not fit each other.
        MissingExtraError: Files of this kind need a package that is not installed.
    """
    root = Path(documents)
    try:
        splitter = SentenceSplitter(chunk_size=chunk_size, chunk_overlap=chunk_overlap)
        reader = (
            _FolderReader(input_dir=str(root), recursive=True, **_ENCODING)
            if root.is_dir()
            else SimpleDirectoryReader(input_files=[str(root)], **_ENCODING)
        )
        found = [
            document
            for document in reader.load_data(show_progress=True)
            if output is None or not _is_output(document.metadata["file_path"], Path(output))
        ]
    except ImportError as error:
        raise MissingExtraError(f"A file of {documents!r} can't be read: {error}") from error
    except ValueError as error:
        raise ConfigurationError(f"{documents!r} can't be made into nodes: {error}") from error
    folder = root if root.is_dir() else root.parent
    numbers: Counter[str] = Counter()
    for document in found:
        path = os.path.relpath(document.metadata["file_path"], folder)
        document.metadata["file_path"] = Path(path).as_posix()
    nodes = _cut(splitter, _texts_only(found, documents))
    for node in nodes:
        name = node.metadata["file_path"]
        numbers[name] += 1
        # Names of files need not be UTF-8, ids must be.
        readable = name.encode(errors="backslashreplace").decode()
        node.node_id = f"{readable}#{numbers[name]}"
    return nodes


class _FolderReader(SimpleDirectoryReader):
    """Leaves out what is hidden in the folder, but not a folder that is itself in a hidden one."""

    def is_hidden(self, path: Path | PurePosixPath) -> bool:
        return super().is_hidden(Path(os.path.relpath(path, self.input_dir)))


def _cut(splitter: SentenceSplitter, texts: list[Document]) -> list[BaseNode]:
    try:
        return splitter.get_nodes_from_documents(texts)
    except LookupError as error:
        raise MissingExtraError(
            "Cutting texts into sentences needs NLTK's data, which llama-index-core 0.13 downloads "
            "and later versions bring. Install it with: pip install 'llama-index-core>=0.14'"
        ) from error


def _is_output(file_path: str, output: Path) -> bool:
    """Tell whether a file is a dataset that is written here, its journal, or an older one."""
    path, output = (Path(os.path.realpath(one)) for one in (file_path, output))
    return path in (output, journal_of(output)) or is_set_aside(path, of=output)


def _texts_only(documents: list[Document], place: str) -> list[Document]:
    """Leave out files that were read as text and are none, or not in an encoding that we know."""
    binary: dict[str, None] = {}
    strange: dict[str, None] = {}
    texts: list[Document] = []
    for document in documents:
        name = document.metadata["file_path"]
        if _HALF_PAIR.search(document.text):
            # Not of bytes that were read as text here, but of a PDF, say.
            document.set_content(encodable(document.text))
        elif document.text.startswith(_UTF_16):
            raw = document.text.encode("utf-8", "surrogateescape")
            document.set_content(raw.decode("utf-16", "replace"))
        if _BINARY.search(document.text):
            binary[name] = None
        elif not is_encodable(document.text):
            strange[name] = None
        else:
            texts.append(document)
    remedy = "PDF, Word and other formats can be read after: pip install llama-index-readers-file"
    if binary:
        logger.warning("Left out, since they are no text: %s. %s", shown(binary), remedy)
    if strange:
        remedy = "Convert other encodings to UTF-8 first."
        logger.warning("Left out, since they are not UTF-8: %s. %s", shown(strange), remedy)
    if not texts:
        raise ConfigurationError(f"{place!r} holds no text that could be read. {remedy}")
    return texts


def resolve_llm(spec: str, *, api_base: str | None) -> LLM:
    """Make an LLM of the LlamaIndex integration that a name stands for.

    ``openai:gpt-4o-mini`` is ``OpenAI(model="gpt-4o-mini")`` of ``llama_index.llms.openai``, from
    the package ``llama-index-llms-openai``; keys are read from the environment, as the
    integrations do, and that of ``openai-like`` from ``OPENAI_LIKE_API_KEY``.

    Args:
        spec: ``provider:model``.
        api_base: The address of the API, for integrations that take one; ``openai-like`` is for
            any server that speaks OpenAI's.

    Raises:
        ConfigurationError: The name has another form, or the integration refuses it, as it may
            where its server does not run.
        MissingExtraError: The integration is not installed.
    """
    match = _SPEC.fullmatch(spec)
    if match is None:
        raise ConfigurationError(
            f"'--llm' must be 'provider:model', such as openai:gpt-4o-mini (got {spec!r})."
        )
    provider = match["provider"].lower().replace("-", "_")
    llm_class = _llm_class(provider)
    # Local integrations name it otherwise.
    named = next((one for one in ("model", "model_name") if one in llm_class.model_fields), "model")
    options: dict[str, Any] = {named: match["model"]}
    if "tokenizer_name" in llm_class.model_fields:
        options["tokenizer_name"] = match["model"]  # else that of another model
    if api_base is not None:
        options["api_base"] = api_base
    if provider == _ANY_SERVER:
        # Nearly every server speaks chat; a local one wants no key, where the client insists, and
        # without one would send OpenAI's.
        options["is_chat_model"] = True
        options["api_key"] = os.environ.get("OPENAI_LIKE_API_KEY") or "none"
    for name in options:
        if name not in llm_class.model_fields:
            raise ConfigurationError(
                f"{llm_class.__name__} takes no {name!r}, so that {spec!r} can't be made here. "
                "Make it in Python and call generate_qa_embedding_pairs."
            )
    llm: LLM | None = None
    try:
        llm = llm_class(**options)
        # Integrations look a model up here, some at their server: better once now than at every
        # node.
        _ = llm.metadata
    except Exception as error:
        reason = safe_message(error, owner=llm)
        raise ConfigurationError(f"The LLM {spec!r} can't be used: {reason}") from error
    return llm


def _llm_class(provider: str) -> type[LLM]:
    module_name = f"llama_index.llms.{provider}"
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if not module_name.startswith(error.name or module_name):
            raise MissingExtraError(
                f"{module_name} needs {error.name!r}, which is not installed. Install it with: "
                f"pip install {error.name}"
            ) from error
        raise MissingExtraError(
            f"The LLM provider {provider!r} needs {module_name!r}, which is not installed. Install "
            f"it with: pip install llama-index-llms-{provider.replace('_', '-')}"
        ) from error
    exported = [getattr(module, name) for name in getattr(module, "__all__", ())]
    classes = [one for one in exported if isinstance(one, type) and issubclass(one, LLM)]
    wanted = provider.replace("_", "")
    named = [one for one in classes if one.__name__.lower() == wanted] or classes
    if len(named) != 1:
        raise ConfigurationError(
            f"{module_name!r} does not say which LLM it is for (found "
            f"{[one.__name__ for one in named]}). Make the LLM in Python and call "
            "generate_qa_embedding_pairs."
        )
    return named[0]
