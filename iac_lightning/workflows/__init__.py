"""One module a command: each joins data, modules and tracking into a job."""
