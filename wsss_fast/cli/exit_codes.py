"""What the exit status of every command means."""

DONE = 0
ERROR = 1
USAGE = 2
SOME_FAILED = 3  # done, but some images could not be labelled
STOPPED = 4  # disk or device gave up; the same command goes on where it stopped
TOO_MANY_FAILED = 5  # more images than --max-failures allows; can be resumed
INTERRUPTED = 130  # SIGINT
TERMINATED = 143  # SIGTERM

MEANINGS = {
    DONE: "done",
    ERROR: "error",
    USAGE: "wrong usage",
    SOME_FAILED: "done, but some images failed",
    STOPPED: "stopped, can be resumed (disk, device)",
    TOO_MANY_FAILED: "stopped, can be resumed (more images failed than --max-failures)",
    INTERRUPTED: "interrupted (Ctrl-C)",
    TERMINATED: "terminated",
}
