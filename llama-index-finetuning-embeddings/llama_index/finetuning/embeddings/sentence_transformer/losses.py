"""What each loss wants to be fed, and binding a loss to the engine's own model."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, cast

from sentence_transformers import SentenceTransformer
from torch import nn

from llama_index.finetuning.embeddings import upstream
from llama_index.finetuning.embeddings.errors import ConfigurationError

Loss = nn.Module | type[nn.Module] | Callable[[SentenceTransformer], nn.Module]


@dataclass(frozen=True)
class LossFormat:
    """The rows that a loss is trained on.

    Attributes:
        kind: ``"ranking"``: (query, positive, hard negatives ...), the batch's other documents
            are negatives; ``"labelled"``: (query, document, label 1 or 0); ``"triplet"``:
            (query, positive, negative).
        max_negatives: How many columns of hard negatives the loss takes at most.
    """

    kind: Literal["ranking", "labelled", "triplet"]
    max_negatives: int | None = None


_FORMATS = {
    "MegaBatchMarginLoss": LossFormat("ranking", max_negatives=0),
    # sentence-transformers 5 takes pairs or triplets here, no longer rows.
    "GISTEmbedLoss": LossFormat("ranking", max_negatives=1),
    "CachedGISTEmbedLoss": LossFormat("ranking", max_negatives=1),
    "CosineSimilarityLoss": LossFormat("labelled"),
    "CoSENTLoss": LossFormat("labelled"),
    "AnglELoss": LossFormat("labelled"),
    "ContrastiveLoss": LossFormat("labelled"),
    "OnlineContrastiveLoss": LossFormat("labelled"),
    "TripletLoss": LossFormat("triplet"),
}
# Directions and partition mode of MultipleNegativesRankingLoss, to whether both ways are ranked.
_SOFTMAXES = {
    (frozenset({"query_to_doc"}), "joint"): False,
    (frozenset({"query_to_doc"}), "per_direction"): False,
    (frozenset({"query_to_doc", "doc_to_query"}), "per_direction"): True,
}
_CACHED_TEXTS = 32  # upstream's mini-batches, where nothing is said
_WRAPPERS = ("MatryoshkaLoss", "Matryoshka2dLoss", "AdaptiveLayerLoss")
_UNSUPPORTED = {
    "BatchAllTripletLoss": "class labels",
    "BatchHardSoftMarginTripletLoss": "class labels",
    "BatchHardTripletLoss": "class labels",
    "BatchSemiHardTripletLoss": "class labels",
    "ContrastiveTensionLoss": "unlabelled sentences",
    "ContrastiveTensionLossInBatchNegatives": "unlabelled sentences",
    "DenoisingAutoEncoderLoss": "unlabelled sentences",
    "DistillKLDivLoss": "a teacher's scores",
    "EmbedDistillLoss": "a teacher's vectors",
    "MSELoss": "a teacher's vectors",
    "MarginMSELoss": "a teacher's scores",
    "SoftmaxLoss": "class labels",
}


def loss_format(loss: nn.Module) -> LossFormat:
    """Return what a loss wants to be fed; a loss that is not known is taken as a ranking loss.

    Raises:
        ConfigurationError: The loss needs what queries and relevant documents do not give.
    """
    names = [cls.__name__ for cls in type(loss).__mro__]
    if any(name in _WRAPPERS for name in names):
        return loss_format(cast(nn.Module, loss.loss))
    for name in names:
        if name in _UNSUPPORTED:
            raise ConfigurationError(
                f"'loss' can't be {name}: it learns from {_UNSUPPORTED[name]}, which a dataset of "
                "queries and relevant documents does not hold. Use MultipleNegativesRankingLoss, "
                "CosineSimilarityLoss or TripletLoss, or one of their kin."
            )
        if name in _FORMATS:
            return _FORMATS[name]
    return LossFormat("ranking")


def build_loss(loss: Any, model: SentenceTransformer) -> nn.Module:
    """Bind a loss to a model.

    Args:
        loss: An instance built on any model (its own and nested references to a model are
            replaced; the guide of a GIST loss stays), a class, or a callable that takes the
            model.
        model: The model to train.

    Raises:
        ConfigurationError: It is none of these, the callable returned no module, or the loss
            computes on another model.
    """
    if isinstance(loss, nn.Module):
        bind(loss, model)
        return _checked(loss, model, "pass a callable that makes it of the model instead")
    if not callable(loss):
        raise ConfigurationError(
            "'loss' must be a sentence-transformers loss, a loss class or a callable that takes "
            f"the model (got {loss!r})."
        )
    built = loss(model)
    if not isinstance(built, nn.Module):
        raise ConfigurationError(
            "'loss' must return a torch.nn.Module when it is called with the model "
            f"(got {built!r})."
        )
    return _checked(built, model, "keep the model that it is made of as an attribute")


def _checked(loss: nn.Module, model: SentenceTransformer, remedy: str) -> nn.Module:
    if not any(part is model for part in loss.modules()):
        raise ConfigurationError(
            f"'loss' must compute on the engine's model (got {type(loss).__name__}, which does not "
            f"hold it as 'model'): nothing of it would be trained. To mend it, {remedy}."
        )
    return loss


def bind(loss: nn.Module, model: SentenceTransformer) -> None:
    """Let a loss and those inside it compute on a model; the guide of a GIST loss stays.

    Bound again before each training: the loss may serve several engines, and a GIST loss knows
    the model's tokenizer and length from when it was bound.
    """
    for name, child in list(loss.named_children()):
        if isinstance(child, SentenceTransformer):
            if name == "model":
                setattr(loss, name, model)
        else:
            bind(child, model)
    guide: Any = getattr(loss, "guide", None)
    if guide is not None and hasattr(loss, "must_retokenize"):
        # As upstream decides it when the loss is built.
        loss.must_retokenize = (
            model.tokenizer.get_vocab() != guide.tokenizer.get_vocab()
            or guide.max_seq_length < model.max_seq_length
        )
        if loss.must_retokenize:
            loss.tokenizer = model.tokenizer


@dataclass(frozen=True)
class PlainRanking:
    """A ranking loss that by-document batches compute themselves.

    Attributes:
        scale: Factor on the cosine similarities.
        symmetric: Documents choose among queries too, not only queries among documents.
        mini_batch_size: Texts at a time that the loss, a cached one, would encode; None: all.
    """

    scale: float = 20.0
    symmetric: bool = True
    mini_batch_size: int | None = None


def plain_ranking(loss: Any) -> PlainRanking | None:
    """Return what a loss that by-document batches compute themselves is made of, else None.

    That is no loss at all (the default), or ``MultipleNegativesRankingLoss``, its symmetric form
    and the cached forms of both, as class or instance, with cosine similarity.
    """
    module = upstream.losses()
    one_way = (module.MultipleNegativesRankingLoss, module.CachedMultipleNegativesRankingLoss)
    # Deprecated in 6, where the first two take directions instead.
    names = (
        "MultipleNegativesSymmetricRankingLoss",
        "CachedMultipleNegativesSymmetricRankingLoss",
    )
    both_ways = tuple(getattr(module, name) for name in names if hasattr(module, name))
    if loss is None:
        return PlainRanking()
    kind = loss if isinstance(loss, type) else type(loss)
    if kind not in one_way + both_ways:
        return None
    symmetric = kind in both_ways
    cached = _CACHED_TEXTS if kind.__name__.startswith("Cached") else None
    if kind is loss:
        return PlainRanking(symmetric=symmetric, mini_batch_size=cached)
    from sentence_transformers.util import cos_sim

    # Documents of all processes are gathered in any case.
    usual = {"similarity_fct": cos_sim, "hardness_mode": None}
    if any(getattr(loss, name, value) != value for name, value in usual.items()):
        return None
    if hasattr(loss, "directions"):
        softmax = (frozenset(loss.directions), loss.partition_mode)
        if softmax not in _SOFTMAXES:
            return None
        symmetric = _SOFTMAXES[softmax]
    texts = getattr(loss, "mini_batch_size", None)
    return PlainRanking(float(loss.scale), symmetric, texts)
