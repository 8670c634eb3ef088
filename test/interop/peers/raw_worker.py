"""Variant 3, the worker: raw_worker.py PATH takes one descriptor with each byte, and answers OK."""
import array
import socket
import sys

from echo import fork, serve
from records import records_in


def receive():
    rights = array.array("i")
    byte, control, _, _ = server.recvmsg(1, socket.CMSG_LEN(rights.itemsize))
    if not byte:
        raise EOFError
    level, kind, data = control[0]
    if (byte, level, kind) != (b"x", socket.SOL_SOCKET, socket.SCM_RIGHTS):
        raise SystemExit("got no descriptor: " + repr((byte, control)))
    rights.frombytes(data)
    server.sendall(b"OK")
    return rights[0]


with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
    server.connect(sys.argv[1])
    print("JOINED", flush=True)
    if "fork" in sys.argv:
        fork()
    serve(receive, at_once="at-once" in sys.argv, records=records_in(sys.argv))
