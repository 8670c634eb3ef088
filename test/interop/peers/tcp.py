"""What every server of these peers does: accepts TCP clients, and passes each on."""
import socket


class Clients:
    """Listens at a free port, and says which once a client may come."""

    def __init__(self):
        self.listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self.listener.bind(("127.0.0.1", 0))
        self.listener.listen(128)
        print("LISTENING", self.listener.getsockname()[1], flush=True)

    def pass_on(self, count, send):
        """Passes on so many clients, by their descriptors; its own copy of each is closed behind that."""
        for _ in range(count):
            client, _ = self.listener.accept()
            with client:
                send(client.fileno())
        self.listener.close()
