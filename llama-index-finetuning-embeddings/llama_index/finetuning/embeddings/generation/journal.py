"""The journal: every answer that an LLM gave, one line each, so that none is paid for twice."""

import hashlib
import json
import logging
from collections.abc import Collection
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, NamedTuple

from typing_extensions import Self

from llama_index.finetuning.embeddings.errors import OutputError

logger = logging.getLogger(__name__)


class Key(NamedTuple):
    """What an answer belongs to; an answer is used again only where all four are the same."""

    node_id: str
    content: str
    prompt: str
    model: str


class Entry(NamedTuple):
    """An LLM's answer as it came, or the questions (id and text) of an older dataset file."""

    response: str = ""
    questions: tuple[tuple[str, str], ...] | None = None


def digest(text: str) -> str:
    """Return 32 hexadecimal digits that stand for a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def encodable(text: str) -> str:
    """Drop halves of surrogate pairs, which broken extraction leaves and no UTF-8 file can hold."""
    return text.encode("utf-8", "ignore").decode()


class Journal:
    """An append-only JSON Lines file beside the dataset.

    It holds node ids, hashes of texts and prompts, the model's name and the answers: no texts and
    no keys. Answers for other nodes, prompts or models stay in it and are used when those are
    asked for again. A last line that a killed process left unfinished is cut off.

    Args:
        path: The file, created if there is none.

    Raises:
        OutputError: The file can't be read or written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._stream: BinaryIO = path.open("a+b")
        except OSError as error:
            raise _unusable(path, error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stream.close()

    def read(self, wanted: Collection[Key]) -> tuple[dict[Key, Entry], set[tuple[str, str]]]:
        """Return the wanted entries, and every (node id, content hash) that the journal knows."""
        entries: dict[Key, Entry] = {}
        known: set[tuple[str, str]] = set()
        whole = unreadable = 0
        self._stream.seek(0)
        for line in self._stream:
            if not line.endswith(b"\n"):
                logger.warning("The last line of %s was not finished and is dropped.", self.path)
                self._stream.truncate(whole)
                break
            whole += len(line)
            try:
                key, entry = _decoded(line)
            except (ValueError, TypeError, KeyError):
                unreadable += 1
                continue
            known.add((key.node_id, key.content))
            if key in wanted:
                entries[key] = entry
        if unreadable:
            logger.warning("%d lines of %s can't be read; skipped.", unreadable, self.path)
        return entries, known

    def add(self, key: Key, entry: Entry) -> None:
        """Append an entry and hand it to the operating system before returning.

        Raises:
            OutputError: It can't be written.
        """
        record: dict[str, object] = key._asdict()
        if entry.questions is None:
            record["response"] = entry.response
        else:
            record["questions"] = entry.questions
        try:
            self._stream.write(json.dumps(record, ensure_ascii=False).encode() + b"\n")
            self._stream.flush()
        except OSError as error:
            raise _unusable(self.path, error) from error


def _decoded(line: bytes) -> tuple[Key, Entry]:
    record = json.loads(line)
    key = Key(*(str(record[field]) for field in Key._fields))
    if "questions" in record:
        return key, Entry(questions=tuple((str(q), str(text)) for q, text in record["questions"]))
    return key, Entry(response=str(record["response"]))


def _unusable(path: Path, error: OSError) -> OutputError:
    return OutputError(
        f"The journal {str(path)!r} can't be written: {error.strerror or error}. Free space or "
        "choose another 'output_path'; the answers that it holds stay valid."
    )
