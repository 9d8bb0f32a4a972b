"""What training and serving must agree on, and nothing else.

Labels, text encoding, the model's forward, and the artifact directory. Neither HTTP nor optimisers live here.

Dimension letters used in names throughout the project:

    B   texts (or windows of texts) in a batch
    T   positions of a padded batch, the longest row's tokens
    D   width of the model's hidden states
    C   labels
"""
