"""LightningModules and what they learn with: losses, optimisers, schedules, transfer."""
