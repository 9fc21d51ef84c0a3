"""The training and evaluation data: queries, a corpus, and which documents answer which query."""

import hashlib
import json
import logging
import os
from pathlib import Path
from typing import Any

from llama_index.core.bridge.pydantic import BaseModel, ValidationError
from typing_extensions import Self

from llama_index.finetuning.embeddings.errors import DatasetError, DatasetFileError, shown
from llama_index.finetuning.embeddings.files import atomic_file

logger = logging.getLogger(__name__)

_FIELDS = ("queries", "corpus", "relevant_docs")


class EmbeddingQAFinetuneDataset(BaseModel):
    """Queries, a corpus of documents, and the documents that are relevant to each query.

    The contents are checked at construction: every query has at least one relevant document,
    every id that is named exists, and no text is empty. Entries of ``relevant_docs`` and
    ``hard_negatives`` for ids that are no query are kept and ignored.

    Args:
        queries: Query id to query text.
        corpus: Document id to document text.
        relevant_docs: Query id to the ids of the documents that answer it, best first.
        mode: Kept for files of the retired package; only ``"text"`` exists.
        hard_negatives: Query id to the ids of documents that look relevant and are not.

    Raises:
        DatasetError: The contents do not fit together; the message names the first offending
            ids and counts them all.
    """

    queries: dict[str, str]
    corpus: dict[str, str]
    relevant_docs: dict[str, list[str]]
    mode: str = "text"
    hard_negatives: dict[str, list[str]] | None = None

    def __init__(self, **data: Any) -> None:
        try:
            super().__init__(**data)
        except ValidationError as error:
            raise _explained(error) from error
        self.check()

    def check(self) -> None:
        """Check the contents again, for instance after changing them in place.

        Raises:
            DatasetError: The contents do not fit together.
        """
        if self.mode != "text":
            raise DatasetError(f"'mode' must be 'text' (got {self.mode!r}).")
        if not self.queries:
            raise DatasetError(
                f"The dataset has no queries ({len(self.corpus):,} documents). Add at least one "
                "query with a relevant document."
            )
        _reject(
            [qid for qid, text in self.queries.items() if not text.strip()],
            "{n} queries have an empty text: {ids}. Remove them or fill them in.",
        )
        _reject(
            [docid for docid, text in self.corpus.items() if not text.strip()],
            "{n} documents of the corpus have an empty text: {ids}. Remove them or fill them in.",
        )
        _reject(
            [qid for qid in self.queries if not self.relevant_docs.get(qid)],
            "{n} queries have no relevant document: {ids}. Add one to 'relevant_docs' for each, "
            "or remove the queries.",
        )
        self._check_document_ids("relevant_docs", self.relevant_docs)
        if self.hard_negatives is not None:
            self._check_document_ids("hard_negatives", self.hard_negatives)
            _reject(
                [
                    f"{qid}: {docid}"
                    for qid in self.queries
                    for docid in self.hard_negatives.get(qid, ())
                    if docid in self.relevant_docs[qid]
                ],
                "{n} hard negatives are relevant documents of the same query: {ids}. Remove them "
                "from 'hard_negatives'.",
            )
        strangers = [qid for qid in self.relevant_docs if qid not in self.queries]
        if strangers:
            logger.warning(
                "'relevant_docs' names %d ids that are no query and are ignored: %s",
                len(strangers),
                shown(strangers),
            )

    def _check_document_ids(self, field: str, ids: dict[str, list[str]]) -> None:
        corpus = self.corpus
        _reject(
            [
                f"{docid} (of query {qid})"
                for qid in self.queries
                for docid in ids.get(qid, ())
                if docid not in corpus
            ],
            f"{{n}} document ids in '{field}' are not in the corpus: {{ids}}. Add the documents "
            f"to 'corpus' or remove the ids.",
        )

    @property
    def query_docid_pairs(self) -> list[tuple[str, list[str]]]:
        """Each query's text with the ids of its relevant documents."""
        return [(query, self.relevant_docs[qid]) for qid, query in self.queries.items()]

    def to_json_dict(self) -> dict[str, Any]:
        """Return what a dataset file holds; ``hard_negatives`` is absent when there are none."""
        return self.model_dump(exclude={"hard_negatives"} if self.hard_negatives is None else None)

    def fingerprint(self) -> str:
        """Return a SHA-256 over the contents, the same for equal datasets in any order."""
        payload = json.dumps(self.to_json_dict(), sort_keys=True, ensure_ascii=True)
        return hashlib.sha256(payload.encode("ascii")).hexdigest()

    def save_json(self, path: str | os.PathLike[str]) -> None:
        """Write the dataset as UTF-8 JSON; a file that stands there is replaced whole or not at all.

        Raises:
            OutputError: The file can't be written.
        """
        with atomic_file(path) as stream:
            json.dump(self.to_json_dict(), stream, indent=4, ensure_ascii=False)

    @classmethod
    def from_json(cls, path: str | os.PathLike[str]) -> Self:
        """Read a dataset file, of this package or of the retired one.

        Raises:
            DatasetFileError: The file is missing, cut off, or no dataset.
            DatasetError: It is a dataset whose contents do not fit together.
        """
        name = str(path)
        try:
            data = json.loads(Path(path).read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise DatasetFileError(f"There is no dataset file at {name!r}.") from error
        except OSError as error:
            raise DatasetFileError(f"{name!r} can't be read: {error.strerror}.") from error
        except UnicodeDecodeError as error:
            raise DatasetFileError(f"{name!r} is not UTF-8 text ({error}).") from error
        except (json.JSONDecodeError, RecursionError) as error:
            raise DatasetFileError(
                f"{name!r} holds no whole JSON ({error}). It may have been cut off while it was "
                "written or copied: write it again."
            ) from error
        if not isinstance(data, dict) or not all(field in data for field in _FIELDS):
            found = sorted(data)[:5] if isinstance(data, dict) else type(data).__name__
            raise DatasetFileError(
                f"{name!r} is no dataset: it must be a JSON object with {', '.join(_FIELDS)} "
                f"(found {found})."
            )
        return cls(**data)


def _reject(offending: list[str], message: str) -> None:
    if offending:
        raise DatasetError(message.format(n=f"{len(offending):,}", ids=shown(offending)))


def _explained(error: ValidationError) -> DatasetError:
    """Turn pydantic's report into one sentence with the ids at fault."""
    faults = error.errors(include_url=False, include_input=True)
    places = [
        f"{'.'.join(str(part) for part in fault['loc'])} "
        f"({'missing' if fault['type'] == 'missing' else type(fault['input']).__name__})"
        for fault in faults
    ]
    return DatasetError(
        "A dataset maps string ids to string texts, and query ids to lists of document ids; "
        f"{len(faults):,} places do not: {shown(places)}. Convert or remove them."
    )
