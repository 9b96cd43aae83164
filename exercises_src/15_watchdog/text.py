# %% [markdown]
# # Exercise 15: a watchdog
#
# **Two functions, about 40 minutes, 29 lines in all.** A run at night has nobody who looks at it. A NaN is
# easy to see from inside, a hang is not: the training thread waits in a collective and says nothing any more.
# So a second thread listens to it. A watchdog has its own faults: it rings at every tick of one hang, it dies
# with the first pager error, it keeps the finished process alive. With an injected clock and injected events
# all of it can be tested without a single sleep.
#
# After this you can write a watchdog thread that ends cleanly, test it without waiting, and state a policy
# for its alarms.
#
# Fill in the `...`, run the cell, and `check` it on public examples. `hint(watch, 1)` says a little,
# `hint(watch, 3)` nearly everything. The grade comes from `llmkit grade exercises/15_watchdog.ipynb`, on
# inputs that nobody has seen.
# Or save this notebook and run `from llmkit.grade import grade_me; grade_me()` in a cell: the same verdict.

# %%
import contextlib
import math
import threading

from llmkit.grade import open_exercise

check, hint, predict = open_exercise("15_watchdog")

# %% [markdown]
# ## Predict
#
# A watchdog gets a tick every 2 seconds and calls it a hang when more than 30 seconds have passed since the
# last beat. **How many seconds after the last beat is the alarm at the latest?** Put your number in place of
# `None`, then run the cell.

# %%
guess = None  # for example 30
# BEGIN SOLUTION
guess = 32
# END SOLUTION
predict("latest alarm", guess)

# %% [markdown]
# ## 1. The thread
#
# Start a thread that reads events and raises alarms; return the thread, started. It is a daemon: it must not
# keep a finished process alive.
#
# - `next_event()` waits for the next event: `("beat", step, loss)` when a step has ended, `("tick",)` from
#   time to time, `("stop",)` at the end. Call it only in the thread.
# - `clock()` gives the seconds now, while you handle an event. Read no other clock. Read it once at the
#   start.
# - A beat whose loss is NaN or infinite: `alarm("nan", step)`.
# - A beat more than `slow_s` after the beat before it (the first: after the start): `alarm("slow", step)`. If
#   both hold, `nan` comes first.
# - A tick more than `hang_s` after the last beat (or the start): `alarm("hang", step)` with the step of the
#   last beat, -1 before any. One hang is one alarm, however many ticks it lasts; the next beat ends it.
# - `alarm` may raise an exception. The watchdog goes on.
# - At `stop` the thread ends, and reads no further event.
#
# | events, with times | slow_s | hang_s | alarms |
# |---|---|---|---|
# | 1 beat 0, 2 beat 1 (NaN) | 5 | 10 | nan 1 |
# | 1 beat 0, 7 beat 1 | 5 | 10 | slow 1 |
# | 1 beat 0, 12 tick, 13 tick | 5 | 10 | hang 0 |
# | 11 tick | 5 | 10 | hang -1 |
#
# `check` plays a `script` of events; its clock shows the time of the event read last, and starts at 0. It
# shows the alarms and what became of the thread.


# %%
def watch(next_event, clock, alarm, slow_s: float, hang_s: float) -> threading.Thread:
    # BEGIN SOLUTION: about 22 lines
    def tell(kind, step):
        with contextlib.suppress(Exception):  # the pager is down, the run is not
            alarm(kind, step)

    def loop():
        last, step, told = clock(), -1, False
        while (event := next_event())[0] != "stop":
            now = clock()
            if event[0] == "beat":
                _, step, loss = event
                if not math.isfinite(loss):
                    tell("nan", step)
                if now - last > slow_s:
                    tell("slow", step)
                last, told = now, False
            elif now - last > hang_s and not told:
                tell("hang", step)
                told = True

    thread = threading.Thread(target=loop, daemon=True)
    thread.start()
    return thread
    # END SOLUTION


check(watch)

# %% [markdown]
# ## 2. The policy
#
# What should the supervisor do now? `alarms` holds all alarms so far as pairs (kind, step), the newest last.
# The last one decides.
#
# - No alarm, or `slow`: `"continue"`. A slow step is reported, nothing more.
# - `hang`: `"restart"` the process.
# - `nan`: `"rollback"` to the last checkpoint. But the `limit`-th `nan` alarm among the last `window` steps
#   is `"stop"`: it would come again. These are the steps from step - window + 1 to step, the last alarm's own
#   step. Steps after it do not count: a rollback goes back.
#
# | alarms | window | limit | returns |
# |---|---|---|---|
# | nan 3 | 10 | 2 | `"rollback"` |
# | nan 4, nan 13 | 10 | 2 | `"stop"` |
# | nan 3, nan 13 | 10 | 2 | `"rollback"` |
# | nan 3, slow 4 | 10 | 2 | `"continue"` |


# %%
def decide(alarms: list, window: int, limit: int) -> str:
    # BEGIN SOLUTION: about 7 lines
    if not alarms or alarms[-1][0] == "slow":
        return "continue"
    kind, step = alarms[-1]
    if kind == "hang":
        return "restart"
    recent = sum(k == "nan" and step - window < s <= step for k, s in alarms)
    return "stop" if recent >= limit else "rollback"
    # END SOLUTION


check(decide)

# %% [markdown]
# ## Say it in an interview
#
# *Your run hangs twice a week at night. What do you build?* A thread that gets a beat at each step and looks
# at a monotonic clock in between. A hang is one alarm, with the stacks of all threads, then exit with a code
# at which the supervisor starts again from the last whole checkpoint. NaN means rollback, and stop if it
# comes again. Clock and events are injected, so the tests take no time.
#
# Follow-ups: Which hangs does a Python thread not see (a C extension that holds the interpreter lock), and
# what does? How do you choose the limit when steps with evaluation take ten times as long? With 64 ranks, who
# decides?
