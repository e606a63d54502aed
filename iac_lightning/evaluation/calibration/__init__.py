"""From probabilities to probabilities that hold, and to the threshold that masks are cut at."""
