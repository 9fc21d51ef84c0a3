"""What of a model may shape its vectors, by the name under which it stands and by its kind."""

import itertools
import numbers
import re
from collections.abc import Mapping, MutableMapping, MutableSequence, MutableSet, Set
from datetime import date, timedelta
from typing import Any

import numpy as np
from llama_index.core.base.embeddings.base import BaseEmbedding

from llama_index.finetuning.embeddings.redaction import is_secret_name

# Settings that change how a vector is fetched, never what it is.
_FETCHING = re.compile(
    r"^_*(?:api_version|callback_manager|(?:default_)?headers|(?:target_)?devices?"
    r"|embed_batch_size|embeddings_cache|is_unit|model_card_data|num_workers|parallel_process"
    r"|rate_limiter|reuse_client|show_progress_bar|text_digest|token)_*$"
    r"|cache_(?:dir|folder)|keep_alive|_key_id$|providers|retr(?:y|ies)|threads|timeout",
    re.IGNORECASE,
)
# Words in the names of numbers and moments that change from call to call.
_RECORDS = re.compile(
    r"(?:^|_)(?:attempts|cached?|calls?|cost|count(?:er|s)?|created|deadline|elapsed|expires|failures|fd"
    r"|handle|hits|left|misses|pid|remaining|requests?|seen|spent|started|time(?:stamp)?|total"
    r"|usage|used|warn(?:ed|ings?))(?:_|$)",
    re.IGNORECASE,
)
# Words in the names of objects and containers that a process holds for itself.
_HANDLES = re.compile(
    r"(?:^|_)(?:a?client|buffer|cached?|executor|history|lock|log|logger|loop|memo|pending|pool"
    r"|queue|record|seen|semaphore|session|stat|thread|tokenizer|usage)s?(?:_|$)",
    re.IGNORECASE,
)
# Words in the names of containers that a caller fills once, with numbers too.
_SETTINGS = re.compile(
    r"(?:^|_)(?:args|bounds|cfg|coefficients|conf|config|configuration|cut|dims|dimensions|factors"
    r"|kwargs|layers|options|opts|param(?:eter)?s|scales?|settings|w|weights)(?:_|$)",
    re.IGNORECASE,
)
PLAIN = (bool, int, float, str)
_MEASURES = (numbers.Number, date, timedelta)


def counts(name: str, value: Any, *, is_given: bool = False) -> bool:
    """Tell whether what stands under a name may shape a vector; what a caller gave, may."""
    if _FETCHING.search(name) or is_secret_name(name):
        return False
    if is_given or isinstance(value, bool | str) or is_model(value):
        return True
    if isinstance(value, _MEASURES):
        return not _RECORDS.search(name)
    return not _HANDLES.search(name)


def is_settings(name: str) -> bool:
    """Tell whether a name says that a caller filled what stands under it."""
    return _SETTINGS.search(name) is not None


def is_record(name: str, value: Any) -> bool:
    """Tell whether a value may be a private record of calls: numbers or vectors, or none yet."""
    changes = isinstance(value, MutableMapping | MutableSequence | MutableSet)
    return name.startswith("_") and changes and not is_settings(name) and _is_measured(value)


def _is_measured(value: Any, *, first: bool = False) -> bool:
    """Tell whether a value is a number or of numbers alone; of a vector, the first one tells."""
    if isinstance(value, np.ndarray) or has_method(value, "detach"):
        return True
    if isinstance(value, Mapping | MutableSequence | Set | tuple):
        held = value.values() if isinstance(value, Mapping) else value
        looked_at = itertools.islice(held, 1) if first else held
        return all(_is_measured(one, first=True) for one in looked_at)
    return isinstance(value, _MEASURES) and not isinstance(value, bool)


def is_model(value: Any) -> bool:
    """Tell whether a value is an embedding model or a module."""
    return isinstance(value, BaseEmbedding) or has_method(value, "state_dict")


def has_method(value: Any, method: str) -> bool:
    """Tell whether an object has a method; some raise errors of their own when asked."""
    try:
        return callable(getattr(value, method, None))
    except Exception:
        return False
