"""What tests let other processes do; workers import it by its name."""

import os
import signal
import time
from pathlib import Path

from common.errors import InputError


def heed_ctrl_c():
    """For a new process: Ctrl-C ends it, though tests that run in the background ignore it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def add(first, second):
    return first + second


def refuse(number):
    raise InputError(f"{number} cannot be used")


def die_at(number, deadly, folder):
    """Kill the worker at the number `deadly`, the first time or always; leave a file for each try.

    `folder` holds the files; where it holds the file "once", a second try lives.
    """
    tries = len(list(Path(folder).glob(f"{number}_*")))
    (Path(folder) / f"{number}_{tries}").touch()
    if number == deadly and not (tries and (Path(folder) / "once").exists()):
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def wait(folder):
    (Path(folder) / str(os.getpid())).touch()
    time.sleep(60)
