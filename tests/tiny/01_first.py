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
# # A first notebook, for the tests

# %% tags=["parameters"]
run_dir = "papermill_runs/interactive"  # where results go
job = "01_first"  # name of the result file
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
values = {"draws": [random.random() for _ in range(count)], "rate": rate}
if action != "forget":
    run.save_result(values, claims=[dict(id="C01", measured=rate)])

# %%
print("done", names)
