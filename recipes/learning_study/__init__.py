"""Does the loop learn what pictures show, or only their colours? Runs, controls, figures."""
