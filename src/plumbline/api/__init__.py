"""The door for notebooks and scripts: `plumbline.fit` and `plumbline.load`."""
