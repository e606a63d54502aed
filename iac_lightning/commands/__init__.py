"""The commands of `iac`, a module a group; each is declared once: name, help, options and what it does.

Nothing here imports torch, Lightning or a workflow before a command runs.
"""
