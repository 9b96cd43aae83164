"""llmkit: build, break and fix a real LLM training run, name what went wrong, and put a price on it.

Rooms, bottom to top (a room imports only rooms above it in this list; the table is
tests/test_architecture.py):

    errors, records   what can be refused; facts, and the run folder they live in      (no torch)
    cost              parameters, FLOPs, time and money, with the working shown        (no torch)
    diagnose          the doctor: records in, findings out; has never met a fault      (no torch)
    data              text in, verified token shards out                               (no torch)
    train             the machine: config, model, loss scaler, checkpoint, loop
    observe           the instruments: look, never touch
    memory            the scales: a byte budget that raises out-of-memory
    faults            the wreckers: break a run by the door the real bug uses
    rescue            the crew: watchdog, supervisor, recovery policies
    lab               the workshop: a run in a child process, steered
    grade             the examiner: hidden inputs, verdict outside the learner's kernel
    show              the windows: plots, reports, the cockpit; nothing is computed here
"""

__version__ = "0.1.0"
