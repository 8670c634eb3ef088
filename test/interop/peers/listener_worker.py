"""Variant 2, the worker: listener_worker.py PATH joins the server with the key, and says its process id first."""
import os
import sys
from multiprocessing.connection import Client
from multiprocessing.reduction import recv_handle

from echo import fork, serve
from records import records_in

with Client(sys.argv[1], authkey=b"peekaboo") as server:
    server.send(os.getpid())
    print("JOINED", flush=True)
    if "fork" in sys.argv:
        fork()
    serve(lambda: recv_handle(server), at_once="at-once" in sys.argv, records=records_in(sys.argv))
