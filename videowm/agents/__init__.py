"""Agents that learn or plan in the dream, and their scores in the real game."""
