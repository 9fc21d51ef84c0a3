"""Queries through one embedding model, texts through another."""

from typing import Any

from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.bridge.pydantic import Field, PrivateAttr
from llama_index.core.callbacks import CallbackManager
from typing_extensions import Self

from llama_index.finetuning.embeddings.adapter_embedding import calls
from llama_index.finetuning.embeddings.encoding import embed_queries, stated_dimension
from llama_index.finetuning.embeddings.errors import ConfigurationError


class AsymmetricEmbeddingModel(BaseEmbedding):
    """Two embedding models whose vectors live in one space: one for queries, one for texts.

    After the query encoder alone was tuned, the texts of an index keep the vectors that they
    have. Any other pair of the same dimension works too, for instance a small model for queries
    that was distilled from the large one of the texts.

    Args:
        query_embed_model: Embeds queries.
        text_embed_model: Embeds texts; its batch size is this model's.
        callback_manager: LlamaIndex's callbacks for the calls of this model.

    Raises:
        ConfigurationError: An argument is no embedding model, or both tell their dimensions and
            these differ.
    """

    query_model_name: str = Field(description="Name of the model for queries.")
    text_model_name: str = Field(description="Name of the model for texts.")
    text_digest: str = Field(
        default="", description="SHA-256 of what embeds texts, for caches of their vectors."
    )
    _query_embed_model: BaseEmbedding = PrivateAttr()
    _text_embed_model: BaseEmbedding = PrivateAttr()

    def __init__(
        self,
        query_embed_model: BaseEmbedding,
        text_embed_model: BaseEmbedding,
        *,
        callback_manager: CallbackManager | None = None,
    ) -> None:
        _check(query_embed_model, text_embed_model)
        super().__init__(  # type: ignore[call-arg]
            model_name=f"{query_embed_model.model_name} -> {text_embed_model.model_name}",
            embed_batch_size=text_embed_model.embed_batch_size,
            num_workers=text_embed_model.num_workers,
            callback_manager=callback_manager or CallbackManager([]),
            query_model_name=query_embed_model.model_name,
            text_model_name=text_embed_model.model_name,
            text_digest=calls.text_digest(text_embed_model),
        )
        self._query_embed_model = query_embed_model
        self._text_embed_model = text_embed_model

    @classmethod
    def class_name(cls) -> str:
        """Return the name that LlamaIndex uses in events and serialised models."""
        return "AsymmetricEmbeddingModel"

    @classmethod
    def from_dict(cls, data: dict[str, Any], **kwargs: Any) -> Self:
        """Make again what ``to_dict`` told of.

        Args:
            data: What it told.
            **kwargs: Arguments of the constructor, both models among them, which are not in
                ``data``.

        Raises:
            ConfigurationError: A model is not given.
        """
        names = {"query_embed_model": "query_model_name", "text_embed_model": "text_model_name"}
        calls.require_models(data, kwargs, names)
        model = cls(**kwargs)
        model.embed_batch_size = data["embed_batch_size"]
        return model

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        calls.fill_missing(self)

    @property
    def query_embed_model(self) -> BaseEmbedding:
        """The model for queries."""
        return self._query_embed_model

    @property
    def text_embed_model(self) -> BaseEmbedding:
        """The model for texts."""
        return self._text_embed_model

    def model_for(self, side: str) -> BaseEmbedding:
        """Return the model that embeds one side.

        Args:
            side: ``"query"`` or ``"text"``.
        """
        return self._query_embed_model if side == "query" else self._text_embed_model

    def get_query_embedding_batch(self, queries: list[str]) -> list[list[float]]:
        """Embed many queries, in one call where the model for queries has one."""
        calls.await_turn(self)
        return embed_queries(self._query_embed_model, queries)

    def _get_query_embedding(self, query: str) -> list[float]:
        return calls.embed(self._query_embed_model, "query", [query])[0]

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return (await calls.aembed(self._query_embed_model, "query", [query]))[0]

    def _get_text_embedding(self, text: str) -> list[float]:
        return calls.embed(self._text_embed_model, "text", [text])[0]

    async def _aget_text_embedding(self, text: str) -> list[float]:
        return (await calls.aembed(self._text_embed_model, "text", [text]))[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return calls.embed(self._text_embed_model, "texts", texts)

    async def _aget_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return await calls.aembed(self._text_embed_model, "texts", texts)


def _check(query_embed_model: BaseEmbedding, text_embed_model: BaseEmbedding) -> None:
    for name, model in (
        ("query_embed_model", query_embed_model),
        ("text_embed_model", text_embed_model),
    ):
        if not isinstance(model, BaseEmbedding):
            raise ConfigurationError(
                f"{name!r} must be a LlamaIndex BaseEmbedding (got {type(model).__name__})."
            )
    dimensions = stated_dimension(query_embed_model), stated_dimension(text_embed_model)
    if None not in dimensions and dimensions[0] != dimensions[1]:
        raise ConfigurationError(
            f"'query_embed_model' and 'text_embed_model' must have vectors of one length (got "
            f"{dimensions[0]} and {dimensions[1]})."
        )
