"""What a worker of these peers has read, and where it stops when a test wants to find it there."""
import os
import signal


class Records:
    """A file in a directory, named like the process. SIGUSR1 and SIGUSR2 have the worker stop itself later on."""

    def __init__(self, directory):
        self.file = open(os.path.join(directory, str(os.getpid())), "wb", buffering=0)
        self.wanted = set()
        for number in (signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(number, lambda number, _: self.wanted.add(number))

    def before_next(self):
        """It has no client. It stops here after SIGUSR1."""
        self._stop_after(signal.SIGUSR1)

    def read(self, words):
        """It has a client, which has no answer yet. It stops here after SIGUSR2."""
        self.file.write(words)
        self._stop_after(signal.SIGUSR2)

    def _stop_after(self, number):
        if number in self.wanted:
            os.kill(os.getpid(), signal.SIGSTOP)


class NoRecords:
    """Of a worker that nobody looks at so closely."""

    def before_next(self):
        pass

    def read(self, words):
        pass


def records_in(arguments):
    """As `records=DIRECTORY` among the arguments of a worker says."""
    for argument in arguments:
        if argument.startswith("records="):
            return Records(argument[len("records="):])
    return NoRecords()
