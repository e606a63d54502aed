"""Speed and memory against peers that do the same work in the same run. Not part of the product."""
