"""Numbers over patients, with their uncertainty."""
