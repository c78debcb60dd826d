"""Snakemake's command line, with a scheduler that does not spin.

    python -m cunet.snakemake_main ARGUMENTS

Snakemake 9 limits how many jobs are started in a second, and looks again when that second is over. Each job
that ends begins a further series of such looks, and no series ends before the run does
(https://github.com/snakemake/snakemake/pull/3744): after a hundred jobs there are a hundred looks a second,
each at all files of all jobs that are ready. Here one look is pending at any time.
"""

import contextlib
import threading
from typing import Any

from snakemake.cli import main


def look_again(scheduler: Any, delay: float) -> None:
    """Have a scheduler look for jobs to start after `delay` seconds, unless such a look is pending.

    Stands for `JobScheduler._schedule_reevalutation` of Snakemake's.
    """

    def look() -> None:
        scheduler.pending = None  # first: what this look begins may want another
        scheduler._open_jobs.release()

    if getattr(scheduler, "pending", None) is None:
        scheduler.pending = threading.Timer(delay, look)
        scheduler.pending.daemon = True  # the end of a run does not wait for it
        scheduler.pending.start()


with contextlib.suppress(ImportError):  # a version that has its scheduler elsewhere is left as it is
    from snakemake.scheduling.job_scheduler import JobScheduler

    JobScheduler._schedule_reevalutation = look_again

if __name__ == "__main__":
    main()
