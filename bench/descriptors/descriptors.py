"""Passes or takes the socket at descriptor 4 over the one at 3: send|receive WARM_UP COUNT PER_MESSAGE."""
import os
import socket
import sys
import time

role = sys.argv[1]
warm_up, total, per_message = map(int, sys.argv[2:])
channel = socket.socket(fileno=3)


def send(count):
    passed = [4] * per_message
    channel.recv(1)
    start = time.perf_counter()
    for _ in range(count // per_message):
        socket.send_fds(channel, [b"x"], passed)
    channel.recv(1)
    print(time.perf_counter() - start)


def receive(count):
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


for part in (warm_up, total):
    send(part) if role == "send" else receive(part)
