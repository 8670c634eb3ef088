"""The recipe, the server: recipe_server.py PATH COUNT accepts clients, and passes each to the next of COUNT workers."""
import json
import os
import socket
import sys
from itertools import cycle
from multiprocessing.connection import Listener
from multiprocessing.reduction import send_handle

path, count = sys.argv[1], int(sys.argv[2])
with Listener(path, backlog=count, authkey=os.environb[b"PASSFD_AUTHKEY"]) as listener:
    workers = [(worker, worker.recv()) for worker in (listener.accept() for _ in range(count))]

clients = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
clients.bind(("127.0.0.1", 0))
clients.listen(511)
print(json.dumps({"type": "ready", "port": clients.getsockname()[1]}), flush=True)
for worker, pid in cycle(workers):
    client, _ = clients.accept()
    with client:
        send_handle(worker, client.fileno(), pid)
