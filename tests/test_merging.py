"""Merging a finetuned model with its base."""

import importlib.util
import json
import os
import shutil

import numpy as np
import pytest
import torch
from fakes import tiny_dataset
from llama_index.core.embeddings import resolve_embed_model
from sentence_transformers import SentenceTransformer

from llama_index.finetuning.embeddings import (
    AsymmetricEmbeddingModel,
    ConfigurationError,
    LinearLayer,
    ModelFolderError,
    OutputError,
    SentenceTransformersFinetuneEngine,
    load_finetuned_model,
    merge_with_base,
    merging,
    upstream,
)
from llama_index.finetuning.embeddings.files import output_lock


@pytest.fixture(scope="module")
def folders(tiny_bert_dir, tmp_path_factory):
    """A finetuned folder for each way of training, over the tiny BERT."""
    made = {}
    for train in ("both", "query"):
        path = tmp_path_factory.mktemp("finetuned") / train
        engine = SentenceTransformersFinetuneEngine(
            tiny_dataset(20, 2),
            str(tiny_bert_dir),
            str(path),
            train=train,
            device="cpu",
            show_progress_bar=False,
            precision="fp32",
            query_prompt="query: ",
            epochs=8,
            training_args={"learning_rate": 3e-3},
        )
        engine.finetune()
        made[train] = path
    return made


def weights(path):
    """Return a model's weights by name."""
    model = SentenceTransformer(str(path), device="cpu")
    return {name: tensor.numpy() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("weight", [0.0, 0.25, 1.0])
def test_weights_are_mixed_by_share(folders, tiny_bert_dir, tmp_path, weight):
    """Every weight is the share's part of the finetuned one and the rest of the base's."""
    output = merge_with_base(folders["both"], tiny_bert_dir, tmp_path / "merged", weight=weight)
    ours, theirs, found = weights(folders["both"]), weights(tiny_bert_dir), weights(output)
    for name, value in found.items():
        expected = weight * ours[name] + (1 - weight) * theirs[name]
        np.testing.assert_allclose(value, expected, atol=1e-6)


def test_formula_without_mergekit_is_the_same(folders, tiny_bert_dir, monkeypatch):
    """With and without sentence-transformers' own merge the weights are equal."""
    models = [
        SentenceTransformer(str(path), device="cpu") for path in (folders["both"], tiny_bert_dir)
    ]
    if not hasattr(SentenceTransformer, "merge"):
        pytest.skip("this sentence-transformers merges nothing")
    pytest.importorskip("mergekit")
    upstream = merging.mixed(*models, 0.3)
    monkeypatch.setattr(merging.importlib.util, "find_spec", lambda name: None)
    plain = merging.mixed(*models, 0.3)
    for one, other in zip(upstream.state_dict().values(), plain.state_dict().values(), strict=True):
        np.testing.assert_allclose(one.numpy(), other.numpy(), atol=1e-6)


def test_weights_that_two_modules_share_are_mixed_once(tiny_bert_dir, monkeypatch):
    """A state dict names them twice."""
    monkeypatch.setattr(merging.importlib.util, "find_spec", lambda name: None)
    models = [SentenceTransformer(str(tiny_bert_dir), device="cpu") for _ in range(2)]
    for share, model in zip((1.0, 0.0), models, strict=True):
        shared = torch.nn.Embedding(3, 2)
        shared.weight.data.fill_(share)
        model.one = shared
        model.two = torch.nn.Embedding(3, 2)
        model.two.weight = shared.weight
    assert torch.equal(merging.mixed(*models, 0.5).two.weight, torch.full((3, 2), 0.5))


def test_merged_folder_loads_like_a_finetuned_one(folders, tiny_bert_dir, tmp_path):
    """Length, prompts and record come from the finetuned folder; the scores do not."""
    output = tmp_path / "merged"
    assert merge_with_base(folders["both"], tiny_bert_dir, str(output)) == str(output)
    facts = json.loads((output / "finetuning.json").read_text("utf-8"))
    assert facts["merged"]["weight"] == 0.5
    assert facts["prompts"]["query"] == "query: "
    assert "metrics" not in facts
    assert "0.5 of the finetuned" in (output / "README.md").read_text("utf-8")
    plain = resolve_embed_model(f"local:{output}")
    loaded = load_finetuned_model(output)
    np.testing.assert_allclose(
        loaded.get_query_embedding("amber"), plain.get_text_embedding("query: amber"), atol=1e-6
    )


def test_the_base_is_not_replaced(folders, tiny_bert_dir):
    """Another share may be tried later."""
    with pytest.raises(ConfigurationError, match="'output_path' must be another folder than"):
        merge_with_base(folders["both"], tiny_bert_dir, tiny_bert_dir)


def test_an_adapter_has_no_weights_to_mix(tiny_bert_dir, tmp_path):
    """The message tells that it is one."""
    LinearLayer(4, 4).save(str(tmp_path / "adapter"))
    with pytest.raises(ModelFolderError, match="There is only an adapter at"):
        merge_with_base(tmp_path / "adapter", tiny_bert_dir, tmp_path / "merged")


def test_query_encoder_is_merged_and_documents_stay(folders, tiny_bert_dir, tmp_path):
    """Of a train="query" folder the model for queries is mixed; texts keep the base's vectors."""
    output = merge_with_base(folders["query"], tiny_bert_dir, tmp_path / "merged", weight=0.0)
    base = SentenceTransformer(str(tiny_bert_dir), device="cpu")
    merged = load_finetuned_model(output)
    assert isinstance(merged, AsymmetricEmbeddingModel)
    expected = base.encode(["query: amber", "amber"], normalize_embeddings=True)
    np.testing.assert_allclose(merged.get_query_embedding("amber"), expected[0], atol=1e-6)
    np.testing.assert_allclose(merged.get_text_embedding("amber"), expected[1], atol=1e-6)


@pytest.mark.parametrize("train", ["both", "query"])
def test_weight_is_chosen_on_the_validation_set(folders, tiny_bert_dir, tmp_path, train):
    """None takes the weight of the best nDCG@10, and the record holds them all."""
    output = tmp_path / "merged"
    merge_with_base(
        folders[train], tiny_bert_dir, output, weight=None, val_dataset=tiny_dataset(20, 2)
    )
    merged = json.loads((output / "finetuning.json").read_text("utf-8"))["merged"]
    scores = merged["ndcg@10"]
    assert list(scores) == ["0.0", "0.25", "0.5", "0.75", "1.0"]
    assert scores[str(merged["weight"])] == max(scores.values()) > scores["0.0"]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"weight": 1.5}, "'weight' must be a number from 0 to 1"),
        ({"weight": True}, "'weight' must be a number from 0 to 1"),
        ({"weight": None}, "pass 'val_dataset'"),
        ({"weight": None, "val_dataset": "val.json"}, "must be an EmbeddingQAFinetuneDataset"),
        ({"val_dataset": tiny_dataset(2, 1)}, "only if 'weight' is None"),
    ],
)
def test_wrong_weights_are_refused(folders, tiny_bert_dir, tmp_path, wrong, message):
    """A weight that is no share, or two ways of choosing it, are told at once."""
    with pytest.raises(ConfigurationError, match=message):
        merge_with_base(folders["both"], tiny_bert_dir, tmp_path / "merged", **wrong)


def test_another_architecture_is_refused(folders, tiny_model_dir, tmp_path):
    """A base of other weights is refused with some of their names, and nothing is written."""
    with pytest.raises(ConfigurationError, match="is not what the finetuned model came from"):
        merge_with_base(folders["both"], tiny_model_dir, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_modules_of_other_settings_are_refused(folders, tiny_bert_dir, tmp_path):
    """Equal weights are no equal models; where upstream compares them, its reason is told too."""
    base = SentenceTransformer(str(tiny_bert_dir), device="cpu")
    base[1].include_prompt = not base[1].include_prompt
    base.save(str(tmp_path / "base"))
    with pytest.raises(ConfigurationError, match="its module 1 is Pooling"):
        merge_with_base(folders["both"], tmp_path / "base", tmp_path / "merged")
    assert not (tmp_path / "merged").exists()
    if importlib.util.find_spec("mergekit") is None:
        pytest.skip("upstream compares them only where mergekit is installed")
    finetuned = SentenceTransformer(str(folders["both"]), device="cpu")
    with pytest.raises(ConfigurationError, match="can't be mixed with the finetuned model"):
        merging.mixed(finetuned, base, 0.5)


def test_a_base_with_one_module_more_is_refused(folders, tiny_bert_dir, tmp_path):
    """A module without weights shows in no name and no shape."""
    base = SentenceTransformer(str(tiny_bert_dir), device="cpu")
    modules = [*base.children(), upstream.modules().Normalize()]
    SentenceTransformer(modules=modules, device="cpu").save(str(tmp_path / "longer"))
    with pytest.raises(ConfigurationError, match="its module [0-9] is Normalize"):
        merge_with_base(folders["both"], tmp_path / "longer", tmp_path / "merged")


def test_another_base_is_told(folders, tiny_bert_dir, tmp_path, caplog):
    """Equal shapes do not show it: the record does, and where there is none, that is told."""
    other = shutil.copytree(tiny_bert_dir, tmp_path / "other")
    merge_with_base(folders["both"], os.path.relpath(tiny_bert_dir), tmp_path / "merged")
    assert not caplog.records
    merge_with_base(folders["query"], folders["query"] / "document", tmp_path / "merged")
    assert not caplog.records
    merge_with_base(folders["both"], other, tmp_path / "merged")
    assert f"came from {str(tiny_bert_dir)!r} and is now mixed with {str(other)!r}" in caplog.text
    merge_with_base(tiny_bert_dir, folders["both"], tmp_path / "swapped")
    assert "no finetuning.json that names its base" in caplog.text


def test_no_model_and_merging_in_place(folders, tiny_bert_dir, tmp_path):
    """An empty folder is refused; the output may be the finetuned folder itself."""
    with pytest.raises(ModelFolderError, match="There is no finetuned model"):
        merge_with_base(tmp_path, tiny_bert_dir, tmp_path / "merged")
    copy = shutil.copytree(folders["both"], tmp_path / "copy")
    merge_with_base(copy, tiny_bert_dir, copy, weight=0.0)
    for name, value in weights(copy).items():
        np.testing.assert_allclose(value, weights(tiny_bert_dir)[name], atol=1e-6)


def test_an_output_in_use_stays_as_it_is(folders, tiny_bert_dir, tmp_path):
    """Two runs never write one folder: the second is refused."""
    output = tmp_path / "merged"
    with (
        output_lock(output, name="output_path"),
        pytest.raises(OutputError, match=r"'output_path' must not be in use"),
    ):
        merge_with_base(folders["both"], tiny_bert_dir, output)
    assert not output.exists()


@pytest.mark.parametrize("side", ["finetuned", "base"])
def test_no_folder_runs_its_code(folders, tiny_bert_dir, tmp_path, side):
    """A folder that names a class of its own is refused unless it is trusted."""
    hostile = tmp_path / "hostile"
    shutil.copytree(folders["both"] if side == "finetuned" else tiny_bert_dir, hostile)
    modules = json.loads((hostile / "modules.json").read_text())
    modules[0]["type"] = "evil.Evil"
    (hostile / "modules.json").write_text(json.dumps(modules))
    models = (hostile, tiny_bert_dir) if side == "finetuned" else (folders["both"], hostile)
    with pytest.raises(ModelFolderError, match=r"names the class 'evil\.Evil'"):
        merge_with_base(*models, tmp_path / "merged")
