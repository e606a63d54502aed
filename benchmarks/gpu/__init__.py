"""What one GPU reaches, in scripts of a few minutes: see README.md beside this file."""
