"""Variant 3, the server: raw_server.py PATH COUNT sends one byte with one descriptor, and waits for OK."""
import array
import socket
import sys

from tcp import Clients


def send(fd):
    rights = array.array("i", [fd])
    worker.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
    answer = worker.recv(2)
    if answer != b"OK":
        raise SystemExit("the worker answered " + repr(answer))


with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
    listener.bind(sys.argv[1])
    listener.listen(1)
    clients = Clients()
    worker, _ = listener.accept()
    with worker:
        clients.pass_on(int(sys.argv[2]), send)
