"""What the exit status of every command means."""

DONE = 0
ERROR = 1
USAGE = 2
SOME_FAILED = 3  # done, but some images could not be labelled
STOPPED = 4  # disk or device gave up, or too many images failed; the same command goes on where it stopped
INTERRUPTED = 130  # SIGINT
TERMINATED = 143  # SIGTERM

MEANINGS = {
    DONE: "done",
    ERROR: "error",
    USAGE: "wrong usage",
    SOME_FAILED: "done, but some images failed",
    STOPPED: "stopped, can be resumed (disk, device, too many failures)",
    INTERRUPTED: "interrupted (Ctrl-C)",
    TERMINATED: "terminated",
}


def sentence(*codes: int) -> str:
    """The statuses that a command can have, for its help."""
    return "Exit status: " + "; ".join(f"{code} {MEANINGS[code]}" for code in codes or MEANINGS) + "."
