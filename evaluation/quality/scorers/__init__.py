"""The built-in scorers, registered when this package is imported."""

from evaluation.quality.scorers import code, structured, text

__all__ = ["code", "structured", "text"]
