"""One way to log for both daemons: a JSON object a line, on standard error."""

import logging
import sys

import structlog


def configure_logs(level: str, **always: str) -> None:
    """Set structlog up for this process.

    Args:
        level: debug, info, warning or error; what is below is dropped.
        always: fields of every line, such as the node's name.
    """
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(level.upper())),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(**always)
