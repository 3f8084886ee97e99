"""The one exception that command lines turn into a message and exit code 2."""


class SpdError(Exception):
    """Something the user can mend. The message says what was wrong, where, and what to do."""


def shown(name: object) -> str:
    """A name as an error shows it: one line and not long, whatever was typed."""
    text = str(name)
    text = text if text.isprintable() else repr(text)
    return text if len(text) <= 100 else f"{text[:97]}…"
