"""Other ways to serve the same model, each as good as its documentation makes it."""
