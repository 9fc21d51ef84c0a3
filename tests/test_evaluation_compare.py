"""Comparing systems: verdicts, worst queries, BM25, fusion and dimensions."""

import dataclasses
import json
import sys
import weakref

import numpy as np
import pytest
import torch
from fakes import HashEmbedding, tiny_dataset

from llama_index.finetuning.embeddings import (
    ConfigurationError,
    DatasetError,
    EmbeddingQAFinetuneDataset,
    MissingExtraError,
)
from llama_index.finetuning.embeddings.adapter_embedding import AdapterEmbeddingModel
from llama_index.finetuning.embeddings.adapters import LinearLayer
from llama_index.finetuning.embeddings.evaluation import (
    compare_results,
    evaluate_rankings,
    evaluate_retrieval,
    systems,
)
from llama_index.finetuning.embeddings.evaluation.bm25 import bm25_rankings
from llama_index.finetuning.embeddings.evaluation.fusion import reciprocal_rank_fusion
from llama_index.finetuning.embeddings.evaluation.systems import (
    DimensionResult,
    EvaluationOptions,
    evaluate_systems,
)

OPTIONS = EvaluationOptions(k_values=(1, 10))


class Forgetful(HashEmbedding):
    """Understands only the first words of a query: worse than the base, but not hopeless."""

    def _get_query_embedding(self, query):
        return self.vector(" ".join(query.split()[:3]))


class LongVectors(HashEmbedding):
    """Gives vectors of other lengths than one: longer for longer texts."""

    def vector(self, text):
        return [number * len(text) for number in super().vector(text)]


def results_of(dataset, **models):
    """Evaluate models by name."""
    return {name: evaluate_retrieval(model, dataset) for name, model in models.items()}


def ranked(dataset, ranks):
    """Return the result of rankings in which each query's document has a given rank."""
    documents = list(dataset.corpus)
    rows = []
    for qid, rank in zip(dataset.queries, ranks, strict=True):
        wanted = documents.index(dataset.relevant_docs[qid][0])
        others = [row for row in range(len(documents)) if row != wanted]
        rows.append([*others[: rank - 1], wanted, *others[rank - 1 :]])
    return evaluate_rankings(np.array(rows), dataset)


def test_a_model_against_itself_shows_no_measurable_change():
    """No query changes, the interval is a point and the p-value 1."""
    dataset = tiny_dataset()
    results = results_of(dataset, base=HashEmbedding(), again=HashEmbedding())
    comparison = compare_results(results, dataset)
    assert comparison.verdict("again") == "no measurable change"
    for one in comparison.differences["again"].values():
        assert (one.value, one.low, one.high, one.p_value) == (0, 0, 0, 1)
        assert (one.won, one.lost, one.tied) == (0, 0, len(dataset.queries))
    assert comparison.worst["again"] == []
    assert comparison.sentence("again").startswith("No measurable change from base to again: nDCG")


def test_a_better_and_a_worse_model_are_called_so():
    """What a forgetful model loses, the whole one wins back."""
    dataset = tiny_dataset(n_documents=40)
    results = results_of(dataset, base=HashEmbedding(), other=Forgetful())
    worse = compare_results(results, dataset)
    better = compare_results(dict(reversed(results.items())), dataset)
    assert (worse.reference, worse.verdict("other")) == ("base", "worse")
    assert (better.reference, better.verdict("base")) == ("other", "better")
    lost, won = worse.differences["other"]["ndcg@10"], better.differences["base"]["ndcg@10"]
    assert (lost.value, lost.won, lost.lost) == (-won.value, won.lost, won.won)
    assert worse.sentence("other").startswith("other is worse than base: nDCG@10 0.")


def test_estimates_are_the_means_with_an_interval_around_them():
    """Every system has every metric, between its ends."""
    dataset = tiny_dataset()
    results = results_of(dataset, base=HashEmbedding())
    comparison = compare_results(results, dataset)
    for metric, one in comparison.estimates["base"].items():
        assert one.value == results["base"].metrics[metric]
        assert one.low <= one.value <= one.high
    assert comparison.differences == {}


def test_the_worst_hit_queries_come_with_their_documents():
    """The query that fell from rank 1 to 3 comes first, and what stands above is not relevant."""
    dataset = tiny_dataset(n_documents=4, queries_per_document=1)
    results = {"base": ranked(dataset, [1, 1, 1, 1]), "new": ranked(dataset, [1, 2, 3, 1])}
    comparison = compare_results(results, dataset)
    first, second = comparison.worst["new"]
    assert (first.query_id, second.query_id) == ("q2-0", "q1-0")
    assert (first.before, first.after) == (1.0, 0.5)
    assert first.query == dataset.queries["q2-0"]
    assert first.relevant == {"d2": dataset.corpus["d2"]}
    assert [one.document_id for one in first.top_before] == ["d2", "d0", "d1"]
    assert [one.relevant for one in first.top_after] == [False, False, True]
    assert [one.text for one in first.top_before] == [dataset.corpus[d] for d in ("d2", "d0", "d1")]
    assert comparison.changes["new"].tolist() == [0, second.after - 1, -0.5, 0]


def test_a_comparison_as_plain_objects():
    """Every field under its name, numbers as they are, and NaN as None."""
    dataset = tiny_dataset(n_documents=4, queries_per_document=1)
    results = {"base": ranked(dataset, [1, 1, 1, 1]), "new": ranked(dataset, [1, 2, 3, 1])}
    comparison = compare_results(results, dataset, metric="mrr@10", seed=7)
    plain = comparison.to_dict()
    one = comparison.differences["new"]["mrr@10"]
    assert {name: plain[name] for name in ("reference", "metric", "seed")} == {
        "reference": "base",
        "metric": "mrr@10",
        "seed": 7,
    }
    assert (plain["n_queries"], plain["n_documents"], plain["n_clusters"]) == (4, 4, 4)
    assert plain["systems"]["base"]["mrr@10"]["value"] == 1.0
    assert plain["differences"]["new"]["mrr@10"]["value"] == one.value
    assert plain["verdicts"] == {"new": comparison.verdict("new")}
    assert [query["query_id"] for query in plain["worst"]["new"]] == ["q2-0", "q1-0"]
    together = dict.fromkeys(dataset.queries, "one group")
    lonely = compare_results(results, dataset, metric="mrr@10", groups=together).to_dict()
    assert lonely["differences"]["new"]["mrr@10"]["low"] is None
    json.dumps(lonely, allow_nan=False)


def test_the_sentence_says_it_all():
    """MRR 1 becomes (1 + 1/2 + 1/3 + 1) / 4; four clusters are too few for a verdict."""
    dataset = tiny_dataset(n_documents=4, queries_per_document=1)
    results = {"base": ranked(dataset, [1, 1, 1, 1]), "new": ranked(dataset, [1, 2, 3, 1])}
    comparison = compare_results(results, dataset, metric="mrr@10")
    one = comparison.differences["new"]["mrr@10"]
    assert comparison.sentence("new") == (
        "No measurable change from base to new: MRR@10 1.000 → 0.708 (-0.292, 95 % interval "
        f"{one.low:+.3f} to {one.high:+.3f}, p = {one.p_value:.3f}); 0 of 4 queries won, 2 lost, "
        "2 tied. There are only 4 independent groups of queries, too few to tell: at least 6 are "
        "needed."
    )


def test_one_cluster_is_compared_without_an_interval():
    """All queries share a document: numbers, but no ends; in JSON they are null."""
    dataset = tiny_dataset(n_documents=1, queries_per_document=4)
    dataset.corpus["other"] = "other"
    results = {"base": ranked(dataset, [1] * 4), "new": ranked(dataset, [2] * 4)}
    comparison = compare_results(results, dataset, metric="mrr@10")
    assert "MRR@10 1.000 → 0.500 (-0.500, p = 1.000); 0 of 4" in comparison.sentence("new")
    plain = json.loads(json.dumps(comparison.to_dict(), allow_nan=False))
    assert plain["differences"]["new"]["mrr@10"]["low"] is None
    assert plain["systems"]["base"]["mrr@10"]["high"] is None


def test_rounding_is_no_change():
    """What differs by less than the tolerance is tied, in the counts and everywhere else."""
    dataset = tiny_dataset()
    base = ranked(dataset, [2] * 24)
    noisy = {name: values - 1e-15 for name, values in base.per_query.items()}
    results = {"base": base, "new": dataclasses.replace(base, per_query=noisy)}
    comparison = compare_results(results, dataset)
    assert comparison.differences["new"]["ndcg@10"].tied == 24
    assert not comparison.changes["new"].any()
    assert comparison.worst["new"] == []


def test_the_worst_are_five_with_all_that_was_wanted():
    """Of eight queries that got worse five are shown, each with both of its documents."""
    single = tiny_dataset(n_documents=8, queries_per_document=1)
    relevant_docs = {qid: [*found, "d0", "d1"][:2] for qid, found in single.relevant_docs.items()}
    relevant_docs["q0-0"] = ["d0", "d1"]
    dataset = single.model_copy(update={"relevant_docs": relevant_docs})
    results = {"base": ranked(dataset, [1] * 8), "new": ranked(dataset, [4] * 8)}
    worst = compare_results(results, dataset).worst["new"]
    assert len(worst) == 5
    assert all(sorted(one.relevant) == sorted(relevant_docs[one.query_id]) for one in worst)


def test_a_query_that_retrieves_nothing_lists_nothing():
    """-1 is no document, not the last one."""
    dataset = tiny_dataset(n_documents=2, queries_per_document=1)
    results = {
        "base": evaluate_rankings([[0, 1], [1, 0]], dataset),
        "new": evaluate_rankings([[0, 1], [-1, -1]], dataset),
    }
    (one,) = compare_results(results, dataset).worst["new"]
    assert (one.query_id, one.top_after) == ("q1-0", [])


def test_metrics_that_a_result_lacks_are_left_out():
    """With cut-offs 1 and 10 beside 10 alone, 10 is compared."""
    dataset = tiny_dataset()
    rows = np.tile(np.arange(12), (24, 1))
    results = {
        "base": evaluate_rankings(rows, dataset, k_values=(1, 10)),
        "new": evaluate_rankings(rows, dataset, k_values=(10,)),
    }
    found = compare_results(results, dataset).estimates["base"]
    assert set(found) == set(results["new"].metrics) != set(results["base"].metrics)


def test_copies_of_a_query_in_its_cluster_change_no_interval():
    """Twice the queries of 20 documents, ranked alike, tell no more than once."""
    ranks = np.random.default_rng(0).integers(1, 6, (2, 20))
    found = []
    for copies in (1, 2):
        dataset = tiny_dataset(n_documents=20, queries_per_document=copies)
        base, new = (ranked(dataset, np.repeat(one, copies).tolist()) for one in ranks)
        one = compare_results({"base": base, "new": new}, dataset).differences["new"]["ndcg@10"]
        found.append((one.low, one.high))
    assert found[0] == pytest.approx(found[1])
    assert found[0][0] < found[0][1]


def test_queries_are_clustered_by_document_or_by_group():
    """24 queries on 12 documents are 12 clusters; groups by hand take their place."""
    dataset = tiny_dataset()
    results = {"base": ranked(dataset, [2] * 24), "new": ranked(dataset, [1] * 24)}
    groups = {qid: qid[-1] for qid in dataset.queries}
    by_document = compare_results(results, dataset)
    by_group = compare_results(results, dataset, groups=groups)
    assert (by_document.n_clusters, by_document.verdict("new")) == (12, "better")
    assert (by_group.n_clusters, by_group.verdict("new")) == (2, "no measurable change")
    for n_groups in (2, 5, 6):
        groups = {qid: str(i % n_groups) for i, qid in enumerate(dataset.queries)}
        sentence = compare_results(results, dataset, groups=groups).sentence("new")
        assert ("too few to tell" in sentence) == (n_groups < 6)
    with pytest.raises(DatasetError, match="1 queries have no group: 'q0-0'"):
        compare_results(
            results, dataset, groups={qid: "one" for qid in dataset.queries if qid != "q0-0"}
        )


def test_graded_judgements_decide_the_clusters_and_the_relevant_documents():
    """With all judgements on d0 there is one cluster, and d0 is what was wanted."""
    dataset = tiny_dataset(n_documents=4, queries_per_document=1)
    relevance = {qid: {"d0": 2.0} for qid in dataset.queries}
    rankings = {"base": [[0, 1]] * 4, "new": [[1, 0]] * 4}
    results = {
        name: evaluate_rankings(np.array(rows), dataset, relevance=relevance)
        for name, rows in rankings.items()
    }
    comparison = compare_results(results, dataset, relevance=relevance)
    assert comparison.n_clusters == 1
    assert list(comparison.worst["new"][0].relevant) == ["d0"]


def test_the_seed_and_the_metric_are_heeded():
    """Another seed moves the interval, another metric the verdict's number."""
    dataset = tiny_dataset()
    results = results_of(dataset, base=HashEmbedding(), other=Forgetful())
    one, same, other = (compare_results(results, dataset, seed=seed) for seed in (1, 1, 2))
    assert one.to_dict() == same.to_dict()
    assert one.differences["other"]["mrr@10"] != other.differences["other"]["mrr@10"]
    by_mrr = compare_results(results, dataset, metric="mrr@5")
    assert by_mrr.changes["other"].mean() == by_mrr.differences["other"]["mrr@5"].value


def test_results_that_do_not_fit_are_refused():
    """No result, another dataset's result and an unknown metric are named."""
    dataset = tiny_dataset()
    results = results_of(dataset, base=HashEmbedding())
    with pytest.raises(ConfigurationError, match="'results' must hold at least one system"):
        compare_results({}, dataset)
    with pytest.raises(ConfigurationError, match="'base' belongs to other queries"):
        compare_results(results, tiny_dataset(n_documents=3))
    for corpus in (dict(reversed(dataset.corpus.items())), {**dataset.corpus, "more": "text"}):
        other = dataset.model_copy(update={"corpus": corpus})
        with pytest.raises(ConfigurationError, match="'base' belongs to other documents"):
            compare_results(results, other)
    with pytest.raises(ConfigurationError, match=r"'metric' must be in .* \(got 'ndcg@7'\)"):
        compare_results(results, dataset, metric="ndcg@7")


def test_a_model_under_two_names_is_embedded_once():
    """The second name takes the first one's result, at every dimension."""
    model, dataset = HashEmbedding(), tiny_dataset()
    results, dimensions = evaluate_systems(
        {"one": model, "two": model}, dataset, OPTIONS, metric="ndcg@10", dims=[8]
    )
    assert model.query_calls == len(set(dataset.queries.values()))
    assert results["one"] is results["two"]
    assert all(found.metrics["one"] == found.metrics["two"] for found in dimensions)


def test_dimensions_are_prefixes_of_the_vectors():
    """A 32-dim model cut to 8 numbers, beside a model that has 16; the whole sizes come too."""
    dataset = tiny_dataset()
    models = {"large": HashEmbedding(dim=32), "small": HashEmbedding(dim=16)}
    results, dimensions = evaluate_systems(models, dataset, OPTIONS, metric="ndcg@10", dims=[8, 24])
    assert [(one.dim, list(one.metrics)) for one in dimensions] == [
        (8, ["large", "small"]),
        (16, ["small"]),
        (24, ["large"]),
        (32, ["large"]),
    ]
    whole = {one.dim: one for one in dimensions}
    assert whole[32].metrics["large"] == results["large"].metrics["ndcg@10"]
    assert whole[8].metrics["large"] < whole[32].metrics["large"]
    assert results["large"].dim == 32


def test_dimensions_that_no_model_has_are_refused():
    """They are named with the longest vectors, before the documents are embedded."""
    models = {"small": HashEmbedding(dim=16), "large": HashEmbedding(dim=32)}
    models["again"] = models["small"]
    with pytest.raises(ConfigurationError, match=r"'dims' must be at most 32.*\(got \[8, 33\]\)"):
        evaluate_systems(models, tiny_dataset(), OPTIONS, metric="ndcg@10", dims=[8, 33])
    assert models["large"].text_batches == []


def test_without_dims_there_is_no_table_of_dimensions():
    """Nothing was asked for, nothing is shown."""
    models = {"base": HashEmbedding()}
    assert evaluate_systems(models, tiny_dataset(), OPTIONS, metric="ndcg@10")[1] == []


def test_index_memory_is_four_bytes_a_number():
    """A million vectors of 384 float32 numbers take 1,536,000,000 bytes."""
    assert DimensionResult(384, {}).index_bytes(1_000_000) == 1_536_000_000


def test_bm25_prefers_rare_shared_words_and_retrieves_nothing_unrelated():
    """'get_name' is split at the underscore; ties keep the corpus order; no word, no document."""
    dataset = EmbeddingQAFinetuneDataset(
        queries={"a": "Name of the cat", "b": "zebra", "c": "?!", "d": "dog"},
        corpus={"d0": "the dog", "d1": "def get_name(self)", "d2": "the dog", "d3": "the end"},
        relevant_docs={"a": ["d1"], "b": ["d0"], "c": ["d0"], "d": ["d0"]},
    )
    indices, scores = bm25_rankings(dataset, depth=3)
    assert indices[0, 0] == 1
    assert indices[1:3].tolist() == [[-1, -1, -1], [-1, -1, -1]]
    assert indices[3].tolist() == [0, 2, -1]
    assert scores[3, 0] == scores[3, 1] > 0 == scores[3, 2]


def test_bm25_keeps_words_of_other_scripts_whole():
    """Vowel signs tell words apart, and an accent is the same in one character or in two."""
    dataset = EmbeddingQAFinetuneDataset(
        queries={"a": "\u092e\u0942\u0932", "b": "caf\u00e9"},
        corpus={
            "x": "\u092e\u0947\u0932 \u0915\u093e \u0905\u0930\u094d\u0925",
            "y": "\u092e\u0942\u0932 \u0915\u093e \u0905\u0930\u094d\u0925",
            "z": "cafe\u0301 noir",
        },
        relevant_docs={"a": ["y"], "b": ["z"]},
    )
    assert bm25_rankings(dataset, 2)[0].tolist() == [[1, -1], [2, -1]]


def test_bm25_cut_within_a_tie_keeps_the_corpus_order():
    """Of three documents that match alike, the first two are kept."""
    dataset = EmbeddingQAFinetuneDataset(
        queries={"a": "the"},
        corpus={"x": "the dog", "y": "the cat", "z": "the end"},
        relevant_docs={"a": ["x"]},
    )
    assert bm25_rankings(dataset, 2)[0].tolist() == [[0, 1]]


def test_bm25_of_a_corpus_without_words_retrieves_nothing():
    """Punctuation alone has no vocabulary."""
    dataset = EmbeddingQAFinetuneDataset(
        queries={"a": "cat"}, corpus={"d0": "?!", "d1": "..."}, relevant_docs={"a": ["d0"]}
    )
    assert bm25_rankings(dataset, depth=5)[0].tolist() == [[-1, -1]]


def test_reciprocal_ranks_are_added():
    """Document 7 has ranks 1 and 2, 5 has ranks 2 and 1 and ties with it, 9 has only rank 3."""
    first, second = np.array([[7, 5, 9]]), np.array([[5, 7, -1]])
    indices, scores = reciprocal_rank_fusion([first, second], depth=4)
    assert indices.tolist() == [[5, 7, 9, -1]]
    both = np.float32(1 / 61 + 1 / 62)
    assert scores[0].tolist() == [both, both, np.float32(1 / 63), 0]
    sharper = reciprocal_rank_fusion([first, second], depth=1, k=0)
    assert sharper[1].tolist() == [[1.5]]


def test_bm25_is_fused_with_the_best_model():
    """The better of two models is the one that is fused."""
    models = {"bad": HashEmbedding(dim=2), "good": HashEmbedding(dim=64)}
    results, _ = evaluate_systems(models, tiny_dataset(), OPTIONS, metric="ndcg@10", bm25=True)
    assert list(results) == ["bad", "good", "bm25", "bm25 + good"]
    assert results["bm25"].dim is None
    assert results["bm25"].metrics["ndcg@10"] > results["bad"].metrics["ndcg@10"]


def test_the_model_to_fuse_is_chosen_by_the_metric(monkeypatch):
    """One finds half of the documents first and the others never, one finds all at rank 2."""
    dataset = tiny_dataset(n_documents=20, queries_per_document=1)
    found = iter([ranked(dataset, [1, 12] * 10), ranked(dataset, [2] * 20)] * 2)
    monkeypatch.setattr(systems, "evaluate_vectors", lambda *_, **__: next(found))
    models = {"first": HashEmbedding(), "second": HashEmbedding()}
    for metric, best in (("hit_rate@1", "first"), ("ndcg@10", "second")):
        results, _ = evaluate_systems(models, dataset, OPTIONS, metric=metric, bm25=True)
        assert f"bm25 + {best}" in results


def test_vectors_are_let_go_once_they_are_used():
    """The comparison holds no vectors that no other model needs."""
    model = HashEmbedding()
    vectors = systems._Vectors([model], tiny_dataset(), OPTIONS)
    held = weakref.ref(vectors.of(model, "text"))
    assert held() is None


def test_judgements_and_similarity_reach_every_system():
    """BM25 and the fusion are scored by the same judgements, models by the similarity."""
    dataset = tiny_dataset()
    relevance = {qid: {"d0": 1.0} for qid in dataset.queries}
    found = {}
    for similarity in ("cosine", "dot"):
        options = EvaluationOptions((1, 10), similarity=similarity, relevance=relevance)
        found[similarity], _ = evaluate_systems(
            {"m": LongVectors()}, dataset, options, metric="ndcg@10", bm25=True
        )
    for name, result in found["cosine"].items():
        scored = evaluate_rankings(
            result.indices, dataset, k_values=OPTIONS.k_values, relevance=relevance
        )
        assert result.metrics == scored.metrics, name
    assert found["cosine"]["m"].scores.tolist() != found["dot"]["m"].scores.tolist()


@pytest.mark.parametrize(
    ("models", "options", "message"),
    [
        ({}, {}, "'models' must hold at least one embedding model"),
        ([HashEmbedding()], {}, "'models' must map names to embedding models.*got list"),
        ({"base": "local"}, {}, r"'models' must map names .* \(got str for 'base'\)"),
        ({"base": HashEmbedding()}, {"dims": [0]}, r"'dims' must hold .* \(got \[0\]\)"),
        ({"base": HashEmbedding()}, {"dims": [8.0]}, r"'dims' must hold .* \(got \[8\.0\]\)"),
        ({256: HashEmbedding()}, {}, r"'models' must have names that are strings \(got 256\)"),
        ({"bm25": HashEmbedding()}, {"bm25": True}, "must not use names that start with 'bm25'"),
    ],
)
def test_arguments_of_a_comparison_are_checked_first(models, options, message):
    """What can't work is refused before a model is called."""
    with pytest.raises(ConfigurationError, match=message):
        evaluate_systems(models, tiny_dataset(), OPTIONS, metric="ndcg@10", **options)


def test_a_base_and_its_adapters_share_its_vectors(tmp_path):
    """Every text is embedded once, for the base and for two adapters of queries."""
    dataset = tiny_dataset()
    base = HashEmbedding()
    models = {"base": base}
    for name in ("one", "other"):
        adapter = LinearLayer(32, 32)
        torch.nn.init.orthogonal_(adapter.linear.weight)
        adapter.save(tmp_path / name)
        models[name] = AdapterEmbeddingModel(base, str(tmp_path / name))
    results, _ = evaluate_systems(models, dataset, OPTIONS, metric="ndcg@10")
    assert sorted(base.texts_seen) == sorted(set(dataset.corpus.values()))
    assert base.query_calls == len(dataset.queries)
    for name, model in models.items():
        alone = evaluate_retrieval(model, dataset, k_values=OPTIONS.k_values)
        assert results[name].metrics == alone.metrics
    assert results["one"].metrics != results["other"].metrics


def test_missing_bm25s_is_named_with_its_extra(monkeypatch):
    """The message says what to install, before a model is called."""
    monkeypatch.setitem(sys.modules, "bm25s", None)
    model = HashEmbedding()
    with pytest.raises(MissingExtraError, match=r"pip install 'llama.*\[bm25\]'"):
        evaluate_systems({"m": model}, tiny_dataset(), OPTIONS, metric="ndcg@10", bm25=True)
    assert model.query_calls == 0
