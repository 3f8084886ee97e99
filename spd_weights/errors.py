"""The one exception that command lines turn into a message and exit code 2."""


class SpdError(Exception):
    """Something the user can mend. The message says what was wrong, where, and what to do."""
