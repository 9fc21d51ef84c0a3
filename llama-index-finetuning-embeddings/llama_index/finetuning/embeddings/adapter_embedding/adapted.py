"""An embedding model with an adapter behind it."""

import hashlib
import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.bridge.pydantic import Field, PrivateAttr
from llama_index.core.callbacks import CallbackManager
from llama_index.core.constants import DEFAULT_EMBED_BATCH_SIZE
from llama_index.core.utils import infer_torch_device
from numpy.typing import NDArray
from typing_extensions import Self

from llama_index.finetuning.embeddings.adapter_embedding import calls
from llama_index.finetuning.embeddings.adapter_embedding.export import (
    as_matrix,
    export_sentence_transformer,
)
from llama_index.finetuning.embeddings.adapters import load_adapter
from llama_index.finetuning.embeddings.encoding import embed_queries, stated_dimension
from llama_index.finetuning.embeddings.errors import (
    ConfigurationError,
    EncodingError,
    ModelFolderError,
)
from llama_index.finetuning.embeddings.validation import Unset

logger = logging.getLogger(__name__)

_EMBED_BATCH_SIZE = Unset(DEFAULT_EMBED_BATCH_SIZE)
# Vectors of length one in half precision are up to 0.4 % longer or shorter.
_UNIT_TOLERANCE = 1e-2


class AdapterEmbeddingModel(BaseEmbedding):
    """Any embedding model with a trained adapter on its query vectors, or on both sides.

    A batch goes through the base's batch call (the async one in async calls) and then through
    the adapter in one product. Where the base gives vectors of length one, so does this model:
    the base says so by a field ``normalize``, or else by its first vectors. Calls may come from
    many threads at once.

    Args:
        base_embed_model: The model that the adapter was trained on.
        adapter_path: The adapter's folder, of this package or of the retired one.
        adapter_cls: The adapter's class, needed where it is not of this package.
        transform_query: False leaves the adapter out altogether, to see what the base gives.
            Whether texts are transformed too is what the adapter's folder says.
        device: Where the adapter runs; default: the best that torch finds.
        embed_batch_size: Texts per call; not given, the base's own.
        callback_manager: LlamaIndex's callbacks for the calls of this model.

    Raises:
        ConfigurationError: ``base_embed_model`` is no LlamaIndex embedding.
        ModelFolderError: The folder holds no adapter, one of another class, or one for vectors
            of another length; where the base does not tell its length beforehand, this comes
            with the first vector.
        EncodingError: On a call, the adapter gave a vector that is not finite, or zero.
    """

    base_model_name: str = Field(description="Name of the model that the adapter stands behind.")
    adapter_path: str = Field(description="The adapter's folder.")
    adapter_class: str = Field(description="Name of the adapter's class.")
    transform: str = Field(description="Whose vectors are transformed: query, both or none.")
    text_digest: str = Field(
        default="", description="SHA-256 of what embeds texts, for caches of their vectors."
    )
    _base_embed_model: BaseEmbedding = PrivateAttr()
    _adapter: torch.nn.Module = PrivateAttr()
    _dimension: int | None = PrivateAttr()
    _target_device: torch.device = PrivateAttr()
    _is_unit: bool | None = PrivateAttr(default=None)

    def __init__(
        self,
        base_embed_model: BaseEmbedding,
        adapter_path: str,
        adapter_cls: type[Any] | None = None,
        transform_query: bool = True,
        device: str | None = None,
        embed_batch_size: int = _EMBED_BATCH_SIZE,
        callback_manager: CallbackManager | None = None,
    ) -> None:
        if not isinstance(base_embed_model, BaseEmbedding):
            raise ConfigurationError(
                "'base_embed_model' must be a LlamaIndex BaseEmbedding (got "
                f"{type(base_embed_model).__name__})."
            )
        adapter, description = load_adapter(adapter_path, adapter_cls)
        transform = description.transform if transform_query else "none"
        if isinstance(embed_batch_size, Unset):
            embed_batch_size = base_embed_model.embed_batch_size
        super().__init__(  # type: ignore[call-arg]
            model_name=f"{base_embed_model.model_name} + {type(adapter).__name__} ({transform})",
            embed_batch_size=embed_batch_size,
            num_workers=base_embed_model.num_workers,
            callback_manager=callback_manager or CallbackManager([]),
            base_model_name=base_embed_model.model_name,
            adapter_path=os.fspath(adapter_path),
            adapter_class=type(adapter).__name__,
            transform=transform,
            text_digest=_digest(adapter if transform == "both" else None, base_embed_model),
        )
        self._base_embed_model = base_embed_model
        self._target_device = torch.device(device or infer_torch_device())
        if getattr(base_embed_model, "normalize", None) is True:
            self._is_unit = True
        self._adapter = adapter.eval().to(self._target_device)
        self._dimension = description.dimension or getattr(adapter, "in_features", None)
        self._check_dimension(stated_dimension(base_embed_model))
        names = {base_embed_model.model_name, str(Path(base_embed_model.model_name).resolve())}
        if description.base_model and names.isdisjoint(
            {description.base_model, description.base_folder}
        ):
            logger.warning(
                "The adapter in %r was trained on %r and now stands behind %r: it only helps if "
                "the two are the same model.",
                self.adapter_path,
                description.base_model,
                base_embed_model.model_name,
            )

    @classmethod
    def class_name(cls) -> str:
        """Return the name that LlamaIndex uses in events and serialised models."""
        return "AdapterEmbeddingModel"

    @classmethod
    def from_dict(cls, data: dict[str, Any], **kwargs: Any) -> Self:
        """Load again what ``to_dict`` told of.

        Args:
            data: What it told.
            **kwargs: Arguments of the constructor, ``base_embed_model`` among them, which is not
                in ``data``.

        Raises:
            ConfigurationError: ``base_embed_model`` is not given.
            ModelFolderError: The adapter's folder can't be loaded.
        """
        calls.require_models(data, kwargs, {"base_embed_model": "base_model_name"})
        own: dict[str, Any] = {name: data[name] for name in ("adapter_path", "embed_batch_size")}
        return cls(**{**own, "transform_query": data["transform"] != "none", **kwargs})

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        calls.fill_missing(self)

    @property
    def base_embed_model(self) -> BaseEmbedding:
        """The model that the adapter stands behind."""
        return self._base_embed_model

    @property
    def adapter(self) -> torch.nn.Module:
        """The adapter, in evaluation mode."""
        return self._adapter

    def model_for(self, side: str) -> BaseEmbedding:
        """Return the model that embeds one side: this one, or the base where that is the same.

        Args:
            side: ``"query"`` or ``"text"``.
        """
        return self if self.transform in (side, "both") else self._base_embed_model

    def base_for(self, side: str) -> BaseEmbedding:
        """Return the model whose vectors, adapted, are this one's.

        Args:
            side: ``"query"`` or ``"text"``.
        """
        return self._base_embed_model

    def adapt(self, vectors: NDArray[np.float32], side: str) -> NDArray[np.float32]:
        """Turn vectors of the base into those that this model gives.

        Args:
            vectors: Shape ``(n_vectors, dim)``.
            side: ``"query"`` or ``"text"``: what they are vectors of.

        Returns:
            Shape ``(n_vectors, out_features)``.

        Raises:
            EncodingError: The adapter gave a vector that is not finite, or zero.
            ModelFolderError: The adapter is for vectors of another length.
        """
        if len(vectors) == 0 or self.model_for(side) is not self:
            return vectors
        self._check_dimension(vectors.shape[1])
        with torch.inference_mode():
            given = torch.tensor(vectors, device=self._target_device)
            adapted: NDArray[np.float32] = self._adapter(given).cpu().numpy()
        lengths = np.linalg.norm(vectors, axis=1)
        there = lengths > 0
        if self._is_unit is None and there.any():
            self._is_unit = bool((np.abs(lengths[there] - 1.0) < _UNIT_TOLERANCE).all())
        with np.errstate(over="ignore", invalid="ignore"):
            lengths = np.linalg.norm(adapted, axis=1, keepdims=True)
        if not np.isfinite(lengths).all() or (self._is_unit and not lengths[there].all()):
            raise EncodingError(
                f"The adapter in {self.adapter_path!r} gave a vector that is not finite, or zero. "
                "Its weights, or the vectors of the model before it, are damaged."
            )
        if self._is_unit:
            adapted[there] /= lengths[there]
        return adapted

    def to_numpy(self) -> NDArray[np.float32]:
        """Return the matrix ``W`` of a linear adapter, for use in any other store or language.

        An adapted vector is ``W @ vector``, then scaled to length one where the base's are.

        Returns:
            Shape ``(out_features, in_features)``.

        Raises:
            ConfigurationError: The adapter is not linear, or has a bias.
        """
        return as_matrix(self._adapter)

    def export_sentence_transformer(self, output_path: str | os.PathLike[str]) -> str:
        """Write base and adapter as one plain Sentence Transformers folder.

        `load_finetuned_model` gives the vectors of this model, with the base's prompts, which it
        reads from ``finetuning.json``; for a base with ``normalize=False`` pass it that too.
        ``resolve_embed_model("local:...")`` knows of neither: it gives them only where the base
        has no prompts and normalises.

        Args:
            output_path: The folder to write.

        Returns:
            The folder's path.

        Raises:
            ConfigurationError: The adapter transforms queries alone, is not linear, or the base
                is no local Sentence Transformer.
            OutputError: The folder can't be written.
        """
        if self.transform != "both":
            raise ConfigurationError(
                "'transform' must be 'both' for an export to one Sentence Transformers folder, "
                f"which treats queries and texts alike (got {self.transform!r}). Train with "
                "transform='both', or keep the adapter's folder and use load_finetuned_model."
            )
        return export_sentence_transformer(self._base_embed_model, self._adapter, output_path)

    def get_query_embedding_batch(self, queries: list[str]) -> list[list[float]]:
        """Embed many queries, in one call of the base where it has one for queries."""
        calls.await_turn(self)
        return self._adapted(embed_queries(self._base_embed_model, queries), "query")

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._adapted(calls.embed(self._base_embed_model, "query", [query]), "query")[0]

    async def _aget_query_embedding(self, query: str) -> list[float]:
        vectors = await calls.aembed(self._base_embed_model, "query", [query])
        return self._adapted(vectors, "query")[0]

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._adapted(calls.embed(self._base_embed_model, "text", [text]), "text")[0]

    async def _aget_text_embedding(self, text: str) -> list[float]:
        vectors = await calls.aembed(self._base_embed_model, "text", [text])
        return self._adapted(vectors, "text")[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return self._adapted(calls.embed(self._base_embed_model, "texts", texts), "text")

    async def _aget_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        vectors = await calls.aembed(self._base_embed_model, "texts", texts)
        return self._adapted(vectors, "text")

    def _adapted(self, vectors: list[list[float]], side: str) -> list[list[float]]:
        if self.model_for(side) is not self:
            return vectors
        found: list[list[float]] = self.adapt(np.asarray(vectors, dtype=np.float32), side).tolist()
        return found

    def _check_dimension(self, dimension: int | None) -> None:
        if None not in (dimension, self._dimension) and dimension != self._dimension:
            raise ModelFolderError(
                f"The adapter in {self.adapter_path!r} is for vectors of {self._dimension} "
                f"dimensions, and those of {self.base_model_name!r} have {dimension}. Use the "
                "model that it was trained on, or train one for this model."
            )


def _digest(adapter: torch.nn.Module | None, base: BaseEmbedding) -> str:
    """Hash what texts pass: the base with its settings, and the weights of an adapter."""
    inner = calls.text_digest(base)
    if adapter is None:
        return inner
    digest = hashlib.sha256(inner.encode())
    for name, weights in sorted(adapter.state_dict().items()):
        digest.update(name.encode())
        flat = weights.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


# The retired package's older name for the same class.
LinearAdapterEmbeddingModel = AdapterEmbeddingModel
