"""The training and evaluation data: queries, a corpus, and which documents answer which query."""

import hashlib
import json
import logging
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from llama_index.core.bridge.pydantic import BaseModel, ValidationError
from typing_extensions import Self

from llama_index.finetuning.embeddings import description, splitting
from llama_index.finetuning.embeddings.consolidation import consolidated
from llama_index.finetuning.embeddings.duplicates import NEAR_DUPLICATE
from llama_index.finetuning.embeddings.errors import ConfigurationError, DatasetError
from llama_index.finetuning.embeddings.files import atomic_file
from llama_index.finetuning.embeddings.formats import (
    argilla,
    beir,
    contents,
    huggingface,
    json_files,
    llama_datasets,
)
from llama_index.finetuning.embeddings.json_stream import write_entries
from llama_index.finetuning.embeddings.validation import check_contents, explained

logger = logging.getLogger(__name__)


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

    def __init__(self, /, **data: Any) -> None:
        try:
            super().__init__(**data)
        except ValidationError as error:
            raise explained(error) from error
        self.check()

    def __setstate__(self, state: dict[Any, Any]) -> None:
        # Pickles of the retired package's class, which had no such field.
        fields = state["__dict__"]
        fields = {**fields, "hard_negatives": fields.get("hard_negatives")}
        super().__setstate__({**state, "__dict__": fields})

    def check(self) -> None:
        """Check the contents again, for instance after changing them in place.

        Raises:
            DatasetError: The contents do not fit together.
        """
        if self.mode != "text":
            raise DatasetError(f"'mode' must be 'text' (got {self.mode!r}).")
        check_contents(self.queries, self.corpus, self.relevant_docs, self.hard_negatives)

    @property
    def query_docid_pairs(self) -> list[tuple[str, list[str]]]:
        """Each query's text with the ids of its relevant documents."""
        return [(query, self.relevant_docs[qid]) for qid, query in self.queries.items()]

    def train_test_split(
        self,
        test_size: float | int = 0.2,
        *,
        by: splitting.SplitBy = "document",
        groups: Mapping[str, str] | None = None,
        test_corpus: splitting.TestCorpus = "unseen",
        seed: int = 42,
    ) -> tuple[Self, Self]:
        """Divide the queries into a training part and a test part.

        Queries that must stay together form components, which are never divided: those of equal
        text (white space aside) and, unless ``by="query"``, those that share a relevant document,
        a document of equal text, or a group. So the parts' sizes are within one component of what
        was asked. Call ``consolidate()`` first to keep near-duplicates together, too.

        A part's corpus leaves out the documents that are relevant in the other part only;
        documents that no query is judged by are distractors in both. Hard negatives that a part's
        corpus lacks are dropped.

        Args:
            test_size: Share of the queries in (0, 1), or a number of queries.
            by: ``"document"``: no document is relevant on both sides, as when the finetuned model
                will meet new documents; ``"query"``: new queries to documents that may be known;
                ``"group"``: nor does any group of documents have relevant ones on both sides.
            groups: For ``by="group"``, document id to group, for instance the file it is from.
            test_corpus: ``"unseen"``: as described; ``"all"``: the test part has the whole corpus,
                so that documents of the training part are distractors: harder, and nearer to an
                index in use.
            seed: The same dataset, in any order, and seed give the same parts.

        Returns:
            The training part and the test part.

        Raises:
            ConfigurationError: An argument is out of range.
            DatasetError: A relevant document has no group, or all queries are connected.
        """
        self.check()
        train, test = splitting.split(
            self.queries,
            self.corpus,
            self.relevant_docs,
            test_size=test_size,
            by=by,
            groups=groups,
            test_corpus=test_corpus,
            seed=seed,
        )
        return self._part(train), self._part(test)

    def describe(
        self, tokenizer: Any = None, *, max_seq_length: int | None = None
    ) -> description.DatasetDescription:
        """Count what the dataset holds: sizes, repeats, relevance, lengths and what gets cut.

        Args:
            tokenizer: A Hugging Face tokenizer or a SentenceTransformer model, to count tokens
                with the special ones and without any prompt; None to count words.
            max_seq_length: The length at which a model cuts texts, in the same unit; by default
                the one of the model or tokenizer.

        Raises:
            ConfigurationError: An argument is none of these.
            DatasetError: The dataset was changed in place and no longer fits together.
        """
        self.check()
        return description.describe(
            self.queries,
            self.corpus,
            self.relevant_docs,
            self.hard_negatives or {},
            tokenizer=tokenizer,
            max_seq_length=max_seq_length,
        )

    def leakage(self, other: Self, *, threshold: float = NEAR_DUPLICATE) -> description.Leakage:
        """Find what another dataset, say the one to test with, shares with this one.

        Args:
            other: The dataset whose shared queries and documents are named.
            threshold: Jaccard similarity from which documents are near-duplicates, in (0, 1].

        Raises:
            ConfigurationError: ``other`` is no dataset, or ``threshold`` is out of range.
            DatasetError: One was changed in place and no longer fits together.
        """
        self.check()
        theirs = require_dataset(other, name="other")
        return description.leakage(
            (self.queries, theirs.queries),
            (self.corpus, theirs.corpus),
            (self._relevant_ids(self.queries), theirs._relevant_ids(theirs.queries)),
            threshold=threshold,
        )

    def consolidate(self, *, threshold: float = NEAR_DUPLICATE) -> Self:
        """Make every near-duplicate of a relevant document relevant too.

        So that no twin of a positive is trained, or counted, as a negative. Queries of equal text
        share their relevant documents as well. Texts and ids stay as they are; hard negatives that
        became relevant are dropped.

        Args:
            threshold: Jaccard similarity from which documents are near-duplicates, in (0, 1].

        Raises:
            ConfigurationError: ``threshold`` is out of range.
            DatasetError: The dataset was changed in place and no longer fits together, or copies
                by the thousand would make millions of relevant documents.
        """
        self.check()
        relevant_docs, hard_negatives = consolidated(
            self.queries,
            self.corpus,
            self.relevant_docs,
            self.hard_negatives,
            threshold=threshold,
        )
        return type(self)(
            queries=self.queries,
            corpus=self.corpus,
            relevant_docs=relevant_docs,
            hard_negatives=hard_negatives,
        )

    def fingerprint(self) -> str:
        """Return a SHA-256 over the contents, the same for equal datasets in any order."""
        digest = hashlib.sha256()
        for piece in json.JSONEncoder(sort_keys=True).iterencode(dict(self._fields())):
            digest.update(piece.encode("ascii"))
        return digest.hexdigest()

    def save_json(self, path: str | os.PathLike[str]) -> None:
        """Write the dataset as UTF-8 JSON; a file that stands there is replaced whole or not.

        Raises:
            DatasetError: It was changed in place, and its contents no longer fit together.
            OutputError: The file can't be written.
        """
        self.check()
        with atomic_file(path) as stream:
            write_entries(stream, dict(self._fields()))

    @classmethod
    def from_json(cls, path: str | os.PathLike[str]) -> Self:
        """Read a dataset file, of this package or of the retired one.

        Raises:
            DatasetFileError: The file is missing, cut off, or no dataset.
            DatasetError: It is a dataset whose contents do not fit together.
        """
        return cls(**json_files.read_dataset_file(path))

    @classmethod
    def from_pairs(cls, pairs: Iterable[Sequence[Any]], *, corpus: Iterable[str] = ()) -> Self:
        """Make a dataset of texts; ids are made from the texts, and equal texts are merged.

        Args:
            pairs: ``(query, positive)`` or ``(query, positive, negative)``, where positive and
                negative are a text or a list of texts.
            corpus: Further documents, as distractors.

        Raises:
            DatasetError: A pair has another shape, or lacks a text.
        """
        return cls(**contents.from_rows(contents.rows_of_pairs(pairs), corpus=corpus)._asdict())

    @classmethod
    def from_beir(cls, folder: str | os.PathLike[str], split: str | None = None) -> Self:
        """Read a BEIR folder: ``corpus.jsonl``, ``queries.jsonl`` and ``qrels/<split>.tsv``.

        Titles are put before their texts. Documents with a grade above 0 are relevant, best
        first; those with 0 or less were judged and become hard negatives. Queries that the split
        does not judge are left out. Grades above 1 count in an evaluation only as its
        ``relevance``; `beir_relevance` reads them.

        Args:
            folder: The folder.
            split: The name of the file in ``qrels``; needed when there are several.

        Raises:
            DatasetFileError: A file is missing or holds something else.
            ConfigurationError: There is no such split, or several and none was named.
            DatasetError: The contents do not fit together.
        """
        return cls(**beir.read_beir(folder, split)._asdict())

    def to_beir(self, folder: str | os.PathLike[str], split: str = "test") -> None:
        """Write a BEIR folder, which ``from_beir`` reads back; hard negatives have grade 0.

        Args:
            folder: The folder. Where it has other splits already, this one is added to them; of
                the same corpus the lines stay as they are, titles included.
            split: The name of the file in ``qrels``; replaced if it is there.

        Raises:
            ConfigurationError: ``split`` can't be the name of a file.
            DatasetError: An id holds the character NUL, or the folder has other splits, whose
                corpus is not the same or whose queries have other texts.
            DatasetFileError: The folder's corpus or queries can't be read.
            OutputError: The folder can't be written.
        """
        self.check()
        beir.write_beir(folder, split, self.queries, self.corpus, self._judgements())

    @classmethod
    def from_hf_dataset(
        cls,
        data: Any,
        *,
        query_column: str | None = None,
        positive_column: str | None = None,
        negative_columns: str | Sequence[str] | None = None,
    ) -> Self:
        """Make a dataset of a Hugging Face ``Dataset``, a data frame or a list of dictionaries.

        Columns hold a text or a list of texts. Those that are not given are found by their names:
        anchor, query or question; positive, pos, context, document, passage or answer; negative,
        neg, negatives, hard_negatives or negative_1, negative_2 and so on. Ids are made from the
        texts, and equal texts are merged. A ``DatasetDict`` with the tables corpus, queries and
        qrels, as ``to_hf_dataset`` makes it, keeps its ids.

        Raises:
            ConfigurationError: A column was not found, or ``data`` is several splits.
            DatasetError: Rows lack texts.
        """
        read = huggingface.read_hf_dataset(
            data,
            query_column=query_column,
            positive_column=positive_column,
            negative_columns=negative_columns,
        )
        return cls(**read._asdict())

    def to_hf_dataset(self, layout: huggingface.Layout = "retrieval") -> Any:
        """Return the dataset in the types of Hugging Face ``datasets``.

        Args:
            layout: ``"retrieval"``: a ``DatasetDict`` of the tables corpus, queries and qrels,
                which holds everything; ``"pairs"``: a ``Dataset`` of anchor and positive;
                ``"triplets"``: of anchor, positive and negative, for queries with hard negatives.

        Raises:
            ConfigurationError: ``layout`` is unknown.
            DatasetError: Triplets are asked for and there are no hard negatives.
        """
        huggingface.check_layout(layout)
        if layout == "retrieval":
            return huggingface.to_hf_tables(self.queries, self.corpus, self._judgements())
        return huggingface.to_hf_rows(
            layout, self.queries, self.corpus, self.relevant_docs, self.hard_negatives or {}
        )

    @classmethod
    def from_argilla(
        cls,
        records: Iterable[Any],
        *,
        query_field: str | None = None,
        positive_field: str | None = None,
        negative_fields: str | Sequence[str] | None = None,
        label_question: str | None = None,
        relevant_labels: Collection[Any] = ("yes",),
    ) -> Self:
        """Make a dataset of Argilla records, or of the dictionaries that they export.

        Fields are found as ``from_hf_dataset`` finds columns. With ``label_question``, a record's
        document is relevant when the label that most people submitted (without any, the suggested
        one) is in ``relevant_labels``, and otherwise a hard negative of its query; records with no
        label or a tie are left out. Exported dictionaries do not say which responses were
        discarded: where some may be, pass the records.

        Raises:
            ConfigurationError: A field was not found, or ``label_question`` has answers of several
                labels at once.
            DatasetError: There are no records, or none is relevant, or texts are missing.
        """
        read = argilla.read_argilla(
            records,
            query_field=query_field,
            positive_field=positive_field,
            negative_fields=negative_fields,
            label_question=label_question,
            relevant_labels=relevant_labels,
        )
        return cls(**read._asdict())

    @classmethod
    def from_labelled_rag_dataset(cls, data: Any) -> Self:
        """Make a dataset of a LlamaIndex ``LabelledRagDataset``: its reference contexts.

        Args:
            data: The object, or the path of its JSON file (``rag_dataset.json``).

        Raises:
            ConfigurationError: It is neither.
            DatasetFileError: The file holds something else.
            DatasetError: Examples lack their contexts.
        """
        return cls(**llama_datasets.read_labelled_rag_dataset(data)._asdict())

    def _fields(self) -> Iterator[tuple[str, Any]]:
        """Yield what a file holds, without copying it."""
        return ((name, value) for name, value in self if value is not None)

    def _judgements(self) -> Iterator[beir.Judgement]:
        return beir.judgements_of(self.queries, self.relevant_docs, self.hard_negatives or {})

    def _relevant_ids(self, query_ids: Collection[str]) -> set[str]:
        return {docid for qid in query_ids for docid in self.relevant_docs[qid]}

    def _part(self, part: splitting.Part) -> Self:
        hard_negatives = None
        if self.hard_negatives is not None:
            hard_negatives = {
                qid: [docid for docid in self.hard_negatives[qid] if docid in part.corpus]
                for qid in part.query_ids
                if qid in self.hard_negatives
            }
        return type(self)(
            queries={qid: self.queries[qid] for qid in part.query_ids},
            corpus=part.corpus,
            relevant_docs={qid: self.relevant_docs[qid] for qid in part.query_ids},
            hard_negatives=hard_negatives,
        )


def require_dataset(value: Any, *, name: str) -> EmbeddingQAFinetuneDataset:
    """Make sure that an argument is a dataset, not the path of one for instance, and still sound.

    Args:
        value: What was given. A dataset of the class that llama-index-core 0.13 brought becomes
            one of this package; the retired package had a class of that name too.
        name: The argument that it was given as, for the message.

    Raises:
        ConfigurationError: It is something else.
        DatasetError: Its contents do not fit together, where it was changed in place for instance.
    """
    own = EmbeddingQAFinetuneDataset
    if isinstance(value, own):
        value.check()
        return value
    if all(kind.__name__ != own.__name__ for kind in type(value).__mro__):
        raise ConfigurationError(
            f"{name!r} must be an EmbeddingQAFinetuneDataset (got {type(value).__name__}). Read a "
            "file with EmbeddingQAFinetuneDataset.from_json(path)."
        )
    held = ("queries", "corpus", "relevant_docs", "hard_negatives", "mode")
    return own(**{name: getattr(value, name) for name in held if hasattr(value, name)})


def warn_of_shared_queries(
    dataset: EmbeddingQAFinetuneDataset, val_dataset: EmbeddingQAFinetuneDataset | None
) -> None:
    """Warn of queries that are trained and then judge the training."""
    if val_dataset is None:
        return
    trained = set(dataset.queries.values())
    shared = sum(query in trained for query in val_dataset.queries.values())
    if shared:
        logger.warning(
            "%d of %d validation queries are in the training set, and will show a better model "
            "than new queries would. train_test_split divides a dataset.",
            shared,
            len(val_dataset.queries),
        )
