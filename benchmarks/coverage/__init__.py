"""What the intervals of the project cover, and how often its tests are wrong, on simulated patients."""
