"""HTTP servers that are compared: the same model served in other ways, each as its documentation recommends."""
