"""Small processes that have nothing but a lifeline, and do what they are told on stdin."""

import os
import socket
import subprocess
import sys
import time

PROGRAM = """
import os, sys
from jaxllm.parallel import lifeline, lifeline_client, lifeline_server
{shorter}
from jaxllm.parallel.gang import read_gang
try:
    lifeline.begin(read_gang(os.environ))
except (OSError, ValueError) as error:
    print(type(error).__name__ + ":", error, file=sys.stderr)
    sys.exit(1)
print("joined", flush=True)
for words in sys.stdin:
    verb, *rest = words.split(maxsplit=2)
    if verb == "goodbye":
        lifeline.goodbye()
    if verb == "exit":
        os._exit(int(rest[0]))
    if verb == "fail":
        lifeline.report(int(rest[0]), rest[1].strip())
        print("reported", flush=True)
        os._exit(int(rest[0]))
    print("done", flush=True)
"""


def free_port():
    """A port after which the next one is free too, on loopback."""
    while True:
        with socket.socket() as one, socket.socket() as other:
            one.bind(("127.0.0.1", 0))
            port = one.getsockname()[1]
            try:
                other.bind(("127.0.0.1", port + 1))
            except (OSError, OverflowError):
                continue
            return port


class Member:
    """A process of a gang."""

    def __init__(self, rank, count, *, port, timeout=30, shorter="", **variables):
        """shorter: Python that sets waits which a test does not want to wait for."""
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM.format(shorter=shorter)],
            env={
                **os.environ,
                "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}",
                "JAX_NUM_PROCESSES": str(count),
                "JAX_PROCESS_ID": str(rank),
                "JAXLLM_START_TIMEOUT": str(timeout),
                **variables,
            },
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def hear(self, expected):
        """Waits until the process says `expected`."""
        said = self.process.stdout.readline().strip()
        assert said == expected, said + self.process.stderr.read()

    def tell(self, words):
        """Lets the process do something."""
        self.process.stdin.write(words + "\n")
        self.process.stdin.flush()

    def ended(self, *, within=10):
        """Waits for its end; exit code and stderr. Its stdin stays open meanwhile."""
        code = self.process.wait(within)
        return code, self.process.stderr.read()

    def is_running_after(self, seconds):
        """Whether it still runs after so long."""
        time.sleep(seconds)
        return self.process.poll() is None

    def close(self):
        """Kills what is left."""
        self.process.kill()
        self.process.communicate()
