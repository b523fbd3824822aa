"""The latent cache: what frozen autoencoders and prompt encoders make of a dataset, stored once, for ``diffuse`` and ``join``."""

from medcodi.training.caching.encoded_studies import EncodedStudies, open_cache
from medcodi.training.caching.format import CacheKey, cache_key
from medcodi.training.caching.make_cache import make_cache
from medcodi.training.caching.training_run import borrowed, from_cache, hold_only

__all__ = [
    "CacheKey",
    "EncodedStudies",
    "borrowed",
    "cache_key",
    "from_cache",
    "hold_only",
    "make_cache",
    "open_cache",
]
