"""A service manager as far as a service sees one: starts it with listening sockets and with what it had stored, and hears
what it notifies, as systemd does (sd_listen_fds(3), sd_notify(3)).

Its one argument is JSON: command, env, notify (a path or @name), listen ([name, host, port] or [name, path] each). Its
standard input takes commands, a line each; its standard output tells events, a JSON object a line. What the service
prints goes to its standard error."""

import array
import json
import os
import select
import selectors
import signal
import socket
import struct
import sys
import time

FIRST_FD = 3
MOST_FDS = 253
LONGEST = 4096  # NOTIFY_BUFFER_MAX

config = json.loads(sys.argv[1])
selector = selectors.DefaultSelector()
stored = []  # (name, fd), in the order in which they came
started = set()  # children that have not ended; the main process can be another
main_pid = 0
main_pidfd = -1


def tell(**event):
    print(json.dumps(event), flush=True)


def listening(name, *address):
    if len(address) == 1:
        own = socket.socket(socket.AF_UNIX)
        own.bind(address[0])
    else:
        own = socket.socket(socket.AF_INET6 if ":" in address[0] else socket.AF_INET)
        own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        own.bind(tuple(address))
    own.listen(511)
    return name, own


units = [listening(*one) for one in config.get("listen", [])]

path = config["notify"]
notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
notify.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
notify.bind("\0" + path[1:] if path.startswith("@") else path)


def watch(pid):
    global main_pid, main_pidfd
    if main_pidfd >= 0:
        selector.unregister(main_pidfd)
        os.close(main_pidfd)
    main_pid = pid
    main_pidfd = os.pidfd_open(pid)
    selector.register(main_pidfd, selectors.EVENT_READ, ended)


def ended():
    global main_pidfd
    # What it had said before it ended comes first.
    while notify in selector.get_map() and notified():
        pass
    # That can have named another main process.
    if not select.select([main_pidfd], [], [], 0)[0]:
        return
    selector.unregister(main_pidfd)
    os.close(main_pidfd)
    main_pidfd = -1
    code = None  # of one that was not started here: MAINPID=
    if main_pid in started:
        started.remove(main_pid)
        code = os.waitstatus_to_exitcode(os.waitpid(main_pid, 0)[1])
    tell(event="ended", pid=main_pid, code=code)


def drop_dead():
    """systemd does so at once."""
    poll = select.poll()
    for _, fd in stored:
        poll.register(fd, 0)
    dead = {fd for fd, events in poll.poll(0) if events & (select.POLLHUP | select.POLLERR)}
    stored[:] = [one for one in stored if one[1] not in dead]
    for fd in dead:
        os.close(fd)


def start():
    drop_dead()
    passed = [(name, own.fileno()) for name, own in units] + stored
    env = {**os.environ, **config.get("env", {}), "NOTIFY_SOCKET": path}
    pid = os.fork()
    if pid == 0:
        os.dup2(2, 1)
        # First out of the way of each other.
        high = [os.dup(fd) for _, fd in passed]
        high = [os.dup2(fd, 1000 + index) for index, fd in enumerate(high)]
        os.closerange(FIRST_FD, 1000)
        for index, fd in enumerate(high):
            os.dup2(fd, FIRST_FD + index)
        os.closerange(1000, 2000)
        if passed:
            env["LISTEN_PID"] = str(os.getpid())
            env["LISTEN_FDS"] = str(len(passed))
            env["LISTEN_FDNAMES"] = ":".join(name for name, _ in passed)
        if "WATCHDOG_USEC" in env:
            env["WATCHDOG_PID"] = str(os.getpid())
        os.execvpe(config["command"][0], config["command"], env)
    started.add(pid)
    tell(event="started", pid=pid, names=[name for name, _ in passed])
    watch(pid)


def identity(fd):
    status = os.fstat(fd)
    return status.st_dev, status.st_ino


def is_known(fd):
    return any(identity(fd) == identity(other) for _, other in stored)


def keep(name, fds):
    for fd in fds:
        if is_known(fd):
            os.close(fd)
        else:
            stored.append((name, fd))


def forget(name):
    for one in [one for one in stored if one[0] == name]:
        stored.remove(one)
        os.close(one[1])


def notified():
    room = socket.CMSG_SPACE(MOST_FDS * 4) + socket.CMSG_SPACE(12)
    try:
        text, ancillary, flags, _ = notify.recvmsg(LONGEST, room, socket.MSG_CMSG_CLOEXEC | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    fds = array.array("i")
    pid = None
    for _, kind, data in ancillary:
        if kind == socket.SCM_RIGHTS:
            fds.frombytes(data)
        elif kind == socket.SCM_CREDENTIALS:
            pid = struct.unpack("iII", data)[0]
    lines = text.decode().split("\n")
    values = dict(line.split("=", 1) for line in lines)
    tell(
        event="notified",
        lines=lines,
        pid=pid,
        fds=[list(identity(fd)) for fd in fds],
        usec=time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000,
    )
    if values.get("FDSTORE") == "1":
        keep(values.get("FDNAME", "stored"), fds)
    else:
        for fd in fds:
            os.close(fd)
    if values.get("FDSTOREREMOVE") == "1":
        forget(values["FDNAME"])
    if "MAINPID" in values:
        watch(int(values["MAINPID"]))
    return True


def commanded():
    # Unbuffered, since what stands in a buffer is not seen by the selector.
    # Its end is that of the test.
    for line in (os.read(0, 4096).decode() or "end").splitlines():
        word, *rest = line.split()
        if word == "start":
            start()
        elif word == "kill":
            os.kill(main_pid, getattr(signal, rest[0]))
        elif word == "deaf":
            selector.unregister(notify)
            tell(event="deaf")
        elif word == "hear":
            selector.register(notify, selectors.EVENT_READ, notified)
        elif word == "end":
            for pid in started:
                os.kill(pid, signal.SIGKILL)
            sys.exit(0)


selector.register(notify, selectors.EVENT_READ, notified)
selector.register(0, selectors.EVENT_READ, commanded)
tell(event="ready", addresses=[own.getsockname() for _, own in units])
while True:
    for key, _ in selector.select():
        key.data()
