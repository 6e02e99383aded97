"""Outrider in virtual time: the served policies on verifiers and drafters that are only cost tables."""
