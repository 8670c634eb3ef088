"""Variant 1, the parent: pipe_parent.py COUNT COMMAND... starts the child, which has its end of the Pipe as descriptor 3."""
import os
import subprocess
import sys
from multiprocessing import Pipe
from multiprocessing.reduction import send_handle

from tcp import Clients

CHILD_END = 3

os.dup2(0, CHILD_END)  # so that the Pipe does not get this number itself
parent_end, child_end = Pipe()
os.dup2(child_end.fileno(), CHILD_END)
child_end.close()
child = subprocess.Popen(sys.argv[2:], pass_fds=[CHILD_END])
os.close(CHILD_END)

Clients().pass_on(int(sys.argv[1]), lambda fd: send_handle(parent_end, fd, child.pid))

parent_end.close()
print("CHILD ENDED WITH", child.wait(), flush=True)
