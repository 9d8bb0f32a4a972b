"""The suite mirrors the packages; nothing in it needs a network."""

import os

# huggingface_hub reads this once, when it is imported: a fixture would come too late, and look for the hub for 20 s.
os.environ["HF_HUB_OFFLINE"] = "1"
