"""The way to the workers: Celery's application, the publisher, and what a worker takes from the broker."""
