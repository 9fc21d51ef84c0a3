"""Tests of `adapter`: what the engine trains on, that it helps, and that it never makes worse."""

import importlib
import json
import math
import random
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from fakes import WORDS, HashEmbedding, tiny_dataset, word_vector
from hypothesis import given, settings
from hypothesis import strategies as st
from llama_index.core.bridge.pydantic import PrivateAttr
from llama_index.embeddings.huggingface import HuggingFaceEmbedding

from llama_index.finetuning.embeddings import (
    AdapterEmbeddingModel,
    AsymmetricEmbeddingModel,
    ConfigurationError,
    DatasetError,
    EmbeddingQAFinetuneDataset,
    EncodingError,
    ModelFolderError,
    OutputError,
    TrainingError,
    load_finetuned_model,
)
from llama_index.finetuning.embeddings.adapter import EmbeddingAdapterFinetuneEngine
from llama_index.finetuning.embeddings.adapter.options import TrainingOptions, parse
from llama_index.finetuning.embeddings.adapter.scoring import Scorer
from llama_index.finetuning.embeddings.adapter.selection import _mean_and_error
from llama_index.finetuning.embeddings.adapter.training import (
    _batches,
    ranking_loss,
    steps_per_epoch,
)
from llama_index.finetuning.embeddings.adapter.vectors import (
    Rows,
    TrainingSet,
    Vectors,
    rows_to_train_on,
)
from llama_index.finetuning.embeddings.adapter_embedding import adapted
from llama_index.finetuning.embeddings.adapters import (
    BaseAdapter,
    LinearLayer,
    LowRankAdapter,
    TwoLayerNN,
    describe_adapter_folder,
)
from llama_index.finetuning.embeddings.evaluation.evaluate import (
    evaluate_retrieval,
    evaluate_vectors,
)
from llama_index.finetuning.embeddings.validation import Unset

ASKED, WRITTEN = WORDS[:12], WORDS[12:24]


def synonyms(n_documents=60, seed=0, **kwargs):
    """Return queries in one vocabulary and documents in another, word for word."""
    rng = random.Random(seed)
    corpus, queries, relevant_docs = {}, {}, {}
    for i in range(n_documents):
        words = rng.sample(range(12), 4)
        corpus[f"d{i}"] = " ".join(WRITTEN[word] for word in words) + f" {i}"
        for j in range(2):
            queries[f"q{i}-{j}"] = " ".join(ASKED[word] for word in rng.sample(words, 3))
            relevant_docs[f"q{i}-{j}"] = [f"d{i}"]
    return EmbeddingQAFinetuneDataset(
        queries=queries, corpus=corpus, relevant_docs=relevant_docs, **kwargs
    )


def hopeless(n_documents=40, seed=0):
    """Return queries that have nothing to do with their documents."""
    rng = random.Random(seed)
    corpus = {f"d{i}": " ".join(rng.sample(WORDS, 5)) + f" {i}" for i in range(n_documents)}
    queries = {f"q{i}": " ".join(rng.sample(WORDS, 3)) for i in range(n_documents)}
    documents = rng.sample(sorted(corpus), n_documents)
    relevant_docs = {qid: [docid] for qid, docid in zip(queries, documents, strict=True)}
    return EmbeddingQAFinetuneDataset(queries=queries, corpus=corpus, relevant_docs=relevant_docs)


def one_word_each():
    """Return queries that are their documents, which the base finds all."""
    return EmbeddingQAFinetuneDataset(
        queries={f"q{i}": word for i, word in enumerate(ASKED)},
        corpus={f"d{i}": word for i, word in enumerate(ASKED)},
        relevant_docs={f"q{i}": [f"d{i}"] for i in range(12)},
    )


@pytest.fixture
def output(tmp_path):
    """The folder that engines of a test write to."""
    return str(tmp_path / "out")


def engine_for(dataset, output, base=None, **kwargs):
    """Build an engine without progress bars."""
    kwargs = {"show_progress_bar": False, "model_output_path": output, **kwargs}
    return EmbeddingAdapterFinetuneEngine(dataset, base or HashEmbedding(), **kwargs)


def ndcg(model, dataset):
    """Return the mean nDCG@10."""
    return evaluate_retrieval(model, dataset).metrics["ndcg@10"]


# What is trained on


def masks(rows, negatives, use=None, hidden=frozenset(), limit=10**9):
    """Return each pair with the documents that it is trained against."""
    n_documents = len(rows.document_ids)
    data = TrainingSet(
        Vectors(torch.eye(len(rows.positives), n_documents), torch.eye(n_documents), rows, None),
        negatives,
        use=range(len(rows.positives)) if use is None else use,
        hidden=hidden,
    )
    candidates = data.candidates(data.pairs[:, 1], limit, torch.Generator().manual_seed(0))
    target, mask = data.columns(data.pairs[:, 0], data.pairs[:, 1], candidates)
    assert torch.equal(candidates[target], data.pairs[:, 1])
    return [
        (int(query), int(row), {int(one) for one in candidates[~out]} - {int(row)})
        for (query, row), out in zip(data.pairs, mask, strict=True)
    ]


def small(**changes):
    """Return three queries over five documents; the second has two relevant ones."""
    fields = {
        "queries": {"q0": "a", "q1": "b", "q2": "c"},
        "corpus": {f"d{i}": f"text {i}" for i in range(5)},
        "relevant_docs": {"q0": ["d0"], "q1": ["d1", "d2"], "q2": ["d2"]},
        **changes,
    }
    return EmbeddingQAFinetuneDataset(**fields)


def test_every_relevant_document_is_a_positive_and_none_a_negative():
    """q1 has two pairs; neither of its documents stands against the other."""
    assert masks(Rows.of(small()), "relevant") == [
        (0, 0, {1, 2}),
        (1, 1, {0}),
        (1, 2, {0}),
        (2, 2, {0, 1}),
    ]


def test_the_corpus_as_negatives():
    """Every document serves, the query's own excepted."""
    found = masks(Rows.of(small()), "corpus")
    assert found[1] == (1, 1, {0, 3, 4})


def test_the_batch_as_negatives():
    """Only the documents of the batch serve: here, of the first two queries."""
    assert masks(Rows.of(small()), "in_batch", use=[0, 2]) == [(0, 0, {2}), (2, 2, {0})]


def test_hidden_documents_are_no_negatives():
    """What a fold hides is in no pool."""
    found = masks(Rows.of(small()), "corpus", use=[0], hidden=frozenset({1, 2}))
    assert found == [(0, 0, {3, 4})]


def test_a_document_of_the_same_text_is_no_negative():
    """Two ids of one text are one row; a copy of the positive is no negative."""
    dataset = small(corpus={**small().corpus, "copy": " text  0"})
    rows = Rows.of(dataset)
    assert len(rows.document_ids) == 5
    assert rows.row_of["copy"] == rows.row_of["d0"] == 0
    assert masks(rows, "corpus")[0] == (0, 0, {1, 2, 3, 4})


def test_queries_of_the_same_text_share_their_documents():
    """What answers one copy of a question is no negative of the other."""
    rows = Rows.of(small(queries={"q0": "a", "q1": "a", "q2": "c"}))
    assert masks(rows, "relevant")[0] == (0, 0, set())


@settings(deadline=None, max_examples=50)
@given(
    relevant=st.lists(st.lists(st.integers(0, 7), min_size=1, max_size=4), min_size=1, max_size=6),
    negatives=st.sampled_from(["relevant", "in_batch", "corpus"]),
    limit=st.integers(1, 10),
    copies=st.booleans(),
)
def test_no_false_negatives_ever(relevant, negatives, limit, copies):
    """Whatever is relevant to a query, under whatever id, is never its negative."""
    dataset = EmbeddingQAFinetuneDataset(
        queries={f"q{i}": f"query {i // (1 + copies)}" for i in range(len(relevant))},
        corpus={f"d{i}": f"text {i // (1 + copies)}" for i in range(8)},
        relevant_docs={f"q{i}": [f"d{j}" for j in rows] for i, rows in enumerate(relevant)},
    )
    rows = Rows.of(dataset)
    texts = [dataset.corpus[docid] for docid in rows.document_ids]
    for query, _, against in masks(rows, negatives, limit=limit):
        text = dataset.queries[f"q{query}"]
        own = {
            dataset.corpus[docid]
            for qid, docids in dataset.relevant_docs.items()
            if dataset.queries[qid] == text
            for docid in docids
        }
        assert not own & {texts[row] for row in against}


def test_beyond_the_limit_negatives_are_sampled():
    """Each step gets its own sample, with the batch's positives in it."""
    rows = Rows.of(tiny_dataset(n_documents=50))
    n_documents = len(rows.document_ids)
    data = TrainingSet(
        Vectors(torch.eye(100, 50), torch.eye(50), rows, None),
        "relevant",
        use=range(len(rows.positives)),
    )
    generator = torch.Generator().manual_seed(0)
    first = data.candidates(torch.tensor([7]), 10, generator)
    second = data.candidates(torch.tensor([7]), 10, generator)
    assert n_documents == 50
    assert 7 in first
    assert 7 in second
    assert len(first) <= 11
    assert first.tolist() != second.tolist()
    assert len(data.candidates(torch.tensor([7]), 50, generator)) == 50


def loss_of(dataset, queries, documents, **options):
    """Return the mean loss of all pairs at the identity."""
    rows = Rows.of(dataset)
    data = TrainingSet(
        Vectors(
            torch.tensor(queries),
            torch.nn.functional.normalize(torch.tensor(documents), dim=1),
            rows,
            dataset,
        ),
        "relevant",
        use=range(len(queries)),
    )
    dim = len(queries[0])
    found = ranking_loss(
        LinearLayer(dim, dim), data, data.pairs, TrainingOptions(**options), torch.Generator()
    )
    return found.item()


def pair_of_queries(**changes):
    """Return two queries, each with a document of its own, and a third document."""
    return EmbeddingQAFinetuneDataset(
        queries={"q0": "a", "q1": "b"},
        corpus={"d0": "x", "d1": "y", "d2": "z"},
        relevant_docs={"q0": ["d0"], "q1": ["d1"]},
        **changes,
    )


def test_the_loss_is_a_cross_entropy_of_cosines():
    """Cosines 1 and 0 at scale 2 give log(1 + e^-2) for each query, whatever the lengths."""
    queries = [[3.0, 0.0], [0.0, 1.0]]
    documents = [[1.0, 0.0], [0.0, 5.0], [1.0, 1.0]]
    found = loss_of(pair_of_queries(), queries, documents, scale=2.0)
    assert found == pytest.approx(math.log(1 + math.exp(-2)), abs=1e-6)


@pytest.mark.parametrize("weight", [1.0, 3.0, 0.0])
def test_hard_negatives_count_as_often_as_told(weight):
    """A hard negative of cosine 0 adds its weight to the sum of exponentials of its query."""
    dataset = pair_of_queries(hard_negatives={"q0": ["d2"]})
    queries = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]
    documents = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
    found = loss_of(dataset, queries, documents, scale=2.0, hard_negative_weight=weight)
    first = math.log(1 + (1 + weight) * math.exp(-2))
    assert found == pytest.approx((first + math.log(1 + math.exp(-2))) / 2, abs=1e-6)


@pytest.mark.parametrize("weight", [1.0, 3.0, 0.0])
def test_a_hard_negative_that_is_relevant_to_another_query_counts_no_more(weight):
    """d1, at cosine 0, counts its weight with q0, and once with the others, as a common one."""
    dataset = pair_of_queries(hard_negatives={"q0": ["d1"]})
    found = loss_of(
        dataset,
        [[1.0, 0], [0, 1.0]],
        [[1.0, 0], [0, 1.0], [1.0, 1.0]],
        scale=2.0,
        hard_negative_weight=weight,
    )
    first, second = (math.log(1 + counts * math.exp(-2)) for counts in (weight, 1))
    assert found == pytest.approx((first + second) / 2, abs=1e-6)


def test_a_hard_negative_of_a_relevant_text_is_left_out():
    """A hard negative whose text is that of a relevant document is none."""
    dataset = pair_of_queries()
    dataset.corpus["copy"] = "x"
    dataset.hard_negatives = {"q0": ["copy", "d2"]}
    assert Rows.of(dataset).hard == [[2], []]


@pytest.mark.parametrize("negatives", ["relevant", "in_batch", "corpus"])
def test_the_query_itself_is_no_negative(negatives):
    """A query that stands in the corpus, as in ArguAna, is not pushed away from its own text."""
    dataset = EmbeddingQAFinetuneDataset(
        queries={"q0": "one", "q1": "two", "q2": "three"},
        corpus={"a": "counter one", "b": "one", "c": "three", "d": "four"},
        relevant_docs={"q0": ["a"], "q1": ["b"], "q2": ["d"]},
        hard_negatives={"q2": ["c"]},
    )
    rows = rows_to_train_on(dataset, TrainingOptions(auto=False, negatives=negatives))
    assert rows.hard == [[], [], []]
    for query, _, against in masks(rows, negatives):
        text = dataset.queries[f"q{query}"]
        assert text not in {dataset.corpus[rows.document_ids[row]] for row in against}


def test_only_what_is_needed_is_embedded():
    """Told how to train, a document that no query names costs nothing; to choose, it is needed."""
    dataset = small(hard_negatives={"q0": ["d4"]})
    told = rows_to_train_on(dataset, TrainingOptions(auto=False))
    assert told.document_ids == ["d0", "d1", "d2", "d4"]
    assert told.relevant == [[0], [1, 2], [2]]
    assert told.hard == [[3], [], []]
    assert len(rows_to_train_on(dataset, TrainingOptions(auto=True)).document_ids) == 5
    corpus = TrainingOptions(auto=False, negatives="corpus")
    assert len(rows_to_train_on(dataset, corpus).document_ids) == 5


@pytest.mark.parametrize(("n_named", "expected"), [(3, 503), (600, 1200)])
def test_few_other_documents_are_embedded_to_choose(n_named, expected):
    """Of a large corpus 500 others, or as many as there are relevant ones."""
    dataset = EmbeddingQAFinetuneDataset(
        queries={f"q{i}": f"query {i}" for i in range(n_named)},
        corpus={f"d{i}": f"text {i}" for i in range(2000)},
        relevant_docs={f"q{i}": [f"d{i}"] for i in range(n_named)},
    )
    rows = rows_to_train_on(dataset, TrainingOptions(auto=True))
    assert len(rows.document_ids) == expected
    assert rows.document_ids[:n_named] == [f"d{i}" for i in range(n_named)]


def test_groups_share_no_document():
    """q1 and q2 share d2 and are one group; q0 stands alone."""
    assert Rows.of(small()).groups().tolist() == [0, 1, 1]
    chain = small(relevant_docs={"q0": ["d0", "d3"], "q1": ["d1"], "q2": ["d3", "d4"]})
    assert Rows.of(chain).groups().tolist() == [0, 1, 0]


def test_standard_error_over_groups():
    """Values 1, 1, -1, -1 in pairs have mean 0 and the error of two values 1 and -1: 1."""
    assert _mean_and_error(np.array([1.0, 1.0, -1.0, -1.0]), np.array([0, 0, 1, 1])) == (0.0, 1.0)
    mean, error = _mean_and_error(np.array([1.0, -1.0]), np.array([4, 9]))
    assert (mean, error) == (0.0, pytest.approx(1.0))


def test_the_fast_scores_are_those_of_the_evaluation():
    """nDCG@10 with several relevant documents equals `evaluate_vectors` for each query."""
    rng = np.random.default_rng(0)
    dataset = small()
    queries = rng.standard_normal((3, 4)).astype(np.float32)
    documents = rng.standard_normal((5, 4)).astype(np.float32)
    expected = evaluate_vectors(queries, documents, dataset).per_query["ndcg@10"]
    unit = torch.nn.functional.normalize(torch.from_numpy(documents), dim=1)
    scorer = Scorer(torch.from_numpy(queries), unit, Rows.of(dataset).relevant, "query")
    assert np.allclose(scorer(None), expected)
    assert np.allclose(scorer(LinearLayer(4, 4)), expected)


def test_an_adapter_that_maps_all_to_one_point_scores_low():
    """Ties count against: of five documents of one score, the relevant one ranks fifth."""

    class Constant(LinearLayer):
        def forward(self, embed):
            return torch.ones_like(embed)

    dataset = EmbeddingQAFinetuneDataset(
        queries={"q": "a"},
        corpus={f"d{i}": f"text {i}" for i in range(5)},
        relevant_docs={"q": ["d0"]},
    )
    scorer = Scorer(torch.ones(1, 2), torch.rand(5, 2), Rows.of(dataset).relevant, "both")
    assert scorer(Constant(2, 2)).tolist() == [pytest.approx(1 / math.log2(6))]


def test_scores_are_those_of_the_adapter_as_it_is_served():
    """Dropout is off while scoring, and on again where training goes on."""
    rng = np.random.default_rng(0)
    queries = torch.from_numpy(rng.standard_normal((30, 8)).astype(np.float32))
    documents = torch.nn.functional.normalize(queries, dim=1)
    scorer = Scorer(queries, documents, [[row] for row in range(30)], "query")
    adapter = Gate(8)
    assert adapter.training
    assert np.array_equal(scorer(adapter), np.ones(30))
    assert adapter.training
    assert adapter.dropout.training
    scorer(adapter.eval())
    assert not adapter.training


# Options


def test_auto_is_on_unless_told_how_to_train():
    """Each option that says how to train turns it off; the others leave it on."""
    usual = {"epochs": Unset(1), "batch_size": Unset(10)}
    assert parse(usual, {}).auto
    assert parse(usual, {"seed": 3, "transform": "both", "negatives": "corpus"}).auto
    assert not parse({**usual, "epochs": 4}, {}).auto
    assert not parse({**usual, "batch_size": 32}, {}).auto
    assert not parse({**usual, "epochs": 1}, {}).auto
    assert not parse({**usual, "batch_size": 10}, {}).auto
    for told in ("lr", "warmup_steps", "steps_per_epoch", "max_grad_norm", "identity_pull"):
        assert not parse(usual, {told: 1}).auto


def test_what_is_passed_is_kept_by_auto():
    """With auto=True, epochs, batch size and pull that are passed hold."""
    given = {"epochs": 7, "batch_size": Unset(10)}
    options = parse(given, {"auto": True, "identity_pull": 0.2})
    assert (options.epochs, options.batch_size, options.identity_pull) == (7, None, 0.2)
    options = parse({"epochs": 1, "batch_size": 10}, {"auto": False})
    assert (options.epochs, options.batch_size, options.identity_pull) == (1, 10, 0.1)


class Half(BaseAdapter):
    """A custom adapter whose output is half as long, which no attribute of it tells."""

    def __init__(self, size):
        super().__init__()
        self.size = size
        self.weight = torch.nn.Parameter(torch.ones(size, size // 2))

    def get_config_dict(self):
        return {"size": self.size}

    def forward(self, embed):
        return embed @ self.weight


def test_unknown_options_are_named(output):
    """A misspelt keyword is an error that lists the known ones, in either call."""
    with pytest.raises(ConfigurationError, match=r"Unknown training options: epoch\. Known .* lr"):
        engine_for(tiny_dataset(), output, epoch=3)
    engine = engine_for(tiny_dataset(), output)
    with pytest.raises(ConfigurationError, match="Unknown training options: learning_rate"):
        engine.finetune(learning_rate=1e-3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"epochs": 0}, r"'epochs' must be an integer of at least 1 \(got 0\)"),
        ({"batch_size": -1}, r"'batch_size' must be None or an integer of at least 1 \(got -1\)"),
        ({"epochs": True}, r"'epochs' must be an integer of at least 1 \(got True\)"),
        ({"lr": float("inf")}, r"'lr' must be above 0 and finite \(got inf\)"),
        ({"lr": 0}, r"'lr' must be above 0 and finite \(got 0\)"),
        ({"lr": float("nan")}, r"'lr' must be above 0 and finite \(got nan\)"),
        ({"identity_pull": -0.1}, r"'identity_pull' must be 0 or more"),
        ({"checkpoint_save_steps": 0}, r"'checkpoint_save_steps' must be an integer of at least 1"),
        ({"warmup_steps": -1}, r"'warmup_steps' must be None or an integer of at least 0"),
        ({"negatives": "all"}, r"'negatives' must be in \('relevant', .*\(got 'all'\)"),
        ({"transform": "text"}, r"'transform' must be in \('query', 'both'\)"),
        ({"val_dataset": "val.json"}, r"'val_dataset' must be an EmbeddingQAFinetuneDataset"),
        ({"optimizer_class": dict}, r"'optimizer_class' must be a class of torch\.optim"),
        ({"optimizer_class": "adam"}, r"'optimizer_class' must be .* \(got 'adam'\)"),
        ({"adapter_model": "linear"}, r"'adapter_model' must be a BaseAdapter \(got str\)"),
        ({"adapter_model": LinearLayer(5, 5)}, r"must take vectors of 32 dimensions.*\(got 5\)"),
        ({"adapter_model": LinearLayer(32, 16)}, r"must give vectors as long as it takes"),
        ({"adapter_model": BaseAdapter()}, r"can't be saved: BaseAdapter\.get_config_dict"),
        ({"embed_model": "local:x"}, r"'embed_model' must be .* \(got str\)"),
        ({"dataset": "train.json"}, r"'dataset' must be .* \(got str\)"),
        ({"epochs": 2.5}, r"'epochs' must be an integer of at least 1 \(got 2\.5\)"),
        (
            {"batch_size": 16.0},
            r"'batch_size' must be None or an integer of at least 1 \(got 16\.0\)",
        ),
        ({"lr": "1e-3"}, r"'lr' must be above 0 and finite \(got '1e-3'\)"),
        ({"identity_pull": "no"}, r"'identity_pull' must be 0 or more and finite \(got 'no'\)"),
        ({"dim": 1024}, r"'dim' must be the length of the vectors of 'hash', 32 \(got 1024\)"),
        ({"dim": 0}, r"'dim' must be the length of .* \(got 0\)"),
        ({"device": "gpu"}, r"'device' must be one that torch finds here \(got 'gpu'"),
        ({"device": "cuda:99"}, r"'device' must be one that torch finds here \(got 'cuda:99'"),
        ({"optimizer_params": {"learning_rate": 1}}, r"'optimizer_params' must.*learning_rate"),
        ({"optimizer_class": torch.optim.LBFGS}, r"'optimizer_class' and.*got LBFGS.*closure"),
        ({"adapter_model": Half(32)}, r"must give torch.float32 vectors.*shape \(2, 16\)"),
        ({"adapter_model": Half(32).double()}, r"must take vectors of 32 dimensions in float32"),
        ({"adapter_model": Half(8)}, r"must take vectors of 32 dimensions in float32"),
        ({"adapter_model": LinearLayer(32, 32).requires_grad_(False)}, r"must fit the parameters"),
    ],
)
def test_bad_arguments(arguments, message, output):
    """Each is refused at construction, with nothing embedded and nothing written."""
    base = HashEmbedding()
    call = {
        "dataset": tiny_dataset(),
        "embed_model": base,
        "model_output_path": output,
        **arguments,
    }
    with pytest.raises(ConfigurationError, match=message):
        EmbeddingAdapterFinetuneEngine(**call)
    assert base.texts_seen == []
    assert not base.query_calls


def test_an_output_that_cannot_be_written(tmp_path):
    """A file in the way is found before anything is embedded, for each of the folders."""
    file = tmp_path / "file"
    file.write_text("mine")
    for name in ("model_output_path", "model_checkpoint_path", "cache_dir"):
        with pytest.raises(OutputError, match=f"'{name}' must be a folder"):
            engine_for(tiny_dataset(), str(tmp_path / "out"), **{name: str(file)})
    assert file.read_text() == "mine"


def test_a_dataset_that_was_changed_in_place(output):
    """It is checked again when training starts."""
    base = HashEmbedding()
    engine = engine_for(tiny_dataset(), output, base)
    engine.dataset.relevant_docs["q0-0"] = ["nowhere"]
    with pytest.raises(DatasetError, match="nowhere"):
        engine.finetune()
    assert base.texts_seen == []


# Training


def test_the_default_run_helps(output):
    """Chosen by cross-validation, the adapter is better on documents that it never saw."""
    test = synonyms(60, seed=1)
    base = HashEmbedding()
    engine = engine_for(synonyms(), output, base)
    engine.finetune()
    assert ndcg(engine.get_finetuned_model(), test) > ndcg(base, test) + 0.1
    assert "By 5-fold cross-validation" in engine.summary
    manifest = json.loads((engine_path(output) / "finetuning.json").read_text())
    before, after = manifest["metrics"]["before"], manifest["metrics"]["after"]
    assert after["ndcg@10"] > before["ndcg@10"] + 0.1


def engine_path(output):
    """Return the output folder as a path."""
    return Path(output)


def test_a_dataset_that_offers_nothing_returns_the_base(output):
    """Random relevance: the identity is written, and the report says so."""
    base = HashEmbedding()
    engine = engine_for(hopeless(), output, base)
    engine.finetune()
    assert "no strength of training is measurably better" in engine.summary
    assert "the base is handed back unchanged" in engine.summary
    model = engine.get_finetuned_model()
    assert np.array_equal(model.to_numpy(), np.eye(32, dtype=np.float32))
    assert np.allclose(model.get_query_embedding("amber"), base.vector("amber"), atol=1e-6)


def test_one_group_of_documents_returns_the_base(output):
    """Where nothing can be held out, the base is handed back with the reason."""
    base = HashEmbedding()
    engine = engine_for(tiny_dataset(n_documents=1), output, base)
    engine.finetune()
    assert "none can be held out" in engine.summary
    assert (base.texts_seen, base.query_calls) == ([], 0)
    assert np.array_equal(engine.get_finetuned_model().to_numpy(), np.eye(32, dtype=np.float32))


def test_the_best_step_on_the_validation_set_is_kept(output):
    """The manifest's metrics are those of the model that is handed back."""
    validation = synonyms(30, seed=1)
    base = HashEmbedding()
    engine = engine_for(synonyms(), output, base, val_dataset=validation, epochs=6)
    engine.finetune()
    manifest = json.loads((engine_path(output) / "finetuning.json").read_text())
    metrics = manifest["metrics"]
    assert metrics["before"]["ndcg@10"] == pytest.approx(ndcg(base, validation))
    assert metrics["after"]["ndcg@10"] == pytest.approx(
        ndcg(engine.get_finetuned_model(), validation)
    )
    assert engine.report.training.metric[-1][0] == max(
        one["step"] for one in manifest["training_log"]
    )
    assert "finetuned" in (engine_path(output) / "report.html").read_text()
    card = (engine_path(output) / "README.md").read_text()
    assert engine.summary in card
    assert engine.report.to_markdown() in card
    assert "chosen by these same queries" in card
    seen = {one["step"]: one["ndcg@10"] for one in manifest["training_log"] if "ndcg@10" in one}
    assert max(seen, key=seen.get) == metrics["best_step"]
    assert f"best of {max(seen)} steps: {metrics['best_step']}" in engine.summary


def test_a_validation_set_that_gets_worse_returns_the_base(output):
    """Trained one way and validated the other, no step is better than the base."""
    engine = engine_for(synonyms(), output, val_dataset=one_word_each())
    engine.finetune()
    assert "was better than the base on the validation set" in engine.summary
    assert np.array_equal(engine.get_finetuned_model().to_numpy(), np.eye(32, dtype=np.float32))


@pytest.mark.parametrize("gains", [False, True])
def test_training_stops_when_nothing_improves(output, gains):
    """With a patience of two, two looks after the best one, or after the start, are the last."""
    validation = synonyms(8, seed=1) if gains else one_word_each()
    engine = engine_for(synonyms(), output, val_dataset=validation, epochs=50, patience=2, lr=1e-2)
    looks = [one["ndcg@10"] for one in log_of(engine, output) if "ndcg@10" in one]
    metrics = json.loads((engine_path(output) / "finetuning.json").read_text())["metrics"]
    assert (metrics["best_step"] > 0) == gains
    until_best = 1 + looks.index(max(looks)) if gains else 0
    assert len(looks) == until_best + 2 < 50


class Looked(HashEmbedding):
    """Gives each text the vector that a table names."""

    table: dict[str, list[float]]

    def vector(self, text):
        return self.table[text]


def test_a_gain_that_the_report_does_not_show_is_none(output):
    """The report counts twelve copies of a document that the adapter prefers; so does the choice.

    One query gains two ranks; the other loses one to a text that is in the corpus twelve times.
    """
    eye = np.eye(4)
    table = {
        "first": eye[0],
        "second": eye[1],
        "above": eye[0] + 0.1 * eye[1],
        "also above": eye[0] + 0.2 * eye[1],
        "wanted": eye[2] + 0.1 * eye[0],
        "also wanted": eye[1] + 0.1 * eye[3],
        "copy": eye[3],
    }
    copies = {f"copy {i}": "copy" for i in range(12)}
    texts = [one for one in table if one not in ("first", "second", "copy")]
    fields = {
        "queries": {"q0": "first", "q1": "second"},
        "relevant_docs": {"q0": ["wanted"], "q1": ["also wanted"]},
    }
    corpus = {one: one for one in texts}
    train = EmbeddingQAFinetuneDataset(corpus=corpus, **fields)
    validation = EmbeddingQAFinetuneDataset(corpus={**corpus, **copies}, **fields)
    adapter = LinearLayer(4, 4)
    with torch.no_grad():
        adapter.linear.weight.copy_(torch.eye(4)[[2, 3, 0, 1]])
    base = Looked(dim=4, table={text: vector.tolist() for text, vector in table.items()})
    engine = engine_for(train, output, base, adapter_model=adapter, val_dataset=validation, lr=1e-9)
    engine.finetune()
    metrics = json.loads((engine_path(output) / "finetuning.json").read_text())["metrics"]
    assert "the base is handed back unchanged" in engine.summary
    assert metrics["after"] == metrics["before"]
    assert metrics["best_step"] == 0
    assert np.array_equal(engine.get_finetuned_model().to_numpy(), np.eye(4, dtype=np.float32))


def log_of(engine, output, **kwargs):
    """Finetune and return the training log."""
    engine.finetune(**kwargs)
    return json.loads((engine_path(output) / "finetuning.json").read_text())["training_log"]


def test_epochs_and_batch_size_keep_their_meaning(output):
    """120 pairs in batches of 30 for 3 epochs are 12 steps, each in the log."""
    engine = engine_for(synonyms(), output, batch_size=30, epochs=3)
    assert [one["step"] for one in log_of(engine, output)] == list(range(1, 13))
    assert "Trained for 12 steps as told" in engine.summary


def test_steps_per_epoch_and_overrides(output):
    """`finetune` overrides the constructor: 2 epochs of 5 steps."""
    engine = engine_for(synonyms(), output, batch_size=30, epochs=3)
    assert len(log_of(engine, output, epochs=2, steps_per_epoch=5)) == 10


def test_evaluation_steps(output):
    """With a look every 5 steps, 12 steps have looks at 5, 10 and the end."""
    engine = engine_for(
        synonyms(),
        output,
        batch_size=30,
        epochs=3,
        val_dataset=synonyms(seed=1),
        evaluation_steps=5,
    )
    log = log_of(engine, output)
    assert [one["step"] for one in log if "ndcg@10" in one] == [5, 10, 12]


def weights_after(output, **kwargs):
    """Return the matrix after a short training."""
    engine = engine_for(synonyms(20), output, **{"epochs": 2, "batch_size": 8, **kwargs})
    engine.finetune()
    return engine.model.linear.weight.detach().clone()


@pytest.mark.parametrize(
    "option",
    [
        {"lr": 1e-4},
        {"identity_pull": 5.0},
        {"scale": 5.0},
        {"seed": 1},
        {"warmup_steps": 0},
        {"max_grad_norm": 1e-4, "optimizer_class": torch.optim.SGD},
        {"max_grad_norm": float("inf")},
        {"optimizer_class": torch.optim.SGD},
        {"optimizer_params": {"betas": (0.5, 0.9)}},
        {"optimizer_params": {"lr": 1e-4}},
        {"negatives": "in_batch"},
        {"max_negatives": 2},
        {"transform": "both"},
        {"steps_per_epoch": 1},
    ],
    ids=str,
)
def test_every_training_option_does_something(option, output):
    """Each changes the weights that come out; without it the run is the same to the bit."""
    usual = weights_after(output)
    assert torch.equal(weights_after(output), usual)
    assert not torch.equal(weights_after(output, **option), usual)


def test_a_strong_pull_keeps_the_identity(output):
    """The weights stay closer to the start the stronger the pull is."""
    eye = torch.eye(32)
    distances = [
        (weights_after(output, identity_pull=pull, epochs=10) - eye).norm().item()
        for pull in (0, 1, 30)
    ]
    assert distances == sorted(distances, reverse=True)
    assert distances[2] < distances[0] / 3


def test_hard_negatives_are_trained_against(output):
    """Every document is there once; naming hard negatives makes them count for more."""
    plain = weights_after(output)
    dataset = synonyms(20)
    dataset.hard_negatives = {qid: ["d19"] for qid in list(dataset.queries)[:30]}
    engine = engine_for(dataset, output, epochs=2, batch_size=8)
    engine.finetune()
    with_hard = engine.model.linear.weight.detach().clone()
    assert not torch.allclose(with_hard, plain, atol=1e-4)
    engine = engine_for(dataset, output, epochs=2, batch_size=8, hard_negative_weight=1)
    engine.finetune()
    assert torch.allclose(engine.model.linear.weight, plain, atol=1e-4)


@pytest.mark.parametrize(
    "adapter",
    [
        lambda: LinearLayer(32, 32, bias=True),
        lambda: LowRankAdapter(32, rank=16),
        lambda: TwoLayerNN(32, 64, 32, bias=True, add_residual=True),
    ],
    ids=["linear with bias", "low rank", "two layers"],
)
def test_every_kind_of_adapter_learns(adapter, output):
    """Each is better than the base on documents that it never saw."""
    torch.manual_seed(0)
    test = synonyms(60, seed=1)
    base = HashEmbedding()
    engine = engine_for(
        synonyms(), output, base, adapter_model=adapter(), epochs=20, lr=1e-2, identity_pull=0.01
    )
    engine.finetune()
    assert ndcg(engine.get_finetuned_model(), test) > ndcg(base, test) + 0.1


def test_bias(output):
    """`bias=True` gives the linear layer one, and it is trained."""
    engine = engine_for(synonyms(20), output, bias=True, epochs=2)
    engine.finetune()
    assert engine.model.linear.bias.abs().sum() > 0


def test_transform_both(output):
    """Queries and texts both change, the folder says so, and held-out documents gain."""
    test = synonyms(60, seed=1)
    base = HashEmbedding()
    engine = engine_for(synonyms(), output, base, transform="both", epochs=20, identity_pull=0.01)
    engine.finetune()
    model = engine.get_finetuned_model()
    assert describe_adapter_folder(output).transform == "both"
    assert not np.allclose(model.get_text_embedding("amber"), base.vector("amber"), atol=1e-3)
    assert ndcg(model, test) > ndcg(base, test) + 0.05


def test_a_shorter_output_for_both(output):
    """With transform='both' the adapter may shorten the vectors."""
    engine = engine_for(
        synonyms(20), output, adapter_model=LinearLayer(32, 8), transform="both", epochs=1, lr=1e-3
    )
    engine.finetune()
    assert len(engine.get_finetuned_model().get_text_embedding("amber")) == 8


class Gate(BaseAdapter):
    """A custom adapter as old code wrote them, with dropout."""

    def __init__(self, dim):
        super().__init__()
        self.gate = torch.nn.Parameter(torch.ones(dim))
        self.dropout = torch.nn.Dropout(0.2)

    def get_config_dict(self):
        return {"dim": len(self.gate)}

    def forward(self, embed):
        return self.dropout(embed) * self.gate


def test_custom_adapters(output):
    """They are trained, saved and served, the same to the bit under one seed."""
    gates = []
    for _ in range(2):
        engine = engine_for(synonyms(20), output, adapter_model=Gate(32), epochs=2)
        state = torch.get_rng_state()
        engine.finetune()
        assert torch.equal(torch.get_rng_state(), state)
        gates.append(engine.model.gate.detach().clone())
        assert type(engine.get_finetuned_model().adapter) is Gate
    assert torch.equal(*gates)
    assert not torch.equal(gates[0], torch.ones(32))


class Normed(LinearLayer):
    """A custom adapter whose training needs two rows."""

    def __init__(self, in_features, out_features, bias=False):
        super().__init__(in_features, out_features, bias)
        self.norm = torch.nn.BatchNorm1d(in_features)

    def forward(self, embed):
        return super().forward(self.norm(embed))


def test_a_last_pair_alone_joins_the_batch_before(output):
    """A BatchNorm can't be trained on one row."""
    dataset = tiny_dataset(41, 1)
    engine = engine_for(dataset, output, adapter_model=Normed(32, 32), epochs=2, batch_size=10)
    engine.finetune()
    assert "Trained for 8 steps" in engine.summary


@pytest.mark.parametrize(
    ("n_pairs", "size", "expected"),
    [
        (40, 10, [10, 10, 10, 10]),
        (41, 10, [10, 10, 10, 11]),
        (42, 10, [10, 10, 10, 10, 2]),
        (3, 1, [1, 1, 1]),
        (3, 2, [3]),
        (1, 10, [1]),
        (5, 10, [5]),
    ],
)
def test_sizes_of_batches(n_pairs, size, expected):
    """A pass takes every pair once, and its batches are the steps of an epoch."""
    pairs = torch.arange(n_pairs).repeat(2, 1).T
    batches = _batches(pairs, size, torch.Generator())
    one_pass = [next(batches) for _ in expected]
    assert [len(batch) for batch in one_pass] == expected
    assert sorted(torch.cat(one_pass)[:, 0].tolist()) == list(range(n_pairs))
    options = TrainingOptions(batch_size=size)
    assert steps_per_epoch(options, n_pairs) == len(expected)


def test_a_custom_adapter_that_does_not_help(output):
    """The base comes back as a LinearLayer, as a Gate could not be sure to hold it.

    The engine keeps the Gate as it was given, which another run then trains.
    """
    gate = Gate(32)
    for options in ({"auto": True}, {"val_dataset": one_word_each(), "lr": 0.1}):
        engine = engine_for(hopeless(), output, adapter_model=gate, **options)
        engine.finetune()
        assert "the base is handed back" in engine.summary
        assert describe_adapter_folder(output).adapter_class == "LinearLayer"
        assert type(engine.get_finetuned_model().adapter) is LinearLayer
        later = engine_for(hopeless(), output, adapter_model=Gate(32), **options)
        assert type(later.get_finetuned_model().adapter) is LinearLayer
        assert engine.model is gate
        assert torch.equal(gate.gate.cpu(), torch.ones(32))
    engine.finetune(val_dataset=None, auto=False)
    assert type(engine.get_finetuned_model().adapter) is Gate


def test_one_of_our_adapters_that_does_not_help(output):
    """An engine of another process loads the base that was handed back, too."""
    adapter = {"adapter_model": TwoLayerNN(32, 8, 32, add_residual=True), "auto": True}
    engine_for(hopeless(), output, **adapter).finetune()
    later = engine_for(hopeless(), output, **adapter)
    assert type(later.get_finetuned_model().adapter) is LinearLayer
    assert type(later.get_finetuned_model(adapter_cls=TwoLayerNN).adapter) is LinearLayer
    model = AdapterEmbeddingModel(HashEmbedding(), output, TwoLayerNN)
    assert model.get_query_embedding("amber") == pytest.approx(HashEmbedding().vector("amber"))
    resumed = EmbeddingAdapterFinetuneEngine.from_model_path(
        hopeless(), HashEmbedding(), output, model_cls=TwoLayerNN, model_output_path=output
    )
    assert type(resumed.model) is LinearLayer


def test_a_base_with_other_things_under_the_names_of_settings(output):
    """They are neither kept in the folder nor in its way."""

    class Unlike(HashEmbedding):
        max_length: str = "long"

        def normalize(self, vectors):
            return vectors

    base = Unlike()
    engine_for(synonyms(20), output, base, epochs=2).finetune()
    assert describe_adapter_folder(output).base_settings == {}


def test_an_adapter_that_saves_itself_needs_the_query_side(output):
    """Its folder can't say 'both', so that is refused at construction."""

    class Own(Gate):
        def save(self, output_path):
            torch.save(self.state_dict(), f"{output_path}/own.pt")

    with pytest.raises(ConfigurationError, match="an adapter that saves itself"):
        engine_for(synonyms(20), output, adapter_model=Own(32), transform="both")
    engine = engine_for(synonyms(20), output, adapter_model=Own(32), epochs=1, lr=1e-3)
    engine.finetune()
    assert sorted(one.name for one in engine_path(output).iterdir()) == [
        "README.md",
        "finetuning.json",
        "own.pt",
    ]


def test_a_loss_that_is_not_finite_ends_the_training(output):
    """It is an error with a remedy, and nothing is written."""

    class Exploding(Gate):
        def forward(self, embed):
            return embed * self.gate * float("nan")

    with pytest.raises(TrainingError, match=r"The loss is nan.*Lower 'lr' \(got 0.001\)"):
        engine_for(synonyms(20), output, adapter_model=Exploding(32), epochs=1, lr=1e-3).finetune()
    assert not engine_path(output).exists()


def test_a_last_step_that_makes_weights_nan_ends_the_training(output):
    """No loss shows it; the older adapter stays, and the one in memory is as it was."""

    class Spoilt(Gate):
        def forward(self, embed):
            result = super().forward(embed)
            if result.requires_grad:
                result.register_hook(lambda gradient: gradient * float("nan"))
            return result

    engine_for(synonyms(20), output, epochs=1).finetune()
    before = sorted(engine_path(output).iterdir()), (engine_path(output) / "README.md").read_text()
    engine = engine_for(synonyms(20), output, adapter_model=Spoilt(32), epochs=1, steps_per_epoch=1)
    with pytest.raises(TrainingError, match=r"weights NaN or infinite. Lower 'lr'"):
        engine.finetune()
    after = sorted(engine_path(output).iterdir()), (engine_path(output) / "README.md").read_text()
    assert after == before
    assert all(torch.isfinite(one).all() for one in engine.model.parameters())


def test_the_base_is_not_overwritten(tiny_bert_dir, output, tmp_path):
    """Nor does a folder that held another model look like one afterwards."""
    base = HuggingFaceEmbedding(str(tiny_bert_dir), device="cpu")
    with pytest.raises(ConfigurationError, match="another folder than the base's.*behind its base"):
        engine_for(synonyms(20), str(tiny_bert_dir), base)
    other = tmp_path / "other"
    shutil.copytree(tiny_bert_dir, other)
    pair = AsymmetricEmbeddingModel(base, HuggingFaceEmbedding(str(other), device="cpu"))
    with pytest.raises(ConfigurationError, match="another folder than the base's"):
        engine_for(synonyms(20), str(other), pair)
    engine_for(synonyms(20), str(other), base, epochs=1).finetune()
    assert isinstance(load_finetuned_model(other), AdapterEmbeddingModel)


def test_an_adapter_behind_another_does_not_replace_it(output, tmp_path):
    """With one output for both the first would be gone, and the second stand on nothing."""
    first = engine_for(synonyms(20), output, epochs=1)
    first.finetune()
    model = first.get_finetuned_model()
    with pytest.raises(ConfigurationError, match="another folder than the base's"):
        engine_for(synonyms(20), output, model)
    engine_for(synonyms(20), str(tmp_path / "second"), model, epochs=1).finetune()


def test_a_seed_beyond_the_generators_is_refused(output):
    """Before anything is embedded."""
    with pytest.raises(ConfigurationError, match=r"'seed' must be below 2\*\*32 \(got 4294967296"):
        engine_for(synonyms(20), output, seed=2**32)


def test_a_bias_beside_an_adapter_is_told(output, caplog):
    """The adapter has its own say; code of the retired package runs on."""
    engine = engine_for(synonyms(20), output, adapter_model=LinearLayer(32, 32), bias=True)
    assert "'bias' does nothing" in caplog.text
    assert engine.model.linear.bias is None


def test_the_device_is_that_of_the_engine(output, monkeypatch):
    """The model that is handed back computes where the engine was told to."""
    engine = engine_for(synonyms(20), output, epochs=1, device="cpu")
    engine.finetune()
    monkeypatch.setattr(adapted, "infer_torch_device", lambda: "meta")
    assert engine.get_finetuned_model()._target_device == torch.device("cpu")


def test_what_came_of_it_is_logged(output, caplog):
    """A base that is handed back is a warning; the table is there for who listens."""
    engine = engine_for(synonyms(20), output, val_dataset=synonyms(20, seed=1))
    with caplog.at_level("INFO"):
        engine.finetune()
    assert engine.report.to_markdown() in caplog.text
    caplog.clear()
    engine = engine_for(hopeless(), output)
    engine.finetune()
    assert [one.levelname for one in caplog.records if one.message == engine.summary] == ["WARNING"]


@pytest.mark.parametrize("failure", [KeyboardInterrupt, TrainingError])
def test_a_training_that_ends_early_leaves_the_adapter_as_it_was(output, failure):
    """After Ctrl-C or a loss that is not finite, another run starts where the first one did."""

    class Failing(Gate):
        steps = 0

        def forward(self, embed):
            self.steps += 1
            if self.steps == 4 and failure is KeyboardInterrupt:
                raise KeyboardInterrupt
            return super().forward(embed) * (float("nan") if self.steps == 4 else 1.0)

    adapter = Failing(32)
    engine = engine_for(synonyms(20), output, adapter_model=adapter, epochs=2, lr=0.1)
    with pytest.raises(failure):
        engine.finetune()
    assert torch.equal(adapter.gate.cpu(), torch.ones(32))
    engine.finetune(lr=1e-3)
    assert 0 < (adapter.gate.cpu() - 1).abs().max() < 0.02


# Encoding


def test_each_text_is_embedded_once(output):
    """Training and validation texts, shared or not, epochs or not: once each."""
    train, test = synonyms(20), synonyms(20)
    test.queries["more"] = "more"
    test.relevant_docs["more"] = ["d0"]
    base = HashEmbedding()
    engine_for(train, output, base, val_dataset=test, epochs=3).finetune()
    assert sorted(base.texts_seen) == sorted(set(train.corpus.values()))
    assert base.query_calls == len(set(test.queries.values()))


def test_nothing_is_embedded_at_construction(output):
    """Neither with a dimension nor without."""
    base = HashEmbedding()
    assert engine_for(tiny_dataset(), output, base, dim=32).dim == 32
    assert engine_for(tiny_dataset(), output, base).dim == 32
    assert base.texts_seen == []


class Silent(HashEmbedding):
    """Does not tell its dimension."""

    dim: str = "unknown"
    _size: int = PrivateAttr(default=32)

    def vector(self, text):
        words = [word_vector(word, self._size) for word in text.split()]
        return np.sum(words, axis=0).tolist()


def test_a_dimension_that_nothing_tells_is_found_out(output):
    """By embedding one document first, which is not embedded again."""
    base, dataset = Silent(dim="unknown"), synonyms(20)
    engine = engine_for(dataset, output, base, epochs=1, lr=1e-3)
    assert base.texts_seen == []
    assert engine.dim == 32
    assert base.texts_seen == [dataset.corpus["d0"]]
    engine.finetune()
    assert sorted(base.texts_seen) == sorted(dataset.corpus.values())
    tells = engine_for(dataset, output, epochs=1, lr=1e-3)
    tells.finetune()
    for name, weights in engine.model.state_dict().items():
        assert torch.allclose(weights, tells.model.state_dict()[name], atol=1e-5)


def test_a_dimension_that_is_not_the_models(output):
    """Where the base does not tell its own, the first text does, before any other is paid for."""
    for argument, words in (
        ({"dim": 16}, r"which have 32 dimensions \(got 16\)"),
        ({"adapter_model": LinearLayer(384, 384)}, r"take vectors of 32 dimensions.*got 384"),
        ({"adapter_model": Half(8)}, r"must take vectors of 32 dimensions in float32"),
    ):
        base = Silent(dim="unknown")
        with pytest.raises(ConfigurationError, match=words):
            engine_for(synonyms(20), output, base, **argument).finetune()
        assert (base.texts_seen, base.query_calls) == ([synonyms(20).corpus["d0"]], 0)


def test_queries_and_texts_of_other_lengths(output):
    """Nobody gave a dimension, and so the message speaks of the model alone."""

    class Uneven(Silent):
        def _get_query_embedding(self, query):
            return super()._get_query_embedding(query)[:16]

    with pytest.raises(EncodingError, match="16 dimensions for each query, .* gave before, 32"):
        engine_for(synonyms(20), output, Uneven(dim="unknown"), epochs=1).finetune()


def test_a_second_run_embeds_nothing(output):
    """An engine keeps its vectors, until the base or the data change."""
    base = HashEmbedding()
    engine = engine_for(synonyms(20), output, base, epochs=1)
    engine.finetune()
    seen, asked = list(base.texts_seen), base.query_calls
    engine.finetune(lr=1e-2)
    assert (base.texts_seen, base.query_calls) == (seen, asked)
    base.query_prefix = "ask "
    engine.finetune()
    assert base.texts_seen == 2 * seen
    known, engine.dataset = set(engine.dataset.queries.values()), synonyms(20, seed=1)
    engine.finetune()
    assert base.query_calls == 2 * asked + len(set(engine.dataset.queries.values()) - known)


def test_a_second_run_pays_for_new_texts_alone(output):
    """A validation set, taken away and given again, is embedded once, by the side of its texts."""
    train, val = synonyms(20), synonyms(20, seed=1)
    base = HashEmbedding()
    engine = engine_for(train, output, base, epochs=1)
    for options in ({}, {"val_dataset": val}, {}, {"val_dataset": val}, {"negatives": "corpus"}):
        engine.finetune(**options)
    assert len(base.texts_seen) == len({*train.corpus.values(), *val.corpus.values()})
    assert base.query_calls == len({*train.queries.values(), *val.queries.values()})
    metrics = []
    for one in (engine, engine_for(train, output, epochs=1)):
        one.finetune(val_dataset=val)
        manifest = json.loads((engine_path(output) / "finetuning.json").read_text())
        metrics.append(manifest["metrics"]["before"])
    assert metrics[0] == metrics[1]


def test_the_cache_makes_a_second_run_free(output, tmp_path):
    """With a cache folder, another engine embeds nothing and ends the same."""
    engine_for(synonyms(20), output, epochs=1, cache_dir=tmp_path / "cache").finetune()
    first = (engine_path(output) / "model.safetensors").read_bytes()
    base = HashEmbedding()
    engine_for(synonyms(20), output, base, epochs=1, cache_dir=tmp_path / "cache").finetune()
    assert (base.texts_seen, base.query_calls) == ([], 0)
    assert (engine_path(output) / "model.safetensors").read_bytes() == first


def test_num_workers_reach_the_encoding(output):
    """The calls of the base run in threads of their own."""
    names = set()

    class Watched(HashEmbedding):
        def _get_text_embeddings(self, texts):
            names.add(threading.current_thread().name)
            return super()._get_text_embeddings(texts)

    engine_for(synonyms(20), output, Watched(), epochs=1, num_workers=2).finetune()
    assert all(name.startswith("encode") for name in names)


def test_a_base_that_fails_leaves_the_folder_as_it_was(output):
    """NaN from the base is an error with the document's id; the old adapter stays."""
    engine_for(synonyms(20), output, epochs=1).finetune()
    before = {one.name: one.read_bytes() for one in engine_path(output).iterdir()}

    class Broken(HashEmbedding):
        def _get_text_embeddings(self, texts):
            return [[float("nan")] * 32 for _ in texts]

    with pytest.raises(EncodingError, match="not finite for text 'd"):
        engine_for(synonyms(20), output, Broken(), epochs=1).finetune()
    assert {one.name: one.read_bytes() for one in engine_path(output).iterdir()} == before


# Folders


def test_the_manifest(output):
    """It holds parameters, seed, versions, hardware, datasets and times."""
    train, val = synonyms(20), synonyms(20, seed=1)
    engine_for(train, output, val_dataset=val, epochs=2, seed=7).finetune()
    manifest = json.loads((engine_path(output) / "finetuning.json").read_text())
    assert manifest["engine"] == "EmbeddingAdapterFinetuneEngine"
    assert manifest["seed"] == manifest["parameters"]["seed"] == 7
    assert manifest["parameters"]["epochs"] == 2
    assert manifest["parameters"]["adapter"] == "LinearLayer"
    assert manifest["parameters"]["optimizer_class"] == "Adam"
    assert manifest["base_model"] == "hash"
    assert manifest["dataset"] == {
        "fingerprint": train.fingerprint(),
        "queries": 40,
        "documents": 20,
        "pairs": 40,
        "hard_negatives": 0,
    }
    assert manifest["val_dataset"]["fingerprint"] == val.fingerprint()
    assert set(manifest["seconds"]) == {"embedding", "training"}
    assert {"python", "torch", "llama-index-core"} <= set(manifest["versions"])
    assert manifest["hardware"]["cpus"] >= 1
    assert manifest["files"] == [
        "README.md",
        "config.json",
        "finetuning.json",
        "model.safetensors",
        "report.html",
    ]
    description = describe_adapter_folder(output)
    assert (description.base_model, description.dimension) == ("hash", 32)


def test_checkpoints(output, tmp_path):
    """Every third of 12 steps is kept, whole, and can be trained on."""
    folder = tmp_path / "checkpoints"
    engine = engine_for(
        synonyms(),
        output,
        batch_size=30,
        epochs=3,
        model_checkpoint_path=str(folder),
        checkpoint_save_steps=3,
    )
    engine.finetune()
    assert sorted(one.name for one in folder.iterdir()) == ["step_12", "step_3", "step_6", "step_9"]
    last = LinearLayer.load(folder / "step_12").linear.weight
    assert torch.equal(last, engine.model.linear.weight)
    first = LinearLayer.load(folder / "step_3").linear.weight
    assert not torch.equal(first, last)
    resumed = EmbeddingAdapterFinetuneEngine.from_model_path(
        synonyms(), HashEmbedding(), str(folder / "step_3"), epochs=1, model_output_path=output
    )
    assert torch.equal(resumed.model.linear.weight, first)


def test_from_model_path_goes_on(output):
    """The saved weights are the start, the pull goes to them, and the side is kept."""
    engine_for(synonyms(), output, epochs=20, transform="both").finetune()
    saved = LinearLayer.load(output).linear.weight.detach().clone()
    engine = EmbeddingAdapterFinetuneEngine.from_model_path(
        synonyms(),
        HashEmbedding(),
        output,
        epochs=10,
        identity_pull=100.0,
        show_progress_bar=False,
        model_output_path=output,
    )
    engine.finetune()
    moved = engine.model.linear.weight.detach() - saved
    assert 0 < moved.norm() < 0.1 * (saved - torch.eye(32)).norm()
    assert describe_adapter_folder(output).transform == "both"


def test_from_model_path_of_a_custom_class(output):
    """The class is passed, as in old code."""
    Gate(32).save(output)
    engine = EmbeddingAdapterFinetuneEngine.from_model_path(
        tiny_dataset(), HashEmbedding(), output, Gate, model_output_path=output
    )
    assert type(engine.model) is Gate


def test_from_model_path_of_a_good_start_and_data_that_offer_nothing(output):
    """The start itself is a candidate: a good adapter is not thrown away for the base."""
    engine_for(synonyms(), output, epochs=20, identity_pull=0.01).finetune()
    saved = LinearLayer.load(output).linear.weight.detach().clone()
    validation = synonyms(seed=1)
    engine = EmbeddingAdapterFinetuneEngine.from_model_path(
        hopeless(),
        HashEmbedding(),
        output,
        val_dataset=validation,
        lr=0.1,
        show_progress_bar=False,
        model_output_path=output,
    )
    engine.finetune()
    assert torch.equal(engine.model.linear.weight, saved)
    assert "best of" in engine.summary


LEARN_BY_HEART = {"auto": False, "identity_pull": 0.0, "lr": 1e-2, "epochs": 10}


def test_a_second_run_is_not_judged_by_documents_that_the_first_one_saw(output):
    """Cross-validation starts from the adapter as it was given: noise stays no gain."""
    engine = engine_for(hopeless(), output)
    engine.finetune(**LEARN_BY_HEART)
    engine.finetune()
    assert "no strength of training is measurably better" in engine.summary
    engine = engine_for(synonyms(), output)
    found = []
    for _ in range(2):
        engine.finetune()
        found.append((engine.summary, engine.model.linear.weight.detach().clone()))
        engine.finetune(**LEARN_BY_HEART)
    assert found[0][0] == found[1][0]
    assert torch.equal(found[0][1], found[1][1])


def test_from_model_path_is_not_judged_by_documents_that_it_may_have_seen(output):
    """Without a validation set it trains as told and claims nothing; auto=True is refused."""
    engine_for(hopeless(), output, **LEARN_BY_HEART).finetune()

    def again(**kwargs):
        return EmbeddingAdapterFinetuneEngine.from_model_path(
            hopeless(),
            HashEmbedding(),
            output,
            model_output_path=output,
            show_progress_bar=False,
            **kwargs,
        )

    with pytest.raises(ConfigurationError, match="'auto' needs 'val_dataset'"):
        again(auto=True)
    with pytest.raises(ConfigurationError, match="'auto' needs 'val_dataset'"):
        again().finetune(auto=True)
    assert again(auto=True, val_dataset=hopeless()) is not None
    engine = again()
    engine.finetune()
    assert "Whether that helps was not measured" in engine.summary
    LinearLayer(32, 32).save(output)
    engine = again()
    engine.finetune()
    assert "the base is handed back" in engine.summary


def test_from_model_path_of_another_dimension(output):
    """A folder for other vectors is refused at once."""
    LinearLayer(8, 8).save(output)
    with pytest.raises(ModelFolderError, match="for vectors of 8 dimensions"):
        EmbeddingAdapterFinetuneEngine.from_model_path(tiny_dataset(), HashEmbedding(), output)


def test_get_finetuned_model_passes_its_arguments_on(output):
    """Batch size and the switch that leaves the adapter out reach the model."""
    engine = engine_for(synonyms(), output, epochs=2)
    engine.finetune()
    assert engine.get_finetuned_model(embed_batch_size=3).embed_batch_size == 3
    assert engine.get_finetuned_model(transform_query=False).transform == "none"


def test_get_finetuned_model_before_finetune(output):
    """There is nothing to load yet, which is said."""
    with pytest.raises(ModelFolderError, match="There is no adapter folder"):
        engine_for(tiny_dataset(), output).get_finetuned_model()


def test_smart_batching_collate(output):
    """Pairs become two tensors of vectors, in their order."""
    base = HashEmbedding(query_prefix="ask ")
    engine = engine_for(tiny_dataset(), output, base)
    queries, texts = engine.smart_batching_collate([("amber", "bridge"), ("candle", "amber")])
    assert queries.shape == texts.shape == (2, 32)
    assert np.allclose(queries[1], base.vector("ask candle"), atol=1e-6)
    assert np.allclose(texts[0], base.vector("bridge"), atol=1e-6)


def test_progress_and_verbose(output, capsys, caplog):
    """Bars are shown unless switched off; `verbose` logs each step's loss."""
    caplog.set_level("INFO")
    engine_for(synonyms(20), output, epochs=1, lr=1e-3, verbose=True).finetune()
    assert capsys.readouterr().err == ""
    assert "Step 1 of 4: loss" in caplog.text
    engine_for(synonyms(20), output, show_progress_bar=True).finetune()
    shown = capsys.readouterr().err
    for words in ("Embedding queries", "Embedding texts", "Choosing", "Training"):
        assert words in shown


def test_the_retired_package_is_looked_for_at_import(monkeypatch):
    """Importing the package looks for the retired distribution, once."""
    from llama_index.finetuning.embeddings import _conflict, adapter

    looked = []
    monkeypatch.setattr(
        _conflict, "warn_if_retired_package_is_installed", lambda: looked.append(True)
    )
    importlib.reload(adapter)
    assert looked == [True]
