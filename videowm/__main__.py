"""`python -m videowm`, which is what `accelerate launch -m videowm` runs."""

from videowm.cli import main

if __name__ == "__main__":
    main()
