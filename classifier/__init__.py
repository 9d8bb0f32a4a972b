"""The code that training and serving share: labels, text encoding, the model's forward, and the artifact directory.

The package contains neither HTTP nor optimisers.

Dimension letters used in names throughout the project:

    B   texts (or windows of texts) in a batch
    T   positions of a padded batch, the tokens of its longest row
    N   tokens of all texts of a packed batch together
    D   width of the model's hidden states
    C   labels
"""

from typing import Literal

OnLong = Literal["windows", "truncate", "error"]
"""The treatment of a text that is longer than one window: read all of it in overlapping windows, read only its
beginning, or refuse it."""

Precision = Literal["float32", "bfloat16", "int8"]
"""Precision of matrix products; `classifier.products` says what each means. Layer norm, softmax and the residual stream
are float32 in every case."""
