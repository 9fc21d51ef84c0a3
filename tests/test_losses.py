"""Every supported loss gets the rows and labels that it needs, and learns from them."""

import inspect

import numpy as np
import pytest
import torch
from fakes import tiny_dataset

from llama_index.finetuning.embeddings.errors import ConfigurationError

pytest.importorskip("sentence_transformers")

from sentence_transformers import SentenceTransformer
from torch import nn

from llama_index.finetuning.embeddings import SentenceTransformersFinetuneEngine, upstream
from llama_index.finetuning.embeddings.sentence_transformer.by_document import Targets
from llama_index.finetuning.embeddings.sentence_transformer.document_loss import (
    DocumentRankingLoss,
)
from llama_index.finetuning.embeddings.sentence_transformer.losses import (
    PlainRanking,
    build_loss,
    loss_format,
    plain_ranking,
)

losses = upstream.losses()

LOSSES = {
    "MultipleNegativesRankingLoss": losses.MultipleNegativesRankingLoss,
    "MultipleNegativesSymmetricRankingLoss": losses.MultipleNegativesSymmetricRankingLoss,
    "CosineSimilarityLoss": losses.CosineSimilarityLoss,
    "TripletLoss": lambda m: losses.TripletLoss(
        m, distance_metric=losses.TripletDistanceMetric.COSINE, triplet_margin=0.5
    ),
    "ContrastiveLoss": losses.ContrastiveLoss,
    "OnlineContrastiveLoss": losses.OnlineContrastiveLoss,
    "CoSENTLoss": losses.CoSENTLoss,
    "MegaBatchMarginLoss": losses.MegaBatchMarginLoss,
    "MatryoshkaLoss(MNRL)": lambda m: losses.MatryoshkaLoss(
        m, losses.MultipleNegativesRankingLoss(m), [32, 8]
    ),
    "MatryoshkaLoss(CoSENT)": lambda m: losses.MatryoshkaLoss(m, losses.CoSENTLoss(m), [32, 8]),
    "GISTEmbedLoss": lambda m: losses.GISTEmbedLoss(m, guide=m),
    "CachedMultipleNegativesRankingLoss": lambda m: losses.CachedMultipleNegativesRankingLoss(
        m, mini_batch_size=4
    ),
    "CachedMultipleNegativesSymmetricRankingLoss": (
        lambda m: losses.CachedMultipleNegativesSymmetricRankingLoss(m, mini_batch_size=4)
    ),
    "CachedGISTEmbedLoss": lambda m: losses.CachedGISTEmbedLoss(m, guide=m, mini_batch_size=4),
    "MatryoshkaLoss(CachedMNRL)": lambda m: losses.MatryoshkaLoss(
        m, losses.CachedMultipleNegativesRankingLoss(m, mini_batch_size=4), [32, 8]
    ),
}


def margin(model, dataset) -> float:
    """Return how far, on average, a query's own document lies above the other documents."""
    queries = model.encode(list(dataset.queries.values()), normalize_embeddings=True)
    documents = model.encode(list(dataset.corpus.values()), normalize_embeddings=True)
    scores = queries @ documents.T
    row = {docid: i for i, docid in enumerate(dataset.corpus)}
    own = np.zeros_like(scores, dtype=bool)
    for i, qid in enumerate(dataset.queries):
        own[i, [row[docid] for docid in dataset.relevant_docs[qid]]] = True
    return float(scores[own].mean() - scores[~own].mean())


def train(loss, model_dir, tmp_path):
    """Finetune with a loss; return the margin before and after, and the engine."""
    dataset = tiny_dataset(24, 2)
    engine = SentenceTransformersFinetuneEngine(
        dataset,
        model_id=str(model_dir),
        model_output_path=str(tmp_path / "out"),
        loss=loss,
        epochs=3,
        device="cpu",
        precision="fp32",
        batching="pairs",
        show_progress_bar=False,
        training_args={"learning_rate": 3e-3},
    )
    before = margin(engine.model, dataset)
    engine.finetune()
    return before, margin(engine.model, dataset), engine


@pytest.mark.filterwarnings("ignore:The .*SymmetricRankingLoss is deprecated")
@pytest.mark.parametrize("name", LOSSES)
def test_finetuning_moves_positives_above_the_rest(name, tiny_bert_dir, tmp_path):
    """With every loss, finetuning widens the gap between relevant and other documents."""
    before, after, _ = train(LOSSES[name], tiny_bert_dir, tmp_path)
    assert after > before + 0.02


def test_a_loss_built_on_another_model_is_bound_to_the_engines(tiny_bert_dir, tmp_path):
    """A loss instance, nested or not, trains the engine's model; the model it came with stays."""
    other = SentenceTransformer(str(tiny_bert_dir), device="cpu")
    untouched = other.encode("amber bridge")
    inner = losses.MultipleNegativesRankingLoss(other)
    loss = losses.MatryoshkaLoss(other, inner, [32])
    before, after, engine = train(loss, tiny_bert_dir, tmp_path)
    assert engine.loss.model is engine.model
    assert engine.loss.loss.model is engine.model
    assert after > before + 0.02
    assert np.array_equal(other.encode("amber bridge"), untouched)


def test_binding_leaves_the_guide_of_a_gist_loss(tiny_bert_dir):
    """The guide of a GIST loss is a teacher and not replaced by the model in training."""
    guide = SentenceTransformer(str(tiny_bert_dir), device="cpu")
    model = SentenceTransformer(str(tiny_bert_dir), device="cpu")
    loss = build_loss(losses.GISTEmbedLoss(guide, guide=guide), model)
    assert loss.model is model
    assert loss.guide is guide


def test_a_loss_may_serve_two_engines(tiny_bert_dir, tmp_path):
    """Each training binds it to its own engine's model."""
    model = SentenceTransformer(str(tiny_bert_dir), device="cpu")
    loss = losses.CoSENTLoss(model)
    engines = [
        SentenceTransformersFinetuneEngine(
            tiny_dataset(20, 2),
            model_id=str(tiny_bert_dir),
            model_output_path=str(tmp_path / str(i)),
            loss=loss,
            device="cpu",
            show_progress_bar=False,
        )
        for i in range(2)
    ]
    base = model.encode("amber bridge")
    for engine in engines:
        engine.finetune()
        assert not np.allclose(engine.model.encode("amber bridge"), base, atol=1e-4)


def test_a_gist_loss_knows_the_tokenizer_of_the_model_it_is_bound_to(tiny_bert_dir):
    """Built on the guide itself it would hand the guide the ids of another vocabulary."""
    guide = SentenceTransformer(str(tiny_bert_dir), device="cpu")
    model = SentenceTransformer(str(tiny_bert_dir), device="cpu")
    model.tokenizer.add_tokens(["zebra"])
    loss = losses.GISTEmbedLoss(guide, guide=guide)
    assert not loss.must_retokenize
    build_loss(loss, model)
    assert loss.must_retokenize
    assert loss.tokenizer is model.tokenizer
    same = SentenceTransformer(str(tiny_bert_dir), device="cpu")
    build_loss(loss, same)
    assert not loss.must_retokenize
    same.max_seq_length = guide.max_seq_length + 1
    build_loss(loss, same)
    assert loss.must_retokenize


@pytest.mark.parametrize(
    ("loss", "kind"),
    [
        (losses.CosineSimilarityLoss, "labelled"),
        (losses.ContrastiveLoss, "labelled"),
        (losses.CoSENTLoss, "labelled"),
        (losses.AnglELoss, "labelled"),
        (losses.TripletLoss, "triplet"),
        (losses.MultipleNegativesRankingLoss, "ranking"),
    ],
)
def test_loss_formats(loss, kind, tiny_bert_dir):
    """Each loss is known to want labels, triplets or a ranking."""
    model = SentenceTransformer(str(tiny_bert_dir), device="cpu")
    assert loss_format(loss(model)).kind == kind
    assert loss_format(losses.MatryoshkaLoss(model, loss(model), [8])).kind == kind


def test_a_loss_that_needs_class_labels_is_refused(tiny_bert_dir, tmp_path):
    """A loss that the data can't feed is refused with its reason and an alternative."""
    with pytest.raises(ConfigurationError, match=r"BatchAllTripletLoss.*class labels.*Use "):
        train(losses.BatchAllTripletLoss, tiny_bert_dir, tmp_path)


@pytest.mark.parametrize("loss", [3, lambda model: None], ids=["number", "returns None"])
def test_what_is_no_loss_is_refused(loss, tiny_bert_dir, tmp_path):
    """Something that is no loss, or makes none, is refused."""
    with pytest.raises(ConfigurationError, match="'loss' must"):
        train(loss, tiny_bert_dir, tmp_path)


def symmetric_loss(model, **kwargs):
    """Return the ranking loss of both directions, as this sentence-transformers spells it."""
    if "directions" in inspect.signature(losses.MultipleNegativesRankingLoss).parameters:
        kwargs |= {
            "directions": ("query_to_doc", "doc_to_query"),
            "partition_mode": "per_direction",
        }
        return losses.MultipleNegativesRankingLoss(model, **kwargs)
    return losses.MultipleNegativesSymmetricRankingLoss(model, **kwargs)


def test_only_plain_ranking_losses_are_trained_by_document(tiny_bert_dir):
    """By-document batches take over MNRL with cosine similarity, one way or both, and no other."""
    model = SentenceTransformer(str(tiny_bert_dir), device="cpu")
    one_way, cached = (
        losses.MultipleNegativesRankingLoss,
        losses.CachedMultipleNegativesRankingLoss,
    )
    assert plain_ranking(None) == PlainRanking(scale=20.0, symmetric=True)
    assert plain_ranking(one_way) == PlainRanking(scale=20.0, symmetric=False)
    for name in ("", "Cached"):
        both_ways = getattr(losses, f"{name}MultipleNegativesSymmetricRankingLoss", None)
        texts = 32 if name and both_ways else None
        assert plain_ranking(both_ways) == PlainRanking(20.0, True, texts)
    assert plain_ranking(one_way(model, scale=7.0)) == PlainRanking(7.0, symmetric=False)
    assert plain_ranking(cached) == PlainRanking(20.0, False, mini_batch_size=32)
    of_nine = cached(model, scale=9.0, mini_batch_size=9)
    assert plain_ranking(of_nine) == PlainRanking(9.0, False, mini_batch_size=9)
    assert plain_ranking(symmetric_loss(model, scale=8.0)) == PlainRanking(8.0, symmetric=True)
    assert plain_ranking(losses.CoSENTLoss(model)) is None
    assert plain_ranking(one_way(model, similarity_fct=lambda a, b: a @ b.T)) is None

    class Mine(nn.Module):
        """A loss of the user's own."""

    assert plain_ranking(Mine()) is None


@pytest.mark.parametrize(
    ("directions", "partition_mode", "expected"),
    [
        (("query_to_doc",), "per_direction", PlainRanking(symmetric=False)),
        (("query_to_doc", "doc_to_query"), "per_direction", PlainRanking(symmetric=True)),
        (("query_to_doc", "doc_to_query"), "joint", None),
        (("query_to_doc", "query_to_query"), "joint", None),
    ],
)
def test_directions_that_by_document_batches_know(
    tiny_bert_dir, directions, partition_mode, expected
):
    """The directions of MNRL are taken over where both ways have a softmax of their own."""
    ranking_loss = losses.MultipleNegativesRankingLoss
    if "directions" not in inspect.signature(ranking_loss).parameters:
        pytest.skip("this sentence-transformers has one direction")
    model = SentenceTransformer(str(tiny_bert_dir), device="cpu")
    loss = ranking_loss(model, directions=directions, partition_mode=partition_mode)
    assert plain_ranking(loss) == expected


@pytest.mark.parametrize("symmetric", [False, True])
def test_by_document_loss_is_that_of_sentence_transformers(tiny_bert_dir, symmetric):
    """With one query a document the loss is that of the library's own class."""
    model = SentenceTransformer(str(tiny_bert_dir), device="cpu").eval()
    queries, documents = ["ask amber", "ask river 1", "ask 2"], ["amber", "river bridge", "candle"]
    sides = [upstream.preprocess(model, texts, "") for texts in (queries, documents)]
    targets = Targets(torch.eye(3, dtype=torch.int8), torch.arange(3), [frozenset()] * 3)
    theirs = symmetric_loss if symmetric else losses.MultipleNegativesRankingLoss
    expected = theirs(model)([dict(side) for side in sides], None)
    found = DocumentRankingLoss(model, symmetric=symmetric)(sides, targets)
    assert found.item() == pytest.approx(expected.item(), abs=1e-5)
