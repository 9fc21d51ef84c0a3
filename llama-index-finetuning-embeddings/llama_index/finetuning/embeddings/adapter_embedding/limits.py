"""Heed the rate limiter of a wrapped model, which the wrapper's own calls would pass by."""

from llama_index.core.base.embeddings.base import BaseEmbedding


def wait_for(embed_model: BaseEmbedding) -> BaseEmbedding:
    """Return the model once its rate limiter, if it has one, allows one more request."""
    limiter = getattr(embed_model, "rate_limiter", None)
    if limiter is not None:
        limiter.acquire()
    return embed_model


async def await_for(embed_model: BaseEmbedding) -> BaseEmbedding:
    """Return the model once its rate limiter, if it has one, allows one more request."""
    limiter = getattr(embed_model, "rate_limiter", None)
    if limiter is not None:
        await limiter.async_acquire()
    return embed_model
