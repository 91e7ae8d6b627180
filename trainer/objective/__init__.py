"""The objective: views, student and teacher, the losses, schedules and the optimiser."""
