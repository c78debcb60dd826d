"""Snakemake's scheduler: how often it looks for jobs to start."""

import subprocess
import sys
import threading
import time
from types import SimpleNamespace

from cunet.snakemake_main import look_again

JOBS = 10
COUNTED = """
import sys
from snakemake.scheduling.job_scheduler import JobScheduler
from cunet import snakemake_main
looks, select = 0, JobScheduler.job_selector

def counted(*given):
    global looks
    looks += 1
    return select(*given)

JobScheduler.job_selector = counted
try:
    snakemake_main.main(sys.argv[1:])
finally:
    print("looks", looks)
"""


def test_one_look_is_pending_and_another_can_follow_it():
    scheduler = SimpleNamespace(_open_jobs=threading.Semaphore(0))
    for _ in range(2):
        for _ in range(5):
            look_again(scheduler, 0.05)
        assert scheduler._open_jobs.acquire(timeout=60)
        assert not scheduler._open_jobs.acquire(timeout=0.2), "one look, whoever asked"


def test_looks_do_not_grow_with_the_number_of_jobs_that_have_ended(tmp_path):
    """A look for each job that ends, and one a second; a series a job would be several times as many."""
    (tmp_path / "Snakefile").write_text(
        f"rule all:\n    input: expand('{{k}}.txt', k=range({JOBS}))\n"
        "rule one:\n    output: '{k}.txt'\n    shell: 'sleep 1; touch {output}'\n"
    )
    begin = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", COUNTED, "--cores", "1", "--scheduler", "greedy"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    seconds = time.monotonic() - begin
    assert done.returncode == 0 and len(list(tmp_path.glob("*.txt"))) == JOBS, done.stderr
    looks = int(done.stdout.split()[-1])
    assert looks <= JOBS + 1 + seconds + 2
