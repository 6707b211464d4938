"""Scaling science on top of videowm: plan, run, fit, report."""
