"""Which of a query's candidates become its negatives."""

import dataclasses
import math
from numbers import Real
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from llama_index.finetuning.embeddings.errors import ConfigurationError
from llama_index.finetuning.embeddings.validation import check_integer

SamplingStrategy = Literal["top", "random"]


@dataclasses.dataclass(frozen=True)
class Rule:
    """The limits on negatives and the choice among them; see `mine_hard_negatives`."""

    num_negatives: int
    range_min: int
    range_max: int
    absolute_margin: float | None
    relative_margin: float | None
    max_score: float | None
    min_score: float | None
    sampling_strategy: SamplingStrategy

    def __post_init__(self) -> None:
        check_integer("range_max", self.range_max, minimum=1)
        for name in ("absolute_margin", "relative_margin", "max_score", "min_score"):
            limit = getattr(self, name)
            if limit is not None and (not isinstance(limit, Real) or math.isnan(limit)):
                raise ConfigurationError(f"'{name}' must be a number or None (got {limit!r}).")
        if self.range_max < self.range_min + self.num_negatives:
            raise ConfigurationError(
                f"'range_max' must be at least 'range_min' + 'num_negatives' = "
                f"{self.range_min + self.num_negatives} (got {self.range_max})."
            )
        if self.sampling_strategy not in get_args(SamplingStrategy):
            raise ConfigurationError(
                f"'sampling_strategy' must be in {get_args(SamplingStrategy)} "
                f"(got {self.sampling_strategy!r})."
            )
        lowest, highest = self.min_score, self.max_score
        if lowest is not None and highest is not None and lowest > highest:
            raise ConfigurationError(
                f"'min_score' must be at most 'max_score' = {highest} (got {lowest})."
            )

    def chosen(
        self, scores: NDArray[np.float32], worst_positive: float, rng: np.random.Generator
    ) -> NDArray[np.intp]:
        """Return the positions of the negatives among a query's candidates, best first."""
        highest = np.inf if self.max_score is None else self.max_score
        if self.absolute_margin is not None:
            highest = min(highest, worst_positive - self.absolute_margin)
        if self.relative_margin is not None:
            highest = min(highest, worst_positive - abs(worst_positive) * self.relative_margin)
        lowest = -np.inf if self.min_score is None else self.min_score
        best_first = np.argsort(-scores, kind="stable")
        allowed = best_first[(scores[best_first] <= highest) & (scores[best_first] >= lowest)]
        allowed = allowed[self.range_min :]
        if self.sampling_strategy == "top" or len(allowed) <= self.num_negatives:
            return allowed[: self.num_negatives]
        return allowed[np.sort(rng.choice(len(allowed), self.num_negatives, replace=False))]
