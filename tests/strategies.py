"""Hypothesis strategies: texts, ids and whole datasets over arbitrary Unicode."""

from hypothesis import strategies as st

from llama_index.finetuning.embeddings import EmbeddingQAFinetuneDataset


def texts(max_size: int = 20) -> st.SearchStrategy[str]:
    """Any text that is not empty, white space aside."""
    return st.text(min_size=1, max_size=max_size).filter(str.strip)


def ids(**kwargs) -> st.SearchStrategy[str]:
    """Any id, the empty one too."""
    return st.text(max_size=6, **kwargs)


@st.composite
def datasets(draw, id_strategy=None, text_strategy=None) -> EmbeddingQAFinetuneDataset:
    """A dataset with unjudged documents, several positives, and hard negatives or none at all."""
    id_strategy = ids() if id_strategy is None else id_strategy
    text_strategy = texts() if text_strategy is None else text_strategy
    corpus = draw(st.dictionaries(id_strategy, text_strategy, min_size=1, max_size=6))
    queries = draw(st.dictionaries(id_strategy, text_strategy, min_size=1, max_size=5))
    some = st.lists(st.sampled_from(sorted(corpus)), min_size=1, max_size=3, unique=True)
    relevant_docs = {qid: draw(some) for qid in queries}
    hard_negatives = {}
    if draw(st.booleans()):
        for qid in queries:
            others = [docid for docid in draw(some) if docid not in relevant_docs[qid]]
            hard_negatives |= {qid: others} if others else {}
    return EmbeddingQAFinetuneDataset(
        queries=queries,
        corpus=corpus,
        relevant_docs=relevant_docs,
        hard_negatives=hard_negatives or None,
    )
