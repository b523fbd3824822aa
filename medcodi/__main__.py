"""``python -m medcodi``: the command line, for launchers that start a module: ``torchrun -m medcodi train ...``."""

from medcodi.app.cli import main

if __name__ == "__main__":
    main()
