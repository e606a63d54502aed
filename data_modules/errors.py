"""The one error type that a user is meant to read."""


class UserError(ValueError):
    """Something the user can mend: says what is wrong, where, what was expected and how to mend it.

    The command line prints the message alone, without a traceback, and exits with status 2.

    Attributes:
        kept: what tables and logs keep of it: the message, unless that shows the user something of a patient.
    """

    def __init__(self, message: str, kept: str | None = None) -> None:
        super().__init__(message)
        self.kept = message if kept is None else kept
