"""Training jobs and endpoints on Amazon SageMaker."""
