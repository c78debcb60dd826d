"""The chain: one rule a notebook, and the report.

`cunet reproduce` (or `make reproduce`) checks the profile, writes the run's plan and parameters and calls
Snakemake on this file with the run's folder as its directory. Which job waits for which is said in
cunet/chain.py, which files a job depends on in cunet/dependencies.py.
"""
import os
import re
import sys
from pathlib import Path

import cunet.chain as cunet_chain  # not `chain`: Snakemake shares its own global names with this file
import cunet.dependencies as cunet_dependencies

PLAN = cunet_chain.load(Path.cwd())
JOBS = {job.name: job for job in PLAN.jobs}
CUNET = [sys.executable, "-m", "cunet"]
THREADS = int(config.get("threads", 1))


localrules:
    all,
    report,


wildcard_constraints:
    job="|".join(map(re.escape, JOBS)),


rule all:
    input:
        "report/index.html",
        [f"results/{name}.json" for name in JOBS],  # asked for, so that one that was deleted is made again


for STEM in PLAN.profile.notebooks:

    rule:
        name:
            f"notebook_{STEM}"
        input:
            lambda wildcards: cunet_dependencies.inputs(PLAN, JOBS[wildcards.job]),
        output:
            "results/{job}.json",
            "executed/{job}.ipynb",
        log:
            "logs/{job}.log",
            notebook="logs/{job}.ipynb",  # kept, with its traceback, when the notebook fails
        wildcard_constraints:
            job="|".join(re.escape(job.name) for job in PLAN.of(STEM)),
        params:
            notebook=os.path.relpath(cunet_chain.source(STEM), PLAN.run_dir),
        threads: THREADS
        shell:
            "{CUNET:q} notebook {params.notebook:q} --out . -f params/{wildcards.job}.yaml > {log[0]} 2>&1"


if PLAN.receipts:

    rule samples:
        input:
            cunet_dependencies.shard_inputs(PLAN),
        output:
            "samples/shard-{shard}-of-{of}.txt",
        log:
            "logs/shard-{shard}-of-{of}.log",
        wildcard_constraints:
            shard=r"\d+",
            of=str(PLAN.profile.shards),
        threads: THREADS
        shell:
            "{sys.executable:q} -m cunet.shard_job . --shard {wildcards.shard} --of {wildcards.of} > {log} 2>&1"


rule report:
    input:
        cunet_dependencies.report_inputs(PLAN),
    output:
        "report/index.html",
    log:
        "logs/report.log",
    shell:
        "{sys.executable:q} -m cunet.report . > {log} 2>&1"
