"""Exact search in blocks: what it finds, in which order, and what it refuses."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from llama_index.finetuning.embeddings import ConfigurationError, EncodingError, search
from llama_index.finetuning.embeddings.search import top_k


def brute_force(queries, documents, k, similarity):
    """Sort all scores, computed in double precision, with a stable sort."""
    queries, documents = queries.astype(np.float64), documents.astype(np.float64)
    scores = queries @ documents.T
    if similarity == "cosine":
        lengths = np.outer(np.linalg.norm(queries, axis=1), np.linalg.norm(documents, axis=1))
        scores = np.divide(scores, lengths, out=np.zeros_like(scores), where=lengths > 0)
    scores = scores.astype(np.float32)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(scores, order, axis=1), order


@settings(max_examples=60, deadline=None)
@given(st.data(), st.sampled_from(["cosine", "dot"]))
def test_finds_what_sorting_finds(data, similarity):
    """Small whole numbers make many ties; blocks of any size give the order of a stable sort."""
    dim, k, block_rows = (data.draw(st.integers(1, most)) for most in (4, 12, 40))
    queries, documents = (
        data.draw(
            st.integers(1, most).flatmap(
                lambda rows: hnp.arrays(np.float32, (rows, dim), elements=st.integers(-2, 2))
            )
        )
        for most in (5, 30)
    )
    scores, indices = top_k(queries, documents, k, similarity=similarity, block_rows=block_rows)
    expected_scores, expected = brute_force(queries, documents, k, similarity)
    assert indices.tolist() == expected.tolist()
    assert scores.tolist() == expected_scores.tolist()
    assert (scores.dtype, indices.dtype) == (np.float32, np.int64)


@pytest.mark.parametrize("block_rows", [7, 64, 5000])
def test_equal_documents_tie_wherever_they_stand(block_rows, monkeypatch):
    """Copies of a document, blocks apart, get one score and keep the corpus order."""
    monkeypatch.setattr(search, "_SCORES_PER_BLOCK", 4096)
    rng = np.random.default_rng(0)
    originals = rng.standard_normal((100, 48)).astype(np.float32)
    documents = originals[rng.integers(0, 100, 3000)]
    queries = rng.standard_normal((20, 48)).astype(np.float32)
    scores, indices = top_k(queries, documents, 200, block_rows=block_rows)
    expected_scores, expected = brute_force(queries, documents, 200, "cosine")
    assert indices.tolist() == expected.tolist()
    assert scores.tolist() == expected_scores.tolist()


@pytest.mark.parametrize("block_rows", [64, 4000])
def test_near_ties_are_told_apart_as_in_double_precision(block_rows):
    """Documents that differ in the fifth digit: single precision alone would order them wrongly."""
    rng = np.random.default_rng(0)
    base = rng.standard_normal(384)
    documents = (base + 1e-5 * rng.standard_normal((3000, 384))).astype(np.float32)
    queries = (base + rng.standard_normal((16, 384))).astype(np.float32)
    scores, indices = top_k(queries, documents, 20, block_rows=block_rows)
    expected_scores, expected = brute_force(queries, documents, 20, "cosine")
    assert indices.tolist() == expected.tolist()
    assert scores.tolist() == expected_scores.tolist()


def test_rescoring_in_pieces_changes_nothing(monkeypatch):
    """Candidates that are scored a few at a time get the same scores."""
    rng = np.random.default_rng(1)
    queries, documents = rng.standard_normal((5, 16)), rng.standard_normal((300, 16))
    whole = top_k(queries, documents, 20)
    monkeypatch.setattr(search, "_RESCORED_FLOATS", 50)
    pieces = top_k(queries, documents, 20)
    assert whole[0].tolist() == pieces[0].tolist()
    assert whole[1].tolist() == pieces[1].tolist()


def test_similarity_decides_whether_length_counts():
    """The longer document wins by dot product, the one of the same direction by cosine."""
    documents = [[1.0, 0.0], [5.0, 5.0]]
    assert top_k([[1.0, 0.0]], documents, 1, similarity="cosine")[1].tolist() == [[0]]
    assert top_k([[1.0, 0.0]], documents, 1, similarity="dot")[1].tolist() == [[1]]


def test_a_zero_vector_has_similarity_0():
    """Between a like and an opposite document stands the empty one, not a NaN."""
    scores, indices = top_k([[1.0, 0.0]], [[0.0, 0.0], [-1.0, 0.0], [2.0, 0.0]], 3)
    assert indices.tolist() == [[2, 0, 1]]
    assert scores.tolist() == [[1.0, 0.0, -1.0]]


def test_k_beyond_the_corpus_gives_the_corpus():
    """Asking for ten of two documents gives both."""
    assert top_k([[1.0]], [[1.0], [2.0]], 10)[1].shape == (1, 2)


def test_no_queries_give_an_empty_result():
    """An empty table of queries is no error."""
    assert top_k(np.zeros((0, 3)), np.ones((4, 3)), 2)[0].shape == (0, 2)


def test_memory_mapped_documents_are_searched(tmp_path):
    """A float64 array on disk gives what the same array in memory gives."""
    documents = np.random.default_rng(0).standard_normal((50, 4))
    np.save(tmp_path / "documents.npy", documents)
    mapped = np.load(tmp_path / "documents.npy", mmap_mode="r")
    queries = documents[:3]
    assert top_k(queries, mapped, 5, block_rows=8)[1].tolist() == (
        top_k(queries, documents, 5)[1].tolist()
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([[1.0, 2.0]], [[1.0]], 1), "Query vectors have 2 dimensions and document vectors 1"),
        (([1.0], [[1.0]], 1), r"'query_vectors' must be a table .* shape \(1,\)"),
        (([["a"]], [[1.0]], 1), "'query_vectors' must be a table of numbers"),
        (([[1.0]], np.zeros((0, 1)), 1), "'document_vectors' must hold at least one number"),
        (([[1.0]], [[1.0]], 0), r"'k' must be at least 1 \(got 0\)"),
    ],
)
def test_what_does_not_fit_is_refused(arguments, message):
    """Shapes and numbers that can't work are named before any search."""
    with pytest.raises(ConfigurationError, match=message):
        top_k(*arguments)


def test_options_out_of_range_are_refused():
    """An unknown similarity and an empty block are named with what was given."""
    with pytest.raises(ConfigurationError, match=r"'similarity' must be in .* \(got 'l2'\)"):
        top_k([[1.0]], [[1.0]], 1, similarity="l2")
    with pytest.raises(ConfigurationError, match=r"'block_rows' must be at least 1 \(got 0\)"):
        top_k([[1.0]], [[1.0]], 1, block_rows=0)


def test_a_vector_that_is_not_finite_is_named_by_its_row():
    """Row 2 of the documents holds NaN, and a query infinity."""
    with pytest.raises(EncodingError, match=r"'document_vectors' must be finite \(row 2 "):
        top_k([[1.0]], [[1.0], [2.0], [np.nan]], 1, block_rows=2)
    with pytest.raises(EncodingError, match=r"'query_vectors' must be finite \(row 0 "):
        top_k([[np.inf]], [[1.0]], 1)
