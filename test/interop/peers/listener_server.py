"""Variant 2, the server: listener_server.py PATH COUNT waits for a worker that knows the key, and its process id."""
import sys
from multiprocessing.connection import Listener
from multiprocessing.reduction import send_handle

from tcp import Clients

with Listener(sys.argv[1], authkey=b"peekaboo") as listener:
    clients = Clients()
    with listener.accept() as worker:
        pid = worker.recv()
        print("WORKER", pid, flush=True)
        clients.pass_on(int(sys.argv[2]), lambda fd: send_handle(worker, fd, pid))
