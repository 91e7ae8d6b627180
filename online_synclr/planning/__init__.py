"""How to split ranks between generating and training: measured rates -> what each split does."""
