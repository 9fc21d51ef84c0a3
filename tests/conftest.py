"""Fixtures that the tests share: no network, and two tiny Sentence Transformers folders."""

import os
from pathlib import Path

import pytest
from fakes import TOPICS, WORDS, tiny_dataset

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Tiny models gain nothing from more threads, and suffer where other processes want the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def upstream_modules():
    """Return the module that holds sentence-transformers' building blocks, in 5.x and 6.x."""
    from llama_index.finetuning.embeddings import upstream

    return upstream.modules()


def _word_level_tokenizer():
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "ask", "0", "1", "2", "3"]
    vocabulary += [*TOPICS, *WORDS, "query:", "passage:"]
    tokenizer = Tokenizer(
        models.WordLevel({word: i for i, word in enumerate(vocabulary)}, unk_token="[UNK]")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return tokenizer


@pytest.fixture(scope="session")
def tiny_model_dir(tmp_path_factory) -> Path:
    """A StaticEmbedding folder of 32 dims over the words of `fakes`: trains in a second."""
    import torch
    from sentence_transformers import SentenceTransformer

    StaticEmbedding = upstream_modules().StaticEmbedding
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("models") / "tiny-static"
    SentenceTransformer(
        modules=[StaticEmbedding(_word_level_tokenizer(), embedding_dim=32)], device="cpu"
    ).save(str(path))
    return path


@pytest.fixture(scope="session")
def tiny_bert_dir(tmp_path_factory) -> Path:
    """A random two-layer BERT folder of 32 dims over the words of `fakes`, with 64 positions."""
    import torch
    from sentence_transformers import SentenceTransformer
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("models")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=_word_level_tokenizer(),
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=64,
    )
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
    )
    BertModel(config).save_pretrained(str(folder / "bert"))
    tokenizer.save_pretrained(str(folder / "bert"))
    modules = upstream_modules()
    transformer = modules.Transformer(str(folder / "bert"), max_seq_length=32)
    path = folder / "tiny-bert"
    model = SentenceTransformer(modules=[transformer, modules.Pooling(32)], device="cpu")
    model.save(str(path))
    return path


@pytest.fixture
def engine(tiny_bert_dir, tmp_path):
    """Return a function that makes an engine over the tiny BERT with quick settings."""
    from llama_index.finetuning.embeddings import SentenceTransformersFinetuneEngine

    def make(**kwargs):
        usual = {
            "dataset": tiny_dataset(20, 2),
            "model_id": str(tiny_bert_dir),
            "model_output_path": str(tmp_path / "out"),
            "device": "cpu",
            "show_progress_bar": False,
            "precision": "fp32",
            "training_args": {"learning_rate": 3e-3},
        }
        return SentenceTransformersFinetuneEngine(**{**usual, **kwargs})

    return make
