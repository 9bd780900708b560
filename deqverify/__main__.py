"""``python -m deqverify`` is the command line."""

from deqverify.cli import main

if __name__ == "__main__":
    main()
