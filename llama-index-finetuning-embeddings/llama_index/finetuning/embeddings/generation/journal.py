"""The journal: every answer that an LLM gave, one line each, so that none is paid for twice."""

import contextlib
import hashlib
import json
import logging
import os
from collections.abc import Collection, Iterator
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from typing_extensions import Self

from llama_index.finetuning.embeddings.errors import OutputError

logger = logging.getLogger(__name__)


class Key(NamedTuple):
    """What an answer belongs to: a node, and what was asked about it."""

    node_id: str
    content: str
    prompt: str
    model: str

    @property
    def asked(self) -> tuple[str, str, str]:
        """What has to be the same for an answer to be used again: text, prompt and model."""
        return self[1:]


class Entry(NamedTuple):
    """An LLM's answer as it came, or the questions (id and text) of an older dataset file."""

    response: str = ""
    questions: tuple[tuple[str, str], ...] | None = None


def journal_of(dataset: Path) -> Path:
    """Return the place of a dataset's journal, beside it."""
    return dataset.with_name(f"{dataset.name}.journal.jsonl")


def digest(text: str) -> str:
    """Return 32 hexadecimal digits that stand for a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def encodable(text: str) -> str:
    """Drop halves of surrogate pairs, which broken extraction leaves and no UTF-8 file can hold."""
    return text.encode("utf-8", "ignore").decode()


class Journal:
    """An append-only JSON Lines file beside the dataset.

    It holds node ids, hashes of texts and prompts, the model's name and the answers: no texts and
    no keys. Answers to other texts, prompts or models stay in it and are used when those are
    asked for again. A last line that a killed process left unfinished is cut off.

    Args:
        path: The file, created if there is none.

    Raises:
        OutputError: The file can't be read or written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._explained():
            path.parent.mkdir(parents=True, exist_ok=True)
            # Without a buffer: what could not be written is not tried again when it is closed.
            self._stream: FileIO = path.open("ab", buffering=0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stream.close()

    def read(self, wanted: Collection[Key]) -> tuple[list[tuple[Key, Entry]], set[str]]:
        """Return all entries for what is asked now, and every content hash that the journal knows.

        They stand in the order in which they came; those for other nodes are among them.
        """
        asked = {key.asked for key in wanted}
        entries: list[tuple[Key, Entry]] = []
        known: set[str] = set()
        unreadable = 0
        for line in self._lines():
            try:
                key, entry = _decoded(line)
            except (ValueError, TypeError, KeyError, RecursionError):
                unreadable += 1
                continue
            known.add(key.content)
            if key.asked in asked:
                entries.append((key, entry))
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
        line = json.dumps(record, ensure_ascii=False).encode() + b"\n"
        with self._explained():
            whole = os.fstat(self._stream.fileno()).st_size
            try:
                written = self._stream.write(line)
                while written < len(line):  # the disk is all but full
                    written += self._stream.write(line[written:])
            except BaseException:
                with contextlib.suppress(OSError):
                    self._stream.truncate(whole)
                raise

    def _lines(self) -> Iterator[bytes]:
        """Yield the whole lines, and cut off a last one that is not."""
        whole = 0
        with self._explained(), self.path.open("rb") as stream:
            for line in stream:
                if not line.endswith(b"\n"):
                    logger.warning(
                        "The last line of %s was not finished and is dropped.", self.path
                    )
                    self._stream.truncate(whole)
                    return
                whole += len(line)
                yield line

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError) as error:  # the latter for a path with the character NUL
            reason = getattr(error, "strerror", None) or error
            raise OutputError(
                f"The journal {str(self.path)!r} can't be written: {reason}. "
                "Free space or choose another 'output_path'; the answers that it holds stay valid."
            ) from error


def _decoded(line: bytes) -> tuple[Key, Entry]:
    record = json.loads(line)
    key = Key(*(_text(record[field]) for field in Key._fields))
    if "questions" in record:
        questions = [(_text(query_id), _text(text)) for query_id, text in record["questions"]]
        return key, Entry(questions=tuple(questions))
    return key, Entry(response=_text(record["response"]))


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{type(value).__name__} instead of a text")
    value.encode()  # refuses halves of surrogate pairs
    return value
