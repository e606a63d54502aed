"""The one error type that a user is meant to read."""


class UserError(ValueError):
    """Something the user can mend: says what is wrong, where, what was expected and how to mend it.

    The command line prints the message alone, without a traceback, and exits with status 2.
    """
