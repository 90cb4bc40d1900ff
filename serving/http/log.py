"""The log of a server's processes: one line for each event, whatever text clients send."""

import logging

LINE_CHARACTERS = 500  # of a line of the log


def log_to_stderr(prefix: str = "") -> None:
    """Lines from INFO on, with their time and what stands before each message."""
    handler = logging.StreamHandler()
    handler.setFormatter(LineFormatter(f"%(asctime)s %(levelname)s {prefix}%(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.INFO)


class LineFormatter(logging.Formatter):
    """Keeps a message, which may quote what a client sent, on one line of bounded length, without control codes."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        line = super().formatMessage(record)[:LINE_CHARACTERS]
        if line.isprintable():
            return line
        return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in line)
