"""Which documents count as relevant to a query once identical texts are one text.

Every place that picks negatives (losses, batches, mining) asks here, so that neither a document
which is relevant to a query nor the query itself is its negative, under whatever id it stands in
the corpus.
"""

from llama_index.finetuning.embeddings.consolidation import relevant_by_text
from llama_index.finetuning.embeddings.dataset import EmbeddingQAFinetuneDataset
from llama_index.finetuning.embeddings.duplicates import text_key


class RelevanceIndex:
    """Document keys by text, and each query's relevant keys.

    Documents whose texts are equal, white space aside, share one key; queries whose texts are
    equal share their relevant documents.

    Attributes:
        key_of: Document id to key; keys count up from 0 in the order of the corpus.
    """

    def __init__(self, dataset: EmbeddingQAFinetuneDataset) -> None:
        keys: dict[str, int] = {}
        self.key_of: dict[str, int] = {
            docid: keys.setdefault(text_key(text), len(keys))
            for docid, text in dataset.corpus.items()
        }
        self._text_of = {qid: text_key(text) for qid, text in dataset.queries.items()}
        self._relevant = {
            text: frozenset(self.key_of[docid] for docid in found)
            for text, found in relevant_by_text(dataset.queries, dataset.relevant_docs).items()
        }
        own = {qid: {keys[text]} for qid, text in self._text_of.items() if text in keys}
        for qid, text in self._text_of.items():
            # A title may stand before the text of the document that has the query's own id.
            if text_key(dataset.corpus.get(qid, "")).endswith(text):
                own.setdefault(qid, set()).add(self.key_of[qid])
        self._own = {qid: frozenset(found) for qid, found in own.items()}

    def first_ids(self) -> list[str]:
        """Return, for every key, the first document of the corpus that has it."""
        first: dict[int, str] = {}
        for docid, key in self.key_of.items():
            first.setdefault(key, docid)
        return list(first.values())

    def relevant_keys(self, query_id: str) -> frozenset[int]:
        """Return the keys of all documents that are relevant to a query."""
        return self._relevant[self._text_of[query_id]]

    def own_keys(self, query_id: str) -> frozenset[int]:
        """Return the keys of the documents that are the query itself, as in ArguAna."""
        return self._own.get(query_id, frozenset())

    def barred_keys(self, query_id: str) -> frozenset[int]:
        """Return the keys that are never a query's negatives: the relevant ones and its own."""
        return self.relevant_keys(query_id) | self.own_keys(query_id)
