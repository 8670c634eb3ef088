"""Passes or takes descriptors over the socket at descriptor 3: descriptors.py send|receive COUNT PER_MESSAGE."""
import os
import socket
import sys
import time

role, count, per_message = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
channel = socket.socket(fileno=3)


def send():
    passed = [4] * per_message
    channel.recv(1)
    start = time.perf_counter()
    for _ in range(count // per_message):
        socket.send_fds(channel, [b"x"], passed)
    channel.recv(1)
    print(time.perf_counter() - start)


def receive():
    channel.sendall(b"r")
    received = 0
    while received < count:
        _, fds, _, _ = socket.recv_fds(channel, 1, 253)
        if not fds:
            sys.exit(f"the sender ended after {received} of {count} descriptors")
        received += len(fds)
        for fd in fds:
            os.close(fd)
    channel.sendall(b"d")


send() if role == "send" else receive()
