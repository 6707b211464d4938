"""Evaluators: each yields pairs (name, value)."""
