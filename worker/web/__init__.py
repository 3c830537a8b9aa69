"""The HTTP face: STOW-RS, uploads as jobs, and what became of them. Knows Starlette; what is taken in goes through intake."""
