"""Finetune embedding models for retrieval inside LlamaIndex, and prove that they got better.

This module is the whole public API. Nothing behind it is imported until a name is asked for
(PEP 562), so importing it loads neither torch nor transformers nor sentence-transformers.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llama_index.finetuning.embeddings.adapter import (
        EmbeddingAdapterFinetuneEngine,
        TrainingOptions,
    )
    from llama_index.finetuning.embeddings.adapter_embedding import (
        AdapterEmbeddingModel,
        AsymmetricEmbeddingModel,
        LinearAdapterEmbeddingModel,
    )
    from llama_index.finetuning.embeddings.adapters import (
        BaseAdapter,
        LinearLayer,
        LowRankAdapter,
        TwoLayerNN,
        get_activation_function,
    )
    from llama_index.finetuning.embeddings.base import (
        BaseEmbeddingFinetuneEngine,
        BaseFinetuningEngine,
    )
    from llama_index.finetuning.embeddings.dataset import (
        EmbeddingQAFinetuneDataset,
    )
    from llama_index.finetuning.embeddings.description import (
        DatasetDescription,
        Leakage,
    )
    from llama_index.finetuning.embeddings.errors import (
        ConfigurationError,
        DatasetError,
        DatasetFileError,
        EncodingError,
        FinetuningError,
        GenerationError,
        MissingDatasetFileError,
        MissingExtraError,
        ModelFolderError,
        OutputError,
        TrainingError,
    )
    from llama_index.finetuning.embeddings.evaluation import (
        Comparison,
        Difference,
        Estimate,
        RetrievalResult,
        evaluate_retrieval,
    )
    from llama_index.finetuning.embeddings.formats import (
        beir_relevance,
    )
    from llama_index.finetuning.embeddings.generation import (
        DEFAULT_QA_GENERATE_PROMPT_TMPL,
        GenerationReport,
        QuestionFilter,
        agenerate_qa_embedding_pairs,
        generate_qa_embedding_pairs,
        pseudo_query_pairs,
    )
    from llama_index.finetuning.embeddings.loading import (
        load_finetuned_model,
    )
    from llama_index.finetuning.embeddings.merging import (
        merge_with_base,
    )
    from llama_index.finetuning.embeddings.mining import (
        mine_hard_negatives,
    )
    from llama_index.finetuning.embeddings.report import (
        RetrievalReport,
        compare_retrieval,
    )
    from llama_index.finetuning.embeddings.sentence_transformer import (
        SentenceTransformersFinetuneEngine,
    )

_HOMES = {
    "adapter": (
        "EmbeddingAdapterFinetuneEngine",
        "TrainingOptions",
    ),
    "adapter_embedding": (
        "AdapterEmbeddingModel",
        "AsymmetricEmbeddingModel",
        "LinearAdapterEmbeddingModel",
    ),
    "adapters": (
        "BaseAdapter",
        "LinearLayer",
        "LowRankAdapter",
        "TwoLayerNN",
        "get_activation_function",
    ),
    "base": (
        "BaseEmbeddingFinetuneEngine",
        "BaseFinetuningEngine",
    ),
    "dataset": ("EmbeddingQAFinetuneDataset",),
    "description": (
        "DatasetDescription",
        "Leakage",
    ),
    "errors": (
        "ConfigurationError",
        "DatasetError",
        "DatasetFileError",
        "EncodingError",
        "FinetuningError",
        "GenerationError",
        "MissingDatasetFileError",
        "MissingExtraError",
        "ModelFolderError",
        "OutputError",
        "TrainingError",
    ),
    "evaluation": (
        "Comparison",
        "Difference",
        "Estimate",
        "RetrievalResult",
        "evaluate_retrieval",
    ),
    "formats": ("beir_relevance",),
    "generation": (
        "DEFAULT_QA_GENERATE_PROMPT_TMPL",
        "GenerationReport",
        "QuestionFilter",
        "agenerate_qa_embedding_pairs",
        "generate_qa_embedding_pairs",
        "pseudo_query_pairs",
    ),
    "loading": ("load_finetuned_model",),
    "merging": ("merge_with_base",),
    "mining": ("mine_hard_negatives",),
    "report": (
        "RetrievalReport",
        "compare_retrieval",
    ),
    "sentence_transformer": ("SentenceTransformersFinetuneEngine",),
}
# Which the retired package had imported.
_MODULES = ("adapter", "adapter_utils", "common", "sentence_transformer")
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [  # noqa: RUF022 (plain alphabetical order)
    "AdapterEmbeddingModel",
    "AsymmetricEmbeddingModel",
    "BaseAdapter",
    "BaseEmbeddingFinetuneEngine",
    "BaseFinetuningEngine",
    "Comparison",
    "ConfigurationError",
    "DEFAULT_QA_GENERATE_PROMPT_TMPL",
    "DatasetDescription",
    "DatasetError",
    "DatasetFileError",
    "Difference",
    "EmbeddingAdapterFinetuneEngine",
    "EmbeddingQAFinetuneDataset",
    "EncodingError",
    "Estimate",
    "FinetuningError",
    "GenerationError",
    "GenerationReport",
    "Leakage",
    "LinearAdapterEmbeddingModel",
    "LinearLayer",
    "LowRankAdapter",
    "MissingDatasetFileError",
    "MissingExtraError",
    "ModelFolderError",
    "OutputError",
    "QuestionFilter",
    "RetrievalReport",
    "RetrievalResult",
    "SentenceTransformersFinetuneEngine",
    "TrainingError",
    "TrainingOptions",
    "TwoLayerNN",
    "agenerate_qa_embedding_pairs",
    "beir_relevance",
    "compare_retrieval",
    "evaluate_retrieval",
    "generate_qa_embedding_pairs",
    "get_activation_function",
    "load_finetuned_model",
    "merge_with_base",
    "mine_hard_negatives",
    "pseudo_query_pairs",
]


if not TYPE_CHECKING:  # so that checkers see misspelt names

    def __getattr__(name: str) -> Any:
        if name in _MODULES:
            return importlib.import_module(f"{__name__}.{name}")
        home = _HOME_OF.get(name)
        if home is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(f"{__name__}.{home}"), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
