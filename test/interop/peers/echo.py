"""What every worker of these peers does with a client: answers it with its own words."""
import os
import signal
import socket
import threading

from records import NoRecords


def echo(fd, records):
    """Serves one client to its end. Says first whether the descriptor blocks, as a Python socket needs it."""
    print("GOT FD", "blocking" if os.get_blocking(fd) else "NON-BLOCKING", flush=True)
    with socket.socket(fileno=fd) as client:
        while True:
            words = client.recv(65536)
            if not words:
                break
            records.read(words)
            client.sendall(words)


def fork():
    """A child that does nothing, and holds what this process has; who kills this one has to kill it, too."""
    child = os.fork()
    if child == 0:
        signal.pause()
    print("FORKED", child, flush=True)


def serve(receive, at_once=False, records=NoRecords()):
    """Serves one client after the other, or all at once, until `receive` finds the end."""
    while True:
        records.before_next()
        try:
            fd = receive()
        except EOFError:
            return
        if at_once:
            threading.Thread(target=echo, args=(fd, records)).start()
        else:
            echo(fd, records)
