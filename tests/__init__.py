"""The tests. `unit` mirrors the source, `integration` starts processes, `contract` holds documents and rules."""

import os

# Libraries read these when they are imported, which is too early for a fixture; processes of tests inherit them.
os.environ["HF_HUB_OFFLINE"] = "1"  # else huggingface_hub looks for the hub for 20 s
os.environ["OMP_NUM_THREADS"] = "1"  # tiny models spend most of a second thread's time waiting for the first
os.environ["OMP_WAIT_POLICY"] = "PASSIVE"  # where an engine takes more threads, those that wait leave the CPU alone
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # else every process compiles all that it imports
