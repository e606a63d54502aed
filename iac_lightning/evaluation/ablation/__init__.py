"""What the factors of a sweep do, and what the paper's claims look like beside them."""
