# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A last notebook, for the tests

# %% tags=["parameters"]
run_dir = "papermill_runs/interactive"  # where results go
job = "12_last"  # name of the result file
profile = "laptop"  # name of the profile
seed = 0  # of random numbers
count = 3  # rows
rate = 0.5  # a fraction
names = ["a"]  # words
action = "finish"  # what the notebook does: finish, fail, die, forget, sleep

# %%
import os
import random
import time

from cunet import runs

# %%
run = runs.Run.open(globals())
print("kernel", os.getpid())

# %%
if action == "fail":
    raise ValueError("the third cell failed")
if action == "die":
    os.kill(os.getpid(), 9)
if action == "sleep":
    time.sleep(600)

# %%
random.seed(seed)
jobs = sorted(set(runs.results(run_dir)) - {job})
run.save_result({"jobs": jobs}, inputs=[run.run_dir / "results" / f"{name}.json" for name in jobs])

# %%
print(runs.result(run_dir, job)["values"])
