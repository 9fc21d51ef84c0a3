"""`EmbeddingAdapterFinetuneEngine`."""

import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.utils import infer_torch_device
from torch import Tensor
from typing_extensions import Self

from llama_index.finetuning.embeddings.adapter.checks import (
    check_adapter,
    check_datasets,
    check_dimension,
)
from llama_index.finetuning.embeddings.adapter.options import TrainingOptions, parse
from llama_index.finetuning.embeddings.adapter.run import Run, Vectors
from llama_index.finetuning.embeddings.adapter.selection import copy_of
from llama_index.finetuning.embeddings.adapter.vectors import Rows, rows_to_train_on
from llama_index.finetuning.embeddings.adapter.writing import write_outcome
from llama_index.finetuning.embeddings.adapter_embedding import AdapterEmbeddingModel
from llama_index.finetuning.embeddings.adapters import (
    BaseAdapter,
    LinearLayer,
    load_adapter,
    save_adapter,
)
from llama_index.finetuning.embeddings.base import BaseFinetuningEngine
from llama_index.finetuning.embeddings.dataset import EmbeddingQAFinetuneDataset
from llama_index.finetuning.embeddings.encoding import Side, encode, stated_dimension
from llama_index.finetuning.embeddings.errors import ConfigurationError
from llama_index.finetuning.embeddings.files import atomic_folder, check_writable, output_lock
from llama_index.finetuning.embeddings.report import RetrievalReport

logger = logging.getLogger(__name__)


class EmbeddingAdapterFinetuneEngine(BaseFinetuningEngine):
    """Train an adapter on the vectors of any embedding model, local or behind an API.

    Every text is embedded once; training then takes seconds, as only the adapter changes. By
    default only queries pass through it, so that an existing index stays valid. With a
    validation set, or with no say in how to train (``auto``), the outcome is compared with the
    base on documents that were not trained on, and the base is handed back where it is better.

    Args:
        dataset: What to train on.
        embed_model: The model, which stays as it is.
        batch_size: Pairs of a query and a relevant document in a step.
        epochs: Passes over these pairs. Here, a ``batch_size`` or ``epochs`` that equals the
            default counts as not given, and is chosen for you; ``finetune(epochs=1)`` holds.
        adapter_model: The adapter to train; None: a `LinearLayer`.
        dim: Length of the model's vectors; None: found out when it is needed.
        device: Where to train; None: the best that torch finds.
        model_output_path: The folder that the adapter replaces, whole or not at all.
        model_checkpoint_path: Folder for checkpoints, one ``step_N`` folder each.
        checkpoint_save_steps: Steps between two checkpoints.
        verbose: Log the loss of every step.
        bias: Give the `LinearLayer` a bias.
        **train_kwargs: Any field of `TrainingOptions`: ``lr``, ``val_dataset``, ``negatives``,
            ``transform``, ``auto``, ``cache_dir``, ``seed`` and so on.

    Raises:
        ConfigurationError: An argument is unknown, or has a value that can't work.
        DatasetError: A dataset's contents do not fit together.
        OutputError: An output folder can't be written.

    Example:
        >>> engine = EmbeddingAdapterFinetuneEngine(dataset, Settings.embed_model)
        >>> engine.finetune()
        >>> Settings.embed_model = engine.get_finetuned_model()
    """

    def __init__(
        self,
        dataset: EmbeddingQAFinetuneDataset,
        embed_model: BaseEmbedding,
        batch_size: int = 10,
        epochs: int = 1,
        adapter_model: BaseAdapter | None = None,
        dim: int | None = None,
        device: str | None = None,
        model_output_path: str = "model_output",
        model_checkpoint_path: str | None = None,
        checkpoint_save_steps: int = 100,
        verbose: bool = False,
        bias: bool = False,
        **train_kwargs: Any,
    ) -> None:
        if not isinstance(embed_model, BaseEmbedding):
            raise ConfigurationError(
                f"'embed_model' must be a LlamaIndex BaseEmbedding (got "
                f"{type(embed_model).__name__})."
            )
        self.dataset = dataset
        self.embed_model = embed_model
        self.batch_size = batch_size
        self.summary = ""
        self.report: RetrievalReport | None = None
        self._defaults = {
            "batch_size": batch_size,
            "epochs": epochs,
            "checkpoint_path": model_checkpoint_path,
            "checkpoint_save_steps": checkpoint_save_steps,
            "verbose": verbose,
        }
        self._train_kwargs = train_kwargs
        self._bias = bias
        self._model_output_path = model_output_path
        self._device = device
        self._dim = dim or stated_dimension(embed_model)
        self._model = adapter_model
        self._written_class: type[BaseAdapter] | None = None
        self._check(parse(self._defaults, train_kwargs))

    @classmethod
    def from_model_path(
        cls,
        dataset: EmbeddingQAFinetuneDataset,
        embed_model: BaseEmbedding,
        model_path: str,
        model_cls: type[Any] | None = None,
        **kwargs: Any,
    ) -> Self:
        """Go on training an adapter that was saved before, a checkpoint for instance.

        Args:
            dataset: What to train on.
            embed_model: The model that the adapter was trained on.
            model_path: The adapter's folder, of this package or of the retired one.
            model_cls: The adapter's class, needed where it is not of this package.
            **kwargs: Further arguments of the constructor; ``transform`` is the saved one
                unless it is given.

        Raises:
            ModelFolderError: The folder holds no adapter, or one for other vectors.
        """
        adapter, description = load_adapter(model_path, model_cls)
        check_dimension(embed_model, adapter, description, model_path)
        options = {"transform": description.transform, **kwargs}
        return cls(dataset, embed_model, adapter_model=adapter, **options)

    @property
    def dim(self) -> int:
        """Length of the model's vectors; a text is embedded where nothing else tells."""
        if self._dim is None:
            self._dim = len(self.embed_model.get_text_embedding("hello world"))
        return self._dim

    @property
    def model(self) -> BaseAdapter:
        """The adapter that is trained; as it was before where the base was handed back."""
        if self._model is None:
            self._model = LinearLayer(self.dim, self.dim, bias=self._bias)
        return self._model

    def smart_batching_collate(self, batch: Sequence[tuple[str, str]]) -> tuple[Tensor, Tensor]:
        """Embed pairs of a query and a text.

        Returns:
            The vectors of the queries and of the texts, each of shape ``(n_pairs, dim)``.

        Raises:
            ConfigurationError: An option of the constructor was changed to one that can't work,
                or the vectors do not fit ``dim`` or the adapter.
            EncodingError: The embedding model failed, or gave unusable vectors.
            OutputError: The cache can't be written.
        """
        options = parse(self._defaults, self._train_kwargs)
        queries = self._encode([(query, query) for query, _ in batch], "query", options)
        return queries, self._encode([(text, text) for _, text in batch], "text", options)

    def finetune(self, **train_kwargs: Any) -> None:
        """Embed what is not in the cache, train, and write the adapter's folder.

        What came of it is logged and kept as ``summary``. With a validation set, the table of
        base against finetuned model is kept as ``report`` and written as ``report.html``.

        Args:
            **train_kwargs: Fields of `TrainingOptions`, which override the constructor's.

        Raises:
            ConfigurationError: An option is unknown, or has a value that can't work.
            DatasetError: A dataset was changed so that its contents do not fit together.
            EncodingError: The embedding model failed, or gave unusable vectors.
            OutputError: An output folder can't be written, or another run is writing it.
            TrainingError: The loss is not finite.
        """
        options = parse(self._defaults, {**self._train_kwargs, **train_kwargs})
        self._check(options)
        with output_lock(self._model_output_path, name="model_output_path"):
            self._finetune(options)

    def _finetune(self, options: TrainingOptions) -> None:
        began = time.perf_counter()
        vectors, *validation = self._embedded(options)
        embedded = time.perf_counter()
        run = Run(
            self.model,
            vectors,
            validation[0] if validation else None,
            options,
            save_checkpoint=lambda step: self._checkpoint(step, options),
        )
        start = copy_of(self.model)
        try:
            outcome = run.outcome()
        except BaseException:
            # Another try is not to start from weights that were left half-way.
            self.model.load_state_dict(start)
            raise
        trained = time.perf_counter()
        self.summary = outcome.summary
        logger.info(outcome.summary)
        adapter = self.model
        if outcome.is_base:
            self.model.load_state_dict(start)
            adapter = LinearLayer(self.dim, self.dim)
        seconds = {"embedding": embedded - began, "training": trained - embedded}
        self.report = write_outcome(
            self._model_output_path,
            adapter,
            options,
            outcome,
            dataset=self.dataset,
            embed_model=self.embed_model,
            dimension=self.dim,
            seconds=seconds,
        )
        self._written_class = type(adapter)

    def get_finetuned_model(self, **model_kwargs: Any) -> BaseEmbedding:
        """Load the finetuned model: the base with the adapter behind it.

        Args:
            **model_kwargs: Passed to `AdapterEmbeddingModel`, e.g. ``embed_batch_size=64``.

        Raises:
            ModelFolderError: ``finetune()`` has not written an adapter yet.
        """
        own_class = None if self._model is None else type(self._model)
        model_kwargs.setdefault("adapter_cls", self._written_class or own_class)
        return AdapterEmbeddingModel(self.embed_model, self._model_output_path, **model_kwargs)

    def _check(self, options: TrainingOptions) -> None:
        """Check everything that can be checked without embedding or writing."""
        check_datasets(self.dataset, options.val_dataset)
        check_writable(self._model_output_path, name="model_output_path")
        if options.checkpoint_path is not None:
            check_writable(options.checkpoint_path, name="model_checkpoint_path")
        if options.cache_dir is not None:
            check_writable(options.cache_dir, name="cache_dir")
        if self._model is not None:
            check_adapter(self._model, self._dim, self.embed_model.model_name, options.transform)

    def _embedded(self, options: TrainingOptions) -> list[Vectors]:
        """Embed the training set, as far as it is needed, and the validation set, if any."""
        parts = [(self.dataset, rows_to_train_on(self.dataset, options))]
        if options.val_dataset is not None:
            parts.append((options.val_dataset, Rows.of(options.val_dataset)))
        # Both sets in one call a side: they may share texts.
        queries = [pair for dataset, _ in parts for pair in dataset.queries.items()]
        documents = [(id_, one.corpus[id_]) for one, rows in parts for id_ in rows.document_ids]
        query_vectors = self._encode(queries, "query", options)
        document_vectors = self._encode(documents, "text", options)
        found = []
        for dataset, rows in parts:
            n_queries, n_documents = len(dataset.queries), len(rows.document_ids)
            found.append(
                Vectors(query_vectors[:n_queries], document_vectors[:n_documents], rows, dataset)
            )
            query_vectors = query_vectors[n_queries:]
            document_vectors = document_vectors[n_documents:]
        return found

    def _encode(self, texts: list[tuple[str, str]], side: Side, options: TrainingOptions) -> Tensor:
        """Embed pairs of an id and a text."""
        vectors = encode(
            self.embed_model,
            [text for _, text in texts],
            side,
            ids=[id_ for id_, _ in texts],
            num_workers=options.num_workers,
            cache_dir=options.cache_dir,
            show_progress=options.show_progress_bar,
        )
        expected = getattr(self._model, "in_features", None) or self._dim or vectors.shape[1]
        if vectors.shape[1] != expected:
            raise ConfigurationError(
                f"'dim' and 'adapter_model' must fit the vectors of "
                f"{self.embed_model.model_name!r}, which have {vectors.shape[1]} dimensions (got "
                f"{expected})."
            )
        self._dim = vectors.shape[1]
        device = torch.device(self._device or infer_torch_device())
        return torch.from_numpy(np.asarray(vectors)).to(device)

    def _checkpoint(self, step: int, options: TrainingOptions) -> None:
        with atomic_folder(Path(str(options.checkpoint_path)) / f"step_{step}") as folder:
            save_adapter(
                self.model,
                folder,
                transform=options.transform,
                embed_model=self.embed_model,
                dimension=self.dim,
            )
