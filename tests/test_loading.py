"""Tests of `loading`: a model comes back from its folder alone."""

import json
import shutil

import numpy as np
import pytest
import torch
from fakes import HashEmbedding, tiny_dataset
from llama_index.embeddings.huggingface import HuggingFaceEmbedding

from llama_index.finetuning.embeddings import (
    ConfigurationError,
    ModelFolderError,
    loading,
    model_folder,
)
from llama_index.finetuning.embeddings.adapter import EmbeddingAdapterFinetuneEngine
from llama_index.finetuning.embeddings.adapter_embedding import AdapterEmbeddingModel
from llama_index.finetuning.embeddings.adapters import LinearLayer, load_adapter
from llama_index.finetuning.embeddings.loading import load_finetuned_model


def finetuned(base, output, **kwargs):
    """Train an adapter for two epochs and return the engine's model."""
    engine = EmbeddingAdapterFinetuneEngine(
        tiny_dataset(),
        base,
        model_output_path=str(output),
        epochs=2,
        show_progress_bar=False,
        **kwargs,
    )
    engine.finetune()
    return engine.get_finetuned_model()


class SavesItself(LinearLayer):
    """An adapter with a folder layout of its own."""

    def save(self, output_path):
        torch.save(self.linear.weight.detach(), f"{output_path}/own.pt")

    @classmethod
    def load(cls, input_path):
        weight = torch.load(f"{input_path}/own.pt", weights_only=True)
        adapter = cls(len(weight), len(weight))
        adapter.linear.weight.data.copy_(weight)
        return adapter


def test_an_adapter_that_saves_itself(tmp_path):
    """Its folder need not say anything, as the base and the class are given."""
    base = HashEmbedding()
    expected = finetuned(base, tmp_path / "a", adapter_model=SavesItself(32, 32))
    loaded = load_finetuned_model(tmp_path / "a", base, adapter_cls=SavesItself)
    assert loaded.get_query_embedding("amber") == expected.get_query_embedding("amber")
    assert loaded.get_query_embedding("amber") != base.get_query_embedding("amber")


@pytest.mark.parametrize("transform", ["query", "both"])
def test_an_adapter_over_a_given_base(transform, tmp_path):
    """The base is given; class and side come from the folder."""
    base = HashEmbedding()
    expected = finetuned(base, tmp_path / "a", transform=transform)
    loaded = load_finetuned_model(tmp_path / "a", base, embed_batch_size=3)
    assert type(loaded) is AdapterEmbeddingModel
    assert loaded.embed_batch_size == 3
    assert loaded.get_query_embedding("amber") == expected.get_query_embedding("amber")
    assert loaded.get_text_embedding("amber") == expected.get_text_embedding("amber")


def test_an_adapter_over_a_base_that_is_found_by_name(tiny_bert_dir, tmp_path):
    """A HuggingFaceEmbedding comes back with its instructions, without being given."""
    base = HuggingFaceEmbedding(str(tiny_bert_dir), device="cpu", query_instruction="query: ")
    expected = finetuned(base, tmp_path / "a")
    loaded = load_finetuned_model(str(tmp_path / "a"))
    assert loaded.base_embed_model.query_instruction == "query: "
    assert np.allclose(
        loaded.get_query_embedding("amber"), expected.get_query_embedding("amber"), atol=1e-6
    )


def test_an_adapter_over_a_base_that_reads_whole_texts(tiny_model_dir, tmp_path):
    """A StaticEmbedding has no greatest length, and comes back by its folder all the same."""
    expected = finetuned(load_finetuned_model(tiny_model_dir), tmp_path / "a")
    loaded = load_finetuned_model(tmp_path / "a")
    assert loaded.base_embed_model.max_length == float("inf")
    assert loaded.get_query_embedding("amber") == expected.get_query_embedding("amber")


def test_a_base_that_cuts_its_vectors_comes_back(tiny_bert_dir, tmp_path):
    """`truncate_dim` is in the folder, though HuggingFaceEmbedding has no field of that name."""
    base = HuggingFaceEmbedding(str(tiny_bert_dir), device="cpu", truncate_dim=16)
    expected = finetuned(base, tmp_path / "a").get_query_embedding("amber")
    loaded = load_finetuned_model(str(tmp_path / "a"))
    assert len(expected) == 16
    assert np.allclose(loaded.get_query_embedding("amber"), expected, atol=1e-6)


def test_a_base_named_by_a_relative_path(tiny_bert_dir, tmp_path, monkeypatch, caplog):
    """From elsewhere it is the same folder, and no model of that name on the Hub."""
    shutil.copytree(tiny_bert_dir, tmp_path / "all-MiniLM-L6-v2")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    expected = finetuned(HuggingFaceEmbedding("all-MiniLM-L6-v2", device="cpu"), tmp_path / "a")
    monkeypatch.chdir(tmp_path / "elsewhere")
    loaded = load_finetuned_model(tmp_path / "a")
    assert loaded.get_query_embedding("amber") == pytest.approx(
        expected.get_query_embedding("amber"), abs=1e-6
    )
    assert "it only helps if" not in caplog.text
    # Where the whole place was moved, the name still leads to it.
    (tmp_path / "all-MiniLM-L6-v2").rename(tmp_path / "elsewhere" / "all-MiniLM-L6-v2")
    assert load_finetuned_model(tmp_path / "a").base_model_name == "all-MiniLM-L6-v2"


def test_a_base_in_a_folder_of_a_known_name_keeps_its_instruction(
    tiny_bert_dir, tmp_path, monkeypatch
):
    """LlamaIndex puts one before queries by the name, which an absolute path is not."""
    shutil.copytree(tiny_bert_dir, tmp_path / "BAAI" / "bge-small-en")
    monkeypatch.chdir(tmp_path)
    expected = finetuned(HuggingFaceEmbedding("BAAI/bge-small-en", device="cpu"), tmp_path / "a")
    (tmp_path / "elsewhere").mkdir()
    for place in (tmp_path, tmp_path / "elsewhere"):
        monkeypatch.chdir(place)
        assert load_finetuned_model(tmp_path / "a").get_query_embedding("amber") == pytest.approx(
            expected.get_query_embedding("amber"), abs=1e-6
        )


def test_a_base_that_cannot_be_found(tiny_bert_dir, tmp_path):
    """A class that no name brings back, a folder that is gone, an old folder: pass the base."""
    finetuned(HashEmbedding(model_name="api-model"), tmp_path / "a")
    with pytest.raises(
        ModelFolderError, match=r"the base 'api-model' \(HashEmbedding\).*'base_embed_model'"
    ):
        load_finetuned_model(tmp_path / "a")
    moved = shutil.copytree(tiny_bert_dir, tmp_path / "base")
    finetuned(HuggingFaceEmbedding(str(moved), device="cpu"), tmp_path / "b")
    shutil.rmtree(moved)
    with pytest.raises(ModelFolderError, match=r"The base .* the folder '.*base', is no longer"):
        load_finetuned_model(tmp_path / "b")
    moved.mkdir()
    with pytest.raises(ModelFolderError, match=r"The base '.*base' .* can't be loaded"):
        load_finetuned_model(tmp_path / "b")
    (tmp_path / "c").mkdir()
    config = {"in_features": 32, "out_features": 32, "bias": False}
    (tmp_path / "c" / "config.json").write_text(json.dumps(config))
    torch.save({"linear.weight": torch.eye(32)}, tmp_path / "c" / "pytorch_model.bin")
    with pytest.raises(ModelFolderError, match="names no base model"):
        load_finetuned_model(tmp_path / "c")
    assert load_finetuned_model(tmp_path / "c", HashEmbedding()).transform == "query"


class Sharpened(HuggingFaceEmbedding):
    """Gives other vectors than the class whose name it inherits."""

    def _embed(self, inputs, prompt_name=None):
        return [[value**3 for value in row] for row in super()._embed(inputs, prompt_name)]


def test_a_base_of_a_class_of_its_own_is_not_swapped(tiny_bert_dir, tmp_path):
    """What inherits from HuggingFaceEmbedding is another model under the same class name."""
    base = Sharpened(str(tiny_bert_dir), device="cpu")
    expected = finetuned(base, tmp_path / "a")
    with pytest.raises(ModelFolderError, match=r"\(Sharpened\), .* Pass the model as"):
        load_finetuned_model(tmp_path / "a")
    loaded = load_finetuned_model(tmp_path / "a", base)
    assert loaded.get_query_embedding("amber") == expected.get_query_embedding("amber")


def test_arguments_of_the_base_reach_it(tiny_bert_dir, tmp_path, monkeypatch):
    """What an AdapterEmbeddingModel does not take is for the base, the device for both."""
    folder = shutil.copytree(tiny_bert_dir, tmp_path / "base")
    finetuned(HuggingFaceEmbedding(str(folder), device="cpu"), tmp_path / "a")
    given = {}

    def opened(name, settings):
        given.update(settings)
        return model_folder.open_one(name, settings)

    monkeypatch.setattr(loading, "open_one", opened)
    loaded = load_finetuned_model(
        tmp_path / "a",
        trust_remote_code=True,
        device="cpu",
        embed_batch_size=7,
        transform_query=False,
        query_instruction="query: ",
    )
    base = loaded.base_embed_model
    assert given["trust_remote_code"] is True
    assert base._device == str(next(loaded.adapter.parameters()).device) == "cpu"
    assert loaded.embed_batch_size == base.embed_batch_size == 7
    assert base.query_instruction == "query: "
    assert loaded.transform == "none"
    with pytest.raises(ModelFolderError, match="can't be loaded .*unheard_of"):
        load_finetuned_model(tmp_path / "a", unheard_of=1)
    with pytest.raises(
        ConfigurationError, match=r"\['trust_remote_code'\] must be given to a base"
    ):
        load_finetuned_model(tmp_path / "a", base, trust_remote_code=True, device="cpu")


def test_an_adapter_for_another_base(tmp_path):
    """A base of another dimension is refused."""
    LinearLayer(8, 8).save(tmp_path / "a")
    with pytest.raises(ModelFolderError, match="for vectors of 8 dimensions"):
        load_finetuned_model(tmp_path / "a", HashEmbedding())


@pytest.mark.parametrize("prompts", [None, {"query": "query:", "text": ""}])
def test_a_full_model_comes_back_with_its_prompts(prompts, tiny_bert_dir, tmp_path):
    """The prompts of finetuning.json are used, none where there are none."""
    folder = shutil.copytree(tiny_bert_dir, tmp_path / "full")
    (folder / "finetuning.json").write_text(json.dumps({"prompts": prompts}))
    loaded = load_finetuned_model(folder, embed_batch_size=7, device="cpu")
    assert loaded.embed_batch_size == 7
    plain = HuggingFaceEmbedding(str(tiny_bert_dir), device="cpu")
    asked = "query:amber" if prompts else "amber"
    assert np.allclose(
        loaded.get_query_embedding("amber"), plain.get_text_embedding(asked), atol=1e-6
    )
    assert np.allclose(
        loaded.get_text_embedding("amber"), plain.get_text_embedding("amber"), atol=1e-6
    )


def test_a_full_model_without_a_record(tiny_bert_dir):
    """A plain Sentence Transformers folder is loaded without prompts."""
    loaded = load_finetuned_model(tiny_bert_dir, device="cpu")
    assert type(loaded) is HuggingFaceEmbedding


def test_an_export_comes_back_with_its_prompts(tiny_bert_dir, tmp_path):
    """The export of an adapter over a base with an instruction keeps the instruction."""
    base = HuggingFaceEmbedding(str(tiny_bert_dir), device="cpu", query_instruction="query: ")
    model = finetuned(base, tmp_path / "a", transform="both")
    model.export_sentence_transformer(tmp_path / "full")
    loaded = load_finetuned_model(tmp_path / "full", device="cpu")
    assert np.allclose(
        loaded.get_query_embedding("amber"), model.get_query_embedding("amber"), atol=1e-5
    )


def test_bad_input(tiny_bert_dir, tmp_path):
    """No folder, no model, a base for a full model, an unreadable record."""
    with pytest.raises(ModelFolderError, match="There is no model folder"):
        load_finetuned_model(tmp_path / "nowhere")
    with pytest.raises(ModelFolderError, match="is no adapter folder"):
        load_finetuned_model(tmp_path)
    with pytest.raises(ConfigurationError, match="'base_embed_model' is for adapters"):
        load_finetuned_model(tiny_bert_dir, HashEmbedding())
    folder = shutil.copytree(tiny_bert_dir, tmp_path / "full")
    (folder / "finetuning.json").write_text("{")
    with pytest.raises(ModelFolderError, match="so that the model's prompts are not known"):
        load_finetuned_model(folder)


def test_the_old_import_path_is_a_door():
    """`adapter_utils` gives the adapters, the same objects."""
    from llama_index.finetuning.embeddings import adapter_utils, adapters

    assert adapter_utils.__all__
    for name in adapter_utils.__all__:
        assert getattr(adapter_utils, name) is getattr(adapters, name)


def test_the_bases_length_and_revision_come_back(tiny_bert_dir, tmp_path):
    """The length that the model has when the adapter is trained, and the revision of its files."""
    base = HuggingFaceEmbedding(model_name=str(tiny_bert_dir), device="cpu")
    base._model.max_seq_length = 4
    base._model.model_card_data.base_model_revision = "v1"
    finetuned(base, tmp_path / "a")
    told = json.loads((tmp_path / "a" / "config.json").read_text())["base_settings"]
    assert (told["max_length"], told["revision"]) == (4, "v1")
    loaded = load_finetuned_model(tmp_path / "a", device="cpu")
    text = "amber bridge river candle engine"
    assert np.allclose(loaded.get_text_embedding(text), base.get_text_embedding(text), atol=1e-6)


def test_a_checkpoint_is_told_from_a_model(engine, caplog, tmp_path):
    """It says neither its prompts nor which side it is for."""
    run = engine(save_checkpoints=True, checkpoint_save_steps=1)
    run.finetune()
    checkpoint = next((tmp_path / "checkpoints").rglob("checkpoint-*"))
    load_finetuned_model(run.model_output_path)
    assert not caplog.messages
    load_finetuned_model(checkpoint)
    assert "is a checkpoint of a run" in caplog.text
    assert "resume_from_checkpoint" in caplog.text


def test_an_adapter_saved_by_hand_keeps_its_sides(tmp_path):
    """`engine.model.save` and the engine write the same."""
    engine = EmbeddingAdapterFinetuneEngine(
        tiny_dataset(),
        HashEmbedding(),
        model_output_path=str(tmp_path / "a"),
        transform="both",
        epochs=2,
        show_progress_bar=False,
    )
    engine.finetune()
    engine.model.save(tmp_path / "b")
    load_adapter(tmp_path / "b")[0].save(tmp_path / "c")
    for folder in ("b", "c"):
        assert AdapterEmbeddingModel(HashEmbedding(), str(tmp_path / folder)).transform == "both"


def test_a_foreign_class_of_the_same_name(tmp_path):
    """The retired package's `LinearLayer` can't read our folders, which hold one just like it."""

    class LinearLayer(torch.nn.Module):
        @classmethod
        def load(cls, input_path):
            raise TypeError("unexpected keyword argument")

    model = finetuned(HashEmbedding(), tmp_path / "a")
    loaded = AdapterEmbeddingModel(HashEmbedding(), str(tmp_path / "a"), adapter_cls=LinearLayer)
    assert loaded.get_query_embedding("amber") == model.get_query_embedding("amber")
