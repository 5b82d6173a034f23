"""A run of several processes on loopback, each with one CPU device, that can be hindered."""

import subprocess
import sys
import time

from commands import runs
from parallel.gangs import free_port


class Gang:
    """The processes of one start of a run, and what each of them says."""

    def __init__(self, arguments, *, count, folder, ranks=None, script=None, **variables):
        """arguments: of `jaxllm`. script: Python that runs instead in each, with these in argv."""
        self._port = free_port()
        self._folder = folder
        command = runs.command(*arguments)
        if script is not None:
            command = [sys.executable, "-c", script, *map(str, arguments)]
        folder.mkdir(parents=True, exist_ok=True)
        self.processes = {}
        for rank in range(count) if ranks is None else ranks:
            environment = runs.environment(
                devices=1,
                JAX_COORDINATOR_ADDRESS=f"127.0.0.1:{self._port}",
                JAX_NUM_PROCESSES=str(count),
                JAX_PROCESS_ID=str(rank),
            )
            with self._path(rank).open("w") as said:
                self.processes[rank] = subprocess.Popen(
                    command, env={**environment, **variables}, stdout=said, stderr=said
                )

    def _path(self, rank):
        return self._folder / f"process_{rank}.txt"

    def said(self, rank):
        """All that a process has said so far, on stdout and stderr."""
        return self._path(rank).read_text()

    def wait_for_step(self, run_dir, step, *, within=180):
        """Until the metrics have it."""
        deadline = time.monotonic() + within
        while last_step(run_dir) < step:
            codes = [process.poll() for process in self.processes.values()]
            assert set(codes) == {None}, {rank: self.said(rank) for rank in self.processes}
            assert time.monotonic() < deadline, "no step in time"
            time.sleep(0.05)

    def ended(self, *, within, but=()):
        """The exit codes of all but some, which must come in so many seconds."""
        deadline = time.monotonic() + within
        return {
            rank: process.wait(max(0.01, deadline - time.monotonic()))
            for rank, process in self.processes.items()
            if rank not in but
        }

    def close(self):
        """Kills what is left."""
        for process in self.processes.values():
            process.kill()
            process.wait()


def last_step(run_dir):
    """The newest step of the metrics; 0 before the first."""
    if not (run_dir / "metrics.jsonl").exists():
        return 0
    return max((step for step, _ in runs.losses(run_dir)), default=0)
