"""What a clinic asks: risk groups, volume intervals, detection, thick slices."""
