"""The one exception of the project that a user is meant to read."""


class UserError(Exception):
    """Bad input: one line naming the key or file, what was wrong and what would be right.

    Stages print the line and exit with status 2, without a traceback.
    """
