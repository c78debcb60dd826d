"""The rules: what has to be measured for a claim of the paper to count as reproduced, partly or not.

A rule is one function a claim. Its docstring is the rule in a sentence, printed on the scorecard page; its
arguments are the numbers that a notebook hands over as `value` in the result file. To add a claim:

    @rule("C19")
    def orders_differ_by_one(difference: float) -> str:
        \"\"\"Reproduced when the measured orders differ by one within 0.1; partly within 0.3.\"\"\"
        return graded(abs(difference - 1), reproduced=0.1, partly=0.3)

and in the notebook `run.save_result(..., claims=[dict(id="C19", measured="4.98 and 3.99", value=0.99)])`. A
rule of several numbers takes a dictionary: `value={"attention": 0.1, "residual": 2.0}`. `value=None` says
that the claim cannot be tested here; `measured` then says why. A row that rests on a time goes where all
times go: `timings={"claims": [...]}`.

A rule judges the end of an interval that is unfavourable to its verdict, or counts tests: "reproduced" and
"not reproduced" both need evidence, and what the samples leave open is "undecided". So a rule gets no kinder,
nor harsher, with fewer samples. Three are exceptions: C23 and C24 judge a number itself, without an interval,
and C21 judges the upper end alone, so that it can only get harsher with fewer.
"""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd

from .claims import CLAIMS
from .errors import InputError, one_of

REPRODUCED = "reproduced"
PARTLY = "partly"
NOT_REPRODUCED = "not reproduced"
UNDECIDED = "undecided"  # it was tested, and what was measured leaves it open
NOT_TESTABLE = "not testable here"
VERDICTS = (REPRODUCED, PARTLY, NOT_REPRODUCED, UNDECIDED, NOT_TESTABLE)

RULES: dict[str, Callable[..., str]] = {}


def rule(claim: str) -> Callable:
    """Register the decorated function as the rule of a claim, "C01" ... "C26".

    Raises InputError for an unknown claim, a second rule for one claim, or a rule without a docstring.
    """
    one_of("claim", claim, CLAIMS)
    if claim in RULES:
        raise InputError(f"Claim {claim} has a rule already, {RULES[claim].__name__}: change that one.")

    def register(function: Callable[..., str]) -> Callable[..., str]:
        if not function.__doc__:
            raise InputError(f"The rule of {claim} has no docstring: write it as a sentence for the page.")
        RULES[claim] = function
        return function

    return register


def graded(value: float, reproduced: float, partly: float) -> str:
    """Small is good: a verdict from two thresholds, both inclusive."""
    return REPRODUCED if value <= reproduced else PARTLY if value <= partly else NOT_REPRODUCED


def weighed(confirmed: float, contradicted: float, levels: float) -> str:
    """A verdict from a test a level: how many found what the paper says, how many the opposite.

    Reproduced when three quarters of the levels or more found it and none the opposite; undecided when fewer
    than a quarter found the one, and fewer than a quarter the other; else partly when more found it. Without
    a level it cannot be tested.
    """
    if not levels:
        return NOT_TESTABLE
    if not contradicted and confirmed >= 0.75 * levels:
        return REPRODUCED
    if max(confirmed, contradicted) < 0.25 * levels:
        return UNDECIDED
    return PARTLY if confirmed > contradicted else NOT_REPRODUCED


# ---------------------------------------------------------------------------------------------- cost and time


@rule("C01")
def a_quarter_of_the_parameters(ratio: float) -> str:
    """Reproduced up to 27.5 % of the U-Net's parameters (a quarter, and a tenth of it), or less; partly up to
    half."""
    return graded(ratio, reproduced=0.275, partly=0.5)


@rule("C02")
def thirty_percent_of_the_flops(ratio: float) -> str:
    """Reproduced up to 33 % of the U-Net's multiply-accumulates (30 % and a tenth of it), with every solver
    evaluation counted; partly up to 44 % (table 5's 40 % and a tenth of it)."""
    return graded(ratio, reproduced=0.33, partly=0.44)


@rule("C03")
def a_quarter_of_the_memory(checkpoint: float, inference: float, training: float) -> str:
    """Reproduced when checkpoint, peak memory of a call, and peak memory of a training step each stay within
    27.5 % of the U-Net's; partly when at least one does."""
    within = [ratio <= 0.275 for ratio in (checkpoint, inference, training)]
    return REPRODUCED if all(within) else PARTLY if any(within) else NOT_REPRODUCED


@rule("C04")
def attention_and_residuals_cost_what_table_5_says(attention: float, residual: float) -> str:
    """Reproduced when the share of multiply-accumulates that goes to attention, and the share that goes to
    residuals, each lie within 2 percentage points of table 5's; partly when one of them does."""
    within = [abs(points) <= 2.0 for points in (attention, residual)]
    return REPRODUCED if all(within) else PARTLY if any(within) else NOT_REPRODUCED


@rule("C05")
def thirty_percent_faster(saved: float, low: float | None = None, high: float | None = None) -> str:
    """Reproduced when at least 30 % of the U-Net's time is saved, at the unfavourable end of the spread where
    there is one; partly when some of it is saved at that end; undecided when none is there, but some at the
    other end; otherwise not."""
    least, most = (saved if end is None else end for end in (low, high))
    if least > 0:
        return REPRODUCED if least >= 0.30 else PARTLY
    return UNDECIDED if most > 0 else NOT_REPRODUCED


# ---------------------------------------------------------------------------------------------------- quality


@rule("C06")
def on_a_par(low: float, high: float) -> str:
    """Each network at its best number of steps, its distance above that of as many real images: cU-Net's over
    the U-Net's, with the ends of the 95 % interval of this ratio (0 when cU-Net's is not above real images').
    Reproduced when the upper end is at most 1.1 (the paper's own worst is 1.09); partly when it is at most
    1.5; otherwise undecided when the lower end is at most 1.1, and else not."""
    if high <= 1.5:
        return REPRODUCED if high <= 1.1 else PARTLY
    return UNDECIDED if low <= 1.1 else NOT_REPRODUCED


@rule("C07")
def best_in_fewer_steps(lowest_low: float, lowest_high: float, flat_low: float, flat_high: float) -> str:
    """cU-Net's steps over the U-Net's, with the ends of the 95 % interval of this ratio over samples, by two
    rules: the number of steps with the lowest distance (the paper's), and the smallest number with a distance
    within 5 % of it. A number of either network at the fewest steps tried is open downwards; where its lowest
    distance is at the most steps tried, it is open upwards; and the ratio is open on that side.
    Reproduced when both upper ends are below 1; partly when one is; not reproduced when both lower ends are
    at least 1; otherwise undecided."""
    fewer = [lowest_high < 1, flat_high < 1]
    if any(fewer):
        return REPRODUCED if all(fewer) else PARTLY
    return NOT_REPRODUCED if min(lowest_low, flat_low) >= 1 else UNDECIDED


@rule("C08")
def as_good_at_equal_steps(as_good: int, worse: int, tried: int) -> str:
    """The paper leaves it open; what is judged is that cU-Net is as good. At a number of steps it is when its
    distance above that of real images is at most 1.1 times the U-Net's, at the upper end of the 95 % interval
    of this ratio; it is worse when it is more, at the lower end. Reproduced when it is as good at three
    quarters of the numbers tried or more, and worse at none; undecided when it is neither at a quarter of
    them; else partly when it is as good at more than it is worse; otherwise not."""
    return weighed(as_good, worse, tried)


@rule("C23")
def reaches_the_same_loss_sooner(images: float, time: float) -> str:
    """What cU-Net needs to reach a validation loss that both reach, as shares of what the U-Net needs.
    Reproduced when it is at most 0.9 both in images seen and in training time; partly when in one of them."""
    sooner = [images <= 0.9, time <= 0.9]
    return REPRODUCED if all(sooner) else PARTLY if any(sooner) else NOT_REPRODUCED


# -------------------------------------------------------------------------------------------------- denoising


@rule("C09")
def who_has_the_better_ssim(confirmed: int, contradicted: int, levels: int) -> str:
    """At a noise level a network counts as better when its mean best SSIM is higher and the paired test over
    images gives p up to 0.05 (Holm over the levels). Reproduced when the network that table 2 favours is
    better at three quarters of the levels or more, and the other one at none; undecided when neither is at a
    quarter of them; else partly when the favoured one is better at more levels; otherwise not."""
    return weighed(confirmed, contradicted, levels)


@rule("C10")
def who_has_the_better_lpips(confirmed: int, contradicted: int, levels: int) -> str:
    """The rule of C09, with best LPIPS, where lower is better."""
    return weighed(confirmed, contradicted, levels)


@rule("C11")
def peaks_earlier_and_sooner(
    ssim: float, ssim_later: float, lpips: float, lpips_later: float, seconds: float, seconds_later: float
) -> str:
    """Shares of the noise levels at which cU-Net is ahead, and behind, by a paired test as in C09: step of
    the best SSIM, step of the best LPIPS, time to them (a call of cU-Net at the unfavourable end of its
    spread). Each of the three is judged as in C09. Reproduced when all are; partly when one of the two steps
    is, or is in part: a faster call alone is no earlier peak; otherwise not when one of the three is not;
    else undecided."""
    parts = [
        weighed(*shares, 1.0)
        for shares in ((ssim, ssim_later), (lpips, lpips_later), (seconds, seconds_later))
    ]
    if set(parts) == {REPRODUCED}:
        return REPRODUCED
    if {REPRODUCED, PARTLY} & set(parts[:2]):
        return PARTLY
    return NOT_REPRODUCED if NOT_REPRODUCED in parts else UNDECIDED


@rule("C12")
def beats_the_other_denoisers(lpips: float, lpips_lost: float, ssim: float, ssim_lost: float) -> str:
    """Shares of the comparisons with BM3D, autoencoder and DnCNN that cU-Net wins, and loses, by a paired
    test as in C09: LPIPS at all levels of table 4, SSIM at 50. Reproduced when all are won; partly when at
    least half of either score's are; otherwise not when more than half of either score's are lost; else
    undecided."""
    if min(lpips, ssim) >= 1:
        return REPRODUCED
    if max(lpips, ssim) >= 0.5:
        return PARTLY
    return NOT_REPRODUCED if max(lpips_lost, ssim_lost) > 0.5 else UNDECIDED


@rule("C13")
def elbow_after_the_peak(unet: float, unet_none: float, cunet: float, cunet_none: float) -> str:
    """At a noise level a network has an elbow when it loses again, from its LPIPS peak to the end, more than
    a tenth of what it had gained up to the peak, on average over images, at the lower end of the 95 %
    interval; it has none when the upper end is at most a tenth; in between it may have one. Reproduced when
    U-Net has one at half of the levels or more, and cU-Net has none at more than three quarters; partly when
    U-Net has one at more levels than cU-Net has or may have; otherwise not when U-Net has none at more than
    half of the levels, or cU-Net has one at as many as U-Net has or may have; else undecided."""
    if unet >= 0.5 and cunet_none > 0.75:
        return REPRODUCED
    if unet > 1 - cunet_none:
        return PARTLY
    return NOT_REPRODUCED if unet_none > 0.5 or cunet >= 1 - unet_none else UNDECIDED


@rule("C14")
def above_along_the_way(above: float, below: float) -> str:
    """Shares of the steps, at noise levels of 400 and more, at which U-Net's mean SSIM is above cU-Net's, and
    below it, with a 95 % interval of the paired difference that leaves out 0, step by step. Reproduced when
    it is above at nine tenths of the steps or more; undecided when it is neither at a quarter of them; else
    partly when it is above at more steps than below; otherwise not."""
    if above >= 0.9:
        return REPRODUCED
    if max(above, below) < 0.25:
        return UNDECIDED
    return PARTLY if above > below else NOT_REPRODUCED


# ----------------------------------------------------------------------------------------------- the networks


@rule("C15")
def worse_without(visible: int, worse: int, better: int) -> str:
    """Of the three networks of figures 12 to 14, how many have a larger FD-AlexNet than the full one, by a
    95 % interval over training seeds of the ratio that leaves out 1 (the relative spread between seeds is
    pooled over the networks with several, of other data sets where this one has none); how many of these
    visibly so, by a tenth or more of what the full one's is above that of as many real images; and how many a
    smaller one. (That tenth was one of FD itself at first. The base was changed before the numbers on this
    one were known; it is the smaller one, so that visible asks for less.) Reproduced when all three are
    visibly worse; partly when more are worse than better; undecided when none is either; otherwise not. Not
    testable where no network has a second seed, or the full one is no farther than real images."""
    if visible >= 3:
        return REPRODUCED
    if not worse and not better:
        return UNDECIDED
    return PARTLY if worse > better else NOT_REPRODUCED


@rule("C16")
def second_order_with_learned_velocity(gap: float, velocity: float) -> str:
    """Reproduced when dx/ds equals v (relative gap up to 1e-4) and the learned initial velocity changes the
    output (by more than 1e-4 of it); partly when the velocity makes no difference; not reproduced when
    dx/ds is something else than v."""
    if gap > 1e-4:
        return NOT_REPRODUCED
    return REPRODUCED if velocity > 1e-4 else PARTLY


@rule("C22")
def error_grows_less(confirmed: int, contradicted: int, settings: int) -> str:
    """A setting is a task and a disturbance. In it that network is more robust whose error grows by the
    smaller factor, by 5 % or more, if the paired test over images gives p up to 0.05 (Holm over settings).
    Reproduced when cU-Net is more robust in three quarters of the settings or more, and the U-Net in none;
    undecided when neither is in a quarter of them; else partly when cU-Net is in more; otherwise not."""
    return weighed(confirmed, contradicted, settings)


@rule("C24")
def tells_the_noise_level(sensitivity: float, benefit: float | None = None) -> str:
    """Not reproduced when the output does not react to the timestep (relative change up to 1e-6), or when a
    trained network gains nothing by it: a wrong or withheld timestep does not raise the error, of the
    recovered image or of the noise level that is read back. Reproduced when it raises it by 5 % or more;
    partly in between, and where no network was trained."""
    if sensitivity <= 1e-6 or (benefit is not None and benefit <= 1):
        return NOT_REPRODUCED
    return REPRODUCED if benefit is not None and benefit >= 1.05 else PARTLY


# -------------------------------------------------------------------------------------------- the mathematics


@rule("C17")
def first_order_adjoint_is_enough_and_cheaper(difference: float, cost: float) -> str:
    """Reproduced when first- and second-order adjoint give the same gradient (relative difference up to 1e-6)
    and the second-order one takes at least 1.1 times the multiply-accumulates; partly when only the first."""
    if difference > 1e-6:
        return NOT_REPRODUCED
    return REPRODUCED if cost >= 1.1 else PARTLY


@rule("C19")
def orders_differ_by_one(deviation: float) -> str:
    """Reproduced when, for every one-step solver on every problem, the fitted exponents of local and global
    error differ by one within 0.25 (two fits, each good to about 0.15); partly within 0.5."""
    return graded(deviation, reproduced=0.25, partly=0.5)


@rule("C20")
def memory_is_flat(growth: float) -> str:
    """Growth of a training step's peak memory a solver step, in states of the block, for one way to the
    gradient. Reproduced up to 0.1; otherwise not. With the ways that the paper argues for and the authors
    trained by in rows of their own, "partly" is when they differ."""
    return REPRODUCED if growth <= 0.1 else NOT_REPRODUCED


@rule("C21")
def second_order_needs_fewer_evaluations(same_solver: float, best_solver: float) -> str:
    """Second order's evaluations for 1 % error over first order's: the median of the pairs tried, at the
    upper end of its 95 % bootstrap interval. Reproduced when at most 0.9 both with the same solver and each
    with its best one; partly when in one of the two comparisons."""
    fewer = [same_solver <= 0.9, best_solver <= 0.9]
    return REPRODUCED if all(fewer) else PARTLY if any(fewer) else NOT_REPRODUCED


# ------------------------------------------------------------------------------------------ continuous time


@rule("C18")
def the_flow_is_faster_and_less_accurate(gap: float, speedup: float, accuracy: float) -> str:
    """Not reproduced when a step of the SDE is not a step of the flow and one of Langevin (relative gap over
    1e-10) or the flow needs no fewer steps; reproduced when, with an exact score, its error at equal steps is
    also the larger one (ratio over 1); partly when it is not."""
    if gap > 1e-10 or speedup <= 1:
        return NOT_REPRODUCED
    return REPRODUCED if accuracy > 1 else PARTLY


@rule("C26")
def convex_and_posterior_mean(
    gap: float, nearest: float | None = None, low: float | None = None, violation: float = 0.0
) -> str:
    """That P(D) is convex is a theorem: computed values can only break it (a height over the chords of more
    than 1e-6: not reproduced), and no network tests it. So what is judged is how far L2-trained denoisers lie
    from the posterior mean, as a share of its own error. Reproduced when all of them lie within a tenth, at
    the upper ends of the 95 % intervals where there are any; partly when one does; not when all lie farther,
    at the lower ends; otherwise undecided."""
    if violation > 1e-6:
        return NOT_REPRODUCED
    if gap <= 0.1:
        return REPRODUCED
    if nearest is not None and nearest <= 0.1:
        return PARTLY
    return NOT_REPRODUCED if (gap if low is None else low) > 0.1 else UNDECIDED


@rule("C25")
def the_gain_adds_to_other_accelerations(
    time: float, time_low: float, gain: float, gain_high: float, own: float
) -> str:
    """time: cU-Net's time a sample over the U-Net's, with the same sampler and calls, with the sampler where
    it is largest. gain: what the accelerations take from the distance of plain respaced sampling at equal
    calls, above that of real images: cU-Net's factor over the U-Net's, geometric mean over the samplers and
    calls where none of the distances is within noise of real images; own: the U-Net's factor. Reproduced when
    time is below 1, gain at least 0.9 and own above 1, all at the unfavourable ends of their 95 % intervals;
    not when time, or with own above 1 gain, fails at its favourable end (time_low, gain_high); otherwise
    undecided, since a cheaper call alone is no gain that adds."""
    if time_low >= 1 or (own > 1 and gain_high < 0.9):
        return NOT_REPRODUCED
    return REPRODUCED if time < 1 and gain >= 0.9 and own > 1 else UNDECIDED


def table() -> pd.DataFrame:
    """The rules as the page prints them: id, claim, rule."""
    return pd.DataFrame(
        [(c, CLAIMS[c].text, " ".join(RULES[c].__doc__.split())) for c in sorted(RULES)],
        columns=["id", "claim", "rule"],
    )
