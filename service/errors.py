"""The one exception that a person is meant to read."""


class TickwatchError(Exception):
    """A sentence for the person who must act: what is wrong, where, and what to do.

    The command line prints it as one line and exits with `exit_code`; a traceback appears only with `--debug`.
    """

    exit_code = 1
