"""The public surface: names, laziness, old import paths and old signatures."""

import ast
import importlib
import inspect
import subprocess
import sys

import pytest

import llama_index.finetuning
import llama_index.finetuning.embeddings as api

OLD_SIGNATURES = {
    "SentenceTransformersFinetuneEngine": {
        "dataset": inspect.Parameter.empty,
        "model_id": "BAAI/bge-small-en",
        "model_output_path": "exp_finetune",
        "batch_size": 10,
        "val_dataset": None,
        "loss": None,
        "epochs": 2,
        "show_progress_bar": True,
        "evaluation_steps": 50,
        "use_all_docs": False,
        "trust_remote_code": False,
        "device": None,
        "save_checkpoints": False,
        "resume_from_checkpoint": False,
        "checkpoint_save_steps": 500,
        "checkpoint_save_total_limit": 0,
    },
    "EmbeddingAdapterFinetuneEngine": {
        "dataset": inspect.Parameter.empty,
        "embed_model": inspect.Parameter.empty,
        "batch_size": 10,
        "epochs": 1,
        "adapter_model": None,
        "dim": None,
        "device": None,
        "model_output_path": "model_output",
        "model_checkpoint_path": None,
        "checkpoint_save_steps": 100,
        "verbose": False,
        "bias": False,
    },
    "AdapterEmbeddingModel": {
        "base_embed_model": inspect.Parameter.empty,
        "adapter_path": inspect.Parameter.empty,
        "adapter_cls": None,
        "transform_query": True,
        "device": None,
        "embed_batch_size": 10,
        "callback_manager": None,
    },
    "LinearLayer": {
        "in_features": inspect.Parameter.empty,
        "out_features": inspect.Parameter.empty,
        "bias": False,
    },
    "TwoLayerNN": {
        "in_features": inspect.Parameter.empty,
        "hidden_features": inspect.Parameter.empty,
        "out_features": inspect.Parameter.empty,
        "bias": False,
        "activation_fn_str": "relu",
        "add_residual": False,
    },
    "generate_qa_embedding_pairs": {
        "nodes": inspect.Parameter.empty,
        "llm": inspect.Parameter.empty,
        "qa_generate_prompt_tmpl": ...,
        "num_questions_per_chunk": 2,
        "retry_limit": 3,
        "on_failure": "continue",
        "save_every": 500,
        "output_path": "qa_finetune_dataset.json",
        "verbose": True,
    },
}

OLD_PATHS = {
    "llama_index.finetuning": [
        "EmbeddingAdapterFinetuneEngine",
        "EmbeddingQAFinetuneDataset",
        "SentenceTransformersFinetuneEngine",
        "generate_qa_embedding_pairs",
    ],
    "llama_index.finetuning.types": ["BaseEmbeddingFinetuneEngine"],
    "llama_index.finetuning.embeddings.common": [
        "DEFAULT_QA_GENERATE_PROMPT_TMPL",
        "EmbeddingQAFinetuneDataset",
        "generate_qa_embedding_pairs",
    ],
    "llama_index.finetuning.embeddings.adapter": ["EmbeddingAdapterFinetuneEngine"],
    "llama_index.finetuning.embeddings.adapter_utils": ["BaseAdapter", "LinearLayer"],
    "llama_index.finetuning.embeddings.sentence_transformer": [
        "SentenceTransformersFinetuneEngine"
    ],
}


@pytest.mark.parametrize("name", api.__all__)
def test_every_public_name_is_there(name):
    """What `__all__` lists can be imported, and it is listed by `dir`."""
    assert getattr(api, name) is not None
    assert name in dir(api)


def test_all_is_sorted_and_has_no_more_and_no_less_than_is_exported():
    """`__all__` equals the table of exports, sorted."""
    exported = [name for names in api._HOMES.values() for name in names]
    assert api.__all__ == sorted(exported)
    assert len(set(exported)) == len(exported)


def test_a_type_checker_sees_the_same_names():
    """The imports under TYPE_CHECKING name exactly what is exported."""
    tree = ast.parse(inspect.getsource(api))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    seen = [alias.name for node in ast.walk(block) for alias in getattr(node, "names", [])]
    assert sorted(seen) == api.__all__


def test_an_unknown_name_is_an_attribute_error():
    """A name that does not exist fails as in any module."""
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = api.Nothing
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = llama_index.finetuning.Nothing


def test_modules_need_no_import_of_their_own():
    """What the retired package had imported is there, in a process that asked for the top only."""
    script = (
        "import llama_index.finetuning as ft\n"
        "ft.types.BaseFinetuningEngine, ft.callbacks.OpenAIFineTuningHandler, ft.openai\n"
        "for name in ('common', 'adapter', 'adapter_utils', 'sentence_transformer'):\n"
        "    assert getattr(ft.embeddings, name).__name__.endswith(name)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_a_type_checker_sees_misspelt_names():
    """It does where modules have no function that makes up names."""
    for module in (api, llama_index.finetuning):
        tree = ast.parse(inspect.getsource(module))
        plain = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
        assert plain == ["__dir__"]
        assert callable(module.__getattr__)


@pytest.mark.parametrize("module", OLD_PATHS)
def test_old_import_paths_work(module):
    """Imports written for the retired package resolve to the same objects."""
    imported = importlib.import_module(module)
    for name in OLD_PATHS[module]:
        found = getattr(imported, name)
        if name in api.__all__:
            assert found is getattr(api, name)
    if module == "llama_index.finetuning":
        assert set(OLD_PATHS[module]) <= set(dir(imported))


@pytest.mark.parametrize("name", OLD_SIGNATURES)
def test_old_signatures_are_a_prefix_of_ours(name):
    """The retired package's parameters come first, in its order and with its defaults."""
    ours = list(inspect.signature(getattr(api, name)).parameters.values())
    for parameter, (old, default) in zip(ours, OLD_SIGNATURES[name].items(), strict=False):
        assert parameter.name == old
        assert parameter.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
        if default is not ...:
            assert parameter.default == default
    for parameter in ours[len(OLD_SIGNATURES[name]) :]:
        assert parameter.kind in (parameter.KEYWORD_ONLY, parameter.VAR_KEYWORD)


@pytest.mark.parametrize(
    ("module", "name", "advice"),
    [
        ("", "AzureOpenAIFinetuneEngine", "openai"),
        (".types", "BaseCrossEncoderFinetuningEngine", "CrossEncoderTrainer"),
        (".callbacks.finetuning_handler", "MistralAIFineTuningHandler", "OpenAIFineTuningHandler"),
        (".embeddings.common", "load_existing_data", "from_json"),
        (".embeddings.adapter_utils", "train_model", "EmbeddingAdapterFinetuneEngine"),
        (".embeddings.adapter_utils", "MyMultipleNegativesRankingLoss", "EmbeddingAdapter"),
    ],
)
def test_names_that_are_not_carried_say_where_to_go(module, name, advice):
    """A name that only the retired package has fails with advice, as an ImportError."""
    home = importlib.import_module(f"llama_index.finetuning{module}")
    with pytest.raises(ImportError, match=f"'{name}'.*{advice}"):
        getattr(home, name)
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = home.Nothing


@pytest.mark.parametrize(
    ("module", "advice"),
    [
        ("azure_openai.base", "`openai` client"),
        ("cross_encoders", "CrossEncoderTrainer"),
        ("cross_encoders.dataset_gen", "CrossEncoderTrainer"),
        ("gradient.base", "has closed"),
        ("mistralai.base", "`mistralai` client"),
        ("rerankers", "`cohere` client"),
        ("rerankers.dataset_gen", "`cohere` client"),
    ],
)
def test_modules_that_are_not_carried_say_where_to_go(module, advice):
    """So does the import of a module, however deep, that only the retired package has."""
    with pytest.raises(ImportError, match=f"retired llama-index-finetuning.*{advice}"):
        importlib.import_module(f"llama_index.finetuning.{module}")


def test_importing_the_package_loads_no_torch():
    """Neither import loads torch, transformers or sentence-transformers."""
    code = (
        "import sys, llama_index.finetuning, llama_index.finetuning.embeddings as api\n"
        "api.EmbeddingQAFinetuneDataset, api.evaluate_retrieval, api.generate_qa_embedding_pairs\n"
        "heavy = {'torch', 'transformers', 'sentence_transformers'} & sys.modules.keys()\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)
