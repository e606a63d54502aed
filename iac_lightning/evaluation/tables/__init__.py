"""From single series to tables, summaries and comparisons of models."""
