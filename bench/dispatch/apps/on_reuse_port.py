"""Runs a command with a listening socket as its descriptor 3, which shares its port (SO_REUSEPORT): on_reuse_port.py PORT COMMAND...

Node can open such a socket by itself only from version 23.1 on. Once it is open, it is the same.
"""
import os
import socket
import sys

LISTEN_FD = 3

listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
listener.bind(("127.0.0.1", int(sys.argv[1])))
listener.listen(511)
if listener.fileno() == LISTEN_FD:
    os.set_inheritable(LISTEN_FD, True)
else:
    os.dup2(listener.fileno(), LISTEN_FD)
os.execvp(sys.argv[2], sys.argv[2:])
