"""The ranking loss of by-document steps, computed in small micro-batches."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from llama_index.finetuning.embeddings.sentence_transformer import distributed
from llama_index.finetuning.embeddings.sentence_transformer.by_document import (
    MASKED,
    NEGATIVE,
    POSITIVE,
    Targets,
)

Features = dict[str, Any]

_VECTORS = "sentence_embedding"

# Small enough that a layer's activations are served from memory the process already holds and
# stay in cache on a CPU; large enough to fill a GPU.
_MICRO_BATCH_TOKENS = {"cpu": 1024}
_MICRO_BATCH_TOKENS_ELSEWHERE = 16_384
# What a micro-batch costs beside its tokens, in tokens: measured on the CPU; elsewhere as much as a
# whole one, as its layers are launched one by one.
_MICRO_BATCH_OVERHEAD = {"cpu": 150}
_MICRO_BATCH_OVERHEAD_ELSEWHERE = 16_384
# Tokens of a step that keep their activations; the others' are computed again for the gradient.
_KEEP_ACTIVATIONS_TOKENS = {"cpu": 8_192}
_KEEP_ACTIVATIONS_TOKENS_ELSEWHERE = 65_536


class DocumentRankingLoss(nn.Module):
    """Softmax of each query over the step's documents, its other relevant documents left out.

    For every trained pair of a query and a document, the cross-entropy of the document among all
    documents of the step that are not relevant to the query, over cosine similarities times
    ``scale`` (InfoNCE, van den Oord et al. 2018, https://arxiv.org/abs/1807.03748; the loss of
    sentence-transformers' ``MultipleNegativesRankingLoss`` when every document has one query).
    The symmetric form averages it with the cross-entropy of the query among all queries of the
    step that the document is not relevant to (CLIP, Radford et al. 2021,
    https://arxiv.org/abs/2103.00020; ``MultipleNegativesSymmetricRankingLoss``).

    Texts are encoded in micro-batches of similar length. Those beyond what a step may keep in
    memory are computed again when their gradient is due, which gives the same gradients as
    GradCache (Gao et al. 2021, https://arxiv.org/abs/2101.06983) for one more forward pass.

    Args:
        model: The model to train.
        scale: Factor on the cosine similarities, the inverse of the temperature.
        symmetric: Let documents choose among queries too.
        dims: Train the first so many dimensions too, each as a vector of its own (Matryoshka
            Representation Learning, Kusupati et al. 2022, https://arxiv.org/abs/2205.13147);
            the losses are averaged. None trains the whole vector.
        micro_batch_tokens: Padded tokens a micro-batch; None chooses by device.
        micro_batch_texts: Texts a micro-batch at most; None: as many as there are tokens for.
        keep_activations_tokens: Padded tokens of a step that keep their activations; None
            chooses by device.
    """

    def __init__(
        self,
        model: SentenceTransformer,
        *,
        scale: float = 20.0,
        symmetric: bool = False,
        dims: Sequence[int] | None = None,
        micro_batch_tokens: int | None = None,
        micro_batch_texts: int | None = None,
        keep_activations_tokens: int | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.scale = scale
        self.symmetric = symmetric
        self.dims = tuple(dims) if dims is not None else None
        self.micro_batch_tokens = micro_batch_tokens
        self.micro_batch_texts = micro_batch_texts
        self.keep_activations_tokens = keep_activations_tokens

    def extra_repr(self) -> str:
        """Say what the loss is made of, for the record of a run."""
        return f"scale={self.scale}, symmetric={self.symmetric}, dims={self.dims}"

    def forward(self, sentence_features: Iterable[Features], labels: Targets) -> Tensor:
        """Return the mean loss over the trained pairs.

        With several processes, the documents and queries of all are negatives, and the losses
        are weighted so that their mean over the processes is the mean over all processes' pairs.

        Args:
            sentence_features: Tokens of the queries and of the documents, each of shape
                ``(n_texts, length)``; in place of the documents' tokens their finished vectors
                may stand as ``sentence_embedding``, shape ``(n_documents, dim)``.
            labels: The step's targets.

        Returns:
            A scalar.
        """
        queries, documents = self._encode(list(sentence_features))
        targets, weight = labels.matrix, 1.0
        own_documents, all_queries, all_targets = documents, queries, targets
        if distributed.world_size() > 1:
            if documents.requires_grad:
                documents, start = distributed.gathered(documents)
                keys = distributed.gathered(labels.document_keys)[0]
                relations = labels.among(keys, start)
                # Two copies of a text would count twice among a query's negatives.
                targets = relations.masked_fill(labels.repeated(keys, start), MASKED)
                if self.symmetric:
                    own = slice(start, start + len(own_documents))
                    all_queries = distributed.gathered(queries)[0]
                    all_targets = distributed.gathered(relations)[0][:, own]
            pairs = int((targets == POSITIVE).sum())
            weight = pairs * distributed.world_size() / distributed.total(pairs, targets.device)
        losses = []
        for dim in self.dims or (documents.shape[1],):
            losses.append(self._ranking(queries[:, :dim], documents[:, :dim], targets))
            if self.symmetric:
                ours, theirs = own_documents[:, :dim], all_queries[:, :dim]
                losses.append(self._ranking(ours, theirs, all_targets.T))
        return torch.stack(losses).mean() * weight

    def _ranking(self, asking: Tensor, answers: Tensor, targets: Tensor) -> Tensor:
        """Return the mean cross-entropy of the trained pairs, each among its row's answers."""
        # Similarities in fp32: at scale 20 the eight bits of bf16 are too coarse for a softmax.
        asking = functional.normalize(asking.float(), dim=1)
        answers = functional.normalize(answers.float(), dim=1)
        lines, columns = (targets == POSITIVE).nonzero(as_tuple=True)
        with torch.autocast(asking.device.type, enabled=False):
            scores = (asking @ answers.T * self.scale)[lines]
        hidden = (targets != NEGATIVE)[lines].scatter(1, columns[:, None], False)
        return functional.cross_entropy(scores.masked_fill(hidden, float("-inf")), columns)

    def _encode(self, sides: list[Features]) -> list[Tensor]:
        tokens = [features for features in sides if _VECTORS not in features]
        embed = self._embedder(tokens)
        return [
            features[_VECTORS] if _VECTORS in features else embed(features) for features in sides
        ]

    def _embedder(self, tokens: list[Features]) -> Callable[[Features], Tensor]:
        """Choose how the tokens of a step become vectors."""
        if not all(_is_padded(features) for features in tokens):
            return partial(_embedded, self.model)
        device = tokens[0]["attention_mask"].device.type
        budget = self.micro_batch_tokens or _MICRO_BATCH_TOKENS.get(
            device, _MICRO_BATCH_TOKENS_ELSEWHERE
        )
        keep = self.keep_activations_tokens
        if keep is None:
            keep = _KEEP_ACTIVATIONS_TOKENS.get(device, _KEEP_ACTIVATIONS_TOKENS_ELSEWHERE)
        # Distributed data parallelism expects one forward a step, and none in the backward pass:
        # the first micro-batch goes through it, the others through the model that it wraps.
        wrapped = isinstance(self.model, DistributedDataParallel)
        embed = partial(_embedded, self.model.module if wrapped else self.model)
        first = [partial(_embedded, self.model)] if wrapped else []

        def embed_part(features: Features) -> Tensor:
            nonlocal keep
            keep -= features["attention_mask"].numel()
            if first:
                return first.pop()(features)
            return embed(features) if keep >= 0 else _recomputed(embed, features)

        packed = partial(
            _packed,
            budget=budget,
            most=self.micro_batch_texts,
            overhead=_MICRO_BATCH_OVERHEAD.get(device, _MICRO_BATCH_OVERHEAD_ELSEWHERE),
        )
        return partial(_in_micro_batches, packed=packed, embed=embed_part)


def _embedded(model: Any, features: Features) -> Tensor:
    # A copy, because models write their results into what they are given.
    embeddings: Tensor = model(dict(features))[_VECTORS]
    return embeddings


def _recomputed(embed: Any, features: Features) -> Tensor:
    result: Tensor = checkpoint(embed, features, use_reentrant=False)
    return result


def _is_padded(features: Features) -> bool:
    mask = features.get("attention_mask")
    return isinstance(mask, Tensor) and mask.ndim == 2


def _in_micro_batches(features: Features, packed: Any, embed: Any) -> Tensor:
    lengths = features["attention_mask"].sum(dim=1)
    order = torch.argsort(lengths, descending=True, stable=True)
    sizes = packed(lengths[order].clamp(min=1).cpu().numpy())
    parts = [embed(_rows(features, rows)) for rows in torch.split(order, sizes)]
    return torch.cat(parts)[torch.argsort(order)]


def _packed(
    lengths: NDArray[np.int64], *, budget: int, most: int | None, overhead: int
) -> list[int]:
    """Return the sizes of micro-batches that cost the least, for texts of falling length.

    A micro-batch costs its padded tokens, which are at most ``budget`` if it holds more than one
    text, and as much as ``overhead`` tokens besides. From the last text to the first, the best
    first micro-batch is the one whose cost and that of the texts behind it are least.
    """
    n = len(lengths)
    cost = np.zeros(n + 1)
    size = np.ones(n, dtype=np.int64)
    for start in reversed(range(n)):
        largest = max(min(budget // lengths[start], most or n, n - start), 1)
        sizes = np.arange(1, largest + 1)
        costs = sizes * lengths[start] + overhead + cost[start + sizes]
        size[start] = sizes[costs.argmin()]
        cost[start] = costs.min()
    chosen: list[int] = []
    start = 0
    while start < n:
        chosen.append(int(size[start]))
        start += chosen[-1]
    return chosen


def _rows(features: Features, rows: Tensor) -> Features:
    """Take some rows of a padded batch and cut the padding that they all share at either end."""
    mask = features["attention_mask"]
    n, padded = mask.shape
    used = mask[rows].any(dim=0).nonzero()
    span = slice(int(used[0]), int(used[-1]) + 1) if len(used) else slice(None)
    taken: Features = {}
    for name, value in features.items():
        if isinstance(value, list) and len(value) == n:
            taken[name] = [value[i] for i in rows.tolist()]
        elif not (isinstance(value, Tensor) and value.ndim and value.shape[0] == n):
            taken[name] = value
        elif value.ndim == 2 and value.shape[1] == padded:
            taken[name] = value[rows, span]
        else:
            taken[name] = value[rows]
    return taken
