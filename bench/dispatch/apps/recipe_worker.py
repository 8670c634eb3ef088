"""The recipe, a worker: recipe_worker.py PATH NUMBER joins at the path, and answers one client after the other."""
import json
import os
import socket
import sys
import time
from multiprocessing.connection import Client
from multiprocessing.reduction import recv_handle

path, number = sys.argv[1], int(sys.argv[2])
label = b"w%06d" % number


def join():
    while True:
        try:
            return Client(path, authkey=os.environb[b"PASSFD_AUTHKEY"])
        except (FileNotFoundError, ConnectionRefusedError):
            time.sleep(0.01)  # the server is not there yet


def answer(client):
    request = b""
    while len(request) < 7:
        part = client.recv(7 - len(request))
        if not part:
            return
        request += part
    if request == b"request":
        client.sendall(label)
        client.recv(1)  # the client ends the connection


with join() as server:
    server.send(os.getpid())
    print(json.dumps({"type": "ready", "worker": number, "pid": os.getpid()}), flush=True)
    while True:
        try:
            fd = recv_handle(server)
        except EOFError:
            break
        with socket.socket(fileno=fd) as client:
            answer(client)
