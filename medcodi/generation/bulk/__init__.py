"""Long lists of requests: streamed as results (:func:`generate_many`), or from a manifest into a folder (:func:`synthesize`)."""

from medcodi.generation.bulk.job import Outcome, SynthesisConfig, synthesize
from medcodi.generation.bulk.streaming import Request, generate_many

__all__ = ["Outcome", "Request", "SynthesisConfig", "generate_many", "synthesize"]
