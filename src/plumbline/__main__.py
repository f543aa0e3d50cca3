"""`python -m plumbline` is `plumbline`."""

from plumbline.cli.main import main

if __name__ == "__main__":
    main()
