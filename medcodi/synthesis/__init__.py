"""Long lists of requests: streamed as results (:func:`generate_many`), or from a manifest into a folder (:func:`synthesize`)."""

from medcodi.synthesis.bulk import Outcome, SynthesisConfig, synthesize
from medcodi.synthesis.streaming import Request, generate_many

__all__ = ["Outcome", "Request", "SynthesisConfig", "generate_many", "synthesize"]
