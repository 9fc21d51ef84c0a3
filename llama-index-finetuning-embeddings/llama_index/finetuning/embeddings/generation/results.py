"""What a run brought: the dataset, and the counts behind it."""

import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from llama_index.finetuning.embeddings.dataset import EmbeddingQAFinetuneDataset
from llama_index.finetuning.embeddings.generation.filters import QuestionFilter
from llama_index.finetuning.embeddings.generation.journal import Entry, Key
from llama_index.finetuning.embeddings.generation.parsing import parse_questions, question_key

_NAMESPACE = uuid.UUID("8f4f3c0e-6d0b-5a53-9c39-1c2b8b8f7d11")


@dataclass(frozen=True)
class GenerationReport:
    """The counts of a run; ``on_finish`` receives it.

    Args:
        nodes: Nodes that questions were wanted for: ``made`` + ``failed`` + ``skipped``.
        made: Nodes with at least one question.
        failed: Nodes without one, because every call failed or no answer held a usable question.
        skipped: Nodes without a text.
        reused: Nodes whose answer an earlier run had paid for.
        fewer: Nodes with at least one question, but fewer than wanted.
        questions: Questions in the dataset.
        filtered: Dropped questions, by the name of the filter that dropped them.
        errors: The last error of each node whose calls all failed, by node id.
    """

    nodes: int
    made: int
    failed: int
    skipped: int
    reused: int
    fewer: int
    questions: int
    filtered: Mapping[str, int]
    errors: Mapping[str, str]

    def __str__(self) -> str:
        dropped = ", ".join(f"{name} {n:,}" for name, n in self.filtered.items()) or "none"
        return (
            f"{self.questions:,} questions for {self.made:,} of {self.nodes:,} nodes "
            f"({self.reused:,} from earlier runs, {self.fewer:,} with fewer than wanted, "
            f"{self.failed:,} failed, {self.skipped:,} skipped; filtered: {dropped})"
        )


@dataclass(frozen=True)
class Outcome:
    """A node's questions: id, text, and the answer if one was kept; and what was dropped."""

    questions: tuple[tuple[str, str, str | None], ...]
    filtered: Counter[str]

    def apart_from(self, taken: dict[str, str], node_id: str) -> "Outcome":
        """Give another id to each question whose own is another question's already.

        Two older files can both have a "q0", and their answers stand in one journal.

        Args:
            taken: Query id to question of the other nodes; those of this one are added.
            node_id: This one.
        """
        questions = []
        for query_id, question, answer in self.questions:
            own = query_id
            if taken.get(query_id, question) != question:
                own = str(uuid.uuid5(_NAMESPACE, f"{node_id}\x1f{query_id}\x1f{question}"))
            taken[own] = question
            questions.append((own, question, answer))
        return Outcome(tuple(questions), self.filtered)


def read_entry(
    key: Key, entry: Entry, text: str, *, limit: int, filters: Sequence[QuestionFilter]
) -> Outcome:
    """Read the questions out of an answer, at most ``limit`` of those that pass the filters.

    An id is a UUID (version 5) of the node's id, the hash of its text and the question, so that
    the same answers give the same dataset. Questions of an older dataset file stay as they are.
    """
    if entry.questions is not None:
        return Outcome(tuple((qid, question, None) for qid, question in entry.questions), Counter())
    kept: list[tuple[str, str, str | None]] = []
    filtered: Counter[str] = Counter()
    for question in parse_questions(entry.response, limit):
        if len(kept) == limit:
            break
        dropped_by = next((one for one in filters if one(question.text, text)), None)
        if dropped_by is not None:
            filtered[getattr(dropped_by, "__name__", repr(dropped_by))] += 1
            continue
        name = f"{key.node_id}\x1f{key.content}\x1f{question_key(question.text)}"
        kept.append((str(uuid.uuid5(_NAMESPACE, name)), question.text, question.answer))
    return Outcome(tuple(kept), filtered)


def build_dataset(
    texts: Mapping[str, str], outcomes: Mapping[str, Outcome]
) -> EmbeddingQAFinetuneDataset:
    """Put the questions of all nodes together, in the order of the nodes."""
    queries: dict[str, str] = {}
    relevant_docs: dict[str, list[str]] = {}
    for node_id in texts:
        if node_id in outcomes:
            for query_id, question, _ in outcomes[node_id].questions:
                queries[query_id] = question
                relevant_docs.setdefault(query_id, []).append(node_id)
    return EmbeddingQAFinetuneDataset(
        queries=queries, corpus=dict(texts), relevant_docs=relevant_docs
    )
