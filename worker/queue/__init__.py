"""The Celery shell, and the work that it starts."""
