"""What may stand in params.yaml and in conf/, for editors and for the reference."""
