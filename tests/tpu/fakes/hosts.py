"""Fake hosts: each a folder with a HOME, and every process that was started there.

A process belongs to a host by the variable FAKE_HOST that it inherited, whatever session or group
it has put itself into. Only what starts fast is imported at the top: each call of gcloud pays it.
"""

import os
import signal
import sys
import time

from . import literals

PROGRAMS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "host_programs")
_SYSTEM = "/usr/local/bin:/usr/bin:/bin"


def boot(folder, *, worker, environment, troubles):
    """A new host with an empty disk.

    environment: more variables of all its processes. troubles: what happens to it, by file name.
    """
    os.makedirs(f"{folder}/home")
    variables = {
        "HOME": f"{folder}/home",
        "USER": "tester",
        "LANG": "C.UTF-8",
        "PATH": f"{PROGRAMS}:{_SYSTEM}",
        "FAKE_HOST": folder,
        "FAKE_WORKER": str(worker),
        "FAKE_PYTHON": sys.executable,
        **environment,
    }
    for name, value in {**troubles, "environment": variables}.items():
        literals.save(f"{folder}/{name}", value)


def start(folder, command):
    """Run a command there as sshd does: by bash, at home, in its own session, without stdin."""
    import subprocess

    return subprocess.Popen(
        ["bash", "-c", command],
        cwd=f"{folder}/home",
        env=literals.load(f"{folder}/environment"),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def is_alive(folder):
    """Whether the host is there to answer."""
    return os.path.isdir(folder) and not os.path.exists(f"{folder}/dead")


def kill(folder, *, within=30):
    """Pull the plug: all processes of a host get SIGKILL, and nothing answers from then on."""
    if os.path.isdir(folder):
        open(f"{folder}/dead", "w").close()
    kill_all(folder, within=within)


def kill_all(folder, *, within=30):
    """SIGKILL for every process of a host, or of all hosts below a folder, until there is none."""
    deadline = time.monotonic() + within
    while found := processes(folder):
        assert time.monotonic() < deadline, f"{folder} still has processes {found}"
        for pid in found:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:  # it has just ended
                continue
        time.sleep(0.01)


def processes(folder):
    """The processes of a host, or of all hosts below a folder; zombies are none."""
    wanted = f"FAKE_HOST={folder}".encode()
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/environ", "rb") as file:
                variables = file.read().split(b"\0")
        except OSError:  # it is gone, or somebody else's
            continue
        if any(one == wanted or one.startswith(wanted + b"/") for one in variables):
            found.append(int(name))
    return found
