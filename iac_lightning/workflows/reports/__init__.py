"""Evaluated models and sweeps become pages."""
