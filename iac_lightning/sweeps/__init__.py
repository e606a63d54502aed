"""Ablation sweeps: a file of axes becomes cells, cells become runs, at once or on a cluster."""
