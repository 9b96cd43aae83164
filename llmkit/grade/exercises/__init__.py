"""References, hidden inputs and judges of the exercises: absent from the sandbox."""
