"""ssh and scp to several fake hosts at once, as gcloud does them.

As with the real ones: stdin is swallowed; a host is done when its command ended and nothing holds
its output any more; a host that does not answer is 255; the exit code is that of the first host
that failed.
"""

import os
import select
import shutil
import sys
import threading

from . import hosts, literals

_NO_ANSWER = 255
_lock = threading.Lock()


def ssh(found, command):
    """Run a command on hosts, by worker; what they say is passed on line by line."""
    _swallow_stdin()
    codes = {}
    threads = [
        threading.Thread(target=_ssh_to, args=(worker, folder, command, codes))
        for worker, folder in found.items()
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return next((codes[worker] for worker in sorted(codes) if codes[worker]), 0)


def scp(found, source, target):
    """Copy a file to hosts, by worker. target: relative to their HOME; empty for the same name."""
    code = 0
    for worker, folder in found.items():
        _say(f"SCP: Attempting to connect to worker {worker}...")
        if hosts.is_alive(folder):
            shutil.copy(source, f"{folder}/home/{target or os.path.basename(source)}")
        else:
            _say("Retrying: SCP command error: [/usr/bin/scp] exited with return code [255].")
            code = _NO_ANSWER
    return code


def _ssh_to(worker, folder, command, codes):
    _say(f"SSH: Attempting to connect to worker {worker}...")
    if not _answers(folder):
        _say("Retrying: SSH command error: [/usr/bin/ssh] exited with return code [255].")
        codes[worker] = _NO_ANSWER
        return
    process = hosts.start(folder, command)
    if not hosts.is_alive(folder):  # it died in this very moment
        hosts.kill(folder)
    readers = [
        threading.Thread(target=_pass_on, args=pipes)
        for pipes in ((process.stdout, sys.stdout), (process.stderr, sys.stderr))
    ]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    codes[worker] = process.wait() if hosts.is_alive(folder) else _NO_ANSWER
    if codes[worker]:
        _say(f"##### Command execution on worker {worker} failed with exit status {codes[worker]}.")


def _answers(folder):
    """Whether a host answers this command; counts it, and lets the host die if that is due."""
    if not hosts.is_alive(folder):
        return False
    counter = f"{folder}/ssh_count"
    number = literals.load(counter) if os.path.exists(counter) else 0
    literals.save(counter, number + 1)
    if literals.load(f"{folder}/dies_at_ssh") == number:
        hosts.kill(folder)
        return False
    return number not in literals.load(f"{folder}/deaf_at_ssh")


def _pass_on(pipe, stream):
    with pipe:
        for line in pipe:
            with _lock:
                stream.write(line)
                stream.flush()


def _say(words):
    with _lock:
        print(words, file=sys.stderr, flush=True)


def _swallow_stdin():
    """As ssh does, which takes the input of a loop that calls it."""
    while select.select([0], [], [], 0)[0]:
        if not os.read(0, 65536):
            return
