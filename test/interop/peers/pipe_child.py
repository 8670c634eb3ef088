"""Variant 1, the child: takes clients from its end of a Pipe, which it has inherited as descriptor 3."""
import sys
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle

from echo import serve

parent = Connection(3)
serve(lambda: recv_handle(parent), at_once="at-once" in sys.argv)
