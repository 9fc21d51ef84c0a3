"""Batches without false negatives, the same for the same seed and epoch."""

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from sentence_transformers import DefaultBatchSampler

from llama_index.finetuning.embeddings.sentence_transformer.rows import RowKeys

# Batches that wait for a row which fits; beyond it the oldest goes out as it is.
_MAX_OPEN = 256


class FalseNegativeFreeBatchSampler(DefaultBatchSampler):  # type: ignore[misc]
    """Shuffled batches of rows whose keys do not clash.

    Rows are shuffled by seed and epoch, and each goes to the first open batch in which it makes
    no false negative: no document of it is barred from another row's queries, nor the other way
    round. Rows without keys may meet; what they make is masked by the loss.
    Sentence-transformers' ``NoDuplicatesBatchSampler`` only keeps equal texts
    apart; this one also knows a query's other relevant documents.

    Args:
        dataset: The training rows, as the Trainer passes them.
        batch_size: Rows a batch.
        drop_last: Leave out batches that did not fill up.
        keys: What each row brings and what must not meet it; None lets any rows meet.
        seed: Seed of the shuffling.
        n_processes: Training processes that take turns with the batches; every one gets equally
            many, because they wait for each other at every step.
    """

    def __init__(
        self,
        dataset: Any,
        batch_size: int,
        drop_last: bool,
        keys: Sequence[RowKeys] | None,
        seed: int,
        n_processes: int = 1,
    ) -> None:
        super().__init__(dataset, batch_size=batch_size, drop_last=drop_last, seed=seed)
        self._n_rows = len(dataset)
        self._rows_per_batch = batch_size
        self._n_processes = n_processes
        if n_processes > 1:
            # A batch size would have accelerate skip the rounds whose last batch is smaller.
            self.batch_size = None
        self._keys = keys
        self._plans: dict[int, list[list[int]]] = {}

    def __len__(self) -> int:
        """Return the number of batches of every epoch: what the first one needs."""
        return math.ceil(len(self._plan(0)) / self._n_processes) * self._n_processes

    def __iter__(self) -> Iterator[list[int]]:
        """Yield the epoch's batches as lists of row numbers."""
        batches = self._plan(self.epoch)
        yield from _exactly(batches, len(self))

    def _plan(self, epoch: int) -> list[list[int]]:
        if epoch not in self._plans:
            first = self._plans.get(0)
            self._plans = {} if first is None else {0: first}
            self._plans[epoch] = self._make_plan(epoch)
        return self._plans[epoch]

    def _make_plan(self, epoch: int) -> list[list[int]]:
        rows = list(range(self._n_rows))
        random.Random(self.seed * 1_000_003 + epoch).shuffle(rows)  # noqa: S311
        if self._keys is None:
            batches = [
                rows[start : start + self._rows_per_batch]
                for start in range(0, len(rows), self._rows_per_batch)
            ]
        else:
            batches = _first_fit(rows, self._keys, self._rows_per_batch)
        full = [batch for batch in batches if len(batch) == self._rows_per_batch]
        if self.drop_last and full:
            return full
        return full + [batch for batch in batches if len(batch) < self._rows_per_batch]


@dataclass
class _OpenBatch:
    rows: list[int] = field(default_factory=list)
    documents: set[int] = field(default_factory=set)
    barred: set[int] = field(default_factory=set)

    def add(self, row: int, keys: RowKeys) -> None:
        self.rows.append(row)
        self.documents |= keys.documents
        self.barred |= keys.barred


def _first_fit(rows: list[int], keys: Sequence[RowKeys], batch_size: int) -> list[list[int]]:
    closed: list[list[int]] = []
    waiting: list[_OpenBatch] = []
    for row in rows:
        mine = keys[row]
        batch = next((one for one in waiting if not mine.clashes(one.documents, one.barred)), None)
        if batch is None:
            batch = _OpenBatch()
            waiting.append(batch)
            if len(waiting) > _MAX_OPEN:
                closed.append(waiting.pop(0).rows)
        batch.add(row, mine)
        if len(batch.rows) == batch_size:
            closed.append(batch.rows)
            waiting.remove(batch)
    return closed + [batch.rows for batch in waiting]


def _exactly(batches: list[list[int]], n: int) -> list[list[int]]:
    """Give every epoch the number of batches that the learning-rate schedule was made for."""
    batches = list(batches)
    while len(batches) < n:
        largest = max(range(len(batches)), key=lambda i: len(batches[i]))
        batch = batches[largest]
        if len(batch) == 1:
            # Fewer rows than processes: one is trained twice.
            batches.append(batch)
            continue
        middle = len(batch) // 2
        batches[largest : largest + 1] = [batch[:middle], batch[middle:]]
    if len(batches) > n:
        # Those that filled up least wait for the next epoch's shuffle.
        by_size = sorted(range(len(batches)), key=lambda i: -len(batches[i]))
        batches = [batches[i] for i in sorted(by_size[:n])]
    return batches
