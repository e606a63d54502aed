"""Checklists of reporting, and where a page says what they ask for."""
