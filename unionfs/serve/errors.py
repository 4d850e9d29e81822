"""Why can't the union be mounted?"""


class MountError(Exception):
    """The mount failed; the message is one line for the user."""
